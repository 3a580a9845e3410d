"""Servers that are killed under load, again and again, and what their clients find afterwards: see tests/crash.py."""

from __future__ import annotations

import asyncio
import os
import random
import re
import shutil
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from tests.crash import AtSystemCall, End, Request, Terminate, Violation, World

SEED = int(os.environ.get("WSSTREAM_CRASH_SEED", "0"))
KILLS = int(os.environ.get("WSSTREAM_CRASH_KILLS", "200"))
QUICK_DRAIN = ("--drain-timeout", "1")
POWER = ("--durability", "power")

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not here: see its package")

Plan = Sequence[tuple[End, bool]]


def seed(default: int | None = None) -> int:
    """The seed that is asked for, the test's own, or a new one."""
    return SEED or default or time.time_ns() % 1_000_000


def kills(world: World, count: int) -> Iterable[tuple[End, bool]]:
    """Kills at random moments, at least ``count`` of them; some hit the recovery from the one before."""
    draw = random.Random(count)
    while world.kills < count:
        yield world.random_kill(), draw.random() < 0.3


async def run(world: World, ends: Iterable[tuple[End, bool]]) -> None:
    """Run a world to its end, and say how long its restarts took."""
    async with world:
        await world.run(ends)
    times = sorted(world.recoveries)
    print(
        f"\n{world.kills} kills, {world.reached} at system calls; from restart to all ends:"
        f" p50 {times[len(times) // 2]:.2f} s, p99 {times[int(len(times) * 0.99)]:.2f} s, max {times[-1]:.2f} s;"
        f" {len(world.book.streams)} streams, {sum(len(seen.chunks) for seen in world.book.streams.values())} chunks"
    )


async def both(*runs: tuple[World, Iterable[tuple[End, bool]]]) -> None:
    """Several worlds at once."""
    async with asyncio.TaskGroup() as group:
        for world, ends in runs:
            group.create_task(run(world, ends))


# -- kills at random moments


async def test_nothing_that_was_seen_is_lost_by_kills(tmp_path: Path) -> None:
    """Twenty kills in two worlds, one of which moves its WAL into its file all the time."""
    plain = World(tmp_path / "plain", seed(1))
    busy = World(tmp_path / "busy", seed(2), planted="small_files")
    await both((plain, kills(plain, 11)), (busy, kills(busy, 11)))


