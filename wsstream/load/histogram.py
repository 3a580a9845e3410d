"""A histogram of durations that takes the same few kilobytes however many it has seen."""

from __future__ import annotations

from collections.abc import Sequence

SUB_BITS = 7
"""Each power of two is cut into 2**7 buckets, so a bucket's middle is off by 1/256 at most."""

_EXACT = 2 << SUB_BITS
_LARGEST = 2**40 - 1
_BUCKETS = ((40 - SUB_BITS) << SUB_BITS) + (1 << SUB_BITS)


class Histogram:
    """Counts whole microseconds, 0 to 12 days; what lies outside is counted at the nearer end."""

    __slots__ = ("_counts", "count", "largest")

    def __init__(self) -> None:
        self._counts = [0] * _BUCKETS
        self.count = 0
        self.largest = 0

    def add(self, value: int, times: int = 1) -> None:
        """Count ``value``, ``times`` times."""
        if value > self.largest:
            self.largest = value
        self.count += times
        self._counts[_bucket(value)] += times

    def add_ages(self, now: int, stamps: Sequence[int]) -> None:
        """Count ``now - stamp`` for each; ``stamps`` is not empty and in order."""
        oldest, newest = now - stamps[0], now - stamps[-1]
        if _bucket(oldest) == _bucket(newest):  # then all between are in that bucket too
            self.add(oldest, len(stamps))
            return
        for stamp in stamps:
            self.add(now - stamp)

    def percentile(self, percent: float) -> int:
        """The value that ``percent`` of all do not exceed, within half a percent; 0 where nothing was counted."""
        rank = max(1, -(-self.count * percent // 100))
        seen = 0
        for bucket, count in enumerate(self._counts):
            seen += count
            if count and seen >= rank:
                return min(_middle(bucket), self.largest)
        return 0


def _bucket(value: int) -> int:
    if value < _EXACT:
        return value if value > 0 else 0
    if value > _LARGEST:
        value = _LARGEST
    shift = value.bit_length() - SUB_BITS - 1
    return (shift << SUB_BITS) + (value >> shift)


def _middle(bucket: int) -> int:
    shift = max(0, (bucket >> SUB_BITS) - 1)
    return ((bucket - (shift << SUB_BITS)) << shift) + ((1 << shift) - 1) // 2
