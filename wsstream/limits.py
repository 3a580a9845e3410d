"""How much of anything somebody may have in a while: token buckets, by user and by address.

A bucket holds ``burst`` and fills at ``rate`` a second. What one takes is gone, whatever becomes of it: an answer that
was cancelled at once has cost what any other costs.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import NamedTuple

from wsstream.config import Config

MAX_KEYS = 100_000
"""Users, or addresses, that are remembered: those that came last."""


class Bucket:
    """One bucket, full at first."""

    __slots__ = ("_at", "_burst", "_level", "_rate")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._level = burst
        self._at = time.monotonic()

    def wait(self, cost: float = 1.0) -> float:
        """Seconds until ``cost`` can be taken; 0 where it can be now."""
        now = time.monotonic()
        self._level = min(self._burst, self._level + (now - self._at) * self._rate)
        self._at = now
        return max(0.0, (cost - self._level) / self._rate)

    def take(self, cost: float = 1.0) -> None:
        """Take ``cost``. What is not there is owed: somebody who could not know the cost pays later."""
        self.wait()
        self._level -= cost


class Buckets:
    """A bucket for each key. One that is forgotten is full when it is needed again."""

    def __init__(self, per_minute: float | None, burst: float) -> None:
        """None for no limit."""
        self._rate = None if per_minute is None else per_minute / 60.0
        self._burst = burst
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def wait(self, key: str, cost: float = 1.0) -> float:
        """Seconds until ``key`` may have ``cost``; 0 where it may now."""
        return 0.0 if self._rate is None else self._of(key).wait(cost)

    def take(self, key: str, cost: float = 1.0) -> None:
        """It has had ``cost``."""
        if self._rate is not None:
            self._of(key).take(cost)

    def _of(self, key: str) -> Bucket:
        bucket = self._buckets.get(key)
        if bucket is None:
            assert self._rate is not None
            bucket = self._buckets[key] = Bucket(self._rate, self._burst)
            if len(self._buckets) > MAX_KEYS:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(key)
        return bucket


class Quotas(NamedTuple):
    """What one user and one address may have; None for no limit."""

    starts: float | None
    """Answers begun per minute."""
    address_starts: float | None
    running: int | None
    connections: int | None
    address_connections: int | None
    greeting: int | None
    """Connections of an address that have not said who they are."""
    lookups: float | None
    """Streams asked for per minute that there are not."""
    replay: float | None
    """Bytes per minute."""
    feeds: int | None
    """Durable streams."""
    feed_creates: float | None
    """Made per minute."""
    feed_bytes: int | None
    """Bytes of all these together."""

    @classmethod
    def of(cls, config: Config, *, at_home: bool) -> Quotas:
        """Those that are set, or the defaults; ``at_home``, where only this machine's own people come, none."""

        def either(wish: float | None, usual: float) -> float | None:
            return wish if wish is not None else None if at_home else usual

        def count(wish: int | None, usual: int) -> int | None:
            return wish if wish is not None else None if at_home else usual

        return cls(
            starts=either(config.starts_per_minute, 10),
            address_starts=either(config.starts_per_address, 60),
            running=count(config.max_running_per_user, 4),
            connections=count(config.max_connections_per_user, 8),
            address_connections=count(config.max_connections_per_address, 64),
            greeting=count(config.max_greeting_per_address, 16),
            lookups=either(config.lookups_per_minute, 10),
            replay=either(config.replay_per_minute, 32 * 1024 * 1024),
            feed_creates=either(config.feed_creates_per_minute, 60),
            feeds=count(config.max_feeds_per_user, 100),
            feed_bytes=count(config.max_feeds_bytes_per_user, 64 * 1024 * 1024),
        )


NO_QUOTAS = Quotas(*[None] * len(Quotas._fields))
"""Nobody is limited."""