@pytest.mark.slow
@pytest.mark.timeout(1800)
async def test_nothing_that_was_seen_is_lost_by_hundreds_of_kills(tmp_path: Path) -> None:
    """The same for a long time, one world with the durability that survives the loss of power."""
    plain = World(tmp_path / "plain", seed())
    busy = World(tmp_path / "busy", seed() + 1, planted="small_files", flags=POWER)
    await both((plain, kills(plain, KILLS // 2)), (busy, kills(busy, KILLS - KILLS // 2)))


class GoingOn(World):
    """A world whose answers go on after a kill, to the number that was asked for."""

    def _request(self, session_id: str) -> Request:
        number = len(self.book.requests) + 1
        request = Request(session_id, f"r{number}", str(self._random.choice((0, 5, 40, 200, 600))), "counting")
        self._new.append(request)
        return self.book.add(request)

    async def _check(self, cancelled: set[str]) -> None:
        await super()._check(cancelled)
        for seen in self.book.streams.values():
            whole = "".join(f"{number} " for number in range(1, int(seen.request.message) + 1))
            if not (seen.text == whole if seen.how == "stop" else whole.startswith(seen.text)):
                self.book.object(f"a count to {seen.request.message} is {seen.text!r}")
            if seen.how not in ("stop", "cancelled"):
                self.book.object(f"a count has ended as {seen.end}")


async def test_answers_go_on_after_kills(tmp_path: Path) -> None:
    """Kills at random moments, some of them in a row, leave every count one whole, and nothing interrupted."""
    world = GoingOn(tmp_path, seed(7), flags=("--provider", "tests.data.scripted:quick_counting"))
    await run(world, kills(world, 9))


# -- orderly ends


def terminations(count: int) -> Plan:
    """SIGTERM at random moments."""
    draw = random.Random(count)
    return [(Terminate(draw.random() * 0.5), False) for _ in range(count)]


async def test_nothing_is_lost_by_orderly_restarts(tmp_path: Path) -> None:
    """Three times SIGTERM under load: the server ends in time, and its clients come back and go on."""
    await run(World(tmp_path, seed(3), flags=QUICK_DRAIN), terminations(3))


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_nothing_is_lost_by_many_orderly_restarts(tmp_path: Path) -> None:
    """Twenty times SIGTERM, with kills in between."""
    world = World(tmp_path, seed(), flags=QUICK_DRAIN)
    ends = [step for end in terminations(20) for step in (end, (world.random_kill(), True))]
    await run(world, ends)


# -- kills at system calls


def commits(call: str, counts: Iterable[int]) -> Plan:
    """Kills where a thread enters a call for the n-th time."""
    return [(AtSystemCall(call, count), False) for count in counts]


@needs_strace
async def test_nothing_is_lost_by_kills_within_a_commit(tmp_path: Path) -> None:
    """Killed where SQLite writes: while the server starts, in a commit, in a checkpoint, and while it ends."""
    plan = [
        *commits("pwrite64", (3, 37, 150)),
        *commits("fdatasync", (4,)),
        (AtSystemCall("unlink", 1, after=0.2, terminate=True), False),
    ]
    await run(World(tmp_path, seed(4), planted="small_files", flags=QUICK_DRAIN), plan)


@needs_strace
@pytest.mark.slow
@pytest.mark.timeout(1800)
async def test_nothing_is_lost_by_kills_within_many_commits(tmp_path: Path) -> None:
    """The same at many counts, in both durabilities."""
    few = [*range(1, 13), *(round(12 * 1.2**n) for n in range(1, 25))]
    at_end = [
        (AtSystemCall(call, count, after=0.2, terminate=True), False)
        for call, count in (("unlink", 1), ("unlink", 2), ("ftruncate", 1), ("ftruncate", 2), ("fdatasync", 30))
    ]
    process = [*commits("pwrite64", few), *commits("fdatasync", range(1, 12)), *commits("ftruncate", (1, 2)), *at_end]
    power = [*commits("pwrite64", few[::2]), *commits("fdatasync", few[::2]), *at_end]
    await both(
        (World(tmp_path / "process", seed(), planted="small_files", flags=QUICK_DRAIN), process),
        (World(tmp_path / "power", seed() + 1, planted="small_files", flags=(*QUICK_DRAIN, *POWER)), power),
    )


# -- the harness itself


def needed(count: int) -> Plan:
    """Kills where commits are written, early in the life of a round."""
    return [step for n in range(1, count + 1) for step in commits("pwrite64", (7 * n + n % 5,))]


MISTAKES = {
    "shown_before_commit": "resume_ahead|but chunk|again as",
    "last_row_dropped": "resume_ahead|but chunk",
    "requests_forgotten": "and again by",
    "cancels_not_kept": "again as|cancel was journalled",
    "ends_not_kept": "again as|resume_ahead",
    "cancels_overtake": "ended at",
}
RARE = {
    "starts_shown_before_commit": "unknown_stream|and again by",
    "messages_written_late": "history: an answer",
    "requests_written_in_parts": "messages, but|history:",
}


@pytest.mark.parametrize("mistake", MISTAKES)
async def test_kills_find_mistakes(mistake: str, tmp_path: Path) -> None:
    """A mistake that somebody could make is noticed within a few kills."""
    async with World(tmp_path, seed(5), planted=mistake) as world:
        with pytest.raises(Violation):
            await world.run(kills(world, 40))
        assert re.search(MISTAKES[mistake], "\n".join(world.book.violations))


@needs_strace
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("mistake", RARE)
async def test_kills_within_commits_find_rare_mistakes(mistake: str, tmp_path: Path) -> None:
    """A mistake that shows only between two commits is noticed by kills that are aimed at commits."""
    async with World(tmp_path, seed(6), planted=mistake) as world:
        with pytest.raises(Violation):
            await world.run(needed(60))
        assert re.search(RARE[mistake], "\n".join(world.book.violations))
