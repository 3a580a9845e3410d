"""Limits, room and turns."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from tests.producer.runs import Run, ack, put
from tests.virtual import in_virtual_time, turns
from wsstream.chunks import Finish, StreamState
from wsstream.producer import CHECK_EVERY, YIELD_EVERY
from wsstream.providers.base import Sink


@pytest.mark.parametrize("limits", [{"chunks": 100}, {"weight": 100}])
@in_virtual_time
async def test_an_endless_answer_stops(limits: dict[str, int]) -> None:
    """An answer beyond the limit ends as interrupted, not far behind it, and is not worth another try."""

    async def answer(sink: Sink) -> Finish:
        while True:
            put(sink, "x")
            await sink.give_way()

    outcome = await Run(answer, **limits).end()  # type: ignore[arg-type]
    assert (outcome.state, outcome.recoverable) == (StreamState.INTERRUPTED, False)
    assert 100 < outcome.final_chunk_id <= 100 + CHECK_EVERY


@in_virtual_time
async def test_a_provider_without_manners_stops_at_the_limit() -> None:
    """Puts beyond the limit are dropped even while the provider never waits, and its end is no completion."""

    async def answer(sink: Sink) -> Finish:
        for _ in range(1000):
            put(sink, "x")
        return Finish()

    outcome = await Run(answer, chunks=100).end()
    assert outcome.state is StreamState.INTERRUPTED
    assert outcome.final_chunk_id <= 100 + CHECK_EVERY


@in_virtual_time
async def test_give_way_lets_others_run() -> None:
    """A provider that never waits leaves others a turn after every few dozen chunks."""
    seen: list[int] = []

    async def answer(sink: Sink) -> Finish:
        for _ in range(10 * YIELD_EVERY):
            put(sink, "x")
            await sink.give_way()
        return Finish()

    run = Run(answer)

    async def other() -> None:
        while not run.task.done():
            seen.append(len(run.log))
            await asyncio.sleep(0)

    await asyncio.gather(other(), run.end())
    assert max(later - earlier for earlier, later in pairwise(seen)) <= YIELD_EVERY


@in_virtual_time
async def test_give_way_waits_for_room() -> None:
    """A provider that gives way puts no more than the high mark beyond the slowest viewer."""

    async def answer(sink: Sink) -> Finish:
        for _ in range(100):
            put(sink, "x")
            await sink.give_way()
        return Finish()

    run = Run(answer, high=10, low=5)
    viewer = run.view()
    await turns(50)
    assert (len(run.log), run.producer.has_room()) == (10, False)
    ack(viewer, 4)
    await turns(50)
    assert len(run.log) == 10
    ack(viewer, 5)
    await turns(50)
    assert len(run.log) == 15
    run.log.detach(viewer)
    assert (await run.end()).final_chunk_id == 100
