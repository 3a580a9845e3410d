"""What connections share: one write per tick, and one timer."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import cast

import pytest

from tests.virtual import in_virtual_time, turns
from wsstream.ticks import Flusher, TimerWheel


class Connection:
    """Remembers when it was flushed or called, and may do something then."""

    def __init__(self, then: Callable[[], object] = lambda: None) -> None:
        self.slot = 0
        self.flushed = 0
        self.called: list[float] = []
        self.broken = 0
        self._then = then

    def flush(self) -> None:
        """Count."""
        self.flushed += 1
        self._then()

    def on_timer(self, now: float) -> None:
        """Remember when."""
        assert now == time.monotonic()
        self.called.append(now)
        self._then()

    def on_broken(self) -> None:
        """Count."""
        self.broken += 1


def fail() -> None:
    """Be broken."""
    raise RuntimeError("a bug")


# -- Flusher


@in_virtual_time
async def test_marks_are_flushed_in_the_same_tick() -> None:
    """What is marked is flushed once, at the end of this turn of the loop, not within it."""
    flusher = Flusher(asyncio.get_running_loop())
    connections = [Connection() for _ in range(3)]
    for connection in connections:
        flusher.mark(connection)
    assert [connection.flushed for connection in connections] == [0, 0, 0]
    await asyncio.sleep(0)
    assert [connection.flushed for connection in connections] == [1, 1, 1]
    await turns()
    assert [connection.flushed for connection in connections] == [1, 1, 1]


@in_virtual_time
async def test_a_burst_is_flushed_in_slices() -> None:
    """Between two slices of a burst the loop gets its turn, and nobody is forgotten or flushed twice."""
    flusher = Flusher(asyncio.get_running_loop())
    connections = [Connection() for _ in range(2 * Flusher.SLICE + 1)]
    for connection in connections:
        flusher.mark(connection)
    counts = []
    for _ in range(4):
        await asyncio.sleep(0)
        counts.append(sum(connection.flushed for connection in connections))
    assert counts == [Flusher.SLICE, 2 * Flusher.SLICE, 2 * Flusher.SLICE + 1, 2 * Flusher.SLICE + 1]


@pytest.mark.parametrize("size", [1, Flusher.SLICE, Flusher.SLICE + 1, 3 * Flusher.SLICE])
@in_virtual_time
async def test_marking_while_flushing(size: int) -> None:
    """A connection that is marked by another's flush has its turn in the next tick."""
    flusher = Flusher(asyncio.get_running_loop())
    late = Connection()
    connections = [Connection(lambda: flusher.mark(late))] + [Connection() for _ in range(size - 1)]
    for connection in connections:
        flusher.mark(connection)
    await turns()
    assert late.flushed == 1
    assert all(connection.flushed == 1 for connection in connections)
    flusher.mark(late)
    await turns()
    assert late.flushed == 2


def test_a_broken_connection_breaks_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """A flush that fails is logged and ends its own connection; the others of the tick are flushed."""

    @in_virtual_time
    async def scenario() -> None:
        flusher = Flusher(asyncio.get_running_loop())
        connections = [Connection(), Connection(fail), Connection()]
        for connection in connections:
            flusher.mark(connection)
        await turns()
        assert [(connection.flushed, connection.broken) for connection in connections] == [(1, 0), (1, 1), (1, 0)]

    with caplog.at_level(logging.ERROR):
        scenario()
    assert "a bug" in caplog.text


# -- TimerWheel


def wheel() -> TimerWheel:
    """A wheel in this loop."""
    return TimerWheel(asyncio.get_running_loop())


def live_timers() -> int:
    """Timers that wait in this loop."""
    loop = asyncio.get_running_loop()
    return sum(not handle.cancelled() for handle in loop._scheduled)  # type: ignore[attr-defined]


@in_virtual_time
async def test_a_member_is_called_at_its_time() -> None:
    """Whoever has a deadline is called once, not before it and hardly later."""
    w, now = wheel(), time.monotonic()
    members = {delay: Connection() for delay in (0.0, 0.05, 0.1, 0.12, 1.0, 7.77, 3600.0)}
    for delay, member in members.items():
        w.schedule(member, now + delay)
    await asyncio.sleep(4000)
    for delay, member in members.items():
        (called,) = member.called
        assert now + delay - 1e-6 <= called <= now + delay + w.LATE + 1e-6


