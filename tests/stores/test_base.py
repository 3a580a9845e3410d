"""The contract of stores would notice a store that breaks it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wsstream.errors import StoreError
from wsstream.stores.base import StoredLog, StoredMessage, untold
from wsstream.stores.memory import MemoryStore
from wsstream.stores.sqlite import SqliteStore
from wsstream.testing.contracts import check_store


class SaysMore(MemoryStore):
    """Acknowledges a chunk that was never written."""

    def append(self, stream_id: str, first: int, bodies: Any, kinds: bytes, committed: Callable[[int], None]) -> None:
        committed(first + len(bodies))


class SaysNothing(MemoryStore):
    """Never acknowledges an end."""

    def finish(self, *_: Any) -> None:
        """Nothing."""


class ForgetsOrder(MemoryStore):
    """Renews the message of an answer by adding it again."""

    def save_message(self, message: StoredMessage) -> None:
        super().save_message(StoredMessage(message.message_id, message.session_id, message.role, message.content, 1.0))


class Fails(MemoryStore):
    """Complains without reason."""

    def delete(self, stream_id: str, committed: Callable[[], None] = untold) -> None:
        self.on_failure(StoreError("no"), {stream_id})


class LosesTheLast(SqliteStore):
    """Keeps all chunks but the last."""

    def finish(self, stream_id: str, outcome: Any, bodies: Any, kinds: bytes, committed: Callable[[], None]) -> None:
        super().finish(stream_id, outcome, bodies[:-1], kinds[:-1], committed)


class LosesKinds(SqliteStore):
    """Takes everything for text."""

    def finish(self, stream_id: str, outcome: Any, bodies: Any, kinds: bytes, committed: Callable[[], None]) -> None:
        super().finish(stream_id, outcome, bodies, bytes(len(kinds)), committed)


class NeverCancelled(SqliteStore):
    """Forgets cancels."""

    def cancel(self, stream_id: str) -> None:
        """Nothing."""


class KeepsAll(SqliteStore):
    """Deletes nothing."""

    def delete(self, stream_id: str, committed: Callable[[], None] = untold) -> None:
        """Nothing."""
        committed()


class ConfirmsTooEarly(SqliteStore):
    """Tells of a deletion before it is written."""

    def delete_session(self, session_id: str, committed: Callable[[], None] = untold) -> None:
        committed()
        super().delete_session(session_id)


class NamesWhatIsNot(SqliteStore):
    """Confirms a title of whatever it is asked to name."""

    def rename_session(self, session_id: str, title: str, committed: Callable[[bool], None] = untold) -> None:
        super().rename_session(session_id, title, lambda _: committed(True))


class SeesTheFuture(SqliteStore):
    """Answers what is asked when everything is written."""

    def history(self, session_id: str) -> Any:
        return self._later(session_id)

    async def _later(self, session_id: str) -> list[StoredMessage]:
        return await super().history(session_id)


class ForgetsWhatGoesOn(SqliteStore):
    """Gives no end to what goes on, nor anything else."""

    def take_running(self) -> list[StoredLog]:
        return []


class DropsThePending(SqliteStore):
    """Closes without writing what is pending."""

    async def close(self) -> None:
        for group in self._groups:
            group.operations.clear()
        await super().close()


@pytest.mark.parametrize("wrong", [SaysMore, SaysNothing, ForgetsOrder, Fails])
async def test_a_wrong_store_in_memory_is_noticed(wrong: type[MemoryStore]) -> None:
    """Each mistake fails the contract."""
    with pytest.raises(AssertionError):
        await check_store(lambda _: wrong())


@pytest.mark.parametrize(
    "wrong",
    [
        *(LosesTheLast, LosesKinds, NeverCancelled, KeepsAll, ConfirmsTooEarly, NamesWhatIsNot, SeesTheFuture),
        *(ForgetsWhatGoesOn, DropsThePending),
    ],
)
async def test_a_wrong_store_in_a_file_is_noticed(wrong: type[SqliteStore], tmp_path: Path) -> None:
    """Each mistake fails the contract, or what is wrong is found as damage when it is read."""
    with pytest.raises((AssertionError, StoreError)):
        await check_store(lambda place: wrong(str(tmp_path / place)))


def test_a_log_as_read_back_is_a_value() -> None:
    """Two readings of the same log are equal."""
    assert StoredLog(None, [b"a"], b"\0", None) == StoredLog(None, [b"a"], b"\0", None)  # type: ignore[arg-type]
