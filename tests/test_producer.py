"""The task that drains a provider: one outcome whatever happens, timers that need no token, room, and odd text."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from itertools import pairwise

import pytest

from tests.virtual import in_virtual_time, turns
from wsstream.chunklog import Attachment, ChunkLog
from wsstream.chunks import ChatMessage, ChatRequest, Delta, Finish, Kind, Outcome, StreamState, Usage
from wsstream.errors import ContentFiltered, Interrupted, ProviderError
from wsstream.flow import SendWindow
from wsstream.producer import CHECK_EVERY, CLOSE_TIMEOUT, MAX_CHUNK_CHARS, YIELD_EVERY, Limits, Producer
from wsstream.providers.base import Sink
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
