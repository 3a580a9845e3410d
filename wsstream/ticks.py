"""What many connections share so that none needs a task or a timer of its own."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Protocol

logger = logging.getLogger(__name__)


class Flushable(Protocol):
    """Something with bytes to write."""

    def flush(self) -> None:
        """Write them."""

    def on_broken(self) -> None:
        """Its own code failed, and the failure is logged: end it, others go on."""


class Flusher:
    """Gathers whatever happens in one tick of the event loop into one write per connection.

    At most `SLICE` connections are flushed in a row; then the loop gets its turn, so that acks, accepts and first
    tokens are never stuck behind a burst.
    """

    SLICE = 256

    __slots__ = ("_dirty", "_loop", "flushes", "pending")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._dirty: list[Flushable] = []
        self.pending = False
        """Whether somebody is marked."""
        self.flushes = 0
        """Turns in which somebody was flushed."""

    def mark(self, connection: Flushable) -> None:
        """Have ``connection`` flushed at the end of this tick. It must not be marked again before it is."""
        self._dirty.append(connection)
        if not self.pending:
            self.pending = True
            self._loop.call_soon(self._run)

    def _run(self) -> None:
        self.flushes += 1
        batch = self._dirty
        if len(batch) <= self.SLICE:
            self._dirty = []
            self.pending = False
        else:
            self._dirty = batch[self.SLICE :]
            del batch[self.SLICE :]
            self._loop.call_soon(self._run)
        for connection in batch:
            try:
                connection.flush()
            except Exception:
                logger.exception("a connection failed unexpectedly")
                connection.on_broken()


class Timed(Protocol):
    """Something that wants to be called at a time."""

    slot: int

    def on_timer(self, now: float) -> None:
        """It is that time, or up to `TimerWheel.LATE` later."""

    def on_broken(self) -> None:
        """Its own code failed, and the failure is logged: end it, others go on."""


class TimerWheel:
    """One timer for all connections: each sits in the slot of its next deadline.

    Deadlines here are seconds away and may be a little late. A heap of exact timers would cost every connection a
    timer object; see Varghese and Lauck, "Hashed and Hierarchical Timing Wheels", SOSP 1987.
    """

    RESOLUTION = 0.02
    """Seconds. Who is called in one slot is called in a row, which those with tokens wait for."""
    EARLY = 0.001
    """Seconds by which the loop's timers, which count milliseconds, may come early."""
    BEHIND = 0.002
    """Seconds by which a slot is called behind its end: on the stroke others are called who have tokens, and would wait
    for all the heartbeats of the slot."""
    LATE = RESOLUTION + EARLY + BEHIND

    __slots__ = ("_loop", "_slots", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._slots: dict[int, set[Timed]] = {}
        self._timer: tuple[int, asyncio.TimerHandle] | None = None

    def schedule(self, member: Timed, when: float) -> None:
        """Call ``member.on_timer`` at ``when``, once. A member has one deadline; a new one replaces it."""
        self.remove(member)
        slot = int((when + self.EARLY) / self.RESOLUTION) + 1
        member.slot = slot
        self._slots.setdefault(slot, set()).add(member)
        if self._timer is None or slot < self._timer[0]:
            self._arm(slot)

    def remove(self, member: Timed) -> None:
        """Forget ``member``; fine if it has no deadline."""
        slot = self._slots.get(member.slot)
        if slot is not None:
            slot.discard(member)
            if not slot:  # left to its time, a small thing of a crowd's would hold on to a megabyte of the allocator's
                del self._slots[member.slot]
        member.slot = 0

    def _arm(self, slot: int) -> None:
        if self._timer is not None:
            self._timer[1].cancel()
        self._timer = (slot, self._loop.call_at(slot * self.RESOLUTION + self.BEHIND, self._run))

    def _run(self) -> None:
        self._timer = None
        now = time.monotonic()  # not the loop's own clock, which uvloop reads once per turn
        due = (now + self.EARLY) / self.RESOLUTION
        for slot in sorted(slot for slot in self._slots if slot <= due):
            for member in self._slots.pop(slot, ()):
                if member.slot != slot:
                    continue  # another one that was called just now has removed it, or given it a new time
                member.slot = 0
                try:
                    member.on_timer(now)
                except Exception:
                    logger.exception("a connection failed unexpectedly")
                    member.on_broken()
        self._arm_for_next()

    def _arm_for_next(self) -> None:
        if self._slots:
            first = min(self._slots)
            if self._timer is None or first < self._timer[0]:  # a member may have armed it already
                self._arm(first)

    def close(self) -> None:
        """Call nobody any more."""
        if self._timer is not None:
            self._timer[1].cancel()
            self._timer = None
        self._slots.clear()
