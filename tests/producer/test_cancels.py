"""A cancel ends a stream, whatever its provider does about it, and leaves a receipt."""

from __future__ import annotations

import asyncio

import pytest

from tests.producer.runs import Run, ack, forever, put
from tests.virtual import in_virtual_time, turns
from wsstream.chunks import Delta, Finish, StreamState
from wsstream.errors import Interrupted, ProviderError
from wsstream.producer import CLOSE_TIMEOUT
from wsstream.providers.base import Sink


@in_virtual_time
async def test_cancelled_before_its_first_step() -> None:
    """A stream that is cancelled in the moment it began still gets its outcome, and its provider is never asked."""
    run = Run(lambda _: forever())
    run.producer.cancel()
    outcome = await run.end()
    assert (outcome.state, outcome.finish_reason, run.provider.runs) == (StreamState.CANCELLED, "cancelled", 0)


@in_virtual_time
async def test_cancelled_while_running() -> None:
    """A cancel ends the stream at once, as cancelled."""
    run = Run(lambda _: forever())
    await turns()
    run.producer.cancel()
    outcome = await run.end()
    assert (outcome.state, outcome.finish_reason) == (StreamState.CANCELLED, "cancelled")
    assert outcome.elapsed_seconds == 0.0


@in_virtual_time
async def test_cancelled_twice() -> None:
    """A second cancel changes nothing, not even with another reason, during the first and after it."""

    async def answer(sink: Sink) -> Finish:
        try:
            return await forever()
        finally:
            await asyncio.sleep(0.25)

    run = Run(answer)
    await turns()
    run.producer.cancel()
    await asyncio.sleep(0.1)
    run.producer.cancel(Interrupted("Nobody is here"))
    outcome = await run.end()
    run.producer.cancel()
    assert outcome.state is StreamState.CANCELLED
    assert outcome.receipt is not None
    assert outcome.receipt.upstream_closed_ms == 250.0


@in_virtual_time
async def test_cancelled_with_a_reason() -> None:
    """What the server stops by itself is interrupted, with the reason."""
    run = Run(lambda _: forever())
    await turns()
    run.producer.cancel(Interrupted("Nobody is here"))
    outcome = await run.end()
    assert (outcome.state, outcome.message, outcome.receipt) == (StreamState.INTERRUPTED, "Nobody is here", None)


@in_virtual_time
async def test_cancelled_by_the_loop() -> None:
    """A task that is cancelled from outside says that the server is stopping."""
    run = Run(lambda _: forever())
    await turns()
    run.task.cancel()
    outcome = await run.end()
    assert (outcome.state, outcome.error_type) == (StreamState.INTERRUPTED, "interrupted")


@in_virtual_time
async def test_cancelled_while_waiting_for_room() -> None:
    """A producer that waits for a viewer can be cancelled."""

    async def answer(sink: Sink) -> Finish:
        put(sink, *"abcd")
        await sink.wait_room()
        raise AssertionError

    run = Run(answer, high=3, low=1)
    run.view()
    await turns()
    run.producer.cancel()
    assert (await run.end()).state is StreamState.CANCELLED


@in_virtual_time
async def test_cancelled_while_giving_way() -> None:
    """A provider that never waits by itself can be cancelled."""

    async def answer(sink: Sink) -> Finish:
        while True:
            put(sink, "x")
            await sink.give_way()

    run = Run(answer)
    await turns()
    run.producer.cancel()
    assert (await run.end()).state is StreamState.CANCELLED


@in_virtual_time
async def test_a_provider_that_swallows_the_first_cancel() -> None:
    """A provider that goes on after a cancel is cancelled again when its time to close is over."""

    async def answer(sink: Sink) -> Finish:
        try:
            await forever()
        except asyncio.CancelledError:
            return await forever()
        raise AssertionError

    run = Run(answer)
    await turns()
    run.producer.cancel()
    outcome = await run.end()
    assert (outcome.state, outcome.elapsed_seconds) == (StreamState.CANCELLED, CLOSE_TIMEOUT)


