"""Lets what comes in gather a little, once it comes so often that every look at the sockets would find next to nothing.

Being woken costs an event loop more than a token does: the kernel wakes the thread, the loop asks for what is ready,
and nothing is in the caches any more. Network cards have the same trouble with packets, and the same cure, interrupt
moderation: Mogul and Ramakrishnan, "Eliminating Receive Livelock in an Interrupt-driven Kernel", ACM TOCS 15(3), 1997.
docs/benchmarks.md, "Looking less often", says what it saves, and what a token waits for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from wsstream.ticks import Flusher

INTERVAL = 0.0004
"""Seconds between two looks at the sockets, where nothing else is set."""
DURABLE_INTERVAL = 0.0008
"""The same where nobody sees a token before it is committed: reading one sooner would gain nobody anything."""


class Moderator:
    """Has the loop rest until `interval` has passed since it last rested, at the end of turns that brought something.

    1. Only under load: from `BUSY` things a second on, and until there are fewer than `CALM`.
    2. A turn that took longer than the interval is followed by the next one at once, so a loop that has all it can do
       never rests.
    3. Nothing that a turn has to write waits for a rest: it is out before.

    It is the thread that rests, in a sleep of its own: timers of an event loop count whole milliseconds. Other threads
    (the store's is one) run meanwhile.
    """

    BUSY = 5000.0
    CALM = 4000.0
    COUNT = 64
    """So many things are counted between two looks at the clock."""
    LATE = 0.00005
    """Seconds that Linux lets a sleep take longer than it is asked to (prctl(2), PR_SET_TIMERSLACK)."""

    __slots__ = (
        "_active",
        "_armed",
        "_flushes",
        "_left",
        "_loop",
        "_now",
        "_rested_at",
        "_since",
        "_sleep",
        "flusher",
        "interval",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        flusher: Flusher,
        interval: float,
        *,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """``interval`` in seconds; 0 for no rests at all."""
        self.interval = interval
        self._loop = loop
        self.flusher = flusher
        self._flushes = 0
        self._now = now
        self._sleep = sleep
        self._left = self.COUNT
        self._since = self._rested_at = now()
        self._active = self._armed = False

    def note(self) -> None:
        """Something has come: a token of a provider, or a message of a client. For every one, so it does little."""
        self._left -= 1
        if not self._left:
            self._measure()
        if self._active and not self._armed:
            self._armed = True
            self._loop.call_soon(self._on_turn)

    def _measure(self) -> None:
        now = self._now()
        least = self.CALM if self._active else self.BUSY
        self._active = self.interval > 0 and least * (now - self._since) <= self.COUNT
        self._since = now
        self._left = self.COUNT

    def _on_turn(self) -> None:
        # What callbacks write now, the loop gives to the kernel behind the last of them. And what came while all this
        # was done is read before the rest.
        self._flushes = self.flusher.flushes
        self._loop.call_soon(self._rest)

    def _rest(self) -> None:
        self._armed = False
        if self.flusher.pending or self.flusher.flushes != self._flushes:
            return  # this turn writes something too, and there will be another
        now = self._now()
        left = self._rested_at + self.interval - self.LATE - now
        if left > 0:
            self._sleep(left)
            now = self._now()
        self._rested_at = now
