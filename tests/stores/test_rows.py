"""Rows carry a checksum, and pass for no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsstream.chunks import Outcome, StreamState
from wsstream.errors import StoreCorrupt
from wsstream.stores.database import Database
from wsstream.stores.operations import Create, Finish
from wsstream.testing.contracts import record


async def test_a_row_passes_for_no_other(tmp_path: Path) -> None:
    """A log that stands in the place of another fails its checksum."""
    database = Database(str(tmp_path / "x.db"))
    for number in (1, 2):
        outcome = Outcome(StreamState.COMPLETE, 1)
        database.commit([Create(number, record(f"s{number}")), Finish(number, outcome, 1.0, b"\0", [b"%d" % number])])
    database._connection().execute("UPDATE logs SET chunks = (SELECT chunks FROM logs WHERE number = 1)")
    assert database.load("s1") is not None
    with pytest.raises(StoreCorrupt):
        database.load("s2")
    database.close()
