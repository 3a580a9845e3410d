"""What everybody was told in a soak, and what is wrong with it.

The texts are known beforehand, so a reader is right or wrong by itself: what comes must be the next piece of the plan's
text. The book adds what one reader cannot see: that a chunk ends at the same place for all, that there is one end, that
one request has one stream, and that an end is one that could come.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from tests.soak.answers import BREAKS, Plan

GOOD = ("stop", "length")
OVER = "over"
"""An end of which a wire does not say more than that the answer did not fail."""
FAILED = "failed"
"""An end of which a wire does not say more than that it did."""
MOST_VIOLATIONS = 200
ONGOING = 5
"""How often an answer goes on after a kill (docs/operations.md)."""


@dataclass(eq=False)
class Told:
    """What is known of one stream."""

    stream_id: str
    session_id: str
    plan: Plan
    seams: dict[int, int] = field(default_factory=lambda: {0: 0})
    """Chunk ids, and where in the text those chunks end."""
    size: int = 0
    """Characters that somebody has seen."""
    how: str | None = None
    final: int | None = None
    final_size: int | None = None
    cancelled: bool = False
    """Whether somebody has asked for its end."""
    deserted: bool = False
    """Whether nobody may have followed it for a while."""

    def __str__(self) -> str:
        plan = self.plan
        return (
            f"{self.stream_id} ({plan.tokens} tokens, {plan.rate:g}/s, {plan.fault} at {plan.at}, {plan.on_interrupt})"
        )


class Book:
    """All streams, and all violations."""

    def __init__(self) -> None:
        self.streams: dict[str, Told] = {}
        self.violations: list[str] = []
        self.counts: Counter[str] = Counter()
        self.ends: Counter[str] = Counter()
        self.killed = 0
        self.terminated = 0
        self._by_plan: dict[int, str] = {}

    def object(self, what: str) -> None:
        """Note a violation."""
        if len(self.violations) < MOST_VIOLATIONS:
            self.violations.append(what)

    def begin(self, stream_id: str, session_id: str, plan: Plan) -> Told:
        """Somebody was told that a plan is answered by a stream."""
        if self._by_plan.setdefault(plan.number, stream_id) != stream_id:
            self.object(f"one request began {self._by_plan[plan.number]} and {stream_id}")
        told = self.streams.get(stream_id)
        if told is None:
            told = self.streams[stream_id] = Told(stream_id, session_id, plan)
        if told.plan is not plan:
            self.object(f"two requests got the stream {stream_id}")
        return told

    def on_end(self, told: Told, how: str, size: int, final: int | None = None) -> None:
        """Somebody was told the end, behind so many characters (and chunks, where the wire counts them)."""
        if told.how is None or told.how in (OVER, FAILED):
            if told.how is not None and not _agree(told.how, how):
                self.object(f"{told} ended as {told.how}, and again as {how}")
            told.how = how
        elif not _agree(told.how, how):
            self.object(f"{told} ended as {told.how}, and again as {how}")
        if told.final_size is not None and told.final_size != size:
            self.object(f"{told} ended behind {told.final_size} characters, and again behind {size}")
        if final is not None and told.final not in (None, final):
            self.object(f"{told} ended behind chunk {told.final}, and again behind {final}")
        told.final_size, told.final = size, told.final if final is None else final
        if told.size > size:
            self.object(f"{told} ended behind {size} characters, but {told.size} were seen")
        if trouble := self._trouble(told, how, size):
            self.object(f"{told} ended as {how} behind {size} of {len(told.plan.whole)} characters: {trouble}")

    def _trouble(self, told: Told, how: str, size: int) -> str | None:
        """Why it must not end like that."""
        plan = told.plan
        restarted = self.killed + self.terminated > plan.killed + plan.terminated
        breaks = plan.fault in BREAKS and plan.on_interrupt == "fail"
        if how in GOOD:
            return None if (how, size) == (plan.finish, len(plan.whole)) else "that is not its end"
        if how == "cancelled":
            return None if told.cancelled else "nobody has cancelled it"
        if how == OVER:
            return None if told.cancelled or size == len(plan.whole) else "that is not its end"
        if plan.fault == "400" or breaks:
            return None
        if how in ("interrupted", FAILED):
            may = told.deserted or self.terminated > plan.terminated or told.cancelled
            weary = self.killed - plan.killed >= ONGOING or (restarted and plan.on_interrupt == "fail")
            return None if may or weary else "nothing has interrupted it"
        return "nothing was wrong with its provider"

    def forget(self, told: Told) -> None:
        """It was checked from all sides: keep only what its end was."""
        told.seams = {0: 0}


def _agree(one: str, other: str) -> bool:
    if one == other:
        return True
    if OVER in (one, other):
        return bool({one, other} & {*GOOD, "cancelled"})
    return FAILED in (one, other) and not {one, other} & {*GOOD, "cancelled"}


class Reading:
    """How far one reader is in one answer."""

    def __init__(self, book: Book, told: Told, last: int = 0) -> None:
        self.told = told
        self.last = last
        self.size = told.seams[last]
        self._book = book

    @property
    def ended(self) -> bool:
        """Whether this reader was told the end."""
        return self._ended

    _ended = False

    def take(self, text: str, first: int | None = None, last: int | None = None) -> None:
        """The next piece, with the ids of its chunks where the wire has some."""
        told, book = self.told, self._book
        book.counts["pieces"] += 1
        book.counts["characters"] += len(text)
        if self._ended:
            book.object(f"{told}: {text[:40]!r} came behind the end")
        if first is not None and first != self.last + 1:
            book.object(f"{told}: chunk {first} came behind {self.last}")
        if not told.plan.whole.startswith(text, self.size):
            wanted = told.plan.whole[self.size : self.size + 40]
            book.object(f"{told}: {text[:40]!r} came at {self.size} (chunk {first}) instead of {wanted!r}")
        self.size += len(text)
        told.size = max(told.size, self.size)
        if last is not None:
            self.last = last
            if told.seams.setdefault(last, self.size) != self.size:
                book.object(f"{told}: chunk {last} ends at {self.size}, and for others at {told.seams[last]}")

    def end(self, how: str, final: int | None = None) -> None:
        """The end."""
        if self._ended:
            self._book.object(f"{self.told}: a second end, {how}")
        if final is not None and final != self.last:
            self._book.object(f"{self.told}: the end says {final}, but chunk {self.last} came last")
        self._ended = True
        self._book.on_end(self.told, how, self.size, final)
