"""Counts of what happens, as plain numbers. Whoever counts needs no metrics library; `wsstream.metrics` reads them."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Bounds for waits within this machine or its network."""


class Histogram:
    """How many values fell between which bounds."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        """``bounds`` are inclusive upper ones, rising; what is above the last is counted too."""
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count ``value``, ``times`` times."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self.counts)

    def cumulative(self) -> list[int]:
        """For each bound, and at last for infinity, how many values were not above it."""
        return list(accumulate(self.counts))

    def quantile(self, share: float) -> float:
        """The bound that ``share`` of all values do not exceed; infinity beyond the last, 0 where there is no value."""
        wanted = share * self.count
        if not wanted:
            return 0.0
        found = next(i for i, seen in enumerate(self.cumulative()) if seen >= wanted)
        return self.bounds[found] if found < len(self.bounds) else float("inf")


class WireTally:
    """What the connections of the native wire count together."""

    __slots__ = ("ack_seconds", "closes", "conflated", "refused", "resumes", "timeouts")

    def __init__(self) -> None:
        self.ack_seconds = Histogram()
        """From the write of a chunk to its ack: one sample per connection and heartbeat."""
        self.closes: Counter[int] = Counter()
        """Connections that the server closed, by code."""
        self.conflated = 0
        """Chunks that went out inside a batch instead of alone."""
        self.refused: Counter[str] = Counter()
        """Messages that were answered with an error, by its type."""
        self.resumes: Counter[str] = Counter()
        """Resumes by result: ok, or the type of the error."""
        self.timeouts = 0
        """Peers that were given up because nothing was heard of them."""
