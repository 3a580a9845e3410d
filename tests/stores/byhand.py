"""A `SqliteStore` whose thread is the event loop: with virtual time, everything about it is certain."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

from wsstream.stores.database import Durability
from wsstream.stores.operations import Operation
from wsstream.stores.sqlite import SqliteStore


class _Jobs:
    """In place of the queue that the thread reads: what is put is done in order, each after a while."""

    def __init__(self, store: ByHand) -> None:
        self._store = store
        self._waiting: deque[Callable[[], None]] = deque()
        self._busy = False

    def put(self, job: Callable[[], None] | None) -> None:
        """Have it done."""
        if job is not None:
            self._waiting.append(job)
            self._next()

    def _next(self) -> None:
        if self._waiting and not self._busy:
            self._busy = True
            asyncio.get_running_loop().call_later(self._store.takes, self._do, self._waiting.popleft())

    def _do(self, job: Callable[[], None]) -> None:
        job()
        self._busy = False
        self._next()


class _NoThread:
    """In place of the thread."""

    def __init__(self) -> None:
        self._alive = False

    def start(self) -> None:
        self._alive = True

    def is_alive(self) -> bool:
        return self._alive

    def join(self, timeout: float) -> None:
        self._alive = False


class ByHand(SqliteStore):
    """Notes when commits begin and what is in them."""

    def __init__(self, path: str, durability: Durability = "process", vfs: str | None = None) -> None:
        super().__init__(path, durability, vfs)
        self.takes = 0.0
        self.commits: list[tuple[float, list[Operation]]] = []
        self._jobs = _Jobs(self)  # type: ignore[assignment]
        self._thread = _NoThread()  # type: ignore[assignment]

    def _commit(self) -> None:
        assert not self._committing, "one commit at a time"
        self.commits.append((time.monotonic(), list(self._groups[0].operations)))
        super()._commit()
