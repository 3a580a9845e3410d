"""What SQLite says of a failure is said in our words."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from tests.stores.file import made
from wsstream.errors import StoreError
from wsstream.stores.operations import SaveMessage
from wsstream.testing.contracts import message


def test_errors_are_ours(tmp_path: Path) -> None:
    """No exception of SQLite's gets out."""
    database = made(tmp_path / "x.db")
    database._connection().execute("DROP TABLE messages")
    with pytest.raises(StoreError):
        database.history("ses")
    with pytest.raises(StoreError):
        database.commit([SaveMessage(message("ses", "x"))])
    assert not issubclass(StoreError, apsw.Error)
    database.abandon()
