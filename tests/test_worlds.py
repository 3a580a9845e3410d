"""Thousands of virtual worlds: both ends of the core through drops, silence, delays and slow readers; and the proof
that these worlds would notice a mistake.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from tests.mutants import MUTANTS, Mutant
from wsstream.flow import SendWindow
from wsstream.testing.world import Totals, World, WorldFailure, main, run

SESSIONS = 20_000
SESSION_SECONDS = 30.0
SEEDS_PER_MUTANT = 500


def test_twenty_thousand_sessions() -> None:
    """Every viewer of 20,000 reads its answer once, in order and to the end, whatever happens to its connections."""
    totals = Totals()
    started = time.process_time()
    seed = 0
    while totals.sessions < SESSIONS:
        totals.add(World(seed).run())
        seed += 1
    if sys.gettrace() is None:  # under a tracer, such as coverage, the time says nothing
        assert time.process_time() - started < SESSION_SECONDS
    assert totals.drops > SESSIONS / 4
    assert totals.resumes > SESSIONS / 4
    assert totals.duplicates > SESSIONS / 4
    assert totals.half_opens > SESSIONS / 50
    assert totals.swaps > SESSIONS / 50
    assert totals.chunks > 20 * SESSIONS


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_many_more_sessions() -> None:
    """Worlds that the ordinary set does not visit are no different."""
    assert run(range(1_000_000, 1_150_000)).sessions > 10 * SESSIONS


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_planted_mistake_is_noticed(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake in the core fails one of the first worlds."""
    mutant.plant(monkeypatch)
    with pytest.raises(WorldFailure) as failure:
        run(range(SEEDS_PER_MUTANT))
    # A mutant that no longer fits the code is not a mistake noticed.
    assert not isinstance(failure.value.__cause__, AttributeError | NameError | TypeError)


def test_the_same_seed_is_the_same_world() -> None:
    """A world can be run again, event for event."""
    for seed in range(50):
        first, second = World(seed), World(seed)
        first.run()
        second.run()
        assert first.trace == second.trace
        assert first.digest() == second.digest()


def test_seeds_differ() -> None:
    """Another seed is another world."""
    digests = set()
    for seed in range(50):
        world = World(seed)
        world.run()
        digests.add(world.digest())
    assert len(digests) == 50


DIGESTS = "from wsstream.testing.world import World\nfor seed in range(40): w = World(seed); w.run(); print(w.digest())"


def test_a_world_does_not_depend_on_its_process() -> None:
    """Hash seeds, which differ between processes, change nothing."""
    outputs = {
        subprocess.run(
            [sys.executable, "-c", DIGESTS],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
        ).stdout
        for hash_seed in ("0", "1", "4711")
    }
    assert len(outputs) == 1
    assert len(outputs.pop().split()) == 40


def test_a_failure_tells_its_seed_and_story(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads a failure can repeat it, and sees what happened last."""
    monkeypatch.setattr(SendWindow, "grant", lambda self, tail, totals: self.sent)
    with pytest.raises(WorldFailure) as failure:
        World(7).run()
    first, *story = str(failure.value).splitlines()
    assert first.startswith("seed 7, at ")
    assert 10 <= len(story) <= 30


def test_the_command_prints_what_happened(capsys: pytest.CaptureFixture[str]) -> None:
    """The command line counts sessions, faults and seconds."""
    assert main(["--seeds", "0-20"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("20 worlds: ")
    for word in (
        "sessions",
        "drops",
        "half opens",
        "duplicates",
        "resumes",
        "chunks",
        "virtual seconds",
        "wall seconds",
    ):
        assert word in printed


def test_the_command_names_the_seed_that_fails(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failing world ends the command with its story."""
    monkeypatch.setattr(SendWindow, "grant", lambda self, tail, totals: tail)
    assert main(["--seeds", "0-100"]) == 1
    assert capsys.readouterr().err.startswith("seed ")
