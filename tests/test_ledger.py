"""What becomes of answers, counted when they begin and end and once a second."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest

from tests.house import House, house
from tests.virtual import in_virtual_time, turns
from wsstream.chunks import Delta
from wsstream.ledger import QUIET, SLICE, Ledger


def watched(it: House) -> Ledger:
    """A ledger that is told of everything."""
    ledger = Ledger(lambda: it.streams.running, "demo")
    it.streams.watchers = [ledger]
    return ledger


@in_virtual_time
async def test_an_answer_is_counted_at_its_beginning_and_end() -> None:
    """What it was, how it ended, and how long it and its first chunk took."""
    async with house() as it:
        ledger = watched(it)
        await it.start("one")
        assert (ledger.started["demo"], ledger.chunks, sum(ledger.ended.values())) == (1, 1, 0)
        await it.provider.end()
        stream = await it.start("two")
        it.streams.cancel(stream)
        await turns()
    assert ledger.ended == {("demo", "complete"): 1, ("demo", "cancelled"): 1}
    assert ledger.chunks == 2
    assert ledger.bytes > 0
    assert ledger.first_chunk["demo"].count == ledger.durations["demo"].count == 2


@in_virtual_time
async def test_a_bad_end_is_counted_by_its_type() -> None:
    """Errors are a table of their types."""
    async with house(chunk_timeout=5.0) as it:
        ledger = watched(it)
        await it.start()
        await asyncio.sleep(20)
    assert ledger.errors == {"chunk_timeout": 1}
    assert ledger.ended == {("demo", "failed"): 1}


@in_virtual_time
async def test_viewers_are_looked_at() -> None:
    """How many there are, how far the slowest is behind, and whose window is full, new ones counted as stalls."""
    async with house() as it:
        ledger = watched(it)
        stream = await it.start()
        quick, slow = it.view(stream), it.view(stream)
        slow.window.limit = 2
        stream.log.append([Delta("x")] * 9)
        quick.take(100_000)
        slow.take(100_000)
        quick.window.on_ack(10)
        for _ in range(3):
            ledger.sample(time.monotonic())
        assert ledger.viewers == (2, 1, 10)
        assert ledger.stalls == 1
        assert ledger.lag.count == 6
        await it.provider.end()


@in_virtual_time
async def test_the_pace_of_a_long_answer_is_sampled() -> None:
    """Each sample counts the chunks since the last one, at their average distance."""
    async with house() as it:
        ledger = watched(it)
        stream = await it.start()
        ledger.sample(time.monotonic())
        await asyncio.sleep(1.0)
        stream.log.append([Delta("x")] * 10)
        ledger.sample(time.monotonic())
        assert ledger.pace.count == 10
        assert ledger.pace.total == pytest.approx(1.0)
        await asyncio.sleep(1.0)
        stream.log.append([Delta("x")] * 5)
        await it.provider.end()
        assert ledger.pace.count == 15
        assert ledger.pace.total == pytest.approx(2.0)


@in_virtual_time
async def test_the_pace_of_a_short_answer_is_that_of_its_outcome() -> None:
    """An answer that ends between two samples is counted too."""
    async with house() as it:
        ledger = watched(it)
        stream = await it.start()
        await asyncio.sleep(0.4)
        stream.log.append([Delta("x")] * 4)
        await it.provider.end()
        assert ledger.pace.count == 4
        assert ledger.pace.total == pytest.approx(0.4)


@in_virtual_time
async def test_many_answers_are_looked_at_in_slices() -> None:
    """A sample pauses again and again, answers may end meanwhile; what it has found counts when it is through."""
    async with house() as it:
        ledger = watched(it)
        for number in range(2 * SLICE + 1):
            it.view(await it.start(f"r-{number}"))
        sampling = ledger.sampling(time.monotonic())
        next(sampling)
        assert ledger.viewers.following == 0
        await it.provider.end()
        assert len(list(sampling)) == 1
        assert ledger.viewers.following == 2 * SLICE + 1


@in_virtual_time
async def test_quiet_answers() -> None:
    """An answer without a new chunk for a while is quiet, and no longer when one comes."""
    async with house() as it:
        ledger = watched(it)
        stream = await it.start()
        ledger.sample(time.monotonic())
        await asyncio.sleep(QUIET + 1)
        ledger.sample(time.monotonic())
        assert ledger.quiet == 1
        stream.log.append([Delta("x")])
        ledger.sample(time.monotonic())
        assert ledger.quiet == 0
        await it.provider.end()


@in_virtual_time
async def test_nothing_is_kept_of_an_answer_that_is_over() -> None:
    """However many answers come and go, the ledger holds those that run."""
    async with house() as it:
        ledger = watched(it)
        for number in range(5):
            await it.ended(str(number))
        it.streams.delete_session("ses")
        assert (ledger._paces, ledger._providers) == ({}, {})


@in_virtual_time
async def test_two_lines_for_each_answer(caplog: pytest.LogCaptureFixture) -> None:
    """The log has its ids at its beginning, and its figures at its end, and nothing of what was said."""
    with caplog.at_level(logging.INFO):
        async with house() as it:
            watched(it)
            stream = await it.start(message="a very private question")
            await it.provider.end()
    begun, ended = [record for record in caplog.records if record.name == "wsstream.ledger"]
    assert (begun.message, begun.stream_id, begun.request_id) == ("stream started", stream.stream_id, "r")
    assert (ended.message, ended.state, ended.reason, ended.chunks) == ("stream ended", "complete", "stop", 1)
    assert "private" not in str(vars(begun)) + str(vars(ended))
