"""The soak, for as long as a test may take: see tests/soak/world.py, and ``make soak`` for longer ones."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path

import pytest

from tests.soak.answers import Plan
from tests.soak.book import Book, Reading
from tests.soak.gauges import LIMITS, Gauges
from tests.soak.run import main
from tests.soak.world import World, describe

SEED = int(os.environ.get("WSSTREAM_SOAK_SEED", "20"))
MISTAKES = {
    "chunk_dropped_on_resume": "came (behind|at)",
    "files_left_open": "there is still: .*files",
}


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_nothing_is_wrong(tmp_path: Path) -> None:
    """All kinds of clients, and restarts: every text is right, every answer has one end, and nothing is left behind."""
    world = World(tmp_path, SEED, 20)
    asyncio.run(world.run())
    assert world.book.violations == [], describe(world)
    assert world.book.ends["stop"] > 20, describe(world)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_found(mistake: str, tmp_path: Path) -> None:
    """A mistake that somebody could make in the server is noticed within ten seconds."""
    world = World(tmp_path, 1, 10, planted=mistake)
    asyncio.run(world.run())
    assert re.search(MISTAKES[mistake], "\n".join(world.book.violations)), describe(world)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_command_says_what_was_seen(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """It prints the seed first, a table at its end, and leaves the store and the log where it is told to."""
    assert main(["--seconds", "2", "--seed", "3", "--keep", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("soaking for 2 s, seed 3\n")
    assert re.search(r"^openai +[1-9]", out, re.MULTILINE)
    assert out.endswith("no violations\n")
    assert (tmp_path / "crash.db").exists()


# -- what watches is watched


def begun(tokens: int = 20, **fields: object) -> tuple[Book, Reading]:
    """One reader of one answer."""
    book = Book()
    plan = Plan(1, tokens, 0, **fields)  # type: ignore[arg-type]
    return book, Reading(book, book.begin("s_1", "ses", plan))


def test_a_right_answer_is_right() -> None:
    """The plan's text in pieces, and its end, are objected to by nobody."""
    book, reading = begun()
    whole = reading.told.plan.whole
    reading.take(whole[:7], 1, 3)
    again = Reading(book, reading.told, 3)
    for each in (reading, again):
        each.take(whole[7:], 4, 20)
        each.end("stop", 20)
    assert book.violations == []


@pytest.mark.parametrize("how", ["interrupted", "cancelled", "provider_error", "length"])
def test_an_end_that_nothing_has_brought_about(how: str) -> None:
    """An end for which there was no reason is objected to, and so is a good one before the text's end."""
    book, reading = begun()
    reading.take(reading.told.plan.whole[:7])
    reading.end(how)
    assert len(book.violations) == 1
    book, reading = begun()
    reading.end("stop")
    assert len(book.violations) == 1


def test_what_came_twice_and_what_is_missing() -> None:
    """A piece that comes again, one too many, a chunk that ends elsewhere for others, a second end: all are seen."""
    book, reading = begun()
    whole = reading.told.plan.whole
    reading.take(whole[:5], 1, 1)
    reading.take(whole[:5], 1, 1)
    assert "came behind 1" in book.violations[0]
    assert "instead of" in book.violations[1]
    other = Reading(book, reading.told)
    other.take(whole[:6], 1, 1)
    assert "for others" in book.violations[-1]
    other.take(whole[6:])
    other.end("stop")
    seen = len(book.violations)
    other.end("stop")
    assert len(book.violations) == seen + 1
    other.take("more")
    assert len(book.violations) == seen + 3


def test_one_request_has_one_stream() -> None:
    """A request that is answered by two streams, and a stream that answers two requests, are seen."""
    book, reading = begun()
    book.begin("s_2", "ses", reading.told.plan)
    assert "one request" in book.violations[-1]
    book.begin("s_1", "ses", Plan(2, 1, 0))
    assert "two requests" in book.violations[-1]


def test_an_interruption_has_its_reasons() -> None:
    """Behind a restart by SIGTERM, a break that may not be gone on behind, or where nobody followed, it may be."""
    for fields in ({"fault": "closed", "on_interrupt": "fail"}, {}, {"on_interrupt": "fail"}):
        book, reading = begun(**fields)
        book.terminated += "fault" not in fields and "on_interrupt" not in fields
        book.killed += fields == {"on_interrupt": "fail"}
        reading.end("interrupted")
        assert book.violations == []
    book, reading = begun()
    book.killed += 1
    reading.end("interrupted")
    assert "nothing has interrupted it" in book.violations[0]


@pytest.mark.parametrize("size", [0, 1, 33, 10_000])
def test_an_answer_goes_on_behind_any_of_its_text(size: int) -> None:
    """What follows a prefix is the rest, also where the prefix ends within a token."""
    plan = Plan(7, 300, 0)
    assert plan.whole[:size] + "".join(plan.rest(plan.whole[:size])) == plan.whole


def test_the_loop_lag_is_that_of_all_lives(tmp_path: Path) -> None:
    """Histograms of one process after the other are added up, and shares taken of the sum."""
    gauges = Gauges(tmp_path / "store", [].append)
    lag = 'wsstream_loop_lag_seconds_bucket{le="%s"} %d'
    metrics = gauges.scraped("\n".join([lag % ("0.1", 90), lag % ("1.0", 100), lag % ("+Inf", 100), "wsstream_up 1.0"]))
    assert metrics == {"wsstream_up": 1.0}
    gauges.attach(os.getpid())
    gauges.scraped("\n".join([lag % ("0.1", 900), lag % ("1.0", 900), lag % ("+Inf", 900)]))
    assert (gauges.lag(0.5), gauges.lag(0.98), gauges.lag(0.999)) == (0.1, 0.1, 1.0)


def test_a_gauge_beyond_its_limit_is_objected_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample beyond a limit is a violation; what was sampled is kept."""
    found: list[str] = []
    gauges = Gauges(tmp_path / "store", found.append)
    assert gauges.sample() is None
    gauges.attach(os.getpid())
    monkeypatch.setitem(LIMITS, "rss_mib", 1.0)
    sample = gauges.sample()
    assert sample is not None
    assert gauges.samples == [sample]
    assert [text.split()[0] for text in found] == ["rss_mib"]
