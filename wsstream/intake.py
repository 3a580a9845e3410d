"""Where one try of a provider puts its deltas: checked, repaired, joined, shaped, and appended to the log.

Nearly every token goes straight from `Intake.put` into the log. What only some answers need (text that a server has cut
in the middle of a character, a try that goes on where another broke off, chunks of a wished size) is done by `_Stages`,
which the others do without.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from wsstream.chunklog import ChunkLog
from wsstream.chunks import Delta, Kind
from wsstream.errors import Interrupted, ProviderError, StreamFailure
from wsstream.rejections import Clamp
from wsstream.shaping import Shaper
from wsstream.splice import Splice, Step
from wsstream.text import SurrogateRepair

YIELD_EVERY = 64
"""Chunks after which the loop gets its turn, however eager the provider: acks and other streams must not wait."""

MAX_CHUNK_CHARS = 16 * 1024
"""A larger delta is cut, so that a byte window can hold it. (Where nothing less is set.)"""

MAX_LINE_CHARS = 1024 * 1024
"""A tool call, or data, is one JSON line and cannot be cut. A larger one fails the answer. (Where nothing is set.)"""

CHECK_EVERY = 16
"""Puts after which an answer's size is looked at; it may be exceeded by that much."""

REWIND_REASON = "retry"

Stop = Callable[[StreamFailure], None]


def _no_more(_failure: StreamFailure) -> None:
    """Stop nothing: the try is over."""


class Limits:
    """What one answer may take. Times are seconds; those in which the provider waits for viewers do not count."""

    __slots__ = ("between", "chunks", "delta", "first_token", "line", "note", "on_clamp", "seconds", "weight")

    def __init__(
        self,
        first_token: float,
        between: float,
        chunks: int,
        weight: int,
        seconds: float = float("inf"),
        line: int = MAX_LINE_CHARS,
        on_clamp: Callable[[Clamp], None] = lambda _: None,
        delta: int = MAX_CHUNK_CHARS,
        note: Callable[[], None] | None = None,
    ) -> None:
        self.first_token = first_token
        self.between = between
        self.chunks = chunks
        self.weight = weight
        self.seconds = seconds
        self.line = line
        self.delta = delta
        self.on_clamp = on_clamp
        """Counts what is cut, or shortened."""
        self.note = note
        """Called whenever a provider puts something, if anybody wants to know how often that is."""


class Intake:
    """The sink of one try. When the try is over, it takes nothing more."""

    __slots__ = (
        "_between",
        "_limits",
        "_log",
        "_longest",
        "_note",
        "_stages",
        "_stop",
        "_unchecked",
        "_waiting_since",
        "_way_at",
        "deadline",
        "dropped",
        "first_at",
        "over",
        "waited",
    )

    def __init__(
        self, log: ChunkLog, limits: Limits, stop: Stop, *, splice: Splice | None = None, shaper: Shaper | None = None
    ) -> None:
        """``stop`` is called, once at most, where the answer must not go on."""
        self._log = log
        self._limits = limits
        self._between = limits.between
        self._longest = limits.delta
        self._note = limits.note
        self._stop = stop
        self._stages = _Stages(log, splice, shaper) if splice is not None or shaper is not None else None
        self._way_at = len(log)
        self._unchecked = 0
        self._waiting_since: float | None = None
        self.deadline = time.monotonic() + limits.first_token
        """When the provider has been silent for too long."""
        self.first_at: float | None = None
        """When the first delta came."""
        self.waited = 0.0
        """Seconds for which the provider was not read."""
        self.dropped = 0
        """Deltas that nobody will see: those that came too late, and those that repeated what there was."""
        self.over = False

    # -- the sink

    def put(self, deltas: Sequence[Delta]) -> bool:
        """Append ``deltas`` to the log. After a cancel they are dropped: nobody is to be billed for more."""
        if self.over:
            self.dropped += len(deltas)
            return False
        alone = len(deltas) == 1  # nearly always
        if alone:
            if not 0 < len(deltas[0].content) <= self._longest:
                return self._put_odd(deltas)
        elif not deltas or _any_odd(deltas, self._longest):
            return self._put_odd(deltas)
        note = self._note
        if note is not None:
            note()
        now = time.monotonic()
        self.deadline = now + self._between
        if self.first_at is None:
            self.first_at = now
        log = self._log
        if self._stages is None:
            try:
                if alone:
                    room = log.append_one(deltas[0])
                    self._unchecked += 1
                    if self._unchecked == CHECK_EVERY:
                        self._check_limits()
                    return room
                log.append(deltas)
            except UnicodeEncodeError:
                self._stages = _Stages(log, None, None)
                self._stages.feed(deltas, now)
        else:
            self._stages.feed(deltas, now)
            self._way_at -= len(deltas)  # they need not have become chunks
        self._unchecked += 1
        if self._unchecked == CHECK_EVERY:
            self._check_limits()
        return log.has_room()

    def _put_odd(self, deltas: Sequence[Delta]) -> bool:
        """Empty deltas are no chunks, and no sign of life either; large ones are cut, where they can be."""
        sound = [part for delta in deltas for part in self._cut(delta)]
        if any(len(delta.content) > self._limits.line for delta in sound):
            self._stop(ProviderError("The model provider sent a tool call larger than this server takes"))
            return False
        self._way_at -= 1
        for part in sound:
            if len(part.content) > self._longest:
                self._put_line(part)
            else:
                self.put((part,))
        return not self.over and self._log.has_room()

    def _cut(self, delta: Delta) -> list[Delta]:
        text, kind, longest = delta.content, delta.kind, self._longest
        if kind in (Kind.TOOL_CALL, Kind.DATA):
            return [delta] if text else []
        if len(text) > longest:
            self._limits.on_clamp(Clamp.DELTA)
        return [Delta(text[i : i + longest], kind) for i in range(0, len(text), longest)]

    def _put_line(self, line: Delta) -> None:
        """As `put`, of what is too long for it and may not be cut."""
        if self._stages is None:
            self._stages = _Stages(self._log, None, None)
        now = time.monotonic()
        self.deadline = now + self._between
        if self.first_at is None:
            self.first_at = now
        self._stages.feed((line,), now)
        self._check_limits()

    def _check_limits(self) -> None:
        self._unchecked = 0
        if len(self._log) > self._limits.chunks or self._log.weight > self._limits.weight:
            self._stop(Interrupted("The answer is longer than this server allows", recoverable=False))

    def has_room(self) -> bool:
        """Whether the slowest viewer is near enough."""
        return self._log.has_room()

    async def wait_room(self) -> None:
        """Wait for the slowest viewer. The upstream's silence proves nothing meanwhile: nobody reads it.

        Raises:
            CancelledError: the try is over, whatever the provider has made of its cancel.
        """
        if self.over:
            await asyncio.sleep(0)  # where a cancel that came of a put takes effect
            raise asyncio.CancelledError  # one that did and was swallowed: the provider must not go on for ever
        self._way_at = len(self._log)
        self.deadline = float("inf")
        self._waiting_since = time.monotonic()
        try:
            await self._log.wait_room()
        finally:
            now = time.monotonic()
            self.waited += now - self._waiting_since
            self._waiting_since = None
        self.deadline = now + self._between

    async def give_way(self) -> None:
        """Wait for room, or for one turn of the loop after every `YIELD_EVERY` chunks."""
        if self.over or not self._log.has_room():
            await self.wait_room()
        elif len(self._log) - self._way_at >= YIELD_EVERY:
            self._way_at = len(self._log)
            await asyncio.sleep(0)

    # -- for the producer

    def idle(self, now: float) -> float:
        """Seconds up to ``now`` for which the provider was not read."""
        return self.waited + (0.0 if self._waiting_since is None else now - self._waiting_since)

    def silence(self, now: float) -> float:
        """Seconds for which nothing has come from a provider that is read."""
        patience = self._limits.first_token if self.first_at is None else self._between
        return max(0.0, now - (self.deadline - patience))

    @property
    def merged(self) -> int:
        """Deltas that share their chunk with another."""
        return 0 if self._stages is None else self._stages.taken - self._stages.given

    def finish(self, *, complete: bool = False, last: bool = True) -> None:
        """The try is over: bring out what is held.

        Args:
            complete: the answer has come to its end. Else nothing is known of a text that seems to repeat another.
            last: no other try will bring the other half of a character.
        """
        self.over = True
        self._stop = _no_more  # whoever began the try has it as well: together they would wait for the collector
        if self._stages is not None:
            self._stages.finish(complete, last)
            self.dropped += self._stages.skipped


