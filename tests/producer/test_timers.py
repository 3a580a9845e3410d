"""Times for the first token, the next one and the whole answer: they need no token to run out."""

from __future__ import annotations

import asyncio

import pytest

from tests.producer.runs import BETWEEN, FIRST, CountingLog, Run, Scripted, Tries, ack, forever, put, saying
from tests.virtual import in_virtual_time, turns
from wsstream.chunks import ChatRequest, Finish, StreamState
from wsstream.errors import ProviderRateLimited
from wsstream.producer import CLOSE_TIMEOUT, PATIENCE, Limits, Producer
from wsstream.providers.base import Sink
from wsstream.recovery import RetryPolicy
from wsstream.stores.memory import MemoryStore


@in_virtual_time
async def test_a_first_token_that_never_comes() -> None:
    """A provider that is silent from the start is stopped after the time for the first token."""
    outcome = await Run(lambda _: forever()).end()
    assert (outcome.state, outcome.error_type) == (StreamState.FAILED, "provider_timeout")
    assert (outcome.recoverable, outcome.elapsed_seconds, outcome.ttft_ms) == (True, FIRST, None)


@pytest.mark.parametrize("between", [1.0, BETWEEN, 100.0])
@pytest.mark.parametrize("after", [0.0, 0.5, 29.0])
@in_virtual_time
async def test_a_next_token_that_never_comes(between: float, after: float) -> None:
    """A provider that falls silent in its answer is stopped, exactly the time between tokens later."""

    async def answer(sink: Sink) -> Finish:
        await asyncio.sleep(after)
        put(sink, "a")
        return await forever()

    run = Run(answer, between=between)
    outcome = await run.end()
    assert (outcome.error_type, run.texts) == ("chunk_timeout", ["a"])
    assert outcome.elapsed_seconds == pytest.approx(after + between)


@in_virtual_time
async def test_every_token_starts_the_clock_anew() -> None:
    """A slow provider may take any time in all, as long as each token comes in time."""

    async def answer(sink: Sink) -> Finish:
        for _ in range(100):
            await asyncio.sleep(BETWEEN * 0.99)
            put(sink, "x")
        return await forever()

    outcome = await Run(answer).end()
    assert (outcome.error_type, outcome.final_chunk_id) == ("chunk_timeout", 100)
    assert outcome.elapsed_seconds == pytest.approx(99 * BETWEEN + BETWEEN)


@in_virtual_time
async def test_waiting_for_room_is_no_silence() -> None:
    """A provider that is not read for an hour is not late, and gets its whole time when it is read again."""

    async def answer(sink: Sink) -> Finish:
        put(sink, *"abcd")
        await sink.wait_room()
        await asyncio.sleep(BETWEEN * 0.9)
        put(sink, "e")
        return await forever()

    run = Run(answer, high=3, low=1)
    viewer = run.view()
    await asyncio.sleep(3600)
    assert not run.task.done()
    ack(viewer, 4)
    outcome = await run.end()
    assert (outcome.error_type, outcome.final_chunk_id) == ("chunk_timeout", 5)
    assert outcome.elapsed_seconds == pytest.approx(3600 + BETWEEN * 1.9)


@in_virtual_time
async def test_no_timer_is_left_behind() -> None:
    """A stream that has ended holds nothing in the loop."""
    run = Run(lambda sink: asyncio.sleep(0, Finish()))
    await run.end()
    loop = asyncio.get_running_loop()
    live = [handle for handle in loop._scheduled if not handle.cancelled()]  # type: ignore[attr-defined]
    assert live == []


@in_virtual_time
async def test_a_late_end_does_not_hide_a_timeout() -> None:
    """A provider that returns when it is timed out has not completed its answer."""

    async def answer(sink: Sink) -> Finish:
        put(sink, "a")
        try:
            await forever()
        except asyncio.CancelledError:
            put(sink, "too late")
        return Finish()

    run = Run(answer)
    outcome = await run.end()
    assert (outcome.state, outcome.error_type, run.texts) == (StreamState.FAILED, "chunk_timeout", ["a"])


@in_virtual_time
async def test_a_provider_that_swallows_a_timeout() -> None:
    """A provider that goes on after its time-out is cancelled again."""

    async def answer(sink: Sink) -> Finish:
        try:
            await forever()
        except asyncio.CancelledError:
            put(sink, "too late")
            return await forever()
        raise AssertionError

    outcome = await Run(answer).end()
    assert (outcome.error_type, outcome.elapsed_seconds) == ("provider_timeout", FIRST + CLOSE_TIMEOUT)


