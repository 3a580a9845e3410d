"""A clock that many paced answers share."""

from __future__ import annotations

import asyncio
import time
from heapq import heappop, heappush


class Ticker:
    """Wakes whoever waits for a moment, at a resolution of one millisecond, with one timer for all.

    ``asyncio.sleep`` costs a timer of its own each time; a thousand answers at fifty tokens a second spend more on
    those than on their tokens.
    """

    RESOLUTION = 0.001

    __slots__ = ("_armed_for", "_count", "_loop", "_timer", "_waiting")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []
        self._count = 0
        self._armed_for = float("inf")
        self._timer: asyncio.TimerHandle | None = None

    def until(self, when: float) -> asyncio.Future[None]:
        """A future that is done at ``when``, of ``time.monotonic()``, or up to a millisecond later."""
        future = self._loop.create_future()
        self._count += 1  # keeps the heap from ever comparing futures
        heappush(self._waiting, (when, self._count, future))
        if when < self._armed_for:
            self._arm(when)
        return future

    def _arm(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._armed_for = when
        self._timer = self._loop.call_at(when, self._tick)

    def _tick(self) -> None:
        due = time.monotonic() + self.RESOLUTION / 2
        waiting = self._waiting
        while waiting and waiting[0][0] <= due:
            future = heappop(waiting)[2]
            if not future.done():
                future.set_result(None)
        self._timer = None
        self._armed_for = float("inf")
        if waiting:
            self._arm(max(waiting[0][0], due + self.RESOLUTION / 2))

    def close(self) -> None:
        """Stop. Whoever still waits is not woken."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