class _Stages:
    """What stands between a try and the log, for those answers that need it."""

    __slots__ = ("_log", "_repairs", "_shaper", "_splice", "_timer", "given", "skipped", "taken")

    def __init__(self, log: ChunkLog, splice: Splice | None, shaper: Shaper | None) -> None:
        self._log = log
        self._splice = splice
        self._shaper = shaper
        self._repairs: dict[Kind, SurrogateRepair] = {}
        self._timer: asyncio.TimerHandle | None = None
        self.taken = self.given = self.skipped = 0

    def feed(self, deltas: Sequence[Delta], now: float) -> None:
        """Take what the provider has put."""
        self.taken += len(deltas)
        self._join([whole for delta in deltas for whole in self._repaired(delta)], now)

    def _repaired(self, delta: Delta) -> list[Delta]:
        repair = self._repairs.get(delta.kind)
        if repair is None:
            repair = self._repairs[delta.kind] = SurrogateRepair()
        text = repair.feed(delta.content)
        return [Delta(text, delta.kind)] if text else []

    def _join(self, deltas: Sequence[Delta], now: float) -> None:
        for place, delta in enumerate(deltas):
            if self._splice is None:
                self._shape(deltas[place:], now)
                return
            self._do(self._splice.feed(delta), now, 1)

    def _do(self, step: Step, now: float, taken: int) -> None:
        assert self._splice is not None
        if self._splice.done:
            self._splice = None
        self.skipped += max(0, taken - len(step.deltas))
        if step.rewind_to is not None:
            self._log.rewind(step.rewind_to, REWIND_REASON)
        self._shape(step.deltas, now)

    def _shape(self, deltas: Sequence[Delta], now: float) -> None:
        if self._shaper is None:
            self._append(deltas)
            return
        self._append(self._shaper.feed(deltas, now))
        self._arm(self._shaper)

    def _arm(self, shaper: Shaper) -> None:
        """One timer, that looks at the deadline: that moves with nearly every token."""
        if shaper.deadline is not None and self._timer is None:
            self._timer = asyncio.get_running_loop().call_at(shaper.deadline, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if self._shaper is not None:
            self._append(self._shaper.on_time(time.monotonic()))
            self._arm(self._shaper)

    def _append(self, deltas: Sequence[Delta]) -> None:
        if deltas:
            self.given += len(deltas)
            self._log.append(deltas)

    def finish(self, complete: bool, last: bool) -> None:
        """Bring out what is held."""
        now = time.monotonic()
        if last:
            self._join([Delta(rest, kind) for kind, repair in self._repairs.items() if (rest := repair.flush())], now)
        if complete and self._splice is not None:
            self._do(self._splice.finish(), now, 0)
        if self._shaper is not None:
            self._append(self._shaper.flush())
            self._shaper = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _any_odd(deltas: Sequence[Delta], longest: int) -> bool:
    return any(not 0 < len(delta.content) <= longest for delta in deltas)
