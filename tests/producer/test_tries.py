"""Other tries before the first token, and who decides on them."""

from __future__ import annotations

import asyncio

import pytest

from tests.producer.runs import BROKEN, FIRST, REFUSED, Scripted, Tries, forever, put, saying
from tests.virtual import in_virtual_time
from wsstream.chunks import Finish, StreamState
from wsstream.errors import ErrorType, ProviderRateLimited
from wsstream.messages import StreamStatus
from wsstream.providers.base import Sink
from wsstream.recovery import Decision, Fail, FailedTry, Failover, Retry, RetryPolicy


@in_virtual_time
async def test_a_failure_that_passes() -> None:
    """Before the first token a provider is asked again after growing waits, which viewers are told of."""
    provider = Scripted(saying(failure=BROKEN), saying(failure=BROKEN), saying("a", "b"))
    run = Tries(provider)
    outcome = await run.end()
    assert (outcome.state, run.texts, outcome.retry_count) == (StreamState.COMPLETE, ["a", "b"], 2)
    assert (outcome.elapsed_seconds, outcome.ttft_ms, outcome.model) == (3.0, 3000.0, "first")
    assert [(told.status, told.retry_count, told.retry_after) for told in run.told] == [
        ("retrying", 1, 1.0),
        ("retrying", 2, 2.0),
    ]


@in_virtual_time
async def test_a_failure_that_stays() -> None:
    """After three more tries it has failed, as it failed last, and says how often it was tried."""
    run = Tries(Scripted(*[saying(failure=BROKEN)] * 4))
    outcome = await run.end()
    assert (outcome.state, outcome.error_type, outcome.retry_count) == (StreamState.FAILED, "provider_error", 3)
    assert outcome.elapsed_seconds == 7.0


@in_virtual_time
async def test_a_refusal_is_not_tried_again() -> None:
    """What another try cannot help fails at once."""
    provider = Scripted(saying(failure=REFUSED))
    outcome = await Tries(provider).end()
    assert (outcome.message, outcome.elapsed_seconds, len(provider.requests)) == ("It said no.", 0.0, 1)


@in_virtual_time
async def test_a_limit_is_waited_for() -> None:
    """The time that a provider asks for wins over the back-off; one beyond the budget is told and not waited for."""
    patient = Tries(Scripted(saying(failure=ProviderRateLimited(retry_after=20.0)), saying("a")))
    assert (await patient.end()).elapsed_seconds == 20.0
    assert [(told.status, told.retry_after) for told in patient.told] == [("rate_limited", 20.0)]
    outcome = await Tries(Scripted(saying(failure=ProviderRateLimited(retry_after=3600.0)))).end()
    assert (outcome.error_type, outcome.retry_after, outcome.elapsed_seconds) == ("rate_limit", 3600.0, 0.0)


@in_virtual_time
async def test_silence_is_tried_again() -> None:
    """A provider that does not begin in time is asked anew; what the first try says afterwards is not heard."""
    provider = Scripted(lambda _: forever(), saying("a"))
    run = Tries(provider)
    outcome = await run.end()
    put(provider.sinks[0], "late")
    assert (outcome.state, run.texts, outcome.elapsed_seconds) == (StreamState.COMPLETE, ["a"], FIRST + 1.0)
    assert run.statuses == ["waiting", "retrying"]


@in_virtual_time
async def test_a_new_try_is_not_cancelled_already() -> None:
    """The time-out of one try leaves nothing behind in the task of the next: its own task groups and time-outs work."""
    asked_to_stop: list[int] = []

    async def answer(sink: Sink) -> Finish:
        task = asyncio.current_task()
        assert task is not None
        asked_to_stop.append(task.cancelling())
        return Finish()

    await Tries(Scripted(lambda _: forever(), answer)).end()
    assert asked_to_stop == [0]


@in_virtual_time
async def test_a_stubborn_try_is_tried_again() -> None:
    """A provider that answers its time-out with an error of its own was silent all the same."""

    async def answer(sink: Sink) -> Finish:
        try:
            return await forever()
        except asyncio.CancelledError:
            raise KeyError("mine") from None

    outcome = await Tries(Scripted(answer, answer), retry=RetryPolicy(retries=1)).end()
    assert (outcome.error_type, outcome.retry_count) == ("provider_timeout", 1)


