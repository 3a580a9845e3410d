"""Whether a stream's chunks are all there, once, in order, and hold the text they should. Knows no socket or clock."""

from __future__ import annotations

TOKEN_SIZE = 18
"""``@``, sixteen digits of CLOCK_MONOTONIC in microseconds, a space: what ``demo:…,stamp=1`` makes."""


class Garbled(Exception):
    """A content is not made of whole tokens."""


class Checker:
    """Follows one stream's chunks."""

    __slots__ = ("_expected", "_gaps", "_newest", "duplicated", "lost", "reordered", "seen", "tokens")

    def __init__(self, expected: int) -> None:
        """A stream that is to have ``expected`` tokens."""
        self._expected = expected
        self._newest = 0
        self._gaps: list[tuple[int, int]] = []
        self.seen = 0
        """The highest chunk id there was."""
        self.tokens = 0
        self.duplicated = 0
        self.reordered = 0
        """Chunks that came after a later one, and those whose text is older than what came before."""
        self.lost = 0
        """Chunks that never came; known after `finish`."""

    def take(self, first: int, last: int, content: str) -> list[int]:
        """The chunks ``first`` … ``last`` have come with ``content``. The stamps of its new tokens, in order.

        Raises:
            Garbled: ``content`` is something else.
        """
        stamps = read_stamps(content)
        if first != self.seen + 1 or last < first:
            return self._take_astray(first, last, stamps)
        self.seen = last
        self.tokens += len(stamps)
        if stamps[0] < self._newest or (len(stamps) > 1 and stamps != sorted(stamps)):
            self.reordered += 1
            stamps.sort()
        self._newest = stamps[-1]
        return stamps

    def _take_astray(self, first: int, last: int, stamps: list[int]) -> list[int]:
        if last < first:
            raise Garbled
        late = self._fill_gaps(first, last)
        ahead = last - max(first - 1, self.seen) if last > self.seen else 0
        self.reordered += late
        self.duplicated += last - first + 1 - late - ahead
        if first > self.seen + 1:
            self._gaps.append((self.seen + 1, first - 1))
        self.seen = max(self.seen, last)
        if not late + ahead:
            return []
        # A batch cannot be told apart into its chunks; here, where all is wrong already, its share will do.
        stamps.sort()
        new = stamps[-max(1, len(stamps) * (late + ahead) // (last - first + 1)) :]
        self.tokens += len(new)
        return new

    def _fill_gaps(self, first: int, last: int) -> int:
        """Take ``first`` … ``last`` out of the gaps; how many were in there."""
        filled = 0
        left = []
        for low, high in self._gaps:
            start, stop = max(low, first), min(high, last)
            if start > stop:
                left.append((low, high))
                continue
            filled += stop - start + 1
            left += [part for part in ((low, start - 1), (stop + 1, high)) if part[0] <= part[1]]
        self._gaps = left
        return filled

    def finish(self, final_chunk_id: int) -> str | None:
        """The stream has ended with that chunk; what is wrong with it, in a few words."""
        self.lost = sum(high - low + 1 for low, high in self._gaps) + max(0, final_chunk_id - self.seen)
        if self.lost:
            return "chunks lost"
        if self.duplicated:
            return "chunks duplicated"
        if self.reordered:
            return "chunks reordered"
        if final_chunk_id != self.seen:
            return "final_chunk_id is not the last chunk"
        if self.tokens != self._expected:
            return "wrong number of tokens"
        return None

    def abandon(self) -> None:
        """The stream will not go on; what is missing by now is lost."""
        self.lost = max(self.lost, sum(high - low + 1 for low, high in self._gaps))


def read_stamps(content: str) -> list[int]:
    """The stamps of the tokens in ``content``, at least one.

    Raises:
        Garbled: ``content`` is something else.
    """
    size = len(content)
    try:
        if size == TOKEN_SIZE and content[0] == "@" and content[-1] == " ":
            return [int(content[1:17])]
        count = size // TOKEN_SIZE
        if not count or content[::TOKEN_SIZE] != "@" * count or content[TOKEN_SIZE - 1 :: TOKEN_SIZE] != " " * count:
            raise Garbled
        # int() takes the blanks along; one pass through C is what lets unpaced streams run at full speed.
        stamps = list(map(int, content.replace("@", "").split()))
    except ValueError:
        raise Garbled from None
    if len(stamps) != count or count * TOKEN_SIZE != size:
        raise Garbled
    return stamps
