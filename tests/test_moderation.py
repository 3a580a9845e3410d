"""When the event loop rests, and when it must not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import pytest

from wsstream.moderation import Moderator
from wsstream.ticks import Flusher

INTERVAL = 0.0004
RESTED = INTERVAL - Moderator.LATE


class Turns:
    """An event loop that has nothing but `call_soon`, and a clock that only sleeping and working move on."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []
        self.ready: list[Callable[[], None]] = []

    def call_soon(self, callback: Callable[[], None]) -> None:
        """For the next turn."""
        self.ready.append(callback)

    def sleep(self, seconds: float) -> None:
        """Remember it."""
        assert seconds > 0
        self.slept.append(seconds)
        self.now += seconds

    def turn(self) -> None:
        """What is ready now, and not what becomes ready meanwhile."""
        ready, self.ready = self.ready, []
        for callback in ready:
            callback()


class World:
    """A moderator and what surrounds it."""

    def __init__(self, interval: float = INTERVAL) -> None:
        self.loop = Turns()
        loop = cast(asyncio.AbstractEventLoop, self.loop)
        self.flusher = Flusher(loop)
        self.it = Moderator(loop, self.flusher, interval, now=lambda: self.loop.now, sleep=self.loop.sleep)

    def load(self, rate: float, count: int = 10 * Moderator.COUNT) -> None:
        """Things come one by one, ``rate`` a second, whatever the loop does; what has come, it takes in one turn."""
        dues = [self.loop.now + number / rate for number in range(1, count + 1)]
        while dues:
            self.loop.now = max(self.loop.now, dues[0])
            while dues and dues[0] <= self.loop.now:
                del dues[0]
                self.it.note()
            self.loop.turn()
            self.loop.turn()


class Flushed:
    """Something with bytes to write."""

    def flush(self) -> None:
        """They are out."""

    def on_broken(self) -> None:
        """It never is."""


def test_a_quiet_loop_never_rests() -> None:
    """What comes less often than 5,000 times a second is looked at as soon as it comes."""
    world = World()
    world.load(4800)
    assert world.loop.slept == []


def test_a_loop_under_load_looks_no_more_often_than_the_interval() -> None:
    """From 5,000 things a second on, two looks are an interval apart, and the sleep's own lateness is taken off."""
    world = World()
    world.load(20_000, Moderator.COUNT)
    assert world.loop.slept == []  # nobody knows yet
    before = world.loop.now
    world.load(20_000, 1000)
    assert max(world.loop.slept) == pytest.approx(RESTED)
    assert len(world.loop.slept) == pytest.approx((world.loop.now - before) / INTERVAL, rel=0.2)


def test_what_comes_in_one_turn_is_followed_by_one_rest() -> None:
    """A turn that brought much arms one rest, not one for each."""
    world = World()
    world.load(20_000)
    world.loop.slept.clear()
    for _ in range(20):
        world.it.note()
    world.loop.turn()
    world.loop.turn()
    world.loop.turn()
    assert len(world.loop.slept) == 1


def test_a_turn_that_took_longer_than_the_interval_is_not_followed_by_a_rest() -> None:
    """A loop that has all it can do goes on at once."""
    world = World()
    world.load(20_000)
    world.loop.slept.clear()
    world.it.note()
    world.loop.now += INTERVAL
    world.loop.turn()
    world.loop.turn()
    assert world.loop.slept == []


def test_what_a_turn_writes_is_out_before_the_rest() -> None:
    """The loop gives what its callbacks wrote to the kernel at the end of a turn: the rest comes a turn later."""
    world = World()
    world.load(20_000)
    world.loop.slept.clear()
    world.it.note()
    world.loop.turn()
    assert world.loop.slept == []
    world.loop.turn()
    assert len(world.loop.slept) == 1


@pytest.mark.parametrize("first", [True, False], ids=["flushed before", "flushed behind"])
def test_no_rest_comes_where_something_is_flushed(first: bool) -> None:
    """What is written in the turn of the rest would wait for it; the next thing that comes arms another one."""
    world = World()
    world.load(20_000)
    world.loop.slept.clear()
    if first:
        world.loop.call_soon(lambda: world.flusher.mark(Flushed()))
    world.it.note()
    if not first:
        world.loop.call_soon(lambda: world.flusher.mark(Flushed()))
    world.loop.turn()
    world.loop.turn()
    assert world.loop.slept == []
    world.loop.turn()
    world.it.note()
    world.loop.turn()
    world.loop.turn()
    assert len(world.loop.slept) == 1


def test_the_rests_end_with_the_load() -> None:
    """Below 4,000 things a second there are none any more; between 4,000 and 5,000 it stays as it was."""
    world = World()
    world.load(20_000)
    world.loop.slept.clear()
    world.load(4500)
    world.loop.slept.clear()
    world.load(4500)
    assert world.loop.slept
    world.load(3800, 2 * Moderator.COUNT)
    world.loop.slept.clear()
    world.load(3800)
    assert world.loop.slept == []


def test_a_thing_that_comes_alone_after_a_load_waits_for_nothing() -> None:
    """Whoever comes when the crowd has gone is not made to pay for it."""
    world = World()
    world.load(20_000)
    world.loop.now += 60
    world.loop.slept.clear()
    world.it.note()
    world.loop.turn()
    world.loop.turn()
    assert world.loop.slept == []


def test_an_interval_of_nothing_means_no_rests() -> None:
    """It can be turned off, and costs no turns of the loop then."""
    world = World(0.0)
    world.load(50_000)
    world.it.note()
    assert world.loop.slept == world.loop.ready == []
