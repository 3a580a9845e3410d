"""What a store is: where logs live. A store knows bytes and ids; it knows no viewer, no task and no wire."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from wsstream.chunks import Outcome


class StreamRecord(msgspec.Struct, frozen=True):
    """What a store keeps of a stream beside its chunks; written once, when the stream begins."""

    stream_id: str
    session_id: str
    request_id: str
    epoch: str
    model: str | None
    created: float
    """Seconds since 1970."""


class StoredLog(msgspec.Struct, frozen=True):
    """A log as read back: ``bodies`` and ``kinds`` of the chunks 1 … n, and the outcome if it has ended."""

    record: StreamRecord
    bodies: Sequence[bytes]
    kinds: bytes
    outcome: Outcome | None


class Store(Protocol):
    """Keeps logs. Every write is acknowledged by its ``committed`` callback, in the order of the writes of one stream;
    only then may a viewer see it (written before sent). A store that keeps nothing beyond the process may call it at
    once. Callbacks run on the event loop.
    """

    def create(self, record: StreamRecord) -> None:
        """Begin a log."""

    def append(
        self, stream_id: str, first: int, bodies: Sequence[bytes], kinds: bytes, committed: Callable[[int], None]
    ) -> None:
        """Add the chunks ``first``, ``first + 1`` … to a log that ends at ``first - 1``.

        ``committed`` is called with the last chunk id that is safe now.
        """

    def finish(self, stream_id: str, outcome: Outcome, committed: Callable[[], None]) -> None:
        """Add the terminal record, behind every chunk appended before."""

    def load(self, stream_id: str) -> StoredLog | None:
        """Read a log back; None where the store has none of that id."""

    def delete(self, stream_id: str) -> None:
        """Forget a log. Unknown ids are fine."""

    async def close(self) -> None:
        """Write what is pending, then release everything."""
