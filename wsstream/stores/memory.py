"""The store that keeps nothing: a log lives as long as its `wsstream.chunklog.ChunkLog` does."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from wsstream.chunks import Outcome
from wsstream.stores.base import StoredLog, StreamRecord


class MemoryStore:
    """Everything is committed at once, because the process is all the durability there is."""

    def create(self, record: StreamRecord) -> None:
        """Nothing to do."""

    def append(
        self, stream_id: str, first: int, bodies: Sequence[bytes], kinds: bytes, committed: Callable[[int], None]
    ) -> None:
        """Commit at once."""
        committed(first + len(bodies) - 1)

    def finish(self, stream_id: str, outcome: Outcome, committed: Callable[[], None]) -> None:
        """Commit at once."""
        committed()

    def load(self, stream_id: str) -> StoredLog | None:
        """No log outlives the process."""
        return None

    def delete(self, stream_id: str) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        """Nothing to do."""
