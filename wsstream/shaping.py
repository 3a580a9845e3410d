"""The shape of chunks: how many tokens make one, and where it may end. No clock: `now` is an argument.

A chunk ends between grapheme clusters (Unicode Standard Annex 29), or between words where that is asked for, also
where the provider's own pieces do not. What may come next decides that, so the end of what is there is held back until
it has come; or for so long that a reader would notice.
"""

from __future__ import annotations

from collections.abc import Iterable

import regex

from wsstream.chunks import Delta, Kind

FIRST_HOLD = 0.05
"""Seconds that an answer's first text may be held."""
HOLD = 0.25
"""Seconds that later text may be held."""
OPEN_HOLD = 1.0
"""Seconds that a cluster may be held which is probably not whole: an emoji that waits for its skin, half a flag."""
MAX_HELD = 2048
"""Characters that may be held: a word longer than this is cut."""
_CONTEXT = 256
"""Characters before a place that say whether clusters meet there."""

_SHAPED = (Kind.TEXT, Kind.REASONING)
_cluster = regex.compile(r"\X")
# Simple word boundaries would know nothing of apostrophes, numbers and scripts without spaces.
_boundary = regex.compile(r"\b", regex.WORD | regex.VERSION1)
# What nearly always goes on: a joiner or virama, an emoji (skin, variant, joiner), one half of a flag, CR before LF.
_open_end = regex.compile(
    r"(?:[\u200d\r]|\p{Indic_Syllabic_Category=Virama}|\p{Extended_Pictographic}[\p{M}\p{Emoji_Modifier}]*"
    r"|(?<!\p{Regional_Indicator})(?:\p{Regional_Indicator}{2})*\p{Regional_Indicator})$"
)
_PROBES = ("a", "1", "\u05d0", "\u30ab", "_")
"""What may follow, as far as word boundaries tell it apart: where each of them leaves a boundary, everything does."""


def clusters_meet(before: str, behind: str) -> bool:
    """Whether a grapheme cluster ends with ``before`` where ``behind`` follows it. Ends of text are boundaries."""
    if not before or not behind:
        return True
    context = before[-_CONTEXT:]
    at = len(context)
    for match in _cluster.finditer(context + behind[:8]):
        if match.start() >= at:
            return match.start() == at
    return False


def last_cluster(text: str) -> int:
    """Where the last grapheme cluster of ``text`` begins."""
    start = max(0, len(text) - _CONTEXT)
    for match in _cluster.finditer(text, start):
        start = match.start()
    return int(start)


def last_word_end(text: str) -> int:
    """The last place in ``text`` where a word has ended for certain, whatever follows; 0 where there is none."""
    if text.endswith("\n"):
        return len(text)
    start = max(0, len(text) - _CONTEXT)
    tail = text[start:]
    ends = {match.start() for match in _boundary.finditer(tail)} - {0, len(tail)}
    for probe in _PROBES:
        if not ends:
            return 0
        ends &= {match.start() for match in _boundary.finditer(tail + probe)}
    for end in sorted(ends, reverse=True):
        if clusters_meet(tail[:end], tail[end:]):
            return start + end
    return 0


class Shaper:
    """Makes chunks of ``size`` tokens, ending between words or only between clusters.

    Text and reasoning are shaped, each for itself; whatever else comes goes on at once, behind what is held.
    """

    __slots__ = ("_by_word", "_count", "_first", "_held", "_kind", "_since", "_size", "_tried", "deadline")

    def __init__(self, size: int, *, by_word: bool) -> None:
        self._size = size
        self._by_word = by_word
        self._kind = Kind.TEXT
        self._held = ""
        self._count = 0
        self._first = True
        self._since = 0.0
        self._tried = False
        self.deadline: float | None = None
        """When `on_time` wants to be called; None where nothing is held."""

    def feed(self, deltas: Iterable[Delta], now: float) -> list[Delta]:
        """What can go now."""
        out: list[Delta] = []
        for delta in deltas:
            if delta.kind != self._kind or delta.kind not in _SHAPED:
                out += self.flush()
                self._kind = delta.kind
            if delta.kind in _SHAPED:
                self._take(delta.content, now, out)
            else:
                out.append(delta)
        self._set_deadline()
        return out

    def on_time(self, now: float) -> list[Delta]:
        """What has been held for too long; nothing where ``now`` is early."""
        if self.deadline is None or now < self.deadline:
            return []
        out: list[Delta] = []
        if self._first or self._tried or not _open_end.search(self._held):
            self._release(len(self._held), now, out)
        else:
            self._release(last_cluster(self._held), self._since, out)
            self._tried = True
        self._set_deadline()
        return out

    def flush(self) -> list[Delta]:
        """Everything: nothing of this kind follows."""
        out: list[Delta] = []
        self._release(len(self._held), 0.0, out)
        self.deadline = None
        return out

    def _take(self, text: str, now: float, out: list[Delta]) -> None:
        full = self._count >= self._size and not self._by_word
        if full and clusters_meet(self._held, text):
            self._release(len(self._held), now, out)
        if not self._held:
            self._since = now
        self._held += text
        self._count += 1
        if self._count >= self._size:
            self._release(self._certain(), now, out)

    def _certain(self) -> int:
        """How much of what is held is whole already."""
        held = self._held
        end = last_word_end(held) if self._by_word else len(held) * held.endswith("\n")
        return end or (last_cluster(held) if len(held) > MAX_HELD else 0)

    def _release(self, end: int, now: float, out: list[Delta]) -> None:
        if end:
            out.append(Delta(self._held[:end], self._kind))
            self._held = self._held[end:]
            self._count = 0
            self._since = now
            self._first = self._tried = False

    def _set_deadline(self) -> None:
        if not self._held:
            self.deadline = None
        elif self._tried:
            self.deadline = self._since + OPEN_HOLD
        else:
            self.deadline = self._since + (FIRST_HOLD if self._first else HOLD)
