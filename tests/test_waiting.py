"""The waiting room: bounded, fair between users, the most urgent of each first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wsstream.waiting import WaitingRoom


def everybody(_user: str) -> bool:
    """All users may have a place."""
    return True


def drained(room: WaitingRoom[str]) -> list[str]:
    """All that wait, as their turns come."""
    found = []
    while (item := room.take(everybody)) is not None:
        found.append(item)
    return found


def test_users_take_turns() -> None:
    """A user with many requests waits behind those of others that came later."""
    room: WaitingRoom[str] = WaitingRoom(10)
    for item in ("a1", "a2", "a3", "b1", "c1", "c2"):
        room.add(item[0], 0, item)
    assert room.order() == ["a1", "b1", "c1", "a2", "c2", "a3"]
    assert drained(room) == ["a1", "b1", "c1", "a2", "c2", "a3"]


def test_priority_counts_among_ones_own() -> None:
    """A higher priority goes before the same user's others, never before those of others."""
    room: WaitingRoom[str] = WaitingRoom(10)
    for user, priority, item in (("a", 0, "a1"), ("b", 0, "b1"), ("b", 10, "b2"), ("b", 10, "b3"), ("b", -1, "b4")):
        room.add(user, priority, item)
    assert drained(room) == ["a1", "b2", "b3", "b1", "b4"]


def test_who_may_have_no_place_is_passed_over() -> None:
    """A user who has all their places holds nobody up, and keeps their turn."""
    room: WaitingRoom[str] = WaitingRoom(10)
    for item in ("a1", "b1"):
        room.add(item[0], 0, item)
    assert room.take(lambda user: user == "b") == "b1"
    assert room.take(lambda user: user == "b") is None
    assert room.take(everybody) == "a1"


def test_it_is_bounded_and_can_be_left() -> None:
    """It is full at its limit; who leaves makes room and is not called."""
    room: WaitingRoom[str] = WaitingRoom(2)
    room.add("a", 0, "a1")
    assert not room.full
    room.add("a", 0, "a2")
    assert room.full
    assert room.remove("a1")
    assert not room.remove("a1")
    assert ("a1" in room, "a2" in room, len(room)) == (False, True, 1)
    assert drained(room) == ["a2"]
    assert WaitingRoom[str](0).full


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(-2, 2)), max_size=20))
def test_the_order_that_is_told_is_the_order_that_comes(requests: list[tuple[str, int]]) -> None:
    """Nobody who is told a place is called later than that, where nobody else comes."""
    room: WaitingRoom[str] = WaitingRoom(100)
    for number, (user, priority) in enumerate(requests):
        room.add(user, priority, f"{user}{number}")
    told = room.order()
    assert drained(room) == told
