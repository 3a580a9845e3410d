"""Token buckets, and which quotas apply where."""

from __future__ import annotations

import asyncio

import pytest

from tests.virtual import in_virtual_time
from wsstream import limits
from wsstream.config import Config
from wsstream.limits import Bucket, Buckets, Quotas

MIB = 1024 * 1024


@in_virtual_time
async def test_a_bucket_gives_its_burst_and_then_its_rate() -> None:
    """At the limit it gives, one past it it says when, and it never holds more than its burst."""
    bucket = Bucket(rate=2.0, burst=3.0)
    for _ in range(3):
        assert bucket.wait() == 0
        bucket.take()
    assert bucket.wait() == pytest.approx(0.5)
    await asyncio.sleep(0.5)
    assert bucket.wait() == 0
    bucket.take()
    await asyncio.sleep(3600)
    assert bucket.wait(3.0) == 0
    assert bucket.wait(3.5) == pytest.approx(0.25)


@in_virtual_time
async def test_who_took_more_than_there_was_owes_it() -> None:
    """A cost that nobody could know before is paid afterwards."""
    bucket = Bucket(rate=1.0, burst=10.0)
    bucket.take(25.0)
    assert bucket.wait() == pytest.approx(16.0)


@in_virtual_time
async def test_each_key_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys do not share; so many of them are remembered, the latest; None is no limit and remembers nobody."""
    monkeypatch.setattr(limits, "MAX_KEYS", 2)
    buckets = Buckets(60.0, 1.0)
    buckets.take("a")
    assert buckets.wait("a") == pytest.approx(1.0)
    assert buckets.wait("b") == 0
    buckets.take("c")
    assert len(buckets) == 2
    endless = Buckets(None, 1.0)
    for _ in range(100):
        endless.take("a")
    assert (endless.wait("a"), len(endless)) == (0, 0)


def test_quotas_apply_unless_one_is_at_home() -> None:
    """At home only what is set counts; elsewhere what is not set has its default."""
    assert set(Quotas.of(Config(), at_home=True)) == {None}
    assert Quotas.of(Config(), at_home=False) == (10, 60, 4, 8, 64, 16, 10, 32 * MIB, 100, 60, 64 * MIB)
    assert Quotas.of(Config(max_running_per_user=7), at_home=True).running == 7
    assert Quotas.of(Config(starts_per_minute=7), at_home=False).starts == 7
