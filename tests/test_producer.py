"""The task that drains a provider: one outcome whatever happens, timers that need no token, room, and odd text."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest

from tests.virtual import in_virtual_time, turns
from wsstream.chunklog import Attachment, ChunkLog
from wsstream.chunks import ChatMessage, ChatRequest, Delta, Finish, Kind, Outcome, StreamState, Usage
from wsstream.errors import (
    ContentFiltered,
    ErrorType,
    Interrupted,
    ProviderError,
    ProviderRateLimited,
    StreamFailure,
)
from wsstream.flow import SendWindow
from wsstream.messages import StreamStatus
from wsstream.producer import (
    CHECK_EVERY,
    CLOSE_TIMEOUT,
    MAX_CHUNK_CHARS,
    PATIENCE,
    YIELD_EVERY,
    Limits,
    Plan,
    Producer,
    Target,
)
from wsstream.providers.base import Sink
from wsstream.recovery import Decision, Fail, FailedTry, Failover, OnInterrupt, Retry, RetryPolicy
from wsstream.stores.memory import MemoryStore

REQUEST = ChatRequest([ChatMessage("user", "hi")])
FIRST = 30.0
BETWEEN = 10.0

Answer = Callable[[Sink], Awaitable[Finish]]


class Provided:
    """A function as a provider."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.runs = 0

    async def answer(self, request: ChatRequest, sink: Sink) -> Finish:
        """Call it."""
        self.runs += 1
        return await self._answer(sink)

    async def close(self) -> None:
        """Nothing is shared."""


class GoesOn(Provided):
    """The same, of one that can be told the answer so far."""

    continues = True


class CountingLog(ChunkLog):
    """Counts how often it is ended."""

    __slots__ = ("finished",)

    def finish(self, outcome: Outcome) -> None:
        self.finished = getattr(self, "finished", 0) + 1
        super().finish(outcome)


class Run:
    """A producer on a log of its own."""

    def __init__(
        self,
        answer: Answer,
        *,
        first: float = FIRST,
        between: float = BETWEEN,
        chunks: int = 1_000_000,
        weight: int = 1 << 30,
        high: int = 1000,
        low: int = 500,
    ) -> None:
        self.log = CountingLog("s", "e", MemoryStore(), high=high, low=low)
        self.provider = Provided(answer)
        self.producer = Producer(self.provider, REQUEST, self.log, Limits(first, between, chunks, weight))
        self.task = self.producer.start()

    async def end(self) -> Outcome:
        """How it ended: with exactly one outcome, that counts exactly the chunks there are."""
        await asyncio.wait([self.task])
        outcome = self.log.outcome
        assert outcome is not None
        assert self.log.finished == 1
        assert outcome.final_chunk_id == len(self.log) == self.log.tail
        return outcome

    @property
    def texts(self) -> list[str]:
        return [chunk.content for chunk in self.log.chunks(1, len(self.log))]

    def view(self, limit: int = 1000) -> Attachment:
        """Somebody follows."""
        return self.log.attach(SendWindow(limit, 1 << 30), lambda _: None)


def ack(attachment: Attachment, chunk_id: int) -> None:
    """Acknowledge as a connection does."""
    attachment.take(1 << 30)
    attachment.window.on_ack(chunk_id)
    attachment.on_acked()


def put(sink: Sink, *texts: str, kind: Kind = Kind.TEXT) -> None:
    """Put these together."""
    sink.put([Delta(text, kind) for text in texts])


async def forever() -> Finish:
    """Never end."""
    await asyncio.get_running_loop().create_future()
    raise AssertionError


# -- one outcome


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


# -- timers


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


# -- text


@pytest.mark.parametrize("together", [True, False])
@in_virtual_time
async def test_split_surrogates_are_joined(together: bool) -> None:
    """A pair that a provider cut in two comes out as the one character it is."""

    async def answer(sink: Sink) -> Finish:
        pieces = ["a\ud83d", "\ude00b", "c"]
        for part in [pieces] if together else [[piece] for piece in pieces]:
            put(sink, *part)
        return Finish()

    run = Run(answer)
    await run.end()
    assert "".join(run.texts) == "a😀bc"


@in_virtual_time
async def test_orphans_become_replacement_characters() -> None:
    """Half a pair that never finds its other half is U+FFFD, at the end of an answer too."""

    async def answer(sink: Sink) -> Finish:
        put(sink, "a\ud83d", "b", "\ude00c", "\ud83d")
        return Finish()

    run = Run(answer)
    await run.end()
    assert "".join(run.texts) == "a\ufffdb\ufffdc\ufffd"


@in_virtual_time
async def test_a_cancel_behind_half_a_pair() -> None:
    """The receipt counts the character that replaces a half as well."""

    async def answer(sink: Sink) -> Finish:
        put(sink, "a\ud83d")
        return await forever()

    run = Run(answer)
    await turns()
    run.producer.cancel()
    outcome = await run.end()
    assert run.texts == ["a", "\ufffd"]
    assert outcome.receipt is not None
    assert outcome.receipt.generated_chunks == outcome.final_chunk_id == 2


