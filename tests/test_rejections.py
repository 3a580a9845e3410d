"""The table of what was turned away."""

from __future__ import annotations

from wsstream.rejections import Reason, Rejections


def test_each_reason_is_counted_by_itself() -> None:
    """What is counted under one reason shows under that one alone, and all reasons show from the beginning."""
    rejections = Rejections()
    rejections.count(Reason.ORIGIN)
    rejections.count(Reason.ORIGIN)
    counts = rejections.statistics()
    assert counts["origin"] == 2
    assert sum(counts.values()) == 2
    assert counts.keys() == {reason.value for reason in Reason}
