"""Counting: histograms that are a list of numbers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wsstream.tally import Histogram, WireTally


def test_a_value_is_counted_up_to_its_bound() -> None:
    """Bounds are inclusive, and what is above the last one is counted at infinity."""
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 3.0):
        histogram.observe(value)
    assert histogram.cumulative() == [2, 4, 5]
    assert (histogram.count, histogram.total) == (5, 8.0)


def test_a_value_can_be_counted_many_times_at_once() -> None:
    """It is the same as counting it one by one."""
    histogram = Histogram((1.0,))
    histogram.observe(0.5, 3)
    assert (histogram.cumulative(), histogram.total) == ([3, 3], 1.5)


def test_quantiles() -> None:
    """A quantile is a bound that so many values do not exceed; beyond the last bound it is infinity."""
    histogram = Histogram((1.0, 2.0))
    assert histogram.quantile(0.5) == 0.0
    histogram.observe(0.5, 9)
    histogram.observe(5.0)
    assert (histogram.quantile(0.5), histogram.quantile(0.9), histogram.quantile(0.99)) == (1.0, 1.0, float("inf"))


@given(st.lists(st.floats(0, 20)))
def test_no_value_is_lost(values: list[float]) -> None:
    """Cumulative counts rise to the number of values, whatever these are."""
    histogram = Histogram()
    for value in values:
        histogram.observe(value)
    assert histogram.cumulative() == sorted(histogram.cumulative())
    assert histogram.cumulative()[-1] == histogram.count == len(values)


def test_a_wire_begins_with_nothing() -> None:
    """Every count of a wire is zero at first."""
    tally = WireTally()
    assert (tally.conflated, tally.timeouts, tally.ack_seconds.count) == (0, 0, 0)
    assert not tally.closes
    assert not tally.refused
    assert not tally.resumes
