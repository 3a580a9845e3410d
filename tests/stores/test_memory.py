"""The store that keeps nothing beyond the process."""

from __future__ import annotations

import pytest

from tests.virtual import in_virtual_time
from wsstream.chunks import Outcome, StreamState
from wsstream.errors import ConfigError
from wsstream.stores import memory, open_store
from wsstream.stores.base import SessionInfo, StoredMessage, StreamRecord
from wsstream.stores.memory import MemoryStore
from wsstream.testing.contracts import check_store

RECORD = StreamRecord("s", "ses", "r", "e", None, 0.0)


def message(number: int, session_id: str = "ses", content: str = "hi", stream_id: str | None = None) -> StoredMessage:
    """A message of a session."""
    return StoredMessage(f"m{number}", session_id, "user", content, float(number), stream_id=stream_id)


def test_everything_is_safe_at_once() -> None:
    """Each write is acknowledged before it returns, with the last id it brought."""
    store = MemoryStore()
    safe: list[int] = []
    begun: list[bool] = []
    store.create(RECORD, lambda: begun.append(True))
    assert begun == [True]
    store.append("s", 1, [b"a"], b"\0", safe.append)
    store.append("s", 2, [b"b", b"c", b"d"], b"\0\0\0", safe.append)
    assert safe == [1, 4]
    ended: list[bool] = []
    store.finish("s", Outcome(StreamState.COMPLETE, 4), [b"a"] * 4, b"\0" * 4, lambda: ended.append(True))
    assert ended == [True]
    assert store.trouble() is None


@in_virtual_time
async def test_no_log_outlives_the_process() -> None:
    """No log can be read back, and forgetting one, or its end, is always fine."""
    store = MemoryStore()
    assert not store.durable
    assert await store.open(lambda *_: pytest.fail("nothing was cut off")) == []
    store.create(RECORD, lambda: None)
    assert await store.load("s") is None
    store.cancel("s")
    store.delete("s")
    store.delete("never was")
    await store.close()


@in_virtual_time
async def test_messages_are_kept_in_order() -> None:
    """A session's messages come back as they were said, and no other session's do."""
    store = MemoryStore()
    for number in range(3):
        store.save_message(message(number))
    store.save_message(message(3, "other"))
    assert [each.message_id for each in await store.history("ses")] == ["m0", "m1", "m2"]
    assert await store.history("nobody") == []


@in_virtual_time
async def test_the_message_of_an_answer_is_renewed() -> None:
    """An answer has one message, which stays in its place when it is written again."""
    store = MemoryStore()
    store.save_message(message(0))
    store.save_message(message(1, content="", stream_id="s"))
    store.save_message(message(2))
    store.save_message(message(1, content="all of it", stream_id="s"))
    assert [each.content for each in await store.history("ses")] == ["hi", "all of it", "hi"]


@in_virtual_time
async def test_what_is_read_is_a_copy() -> None:
    """A history that was read does not change with later messages."""
    store = MemoryStore()
    store.save_message(message(0))
    read = await store.history("ses")
    store.save_message(message(1))
    assert len(read) == 1


@in_virtual_time
async def test_what_is_known_of_a_session() -> None:
    """A session has the time of its first and last message and the title it was given, which messages leave alone."""
    store = MemoryStore()
    assert await store.session("ses") is None
    store.rename_session("ses", "too early")
    assert await store.session("ses") is None
    store.save_message(message(1))
    store.rename_session("ses", "title")
    store.save_message(message(3))
    assert await store.session("ses") == SessionInfo("ses", "title", 1.0, 3.0)


@in_virtual_time
async def test_a_deleted_session_is_gone() -> None:
    """Nothing is left of a deleted session; deleting it again is fine."""
    store = MemoryStore()
    store.save_message(message(1))
    store.delete_session("ses")
    store.delete_session("ses")
    assert await store.history("ses") == []
    assert await store.session("ses") is None


def test_the_table_knows_it() -> None:
    """It is opened by its name."""
    assert isinstance(open_store("memory:"), MemoryStore)


@pytest.mark.parametrize("url", ["memory", "", ":", "nothing:", "os:system"])
def test_other_names_are_refused(url: str) -> None:
    """A name that is not in the table is refused with the names that are."""
    with pytest.raises(ConfigError, match="memory:"):
        open_store(url)


def test_it_takes_no_path() -> None:
    """A path is refused, rather than to let somebody believe that something is kept there."""
    with pytest.raises(ConfigError, match="takes no path"):
        open_store("memory:/var/lib/wsstream")


async def test_it_keeps_the_contract() -> None:
    """It is a store like any other, but for what outlives the process."""
    await check_store(lambda _: MemoryStore())


@in_virtual_time
async def test_only_the_latest_sessions_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory is bounded: the session that was silent for longest is forgotten first."""
    monkeypatch.setattr(memory, "SESSIONS", 3)
    store = MemoryStore()
    for number, session_id in enumerate(("a", "b", "c", "a", "d")):
        store.save_message(message(number, session_id))
    assert [len(await store.history(session_id)) for session_id in "abcd"] == [2, 0, 1, 1]
