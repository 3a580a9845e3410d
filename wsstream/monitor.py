"""What a server looks at from time to time: its own loop's lag, its answers, its memory.

Three timers, whatever the number of connections and answers. Nothing of the pipeline knows that it is looked at.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from typing import Protocol

from wsstream.ledger import Ledger
from wsstream.memory import Memory, MemoryReader, Spare, give_back, trim
from wsstream.pressure import Level, Pressure
from wsstream.tally import SECONDS, Histogram

logger = logging.getLogger(__name__)

LAG_EVERY = 0.1
SAMPLE_EVERY = 1.0
MEMORY_EVERY = 0.25
"""Seconds; in one of them, eager providers can fill a good part of a small memory."""
GLANCE_EVERY = 0.05
GLANCES = 4
GLANCE_FROM = 0.5
"""The share from which there are so many glances between two looks: at the next one it might be too late."""
STOP_AFTER = 40
"""Looks that memory stays short before answers that nobody follows are ended, one at a look: ten seconds, in which
whoever was shed can come back for theirs."""
GIVE_BACK_EVERY = 8
"""Readings, while memory is short, after which what was freed is returned to the system: it does not go by itself."""
LOOK_EVERY = 8
"""Readings between two looks at what is taken and not used: it takes milliseconds where that is much."""
MUCH = 4 * 1024 * 1024
"""Bytes that were in no use at two such looks are returned: what comes and goes between them would be taken at once."""
TRIM_EVERY = 16
MANY = 500
FEW = 16
"""Where so many sockets have gone, the same is done when for so many readings only few came and went in each: while a
crowd comes back it would hold everybody up, and take what is needed again at once."""


class House(Protocol):
    """What is done about memory, wherever it lies."""

    @property
    def connections(self) -> int: ...

    @property
    def gone(self) -> int:
        """Sockets closed since the start."""

    def refuse(self, refusing: bool) -> None:
        """Begin nothing new, or begin things again."""

    def drop_retained(self) -> int:
        """Let go of ended logs that the store has; how many bytes they were."""

    def shed(self, count: int) -> None:
        """Close so many connections, those that are missed least."""

    def let_one_go_on(self) -> None:
        """Let one thing go on that waits because memory was short, if there is any."""

    def stop_one(self) -> None:
        """End one of those instead: what they hold is what is missing."""


class Monitor:
    """Looks, and acts where memory runs short."""

    def __init__(self, ledger: Ledger, reader: MemoryReader, pressure: Pressure, house: House) -> None:
        self._loop = asyncio.get_running_loop()
        self._ledger = ledger
        self._reader = reader
        self._pressure = pressure
        self._house = house
        self._lag_due = 0.0
        self._readings = 0
        self._until_trim = TRIM_EVERY
        self._trimmed_at = 0
        self._seen = (0, 0)
        self._until_look = LOOK_EVERY
        self._spare = Spare()
        self._glances = 0
        self._timers: dict[str, asyncio.Handle] = {}
        self._sampling: Iterator[None] = iter(())
        self.lag = Histogram(SECONDS)
        """Seconds that a timer came late."""
        self._spare.begin_anew(reader.unused())
        self.memory: Memory = reader.read()
        self.shed = 0
        """Connections closed for want of memory."""

    @property
    def level(self) -> Level:
        """How short memory is."""
        return self._pressure.level

    def start(self) -> None:
        """Begin to look."""
        self._arm_lag()
        self._timers["sample"] = self._loop.call_later(SAMPLE_EVERY, self._on_sample)
        self._timers["memory"] = self._loop.call_later(MEMORY_EVERY, self._on_memory)

    def close(self) -> None:
        """Look no more."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _arm_lag(self) -> None:
        self._lag_due = time.monotonic() + LAG_EVERY
        self._timers["lag"] = self._loop.call_later(LAG_EVERY, self._on_lag)

    def _on_lag(self) -> None:
        self.lag.observe(max(0.0, time.monotonic() - self._lag_due))
        self._arm_lag()

    def _on_sample(self) -> None:
        self._timers["sample"] = self._loop.call_later(SAMPLE_EVERY, self._on_sample)
        for _ in self._sampling:  # nearly always over long since
            pass
        self._sampling = self._ledger.sampling(time.monotonic())
        self._sample_on()

    def _sample_on(self) -> None:
        """One slice; whoever has tokens gets a turn of the loop before the next."""
        for _ in self._sampling:
            self._timers["sampling"] = self._loop.call_soon(self._sample_on)
            return

    def _on_memory(self) -> None:
        self._timers["memory"] = self._loop.call_later(MEMORY_EVERY, self._on_memory)
        self.check_memory()
        self.tidy()
        self.return_spare()
        self._glances = GLANCES
        self._glance_later()

    def _glance_later(self) -> None:
        glance = self._timers.pop("glance", None)
        if glance is not None:
            glance.cancel()
        if self._glances and self.memory.share >= GLANCE_FROM:
            self._timers["glance"] = self._loop.call_later(GLANCE_EVERY, self._on_glance)

    def _on_glance(self) -> None:
        self._glances -= 1
        self._read()
        if self._pressure.alarm(self.memory.share):
            self._on_level(Level.FINE, Level.REFUSE)
        self._glance_later()

    def tidy(self) -> None:
        """Return what a crowd has left behind: no storm is to be seen in the memory that is taken after it."""
        gone, here = self._house.gone, self._house.connections
        moved = max(gone - self._seen[0], abs(here - self._seen[1]))
        self._seen = gone, here
        self._until_trim = TRIM_EVERY if moved > FEW else self._until_trim - 1
        if self._until_trim <= 0 and gone - self._trimmed_at >= MANY:
            self._until_trim, self._trimmed_at = TRIM_EVERY, gone
            self._trim()

    def return_spare(self) -> None:
        """Return what answers have left behind, theirs or the conversations they were asked with."""
        self._until_look -= 1
        if self._until_look <= 0:
            self._until_look = LOOK_EVERY
            if self._spare.observe(self._reader.unused()) >= MUCH:
                self._trim()

    def _trim(self) -> None:
        trim()
        self._spare.begin_anew(self._reader.unused())

    def check_memory(self) -> None:
        """Read, judge, act."""
        self._read()
        before = self._pressure.level
        level = self._pressure.judge(self.memory.share)
        if level is not before:
            self._on_level(before, level)
        if level is Level.FINE:
            self._house.let_one_go_on()
        self._readings = self._readings + 1 if level is not Level.FINE else 0
        if self._readings > STOP_AFTER:
            self._house.stop_one()
        if self._readings % GIVE_BACK_EVERY == GIVE_BACK_EVERY - 1:
            give_back()
        count = self._pressure.to_shed(self._house.connections)
        if count:
            logger.warning("memory is short: %d of %d connections are shed", count, self._house.connections)
            self.shed += count
            self._house.shed(count)

    def _read(self) -> None:
        """What the store has as well leaves memory before anybody is refused."""
        self.memory = self._reader.read()
        if self._pressure.is_short(self.memory.share) and self._house.drop_retained():
            give_back()
            self.memory = self._reader.read()

    def _on_level(self, before: Level, level: Level) -> None:
        share = round(100 * self.memory.share, 1)
        if level > before:
            logger.warning("memory is short, %s %% of %d bytes: %s", share, self.memory.limit, level.name.lower())
        else:
            logger.warning("memory eases, %s %% of %d bytes: %s", share, self.memory.limit, level.name.lower())
        self._house.refuse(level is not Level.FINE)
