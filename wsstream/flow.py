"""Flow control: what may be in flight, who moves the limit, and when the receiving end says so. Integers only.

Nothing here knows a message, a stream, a socket or a clock. The sending end owns a `SendWindow` for every attachment
and a policy that may move its limit; the receiving end owns an `AckPacer`, and a `WishedWindow` where it may ask for
more.

Theory of operation (docs/protocol.md, "Windows and acks"):

1. Chunks of a stream are numbered 1, 2, 3 … ``sent <= tail`` always holds.
2. Chunk ``n`` may be sent when ``n <= acked + limit`` and the bytes of ``acked + 1 … n`` fit the byte limit.
3. When nothing is in flight, the next chunk may go whatever its size; otherwise a large one would wait for ever.
4. An ack is cumulative: it sets ``acked`` to the larger of the two. An ack beyond ``sent`` (and what an earlier window
   sent to the same receiver) is an error.
5. Only an ack (or a resume, which is one) moves ``acked``. Time never does.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from math import inf
from typing import NamedTuple, Protocol

from wsstream.errors import AckOutOfRange


class SendWindow:
    """What one attachment has sent and not yet seen acknowledged."""

    __slots__ = ("_sure", "acked", "known", "limit", "limit_bytes", "limited", "sent")

    def __init__(self, limit: int, limit_bytes: int, start: int = 0) -> None:
        """A window of ``limit`` chunks and ``limit_bytes`` bytes whose receiver already has chunks 1 … ``start``."""
        self.limit = limit
        self.limit_bytes = limit_bytes
        self.sent = start
        self.acked = start
        self.known = start
        """The last chunk that this receiver was sent by an earlier window: an ack of it may still be under way. It
        counts, so ``acked`` may be ahead of ``sent`` for a while.
        """
        self._sure = 0
        """Up to this size of all chunks the byte limit surely has room: acks only move it on."""
        self.limited = False
        """Whether the last `grant` left chunks behind: then it is the window, not the producer, that is waited for."""

    @property
    def in_flight(self) -> int:
        """Chunks sent and not acknowledged."""
        return max(0, self.sent - self.acked)

    def grant(self, tail: int, totals: Sequence[int]) -> int:
        """The last chunk id that may be sent now; ``sent`` where none may.

        Args:
            tail: the last chunk id there is.
            totals: ``totals[n]`` is the size in bytes of the chunks 1 … n together.
        """
        last = self.acked + self.limit
        if last >= tail:
            last = tail
        if last > self.sent and totals[last] > totals[self.acked] + self.limit_bytes:
            last = self._fit_bytes(last, totals)
        self.limited = last < tail
        return last if last > self.sent else self.sent

    def send_next(self, tail: int, size: int, totals: Sequence[int]) -> bool:
        """Count ``tail`` as sent, if it is the next chunk and both limits have room for it; else change nothing.

        What `grant` comes to for nearly every token, in half its steps. A viewer that is behind, or a chunk larger than
        the byte limit, is left to `grant`. ``size`` is that of all chunks: ``totals[tail]``, or more where there are
        chunks that may not be sent yet.
        """
        if self.sent + 1 != tail or tail > self.acked + self.limit:
            return False
        if size > self._sure:
            self._sure = totals[self.acked] + self.limit_bytes
            if size > self._sure:
                return False
        self.sent = tail
        self.limited = False
        return True

    def _fit_bytes(self, last: int, totals: Sequence[int]) -> int:
        budget = totals[self.acked] + self.limit_bytes
        fitting = bisect_right(totals, budget, self.sent, last) - 1
        return max(fitting, self.acked + 1)  # a chunk larger than the limit goes alone

    def on_ack(self, chunk_id: int) -> bool:
        """Take a cumulative ack; True where it moved the window.

        Raises:
            AckOutOfRange: ``chunk_id`` was never sent. Nothing has changed.
        """
        if chunk_id > self.sent and chunk_id > self.known:
            raise AckOutOfRange
        if chunk_id <= self.acked:
            return False
        self.acked = chunk_id
        return True

    def __repr__(self) -> str:
        return f"<SendWindow sent={self.sent} acked={self.acked} limit={self.limit}/{self.limit_bytes}B>"


class WindowPolicy(Protocol):
    """Moves the limit of one window. Called for acks only, so that a timeout can never widen it."""

    def on_ack(self, window: SendWindow, now: float, round_trip: float | None) -> None:
        """``window`` has just taken an ack.

        Args:
            now: seconds, of any one clock.
            round_trip: seconds of the connection's smallest recent round trip, None until one was measured.
        """


class AdaptiveWindow:
    """Keeps a little more in flight than the viewer renders while an ack is on its way.

    1. Only a window that holds chunks back is measured: a producer's pace says nothing about its viewer.
    2. A round is one whole window acknowledged; it gives the rate at which the viewer renders.
    3. The limit becomes ``GAIN * rate * (round trip + ACK_DELAY)``, at most doubled per round.

    The round trip is that of heartbeats, which wait behind no chunk: that of acks grows with the window itself, so a
    slow renderer would widen its own window. (The product of rate and round trip: Cardwell et al., "BBR", ACM Queue
    14(5), 2016.)
    """

    __slots__ = ("_ceiling", "_floor", "_mark", "_start_acked", "_start_at")

    GAIN = 2.0
    ACK_DELAY = 0.25
    """Seconds a client may hold an ack back (docs/protocol.md, rule 4)."""

    def __init__(self, floor: int = 8, ceiling: int = 1000) -> None:
        self._floor = min(floor, ceiling)
        self._ceiling = ceiling
        self._mark: int | None = None
        self._start_at = 0.0
        self._start_acked = 0

    def on_ack(self, window: SendWindow, now: float, round_trip: float | None) -> None:
        """Finish a round when its window is acknowledged, and move the limit then."""
        if not window.limited or round_trip is None:
            self._mark = None
            return
        if self._mark is not None:
            if window.acked < self._mark or now <= self._start_at:
                return
            rate = (window.acked - self._start_acked) / (now - self._start_at)
            wanted = int(self.GAIN * rate * (round_trip + self.ACK_DELAY))
            window.limit = max(self._floor, min(self._ceiling, wanted, 2 * window.limit))
        self._mark = window.acked + window.limit
        self._start_at = now
        self._start_acked = window.acked


ACK_GAP = 0.05
"""Seconds between two acks at the least, where the window is as wide as it can be: twenty acks a second."""

CHUNK_OVERHEAD = 128
"""Bytes that a chunk weighs beside its content, rounded up: a receiver cannot know how its sender weighs it."""


class Pace(NamedTuple):
    """How lazily a receiver may acknowledge: ``delay`` seconds at most, and ``chunks`` and ``size`` bytes at most."""

    delay: float = 0.1
    chunks: int = 25
    size: float = inf


class AckPacer:
    """The receiving end's half: which acks to send, and when. The mirror of `SendWindow`.

    1. Processing a chunk makes it *due*; acks are cumulative, so one ack covers all that is due.
    2. Half a window due: acknowledge at once. Otherwise acknowledge `Pace.delay` after the first due chunk.
    3. Before `not_before` half a window waits, too. Its owner sets that, and only to a moment ahead.
    4. No ack is ever dropped: due chunks always have a deadline.
    """

    __slots__ = ("_due_size", "acked", "deadline", "not_before", "pace", "processed")

    def __init__(self, pace: Pace, start: int = 0) -> None:
        self.pace = pace
        self.acked = start
        self.processed = start
        self.deadline: float | None = None
        self.not_before = -inf
        self._due_size = 0

    def on_processed(self, chunk_id: int, now: float, size: int = 0) -> int | None:
        """Everything up to ``chunk_id`` is processed; the id to acknowledge now, or None where it can wait.

        ``size``: bytes of what was processed now.
        """
        if chunk_id <= self.processed:
            return None
        self.processed = chunk_id
        self._due_size += size
        half = chunk_id - self.acked >= self.pace.chunks or self._due_size >= self.pace.size
        if half and now >= self.not_before:
            return self.take()
        due = self.not_before if half else now + self.pace.delay
        if self.deadline is None or due < self.deadline:
            self.deadline = due
        return None

    def on_time(self, now: float) -> int | None:
        """The id to acknowledge if the deadline has passed."""
        if self.deadline is None or now < self.deadline:
            return None
        return self.take()

    def take(self) -> int | None:
        """Everything due, acknowledged now; None where nothing is."""
        self.deadline = None
        self._due_size = 0
        if self.processed == self.acked:
            return None
        self.acked = self.processed
        return self.acked


class WishedWindow:
    """How wide a window a receiver asks for, so that it need not acknowledge more often than anybody is served by.

    1. A window is to hold what its reader renders in `SPAN` and two round trips. Half of it then lasts longer than an
       ack is on its way, so that the sender never waits; and there are about ten acks a second.
    2. What counts is what was *rendered* since the ack before the last one. The time of a single ack proves nothing:
       who reads a whole window at once acknowledges its halves a moment apart, however long they rested before.
    3. A window that is too narrow is doubled, up to ``most``.
    4. One that was four times too wide for `CALM` seconds is halved, down to what it was at first.
    """

    __slots__ = ("_acks", "_busy_at", "_span", "least", "limit", "most")

    SPAN = 0.2
    CALM = 1.0

    def __init__(self, least: int, most: int, round_trip: float) -> None:
        """A window of ``least`` chunks from a sender that allows ``most``, ``round_trip`` seconds away."""
        self.least = self.limit = least
        self.most = max(least, most)
        self._span = self.SPAN + 2 * round_trip
        self._acks: tuple[tuple[int, float], tuple[int, float]] = ((0, -inf), (0, -inf))
        self._busy_at = -inf

    @property
    def is_widest(self) -> bool:
        """Whether the sender allows no more."""
        return self.limit == self.most

    def on_ack(self, chunk_id: int, now: float) -> int | None:
        """Everything up to ``chunk_id`` is being acknowledged; the window to ask for with that, None to leave it."""
        (before, since), last = self._acks
        self._acks = (last, (chunk_id, now))
        needed, there = (chunk_id - before) * self._span, self.limit * (now - since)  # chunks, each times seconds
        if needed > there:
            return self._move(min(2 * self.limit, self.most), now)
        if 4 * needed >= there:
            self._busy_at = now
        elif now - self._busy_at >= self.CALM:
            return self._move(max(self.limit // 2, self.least), now)
        return None

    def _move(self, limit: int, now: float) -> int | None:
        self._busy_at = now
        if limit == self.limit:
            return None
        self.limit = limit
        return limit
