"""A clock that many paced answers share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

SLOTS = 250
"""Slots of a second: callbacks of one slot are called together. Fewer of them make a token cheaper, as fewer are woken
for it and more find the caches warm (docs/benchmarks.md, "The demo model"); nobody sees four milliseconds.
"""
NEVER = 2**62


class Ticker:
    """Calls back at given moments, at a resolution of four milliseconds, with one timer for all.

    ``asyncio.sleep`` costs a timer, a future and a task's turn each time; a thousand answers at fifty tokens a second
    spend more on those than on their tokens.
    """

    __slots__ = ("_loop", "_next", "_slots", "_timer")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._slots: dict[int, list[Callable[[float], None]]] = {}
        self._next = NEVER
        """The first slot that somebody waits in, as far as the timer knows."""
        self._timer: asyncio.TimerHandle | None = None

    def call_at(self, when: float, callback: Callable[[float], None]) -> None:
        """Call ``callback`` with the time, at ``when`` (of ``time.monotonic()``) or up to four milliseconds later."""
        slot = int(when * SLOTS) + 1
        waiting = self._slots.get(slot)
        if waiting is not None:
            waiting.append(callback)
            return
        self._slots[slot] = [callback]
        if slot < self._next:
            self._arm(slot)

    def _arm(self, slot: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._next = slot
        self._timer = self._loop.call_at(slot / SLOTS, self._tick)

    def _tick(self) -> None:
        now = time.monotonic()
        due = int(now * SLOTS + 0.01)  # the timer may be a rounding error early
        self._timer = None
        self._next = 0  # nobody who asks meanwhile needs to arm a timer: it is done below
        for slot in sorted([slot for slot in self._slots if slot <= due]):
            for callback in self._slots.pop(slot):
                try:
                    callback(now)
                except Exception as error:  # noqa: BLE001 - one answer's mistake must not stop the clock for all
                    self._loop.call_exception_handler({"message": "a paced answer failed", "exception": error})
        self._next = NEVER
        if self._slots:
            self._arm(max(min(self._slots), due + 1))

    def close(self) -> None:
        """Stop. Whoever still waits is not called."""
        self._slots.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
