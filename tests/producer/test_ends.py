"""One outcome, whatever happens to the provider."""

from __future__ import annotations

import asyncio
import logging

import pytest

from tests.producer.runs import Run, forever, put
from tests.virtual import in_virtual_time
from wsstream.chunks import Delta, Finish, StreamState, Usage
from wsstream.errors import ErrorType, Interrupted, ProviderError
from wsstream.providers.base import Sink


@in_virtual_time
async def test_a_provider_that_ends() -> None:
    """The end of an answer is told with the provider's reason, its usage, and measured times."""

    async def answer(sink: Sink) -> Finish:
        await asyncio.sleep(2)
        put(sink, "a", "b")
        await asyncio.sleep(3)
        return Finish("length", Usage(7, 2))

    outcome = await Run(answer).end()
    assert (outcome.state, outcome.finish_reason, outcome.usage) == (StreamState.COMPLETE, "length", Usage(7, 2))
    assert (outcome.ttft_ms, outcome.elapsed_seconds, outcome.tokens_per_second) == (2000.0, 5.0, 0.4)
    assert (outcome.error_type, outcome.receipt) == (None, None)


@in_virtual_time
async def test_an_answer_without_a_token() -> None:
    """An empty answer is complete, and has no time to its first token."""

    async def answer(sink: Sink) -> Finish:
        return Finish()

    outcome = await Run(answer).end()
    assert (outcome.state, outcome.final_chunk_id, outcome.ttft_ms) == (StreamState.COMPLETE, 0, None)
    assert outcome.tokens_per_second == 0.0


@in_virtual_time
async def test_a_provider_that_fails() -> None:
    """A failure keeps its type, its words, and what it says of trying again; the text so far stays."""

    async def answer(sink: Sink) -> Finish:
        put(sink, "half")
        raise ProviderError("Not today", recoverable=True, retry_after=3.0)

    run = Run(answer)
    outcome = await run.end()
    assert (outcome.state, outcome.error_type, outcome.message) == (StreamState.FAILED, "provider_error", "Not today")
    assert (outcome.recoverable, outcome.retry_after, run.texts) == (True, 3.0, ["half"])


@in_virtual_time
async def test_a_provider_that_is_cut_off() -> None:
    """An interruption is a state of its own."""

    async def answer(sink: Sink) -> Finish:
        raise Interrupted

    outcome = await Run(answer).end()
    assert (outcome.state, outcome.error_type) == (StreamState.INTERRUPTED, "interrupted")


def test_a_provider_with_a_bug(caplog: pytest.LogCaptureFixture) -> None:
    """A bug ends its own stream; the log shows it, and users read nothing of it."""

    async def answer(sink: Sink) -> Finish:
        put(sink, "a")
        raise KeyError("secret-key-123")

    @in_virtual_time
    async def scenario() -> None:
        outcome = await Run(answer).end()
        assert (outcome.state, outcome.error_type) == (StreamState.FAILED, "internal_error")
        assert "secret" not in (outcome.message or "")

    with caplog.at_level(logging.ERROR):
        scenario()
    assert "KeyError" in caplog.text


@in_virtual_time
async def test_a_provider_whose_own_task_was_cancelled_is_not_taken_for_a_stopping_server() -> None:
    """A CancelledError that nobody here has asked for is the provider's mistake: viewers are told no other reason."""

    async def answer(sink: Sink) -> Finish:
        sink.put([Delta("a")])
        helper = asyncio.ensure_future(forever())
        asyncio.get_running_loop().call_later(1, helper.cancel)
        await helper
        raise AssertionError

    outcome = await Run(answer).end()
    assert (outcome.state, outcome.error_type) == (StreamState.FAILED, ErrorType.INTERNAL_ERROR)


@in_virtual_time
async def test_a_provider_that_exits_does_not_end_the_server() -> None:
    """SystemExit, as a library raises it that was made for the command line, fails the answer and nothing else."""

    async def answer(sink: Sink) -> Finish:
        raise SystemExit(3)

    outcome = await Run(answer).end()
    assert (outcome.state, outcome.error_type) == (StreamState.FAILED, ErrorType.INTERNAL_ERROR)


@pytest.mark.parametrize(("reason", "told"), [("length", "length"), ("end_turn", "stop"), ("", "stop")])
@in_virtual_time
async def test_viewers_are_told_a_documented_reason(reason: str, told: str) -> None:
    """Whatever a provider calls its end, viewers are told one of the reasons that the protocol has."""

    async def answer(sink: Sink) -> Finish:
        return Finish(reason)

    assert (await Run(answer).end()).finish_reason == told