@in_virtual_time
async def test_giant_deltas_are_cut() -> None:
    """A delta too large for any window becomes several chunks of its kind, cut between characters."""
    text = "a" + "😀日" * MAX_CHUNK_CHARS

    async def answer(sink: Sink) -> Finish:
        sink.put([Delta("before"), Delta(text, Kind.REASONING), Delta("behind")])
        return Finish()

    run = Run(answer)
    await run.end()
    chunks = run.log.chunks(1, len(run.log))
    assert all(len(chunk.content) <= MAX_CHUNK_CHARS for chunk in chunks)
    assert "".join(chunk.content for chunk in chunks if chunk.kind is Kind.REASONING) == text
    assert (chunks[0].content, chunks[-1].content, len(chunks)) == ("before", "behind", 5)


# -- limits, room and turns


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


@pytest.mark.parametrize("failure", [ContentFiltered(), Interrupted("cut")])
@in_virtual_time
async def test_failures_bring_held_text_out(failure: Exception) -> None:
    """What was held back for the second half of a pair is written before any end."""

    async def answer(sink: Sink) -> Finish:
        put(sink, "a\ud83d")
        raise failure

    run = Run(answer)
    await run.end()
    assert run.texts == ["a", "\ufffd"]


def test_deltas_are_any_sequence() -> None:
    """A tuple of deltas is as good as a list."""

    async def answer(sink: Sink) -> Finish:
        deltas: Sequence[Delta] = (Delta("a"), Delta("b"))
        sink.put(deltas)
        return Finish()

    @in_virtual_time
    async def scenario() -> None:
        run = Run(answer)
        await run.end()
        assert run.texts == ["a", "b"]

    scenario()


# -- other tries


class Scripted:
    """A provider that has an answer for every try."""

    def __init__(self, *answers: Answer, continues: bool = False) -> None:
        self._answers = list(answers)
        self.continues = continues
        self.requests: list[ChatRequest] = []
        self.sinks: list[Sink] = []

    async def answer(self, request: ChatRequest, sink: Sink) -> Finish:
        """The next one."""
        self.requests.append(request)
        self.sinks.append(sink)
        return await self._answers.pop(0)(sink)

    async def close(self) -> None:
        """Nothing is shared."""


def saying(*texts: str, failure: StreamFailure | None = None, kind: Kind = Kind.TEXT) -> Answer:
    """A try that says this, and then fails or ends."""

    async def answer(sink: Sink) -> Finish:
        for text in texts:
            put(sink, text, kind=kind)
        if failure is not None:
            raise failure
        return Finish()

    return answer


BROKEN = ProviderError("It broke off.", recoverable=True)
REFUSED = ProviderError("It said no.")


class Tries(Run):
    """A producer with a plan, and a viewer that keeps what it is told."""

    def __init__(
        self, *providers: Scripted, model: str | None = "first", limits: Limits | None = None, **plan: object
    ) -> None:
        self.log = CountingLog("s", "e", MemoryStore())
        self.told: list[StreamStatus] = []
        self.view().tell_statuses(self.told.append)
        targets = [Target(provider, f"p{n}", model if n == 1 else None) for n, provider in enumerate(providers, 1)]
        wanted: dict[str, Any] = {"retry": RetryPolicy(), "on_interrupt": OnInterrupt.CONTINUE, **plan}
        request = ChatRequest([ChatMessage("user", "hi")], model=model)
        self.producer = Producer(
            targets[0],
            request,
            self.log,
            limits or Limits(FIRST, BETWEEN, 10_000, 1 << 30),
            Plan(targets[1:], **wanted),
        )
        self.task = self.producer.start()

    @property
    def statuses(self) -> list[str]:
        """The words of it."""
        return [status.status for status in self.told]


@pytest.fixture(autouse=True)
def _full_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsstream.producer.random.random", lambda: 1.0)


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


# -- after the first token


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


# -- structured output, shape


@in_virtual_time
async def test_json_is_read() -> None:
    """An answer that was asked for as JSON is told parsed, or is not of the requested form; its text stays."""
    for text, parsed, error_type in (('{"a": [1]}', {"a": [1]}, None), ('{"a": [1', None, "invalid_output")):
        run = Run(saying(text[:4], text[4:]))
        run.producer._request = ChatRequest([ChatMessage("user", "hi")], response_format={"type": "json_object"})
        outcome = await run.end()
        assert (outcome.parsed, outcome.error_type, run.log.text()) == (parsed, error_type, text)
        assert outcome.recoverable is (error_type is not None)


@in_virtual_time
async def test_chunks_have_the_wished_shape() -> None:
    """Tokens count in the pace even where several make one chunk."""

    async def answer(sink: Sink) -> Finish:
        put(sink, "The", " quick", " brown", " fox")
        await asyncio.sleep(1)
        return Finish()

    run = Tries(Scripted(answer), buffer_size=2)
    outcome = await run.end()
    assert (run.texts, outcome.tokens_per_second) == (["The quick", " brown fox"], 4.0)
    words = Tries(Scripted(saying("Hel", "lo wor", "ld")), by_word=True)
    await words.end()
    assert words.texts == ["Hello ", "world"]


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
