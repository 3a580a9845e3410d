"""What a log holds, end to end: one buffer and where each body ends in it, for whoever takes a whole log over.

An object for every chunk takes many times what it holds, and the time to make them is felt. Here nothing is copied;
what goes over all chunks is done in slices, so that a thread that does it lets others have their turn in between.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, islice, pairwise, repeat
from operator import add, sub
from typing import overload

SLICE = 8192
"""Chunks that are gone over in one piece: well below a millisecond."""


class Bodies(Sequence[bytes]):
    """The bodies of the chunks 1 … n. Whoever hands it out changes neither buffer from then on."""

    __slots__ = ("data", "overhead", "totals")

    def __init__(self, data: bytes | bytearray, totals: array[int], overhead: int = 0) -> None:
        """``totals[n]`` is the size of the first n bodies, with ``overhead`` more for each."""
        self.data = data
        self.totals = totals
        self.overhead = overhead

    @classmethod
    def of(cls, bodies: Sequence[bytes]) -> Bodies:
        """``bodies`` as such, which they may be already."""
        if isinstance(bodies, Bodies):
            return bodies
        return cls(b"".join(bodies), _totals([list(map(len, bodies))], 0))

    def __len__(self) -> int:
        return len(self.totals) - 1

    @overload
    def __getitem__(self, index: int) -> bytes: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[bytes]: ...

    def __getitem__(self, index: int | slice) -> bytes | Sequence[bytes]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        return self.joined(place + 1, place + 1)

    def __iter__(self) -> Iterator[bytes]:
        ends = (total - number * self.overhead for number, total in enumerate(self.totals))
        return (bytes(self.data[start:end]) for start, end in pairwise(ends))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(a == b for a, b in zip(self, other))  # noqa: B905

    __hash__ = None  # type: ignore[assignment]

    def joined(self, first: int, last: int) -> bytes:
        """The bodies of the chunks ``first`` … ``last``, end to end."""
        start = self.totals[first - 1] - (first - 1) * self.overhead
        return bytes(memoryview(self.data)[start : self.totals[last] - last * self.overhead])

    def sizes(self) -> bytes:
        """The size of each body, in two bytes or, where one is larger, in four; little-endian."""
        for code in "HI":
            parts = bytearray()
            try:
                for begin in range(0, len(self), SLICE):
                    parts += _packed(code, self._sizes(begin, begin + SLICE))
            except struct.error:
                continue
            return bytes(parts)
        raise OverflowError("a chunk of more than four gigabytes")

    def _sizes(self, begin: int, end: int) -> list[int]:
        totals = self.totals[begin : end + 1]
        return list(map(sub, map(sub, totals[1:], totals), repeat(self.overhead)))

    @classmethod
    def from_sizes(cls, data: bytes, sizes: bytes, count: int, overhead: int) -> Bodies:
        """What `sizes` has told of: ``count`` bodies.

        Raises:
            ValueError: that is not what these are.
        """
        width = 4 if len(sizes) == 4 * count and count else 2
        if len(sizes) != width * count:
            raise ValueError("sizes are not those of its bodies")
        step = SLICE * width
        bodies = cls(data, _totals(_slices(sizes, step, "H" if width == 2 else "I"), overhead), overhead)
        if bodies.totals[-1] - count * overhead != len(data):
            raise ValueError("bodies are not as long as they were")
        return bodies


def _packed(code: str, sizes: list[int]) -> bytes:
    return struct.pack(f"<{len(sizes)}{code}", *sizes)


def _slices(sizes: bytes, step: int, code: str) -> Iterator[tuple[int, ...]]:
    width = struct.calcsize(f"<{code}")
    for begin in range(0, len(sizes), step):
        part = sizes[begin : begin + step]
        yield struct.unpack(f"<{len(part) // width}{code}", part)


def _totals(slices: Iterable[Sequence[int]], overhead: int) -> array[int]:
    totals = array("Q", (0,))
    for sizes in slices:
        totals.extend(islice(accumulate(map(add, sizes, repeat(overhead)), initial=totals[-1]), 1, None))
    return totals