@pytest.mark.parametrize("swallowed", [2, 5])
@in_virtual_time
async def test_a_provider_that_swallows_many_cancels(swallowed: int) -> None:
    """A provider is cancelled again and again until it gives in."""

    async def answer(sink: Sink) -> Finish:
        for _ in range(swallowed):
            try:
                await forever()
            except asyncio.CancelledError:
                continue
        return await forever()

    run = Run(answer)
    await turns()
    run.producer.cancel()
    outcome = await run.end()
    assert (outcome.state, outcome.elapsed_seconds) == (StreamState.CANCELLED, swallowed * CLOSE_TIMEOUT)


@in_virtual_time
async def test_a_provider_that_swallows_a_cancel_and_speaks_on() -> None:
    """A provider that catches its cancel and puts more is ended where it next gives way; nothing of that is kept."""
    said = 0

    async def answer(sink: Sink) -> Finish:
        nonlocal said
        while True:
            try:
                sink.put([Delta("x")])
                said += 1
                await sink.give_way()
                await asyncio.sleep(0.1)
            except asyncio.CancelledError:
                if said > 20:
                    raise

    run = Run(answer)
    await asyncio.sleep(1)
    kept = len(run.log)
    run.producer.cancel()
    outcome = await run.end()
    assert (outcome.state, outcome.final_chunk_id, outcome.elapsed_seconds) == (StreamState.CANCELLED, kept, 1.0)


@pytest.mark.parametrize("ending", [None, ProviderError("The upstream is gone"), KeyError("bug")])
@in_virtual_time
async def test_a_cancelled_stream_is_cancelled_however_it_ends(ending: Exception | None) -> None:
    """A provider that answers a cancel with an end or an error of its own has been cancelled all the same."""

    async def answer(sink: Sink) -> Finish:
        put(sink, "a")
        try:
            await forever()
        except asyncio.CancelledError:
            put(sink, "dropped")
            if ending is not None:
                raise ending from None
        return Finish()

    run = Run(answer)
    await turns()
    run.producer.cancel()
    outcome = await run.end()
    assert (outcome.state, run.texts) == (StreamState.CANCELLED, ["a"])
    assert outcome.receipt is not None


@in_virtual_time
async def test_puts_after_a_cancel_are_dropped() -> None:
    """From the cancel on not one chunk more is taken, while the provider is still closing and later."""
    sinks: list[Sink] = []

    async def answer(sink: Sink) -> Finish:
        sinks.append(sink)
        put(sink, "a")
        try:
            return await forever()
        finally:
            put(sink, "b")
            await asyncio.sleep(1)
            put(sink, "c")

    run = Run(answer)
    await turns()
    run.producer.cancel()
    put(sinks[0], "at once")
    await run.end()
    put(sinks[0], "much later")
    assert run.texts == ["a"]
    assert run.log.finished == 1


@in_virtual_time
async def test_the_receipt() -> None:
    """A cancel says how much was generated, how far a viewer was, and how long the upstream took to close."""

    async def answer(sink: Sink) -> Finish:
        put(sink, *"abcdefgh")
        try:
            return await forever()
        finally:
            await asyncio.sleep(0.125)

    run = Run(answer)
    slow, fast = run.view(), run.view()
    await turns()
    ack(slow, 2)
    ack(fast, 5)
    run.producer.cancel()
    outcome = await run.end()
    assert outcome.receipt is not None
    assert outcome.receipt.generated_chunks == 8
    assert outcome.receipt.delivered_chunk_id == 5
    assert outcome.receipt.upstream_closed_ms == 125.0


@in_virtual_time
async def test_the_receipt_without_viewers() -> None:
    """A cancel that nobody saw anything before says so."""
    run = Run(lambda _: forever())
    await turns()
    run.producer.cancel()
    outcome = await run.end()
    assert outcome.receipt is not None
    assert (outcome.receipt.generated_chunks, outcome.receipt.delivered_chunk_id) == (0, 0)
