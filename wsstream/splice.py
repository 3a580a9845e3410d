"""Where a broken answer goes on: the seam between what the log has and what another try brings. No I/O.

The log is append-only and viewers have read it, so what a new try repeats is left out, and where it says something else
the log withdraws its own end (`Kind.REWIND`) before the new text follows. Only text is compared: the reasoning behind
text that is repeated is left out with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple, Protocol

from wsstream.chunks import Delta, Kind
from wsstream.shaping import clusters_meet

MIN_OVERLAP = 16
"""Characters that a continuation must repeat to be taken for a repetition: "ha" behind "ha" is an answer."""
MAX_OVERLAP = 4096
"""Characters of the text's end in which its repetition may begin, if not at the start of it all."""


class Part(NamedTuple):
    """A chunk of the text that stands in the log."""

    chunk_id: int
    text: str


class Step(NamedTuple):
    """What to do: withdraw everything behind the chunk ``rewind_to`` (None: nothing), then append ``deltas``."""

    deltas: Sequence[Delta]
    rewind_to: int | None = None


class Splice(Protocol):
    """Stands between a new try and the log until it is clear where the two meet."""

    done: bool
    """Whether the two have met: from now on everything passes."""

    def feed(self, delta: Delta) -> Step:
        """What to do with the new try's next piece."""

    def finish(self) -> Step:
        """What to do at the new try's end, which came before the two have met."""


NOTHING = Step(())


class Continuation:
    """Joins a try that was told the text so far, and may repeat some of its end.

    A repetition is the whole text, at least `MIN_OVERLAP` characters of it, or white space; the longest counts. What is
    shorter is more probably meant. While what comes may still become one, it is held.
    """

    def __init__(self, text: str) -> None:
        self.done = False
        self._text = text
        self._held: list[str] = []
        self._size = 0
        # Where a repetition may have begun; the first that comes to the end of the text is the longest.
        self._starts = _starts(text)

    def feed(self, delta: Delta) -> Step:
        """Hold what may be a repetition; let the rest go."""
        if delta.kind is Kind.REASONING:
            return Step((delta,))
        if delta.kind is not Kind.TEXT:
            return Step((*self.finish().deltas, delta))
        self._held.append(delta.content)
        before, self._size = self._size, self._size + len(delta.content)
        text, end = self._text, len(self._text)
        self._starts = [s for s in self._starts if _agree(text, s + before, delta.content)]
        if not self._starts:
            return self.finish()
        over = self._starts[0] + self._size - end
        if over < 0:
            return NOTHING
        self.done = True
        rest = "".join(self._held)[self._size - over :]
        self._held.clear()
        return Step((Delta(rest),) if rest else ())

    def finish(self) -> Step:
        """It was no repetition."""
        self.done = True
        held, self._held = "".join(self._held), []
        return Step((Delta(held),) if held else ())


def _starts(text: str) -> list[int]:
    size = len(text)
    space = size - len(text.rstrip())
    longest = range(max(1, size - MAX_OVERLAP), max(1, size - MIN_OVERLAP + 1))
    return [0, *longest, *range(max(1, size - space, longest.stop), size)]


def _agree(text: str, at: int, piece: str) -> bool:
    """Whether ``piece`` is what ``text`` has from ``at`` on, as far as that goes."""
    if at >= len(text):
        return True
    known = text[at : at + len(piece)]
    return piece.startswith(known)


class Repetition:
    """Joins a try that begins the answer anew: skips what is the same, and rewinds to where it is not."""

    def __init__(self, parts: Sequence[Part]) -> None:
        """``parts``: the text that stands in the log; not empty."""
        self.done = False
        self._parts = parts
        self._text = "".join([part.text for part in parts])
        self._at = 0

    def feed(self, delta: Delta) -> Step:
        """Skip what is the same."""
        if delta.kind is Kind.REASONING:
            return NOTHING
        if delta.kind is not Kind.TEXT:
            step = self._part_ways("")
            return Step((*step.deltas, delta), step.rewind_to)
        text, at = self._text, self._at
        same = _common(text, at, delta.content)
        self._at = at + same
        if same == len(delta.content):
            self.done = self._at == len(text)
            return NOTHING
        return self._part_ways(delta.content[same:])

    def finish(self) -> Step:
        """The new answer is shorter."""
        return self._part_ways("")

    def _part_ways(self, rest: str) -> Step:
        """Everything up to here is the same, and ``rest`` follows in the new try."""
        self.done = True
        if self._at == len(self._text):
            return Step((Delta(rest),) if rest else ())
        new = self._text[: self._at] + rest
        chunk_id, at = self._parts[0].chunk_id - 1, 0
        ends = accumulate([len(part.text) for part in self._parts])
        for part, end in zip(self._parts, ends, strict=True):
            if end <= self._at and clusters_meet(new[:end], new[end : end + 8]):
                chunk_id, at = part.chunk_id, end
        behind = new[at:]
        return Step((Delta(behind),) if behind else (), chunk_id)


def _common(text: str, at: int, piece: str) -> int:
    """How many characters of ``piece`` are what ``text`` has from ``at`` on."""
    known = text[at : at + len(piece)]
    if known == piece:
        return len(piece)
    return next((i for i, (a, b) in enumerate(zip(known, piece, strict=False)) if a != b), len(known))