class EarlyLoop:
    """The loop with the timers that a loop has which counts milliseconds."""

    def __init__(self) -> None:
        self.asked = 0

    def call_at(self, when: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        self.asked += 1
        assert self.asked < 50, "it is armed again and again"
        return asyncio.get_running_loop().call_at(when - 0.0009, callback)


@in_virtual_time
async def test_a_timer_that_comes_early_is_good_enough() -> None:
    """Where the loop's timer is a part of a millisecond early, nobody is called too soon, and none is armed again."""
    loop = EarlyLoop()
    w, now = TimerWheel(cast(asyncio.AbstractEventLoop, loop)), time.monotonic()
    members = {n: Connection() for n in range(100)}
    for n, member in members.items():
        w.schedule(member, now + 1 + n / 1000)
    await asyncio.sleep(2)
    assert all(now + 1 + n / 1000 <= member.called[0] for n, member in members.items())
    assert loop.asked <= 1 + round(0.1 / w.RESOLUTION)


@in_virtual_time
async def test_all_members_share_one_timer() -> None:
    """However many wait, the loop holds one timer."""
    w, now = wheel(), time.monotonic()
    members = [Connection() for _ in range(100)]
    for n, member in enumerate(members):
        w.schedule(member, now + 100 - n)
    assert live_timers() == 1
    await asyncio.sleep(50)
    assert live_timers() == 1
    await asyncio.sleep(60)
    assert all(len(member.called) == 1 for member in members)
    assert live_timers() == 0


@in_virtual_time
async def test_a_new_deadline_replaces_the_old() -> None:
    """A member has one deadline: moved, it is called at the new one only."""
    w, now = wheel(), time.monotonic()
    later, sooner = Connection(), Connection()
    w.schedule(later, now + 1)
    w.schedule(later, now + 5)
    w.schedule(sooner, now + 5)
    w.schedule(sooner, now + 1)
    await asyncio.sleep(10)
    assert [round(at - now) for at in later.called + sooner.called] == [5, 1]


@in_virtual_time
async def test_a_removed_member_is_not_called() -> None:
    """Whoever has left is called no more, and may leave twice or without having been there."""
    w, now = wheel(), time.monotonic()
    member = Connection()
    w.remove(member)
    w.schedule(member, now + 1)
    w.remove(member)
    w.remove(member)
    await asyncio.sleep(10)
    assert member.called == []


@in_virtual_time
async def test_a_crowd_that_has_left_leaves_no_slots() -> None:
    """A slot goes with its last member: small things that survive a crowd keep its memory from the system."""
    w, now = wheel(), time.monotonic()
    crowd = [Connection() for _ in range(100)]
    for number, member in enumerate(crowd):
        w.schedule(member, now + number // 2)
    for member in crowd[:-1]:
        w.remove(member)
    assert len(w._slots) == 1
    await asyncio.sleep(100)
    assert [len(member.called) for member in crowd] == [0] * 99 + [1]


@in_virtual_time
async def test_a_member_removed_in_its_own_slot_is_not_called() -> None:
    """Whoever is removed by another that was called in the same moment is not called either."""
    w, now = wheel(), time.monotonic()
    pair: list[Connection] = []
    pair += [Connection(lambda: w.remove(pair[1])), Connection(lambda: w.remove(pair[0]))]
    for member in pair:
        w.schedule(member, now + 1)
    await asyncio.sleep(10)
    assert len(pair[0].called) + len(pair[1].called) == 1


@in_virtual_time
async def test_a_member_moved_in_its_own_slot_is_called_later() -> None:
    """Whoever is given a new deadline by another that was called in the same moment is called at that only."""
    w, now = wheel(), time.monotonic()
    pair: list[Connection] = []

    def move(other: int) -> None:
        if time.monotonic() < now + 2:
            w.schedule(pair[other], now + 5)

    pair += [Connection(lambda: move(1)), Connection(lambda: move(0))]
    for member in pair:
        w.schedule(member, now + 1)
    await asyncio.sleep(5.5)
    assert sorted(round(at - now) for member in pair for at in member.called) == [1, 5]


@in_virtual_time
async def test_rescheduling_delays_nobody_else() -> None:
    """A member that sets its next deadline far away when it is called does not take the others' turn with it."""
    w, now = wheel(), time.monotonic()
    eager = Connection(lambda: w.schedule(eager, now + 100))
    patient = [Connection() for _ in range(3)]
    w.schedule(eager, now + 1)
    for n, member in enumerate(patient):
        w.schedule(member, now + 2 + n)
    await asyncio.sleep(10)
    assert [round(at - now) for member in patient for at in member.called] == [2, 3, 4]


@in_virtual_time
async def test_a_heartbeat() -> None:
    """Members that set their next deadline whenever they are called are called for ever."""
    w, now = wheel(), time.monotonic()
    beats: list[Connection] = []
    for n in range(5):
        beats.append(Connection(lambda n=n: w.schedule(beats[n], time.monotonic() + 1 + n)))  # type: ignore[misc]
        w.schedule(beats[n], now + 1 + n)
    await asyncio.sleep(60)
    for n, member in enumerate(beats):
        gaps = [b - a for a, b in zip(member.called, member.called[1:], strict=False)]
        assert all(1 + n - 1e-6 <= gap <= 1 + n + w.LATE + 1e-6 for gap in gaps)
        assert len(member.called) >= 60 // (1.2 + n)


@in_virtual_time
async def test_a_deadline_in_the_past_is_now() -> None:
    """Whoever asks for a time that has passed is called at once."""
    w, now = wheel(), time.monotonic()
    member = Connection()
    w.schedule(member, now - 100)
    await asyncio.sleep(0.2)
    assert len(member.called) == 1


def test_a_broken_member_breaks_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """A member that fails is told so; others, of the same and of later slots, are called."""

    @in_virtual_time
    async def scenario() -> None:
        w, now = wheel(), time.monotonic()
        members = [Connection(), Connection(fail), Connection(), Connection()]
        for member in members[:3]:
            w.schedule(member, now + 1)
        w.schedule(members[3], now + 2)
        await asyncio.sleep(5)
        assert [(len(member.called), member.broken) for member in members] == [(1, 0), (1, 1), (1, 0), (1, 0)]

    with caplog.at_level(logging.ERROR):
        scenario()


@in_virtual_time
async def test_a_closed_wheel_calls_nobody() -> None:
    """After the close nobody is called, and closing twice or empty is fine."""
    w = wheel()
    w.close()
    member = Connection()
    w.schedule(member, time.monotonic() + 1)
    w.close()
    w.close()
    await asyncio.sleep(5)
    assert (member.called, live_timers()) == ([], 0)


@in_virtual_time
async def test_closing_from_within() -> None:
    """A wheel can be closed by somebody it calls."""
    w, now = wheel(), time.monotonic()
    members = [Connection(w.close), Connection()]
    w.schedule(members[0], now - 2)
    w.schedule(members[1], now - 1)
    await asyncio.sleep(5)
    assert [len(member.called) for member in members] == [1, 0]
    assert live_timers() == 0
