"""Going on after the first token, and behind another process."""

from __future__ import annotations

import asyncio

import pytest

from tests.producer.runs import (
    BETWEEN,
    BROKEN,
    FIRST,
    REFUSED,
    REQUEST,
    CountingLog,
    GoesOn,
    Scripted,
    Tries,
    forever,
    put,
    saying,
)
from tests.virtual import in_virtual_time
from wsstream.chunks import Delta, Finish, Kind, StreamState
from wsstream.producer import Limits, Producer
from wsstream.providers.base import Sink
from wsstream.recovery import OnInterrupt, RetryPolicy
from wsstream.stores.memory import MemoryStore


@in_virtual_time
async def test_an_answer_goes_on() -> None:
    """A provider that can is asked to go on behind the text, and what it repeats is left out."""
    said = "The quick brown fox"
    provider = Scripted(saying("The quick", " brown fox", failure=BROKEN), saying(said, " jumps"), continues=True)
    run = Tries(provider)
    outcome = await run.end()
    assert (outcome.state, run.log.text()) == (StreamState.COMPLETE, said + " jumps")
    assert [request.prefix for request in provider.requests] == ["", said]
    assert (run.producer.dropped, outcome.retry_count) == (1, 1)


@in_virtual_time
async def test_a_silent_answer_goes_on() -> None:
    """One that stops in its middle goes on in the same way."""

    async def stalled(sink: Sink) -> Finish:
        put(sink, "a")
        return await forever()

    run = Tries(Scripted(stalled, saying("b"), continues=True))
    outcome = await run.end()
    assert (outcome.state, run.log.text()) == (StreamState.COMPLETE, "ab")


@in_virtual_time
async def test_an_answer_is_not_silently_begun_anew() -> None:
    """A provider that cannot go on is not asked again when viewers have read something, unless that is wished for."""
    for policy, continues in ((OnInterrupt.CONTINUE, False), (OnInterrupt.FAIL, True)):
        provider = Scripted(saying("a", failure=BROKEN), continues=continues)
        run = Tries(provider, on_interrupt=policy)
        outcome = await run.end()
        assert (outcome.state, run.texts, len(provider.requests)) == (StreamState.FAILED, ["a"], 1)


@in_virtual_time
async def test_an_answer_that_is_begun_anew() -> None:
    """Where it is wished for, the second answer stands in the end, and what is the same is not said twice."""
    provider = Scripted(saying("The ", "quick ", "fox", failure=BROKEN), saying("The quick", " dog"))
    run = Tries(provider, on_interrupt=OnInterrupt.RESTART)
    assert (await run.end()).state is StreamState.COMPLETE
    assert run.log.text() == "The quick dog"
    assert [chunk.kind for chunk in run.log.chunks(1, len(run.log))].count(Kind.REWIND) == 1


@in_virtual_time
async def test_a_model_that_cannot_go_on_is_begun_anew() -> None:
    """Where a provider's model is none of those that go on behind a text, it is given none, if it is asked at all."""
    for policy, said in ((OnInterrupt.RESTART, "ab"), (OnInterrupt.CONTINUE, "a")):
        provider = Scripted(saying("a", failure=BROKEN), saying("ab"), continues=True)
        provider.suits = lambda model: False  # type: ignore[attr-defined]
        run = Tries(provider, on_interrupt=policy)
        await run.end()
        assert (run.log.text(), [request.prefix for request in provider.requests]) == (said, [""] * len(said))


@in_virtual_time
async def test_a_second_try_that_breaks_off_earlier() -> None:
    """Until it has come as far as the first, a second try changes nothing; another may."""
    provider = Scripted(
        saying("The ", "quick ", "fox", failure=BROKEN), saying("The ", failure=BROKEN), saying("The quick fox", ".")
    )
    run = Tries(provider, on_interrupt=OnInterrupt.RESTART)
    await run.end()
    assert run.texts == ["The ", "quick ", "fox", "."]


@in_virtual_time
async def test_another_provider_goes_on() -> None:
    """When one gives up in the middle, the next that can go on is asked; those that cannot are left out."""
    one = Scripted(saying("a", failure=BROKEN), saying(failure=REFUSED), continues=True)
    run = Tries(one, Scripted(), Scripted(saying("b"), continues=True), retry=RetryPolicy(retries=0))
    outcome = await run.end()
    assert (outcome.state, run.log.text(), outcome.model) == (StreamState.COMPLETE, "ab", "p3")


@in_virtual_time
async def test_reasoning_alone_is_thought_anew() -> None:
    """Where nothing was said yet, only thought, the new thoughts take the place of the old."""
    provider = Scripted(saying("hm", kind=Kind.REASONING, failure=BROKEN), saying("a"))
    run = Tries(provider)
    await run.end()
    assert [chunk.kind for chunk in run.log.chunks(1, 3)] == [Kind.REASONING, Kind.REWIND, Kind.TEXT]
    assert run.log.text() == "a"


@in_virtual_time
async def test_a_tool_call_is_not_made_twice() -> None:
    """Behind a tool call nothing is tried again: somebody may have acted on it."""
    provider = Scripted(saying("{}", kind=Kind.TOOL_CALL, failure=BROKEN), continues=True)
    outcome = await Tries(provider, on_interrupt=OnInterrupt.RESTART).end()
    assert (outcome.state, len(provider.requests)) == (StreamState.FAILED, 1)


# -- behind another process


@in_virtual_time
async def test_it_goes_on_behind_what_the_log_has() -> None:
    """A repetition is left out, times and tries count from where the other process began, and no first chunk is new."""

    async def answer(sink: Sink) -> Finish:
        sink.put([Delta("a text of some length"), Delta(" and more")])
        return Finish()

    log = CountingLog("s", "e", MemoryStore())
    log.go_on_from([b"a text of some length"], bytes(1))
    producer = Producer(GoesOn(answer), REQUEST, log, Limits(FIRST, BETWEEN, 100, 1 << 20), age=20.0, tries=2)
    await producer.start()
    assert log.outcome is not None
    assert [chunk.content for chunk in log.chunks(1, log.tail)] == ["a text of some length", " and more"]
    assert (log.outcome.elapsed_seconds, log.outcome.retry_count, log.outcome.ttft_ms) == (20.0, 2, None)


@in_virtual_time
async def test_its_time_does_not_begin_anew() -> None:
    """A restart gives an answer no more time than it had."""

    async def answer(sink: Sink) -> Finish:
        while True:
            sink.put([Delta("x")])
            await asyncio.sleep(1)

    log = CountingLog("s", "e", MemoryStore())
    began = asyncio.get_running_loop().time()
    producer = Producer(GoesOn(answer), REQUEST, log, Limits(FIRST, BETWEEN, 1000, 1 << 20, 60.0), age=50.0)
    await producer.start()
    assert log.state is StreamState.INTERRUPTED
    assert asyncio.get_running_loop().time() - began == pytest.approx(10.0, abs=1.0)
