"""The clock that paced answers share."""

from __future__ import annotations

import asyncio
import time

from hypothesis import given
from hypothesis import strategies as st

from tests.virtual import in_virtual_time, run
from wsstream.providers.pacing import SLOTS, Ticker

LATE = 2 / SLOTS


def live_timers() -> int:
    """Timers that wait in this loop."""
    loop = asyncio.get_running_loop()
    return sum(not handle.cancelled() for handle in loop._scheduled)  # type: ignore[attr-defined]


@given(st.lists(st.floats(0, 0.05), min_size=1, max_size=30))
def test_everybody_is_called_in_time(delays: list[float]) -> None:
    """Whenever they ask for, all are called once, in the order of their times, at most two slots late."""

    async def scenario() -> None:
        ticker, now = Ticker(), time.monotonic()
        called: list[tuple[float, float]] = []
        for delay in delays:
            ticker.call_at(now + delay, lambda at, delay=delay: called.append((delay, at - now)))  # type: ignore[misc]
        await asyncio.sleep(1)
        slots = [int((now + delay) * SLOTS) for delay, _ in called]  # within a slot the order is nobody's concern
        assert slots == sorted(slots)
        assert len(called) == len(delays)
        assert all(-(1 / SLOTS) <= at - delay <= LATE for delay, at in called)

    run(scenario())


@in_virtual_time
async def test_one_timer_for_all() -> None:
    """However many wait, the loop holds one timer, and none when nobody waits."""
    ticker, now = Ticker(), time.monotonic()
    for n in range(100):
        ticker.call_at(now + 1 - n / 1000, lambda _: None)
    assert live_timers() == 1
    await asyncio.sleep(2)
    assert live_timers() == 0


@in_virtual_time
async def test_asking_again_from_within() -> None:
    """Whoever is called may ask for the next time, and others keep theirs."""
    ticker, now = Ticker(), time.monotonic()
    beats: list[float] = []
    other: list[float] = []

    def beat(at: float) -> None:
        beats.append(at - now)
        if len(beats) < 100:
            ticker.call_at(now + len(beats) / 100, beat)

    ticker.call_at(now, beat)
    ticker.call_at(now + 0.505, lambda at: other.append(at - now))
    await asyncio.sleep(2)
    assert all(-LATE <= at - n / 100 <= LATE for n, at in enumerate(beats))
    assert len(beats) == 100
    assert abs(other[0] - 0.505) <= LATE


@in_virtual_time
async def test_a_broken_callback_stops_nobody_else() -> None:
    """When one callback fails, the loop hears of it, and the clock goes on for the others."""
    heard: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: heard.append(context["exception"]))
    ticker, now = Ticker(), time.monotonic()
    called: list[str] = []
    error = RuntimeError("a bug")

    def fail(_: float) -> None:
        raise error

    ticker.call_at(now + 1, fail)
    ticker.call_at(now + 1, lambda _: called.append("same moment"))
    ticker.call_at(now + 2, lambda _: called.append("later"))
    await asyncio.sleep(3)
    ticker.call_at(now + 4, lambda _: called.append("afterwards"))
    await asyncio.sleep(3)
    assert heard == [error]
    assert called == ["same moment", "later", "afterwards"]


@in_virtual_time
async def test_a_closed_clock_calls_nobody() -> None:
    """After the close nobody is called, and closing again is fine."""
    ticker, now = Ticker(), time.monotonic()
    called: list[int] = []
    ticker.call_at(now + 1, lambda _: called.append(1))
    ticker.close()
    ticker.close()
    await asyncio.sleep(3)
    assert (called, live_timers()) == ([], 0)
