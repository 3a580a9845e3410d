"""A clock that many paced answers share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from heapq import heappop, heappush


class Ticker:
    """Calls back at given moments, at a resolution of one millisecond, with one timer for all.

    ``asyncio.sleep`` costs a timer, a future and a task's turn each time; a thousand answers at fifty tokens a second
    spend more on those than on their tokens.
    """

    RESOLUTION = 0.001

    __slots__ = ("_armed_for", "_count", "_loop", "_timer", "_waiting")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._armed_for = float("inf")
        self._timer: asyncio.TimerHandle | None = None

    def call_at(self, when: float, callback: Callable[[], None]) -> None:
        """Call ``callback`` at ``when`` (of ``time.monotonic()``), or up to a millisecond later."""
        self._count += 1  # keeps the heap from ever comparing callbacks
        heappush(self._waiting, (when, self._count, callback))
        if when < self._armed_for:
            self._arm(when)

    def _arm(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._armed_for = when
        self._timer = self._loop.call_at(when, self._tick)

    def _tick(self) -> None:
        due = time.monotonic() + self.RESOLUTION / 2
        waiting = self._waiting
        self._timer = None
        self._armed_for = 0.0  # nobody who asks meanwhile needs to arm a timer: it is done below
        ready = []
        while waiting and waiting[0][0] <= due:
            ready.append(heappop(waiting)[2])
        for callback in ready:  # not while taking them: a fast answer asks again at once for the next few microseconds
            try:
                callback()
            except Exception as error:  # noqa: BLE001 - one answer's mistake must not stop the clock for all
                self._loop.call_exception_handler({"message": "a paced answer failed", "exception": error})
        self._armed_for = float("inf")
        if waiting:
            self._arm(max(waiting[0][0], due + self.RESOLUTION / 2))

    def close(self) -> None:
        """Stop. Whoever still waits is not called."""
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
