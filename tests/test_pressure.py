"""When memory runs short: what is decided at which share."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsstream.pressure import MARGIN, PATIENCE, Level, Pressure

FINE, REFUSE, SHED = Level.FINE, Level.REFUSE, Level.SHED


@pytest.mark.parametrize(
    ("shares", "levels"),
    [
        ([0.1, 0.84], [FINE, FINE]),
        ([0.85, 0.91], [REFUSE, REFUSE]),
        ([0.85, 0.82, 0.81, 0.79], [REFUSE, REFUSE, REFUSE, FINE]),
        ([0.79, 0.82, 0.84], [FINE, FINE, FINE]),
        ([0.95, 0.90, 0.88, 0.86], [SHED, SHED, SHED, REFUSE]),
        ([0.95, 0.5], [SHED, FINE]),
        ([0.95, 0.83, 0.79], [SHED, REFUSE, FINE]),
        ([2.0, 0.92], [SHED, SHED]),
    ],
)
def test_levels(shares: list[float], levels: list[Level]) -> None:
    """A level is entered at its mark and left only well below it."""
    pressure = Pressure()
    assert [pressure.judge(share) for share in shares] == levels


def test_an_alarm_refuses_and_sheds_nobody() -> None:
    """Between two readings the first mark counts, once; what is above the other one is for the next reading."""
    pressure = Pressure()
    assert not pressure.alarm(0.84)
    assert pressure.alarm(2.0)
    assert (pressure.level, pressure.to_shed(100)) == (REFUSE, 0)
    assert not pressure.alarm(2.0)
    assert pressure.judge(0.5) is FINE


def test_a_tenth_is_shed_a_round() -> None:
    """The first reading that calls for it sheds a tenth; the next round comes when that had time to help."""
    pressure = Pressure()
    rounds = []
    for _ in range(2 * PATIENCE + 3):
        pressure.judge(0.95)
        rounds.append(pressure.to_shed(100))
    between = [0] * PATIENCE
    assert rounds == [10, *between, 10, *between, 10]


@pytest.mark.parametrize(("connections", "shed"), [(0, 0), (1, 1), (4, 1), (15, 2), (10_000, 1000)])
def test_how_many(connections: int, shed: int) -> None:
    """Nobody where nobody is, else at least one."""
    pressure = Pressure()
    pressure.judge(0.95)
    assert pressure.to_shed(connections) == shed


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_nobody_is_shed_below_the_mark(share: float) -> None:
    """Refusing comes first."""
    pressure = Pressure()
    pressure.judge(share)
    assert pressure.to_shed(100) == 0


def test_shedding_begins_anew() -> None:
    """Who gets short again after an ease acts at once again."""
    pressure = Pressure()
    for share in (0.95, 0.5, 0.95):
        pressure.judge(share)
    assert pressure.to_shed(100) == 10


@given(st.lists(st.floats(0, 1.5), max_size=60))
def test_it_never_flutters(shares: list[float]) -> None:
    """Whatever the readings: shedding only where memory is that short, and never a change without crossing a margin."""
    pressure = Pressure()
    before, at = FINE, 0.0
    for share in shares:
        level = pressure.judge(share)
        assert level is not SHED or share > 0.92 - MARGIN
        assert level is not FINE or share < 0.85
        if level < before:
            assert share <= at - MARGIN or share <= {SHED: 0.92, REFUSE: 0.85}[before] - MARGIN
        if level > before:
            at = share
        before = level
