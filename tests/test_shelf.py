"""What is kept for a while: by age, number and size, the oldest goes first."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from tests.virtual import in_virtual_time, run
from wsstream.shelf import Shelf


def timers() -> int:
    """Timers that are set."""
    return sum(not handle.cancelled() for handle in asyncio.get_running_loop()._scheduled)  # type: ignore[attr-defined]


@in_virtual_time
async def test_things_go_when_they_are_too_old() -> None:
    """Each is removed in its time, and what was old already when it came, earlier."""
    removed: list[str] = []
    shelf = Shelf(10, 100, 1000, removed.append)
    shelf.put("a", 1, age=5)
    shelf.put("b", 1)
    await asyncio.sleep(5.1)
    assert removed == ["a"]
    await asyncio.sleep(5.1)
    assert removed == ["a", "b"]
    assert (len(shelf), shelf.size, timers()) == (0, 0, 0)


@in_virtual_time
async def test_what_is_too_old_when_it_comes_goes_at_once() -> None:
    """It never stays for a moment."""
    removed: list[str] = []
    shelf = Shelf(10, 100, 1000, removed.append)
    shelf.put("a", 1, age=10)
    assert (removed, len(shelf)) == (["a"], 0)


@in_virtual_time
async def test_only_so_many_and_so_much() -> None:
    """Beyond the number or the size, the oldest go until it fits."""
    removed: list[str] = []
    shelf = Shelf(None, 3, 100, removed.append)
    for name in "abcd":
        shelf.put(name, 10)
    assert removed == ["a"]
    shelf.put("e", 85)
    assert removed == ["a", "b", "c"]
    assert (len(shelf), shelf.size, timers()) == (2, 95, 0)


@in_virtual_time
async def test_what_was_used_stays_longer() -> None:
    """Using a thing makes it the newest; using one that is not there does nothing."""
    removed: list[str] = []
    shelf = Shelf(None, 2, 100, removed.append)
    shelf.put("a", 1)
    shelf.put("b", 1)
    shelf.touch("a")
    shelf.touch("nothing")
    shelf.put("c", 1)
    assert removed == ["b"]


@in_virtual_time
async def test_putting_again_renews() -> None:
    """A thing is there once, with its last size and time."""
    removed: list[str] = []
    shelf = Shelf(10, 5, 100, removed.append)
    shelf.put("a", 40)
    await asyncio.sleep(6)
    shelf.put("a", 50)
    assert (len(shelf), shelf.size) == (1, 50)
    await asyncio.sleep(6)
    assert removed == []
    await asyncio.sleep(6)
    assert removed == ["a"]


@in_virtual_time
async def test_dropping_says_nothing() -> None:
    """What is dropped is not removed, and dropping what is not there is fine."""
    removed: list[str] = []
    shelf = Shelf(10, 5, 100, removed.append)
    shelf.put("a", 1)
    shelf.drop("a")
    shelf.drop("a")
    await asyncio.sleep(20)
    assert (removed, shelf.size) == ([], 0)


@in_virtual_time
async def test_what_is_put_back_stays() -> None:
    """Things that are in use come back as the newest, each is asked once, and the others go."""
    asked: list[str] = []

    def remove(name: str) -> None:
        asked.append(name)
        if name != "c":
            shelf.put(name, 60)

    shelf = Shelf(None, 10, 100, remove)
    for name in "abcd":
        shelf.put(name, 60)
    assert len(asked) < 15
    assert "c" in asked
    assert (len(shelf), shelf.size) == (3, 180)


@in_virtual_time
async def test_a_shelf_that_is_overfull() -> None:
    """It says so where what should have gone was put back, because of the size or of the number, until it fits."""
    shelf = Shelf(None, 2, 100, lambda name: shelf.put(name, 60))
    shelf.put("a", 60)
    assert not shelf.overfull
    shelf.put("b", 60)
    assert (shelf.overfull, "b" in shelf) == (True, True)
    shelf.drop("b")
    assert (shelf.overfull, "b" in shelf) == (False, False)
    for name in "cde":
        shelf.put(name, 1)
    assert shelf.overfull


@in_virtual_time
async def test_everything_in_use() -> None:
    """Where nothing can go, everything stays, without end or error."""
    shelf = Shelf(5, 1, 1, lambda name: shelf.put(name, 60))
    for number in range(50):
        shelf.put(str(number), 60)
    await asyncio.sleep(20)
    assert len(shelf) == 50
    shelf.close()
    shelf.close()
    assert timers() == 0


@in_virtual_time
async def test_one_timer_for_many_things() -> None:
    """However many things are put, one timer waits, and it is set anew only for another first thing."""
    shelf = Shelf(10, 10_000, 10**9, lambda _: None)
    for number in range(1000):
        shelf.put(str(number), 1)
    assert len(asyncio.get_running_loop()._scheduled) == 1  # type: ignore[attr-defined]
    shelf.close()


PUTS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 50)), max_size=40)


@given(puts=PUTS, count=st.integers(1, 6), limit=st.integers(10, 120))
def test_the_books_are_right(puts: list[tuple[int, int]], count: int, limit: int) -> None:
    """Number and size are those of what is there, and never beyond the limits."""

    async def main() -> None:
        there: dict[str, int] = {}
        shelf = Shelf(None, count, limit, lambda name: there.pop(name))
        for name, size in puts:
            there.pop(str(name), None)
            there[str(name)] = size
            shelf.put(str(name), size)
            assert (len(shelf), shelf.size) == (len(there), sum(there.values()))
            assert len(shelf) <= count
            assert shelf.size <= limit

    run(main())
