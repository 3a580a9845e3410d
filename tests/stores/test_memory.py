"""The store that keeps nothing."""

from __future__ import annotations

import pytest

from tests.virtual import in_virtual_time
from wsstream.chunks import Outcome, StreamState
from wsstream.errors import ConfigError
from wsstream.stores import open_store
from wsstream.stores.base import StreamRecord
from wsstream.stores.memory import MemoryStore

RECORD = StreamRecord("s", "ses", "r", "e", None, 0.0)


def test_everything_is_safe_at_once() -> None:
    """Each write is acknowledged before it returns, with the last id it brought."""
    store = MemoryStore()
    safe: list[int] = []
    store.create(RECORD)
    store.append("s", 1, [b"a"], b"\0", safe.append)
    store.append("s", 2, [b"b", b"c", b"d"], b"\0\0\0", safe.append)
    assert safe == [1, 4]
    ended: list[bool] = []
    store.finish("s", Outcome(StreamState.COMPLETE, 4), lambda: ended.append(True))
    assert ended == [True]


@in_virtual_time
async def test_nothing_outlives_the_process() -> None:
    """No log can be read back, and forgetting one is always fine."""
    store = MemoryStore()
    store.create(RECORD)
    assert store.load("s") is None
    store.delete("s")
    store.delete("never was")
    await store.close()


def test_the_table_knows_it() -> None:
    """It is opened by its name."""
    assert isinstance(open_store("memory:"), MemoryStore)


@pytest.mark.parametrize("url", ["memory", "", ":", "nothing:", "os:system"])
def test_other_names_are_refused(url: str) -> None:
    """A name that is not in the table is refused with the names that are."""
    with pytest.raises(ConfigError, match="memory:"):
        open_store(url)