@in_virtual_time
async def test_a_cancel_while_waiting() -> None:
    """A cancel does not wait for the next try."""
    run = Tries(Scripted(saying(failure=ProviderRateLimited(retry_after=50.0))))
    await asyncio.sleep(5)
    run.producer.cancel()
    outcome = await run.end()
    assert (outcome.state, outcome.elapsed_seconds) == (StreamState.CANCELLED, 5.0)
    assert outcome.receipt is not None
    assert outcome.receipt.upstream_closed_ms == 0.0


@in_virtual_time
async def test_who_comes_while_it_waits_is_told() -> None:
    """A viewer who attaches during the wait learns why; with the first chunk that is over."""
    run = Tries(Scripted(saying(failure=ProviderRateLimited(retry_after=50.0)), saying("a")))
    await asyncio.sleep(5)
    late: list[StreamStatus] = []
    run.view().tell_statuses(late.append)
    assert [told.status for told in late] == ["rate_limited"]
    await run.end()
    over: list[StreamStatus] = []
    run.view().tell_statuses(over.append)
    assert over == []


@in_virtual_time
async def test_others_are_asked() -> None:
    """Where one provider has failed for good, the next is asked, for its own model, and the end says who answered."""
    one, two, three = Scripted(saying(failure=REFUSED)), Scripted(*[saying(failure=BROKEN)] * 4), Scripted(saying("a"))
    run = Tries(one, two, three)
    outcome = await run.end()
    assert (outcome.state, outcome.model, outcome.retry_count) == (StreamState.COMPLETE, "p3", 5)
    assert run.statuses == ["failover", "retrying", "retrying", "retrying", "failover"]
    assert (one.requests[0].model, two.requests[0].model) == ("first", None)


@in_virtual_time
async def test_a_bug_is_not_asked_twice() -> None:
    """A provider with a bug is left for the next one."""

    async def buggy(sink: Sink) -> Finish:
        raise KeyError("bug")

    run = Tries(Scripted(buggy), Scripted(saying("a")))
    assert (await run.end()).state is StreamState.COMPLETE
    assert run.statuses == ["failover"]


# -- callbacks


@in_virtual_time
async def test_a_callback_decides() -> None:
    """A callback sees the failure and its circumstances, and may have it tried again, elsewhere, or not at all."""
    seen: list[FailedTry] = []
    answers: list[Decision | None] = [Retry(3.0), Retry(), None, Failover()]

    def decide(failed: FailedTry) -> Decision | None:
        seen.append(failed)
        return answers[len(seen) - 1]

    run = Tries(
        Scripted(*[saying(failure=BROKEN)] * 4), Scripted(saying("a")), on_failure={ErrorType.PROVIDER_ERROR: decide}
    )
    outcome = await run.end()
    assert (outcome.state, outcome.elapsed_seconds) == (StreamState.COMPLETE, 3.0 + 2.0 + 4.0)
    assert [(failed.tries, failed.provider, failed.model, failed.fallbacks) for failed in seen] == [
        (n, "p1", "first", 1) for n in range(1, 5)
    ]


@in_virtual_time
async def test_a_callback_may_give_up() -> None:
    """It may also end what the policy would have tried again, and keep to what a provider asks for."""
    refuse = {ErrorType.PROVIDER_ERROR: lambda _: Fail()}
    assert (await Tries(Scripted(saying(failure=BROKEN)), on_failure=refuse).end()).state is StreamState.FAILED
    insist = {ErrorType.RATE_LIMIT: lambda _: Retry()}
    limited = ProviderRateLimited(retry_after=100.0)
    run = Tries(Scripted(saying(failure=limited), saying("a")), on_failure=insist)
    assert (await run.end()).elapsed_seconds == 100.0


def test_a_callback_with_a_bug(caplog: pytest.LogCaptureFixture) -> None:
    """Its mistake is logged, and the policy decides."""

    @in_virtual_time
    async def scenario() -> None:
        def buggy(_: FailedTry) -> Decision:
            raise KeyError("oops")

        run = Tries(Scripted(saying(failure=BROKEN), saying("a")), on_failure={ErrorType.PROVIDER_ERROR: buggy})
        assert (await run.end()).state is StreamState.COMPLETE

    scenario()
    assert "on_failure" in caplog.text


@in_virtual_time
async def test_a_callback_repeats_nothing() -> None:
    """It cannot have said again what viewers have read, where the request does not allow that."""
    always = {ErrorType.PROVIDER_ERROR: lambda _: Retry(0.0)}
    provider = Scripted(saying("a", failure=BROKEN))
    outcome = await Tries(provider, on_failure=always).end()
    assert (outcome.state, len(provider.requests)) == (StreamState.FAILED, 1)