# -- watchdogs


@in_virtual_time
async def test_the_longest_time() -> None:
    """An answer that goes on and on is stopped when its time is over, however lively it is."""

    async def endless(sink: Sink) -> Finish:
        while True:
            put(sink, "x")
            await asyncio.sleep(1)

    outcome = await Tries(Scripted(endless), limits=Limits(FIRST, BETWEEN, 10_000, 1 << 30, 100.0)).end()
    assert (outcome.state, outcome.recoverable, outcome.elapsed_seconds) == (StreamState.INTERRUPTED, False, 100.0)


@in_virtual_time
async def test_the_longest_time_lets_a_provider_close() -> None:
    """An answer whose time is over may take a moment to close, and nobody spins meanwhile."""

    async def slow_to_close(sink: Sink) -> Finish:
        put(sink, "a")
        for _ in range(2):
            try:
                await forever()
            except asyncio.CancelledError:
                continue
        return await forever()

    outcome = await Tries(Scripted(slow_to_close), limits=Limits(FIRST, 100.0, 10, 1 << 30, 50.0)).end()
    assert (outcome.state, outcome.elapsed_seconds) == (StreamState.INTERRUPTED, 50.0 + 2 * CLOSE_TIMEOUT)


@in_virtual_time
async def test_waiting_does_not_count() -> None:
    """The time for which a provider was not read is not its own."""

    async def answer(sink: Sink) -> Finish:
        put(sink, *["x"] * 1000)
        await sink.wait_room()
        while True:
            put(sink, "x")
            await asyncio.sleep(1)

    run = Tries(Scripted(answer), limits=Limits(FIRST, BETWEEN, 10_000, 1 << 30, 100.0))
    viewer = run.log.attachments[0]
    await asyncio.sleep(1000)
    ack(viewer, 1000)
    outcome = await run.end()
    assert (outcome.state, outcome.elapsed_seconds) == (StreamState.INTERRUPTED, 1100.0)


@in_virtual_time
async def test_the_longest_time_holds_for_tries_too() -> None:
    """It counts all tries, and the waits between them."""
    run = Tries(
        Scripted(*[saying(failure=ProviderRateLimited(retry_after=40.0))] * 4),
        limits=Limits(FIRST, BETWEEN, 10_000, 1 << 30, 50.0),
        retry=RetryPolicy(budget=1000.0),
    )
    outcome = await run.end()
    assert (outcome.state, outcome.elapsed_seconds) == (StreamState.INTERRUPTED, 50.0)


@in_virtual_time
async def test_viewers_are_told_of_silence() -> None:
    """Long before a silent provider is given up, once for every silence, viewers are told that nothing comes."""

    async def slow(sink: Sink) -> Finish:
        await asyncio.sleep(PATIENCE + 5)
        put(sink, "a")
        await asyncio.sleep(PATIENCE * 2.5)
        put(sink, "b")
        return Finish()

    run = Tries(Scripted(slow), limits=Limits(60, 60, 10_000, 1 << 30))
    await asyncio.sleep(PATIENCE)
    await turns()
    assert run.statuses == ["waiting"]
    await run.end()
    assert run.statuses == ["waiting", "waiting"]


@in_virtual_time
async def test_empty_deltas_are_no_life() -> None:
    """A million empty deltas leave no chunk, and the watchdog is not deceived."""

    async def empty(sink: Sink) -> Finish:
        while True:
            put(sink, *[""] * 10_000)
            await asyncio.sleep(0.25)

    run = Run(empty, first=25.0)
    outcome = await run.end()
    assert (outcome.error_type, outcome.final_chunk_id, outcome.elapsed_seconds) == ("provider_timeout", 0, 25.0)


@in_virtual_time
async def test_a_conversation_that_cannot_be_read_in_time() -> None:
    """Where not even the request could be prepared in time, the provider was never asked."""

    async def prepare() -> ChatRequest:
        await forever()
        raise AssertionError

    log = CountingLog("s", "e", MemoryStore())
    provider = Scripted()
    await Producer(provider, prepare, log, Limits(FIRST, BETWEEN, 10, 10)).start()
    assert log.outcome is not None
    assert (log.outcome.error_type, provider.requests) == ("provider_timeout", [])
