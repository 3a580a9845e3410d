"""All answers of a process: begun once, deserted, retained for a while, forgotten, and the end of everything."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.virtual import in_virtual_time, turns
from wsstream.chunklog import Attachment
from wsstream.chunks import ChatMessage, ChatRequest, Delta, Finish, Outcome, StreamState
from wsstream.config import Config
from wsstream.errors import (
    BadRequest,
    Capacity,
    ErrorType,
    LogTrimmed,
    ProviderError,
    StoreError,
    StreamFailure,
    UnknownStream,
)
from wsstream.flow import SendWindow
from wsstream.messages import ChatConfig, ChatRequested
from wsstream.providers.base import Provider, Sink
from wsstream.providers.demo import DemoProvider
from wsstream.recovery import FailedTry
from wsstream.server import Server
from wsstream.stores.base import End, StoredLog, StreamRecord, StreamSummary
from wsstream.stores.memory import MemoryStore
from wsstream.streams import Stream, Streams
from wsstream.streams import directory as module

PATIENT = {"chunk_timeout": 80_000, "max_stream_seconds": 80_000}


class Waiting:
    """A provider that says one thing and waits to be told that it has ended."""

    def __init__(self) -> None:
        self.requests: list[ChatRequest] = []
        self.stopped = 0
        self.text = "x"
        self.close_delay = 0.0
        self._ends: list[asyncio.Future[Finish]] = []

    async def answer(self, request: ChatRequest, sink: Sink) -> Finish:
        """Wait for `end`."""
        self.requests.append(request)
        end = asyncio.get_running_loop().create_future()
        self._ends.append(end)
        sink.put([Delta(self.text)])
        try:
            return await end
        except asyncio.CancelledError:
            self.stopped += 1
            await asyncio.sleep(self.close_delay)
            raise

    async def end(self, index: int = -1) -> None:
        """End that answer well."""
        self._ends[index].set_result(Finish())
        await turns()

    async def close(self) -> None:
        """Nothing is shared."""


class RecordingStore(MemoryStore):
    """Remembers which logs it was told to begin and to forget."""

    def __init__(self) -> None:
        super().__init__()
        self.created: list[StreamRecord] = []
        self.deleted: list[str] = []

    def create(self, record: StreamRecord, committed: Callable[[], None]) -> None:
        self.created.append(record)
        committed()

    def delete(self, stream_id: str) -> None:
        self.deleted.append(stream_id)


class House:
    """Streams with a provider and a store that can be watched."""

    def __init__(self, store: RecordingStore | None = None, **settings: Any) -> None:
        self.provider = Waiting()
        self.demo = False
        """Whether the demo provider answers instead."""
        self.store = store or RecordingStore()
        self.streams = Streams(
            Config(**{"store": "memory:", "chunk_timeout": 80_000, "max_stream_seconds": 80_000, **settings}),
            self.store,
            self._provided,
        )

    def _provided(self, name: str | None) -> Provider:
        if name is not None:
            raise BadRequest("There is no such provider")
        return DemoProvider() if self.demo else self.provider

    async def start(self, request_id: str = "r", session: str = "ses", **fields: Any) -> Stream:
        """Begin an answer and let it run."""
        stream = self.streams.start(session, asked(request_id, **fields))
        await turns()
        return stream

    async def ended(self, request_id: str = "r", session: str = "ses") -> Stream:
        """An answer that has ended already."""
        stream = await self.start(request_id, session)
        await self.provider.end()
        return stream

    def view(self, stream: Stream) -> Attachment:
        """Somebody follows it."""
        return self.streams.attach(stream, SendWindow(50, 1 << 20), lambda _: None)


@asynccontextmanager
async def house(**settings: Any) -> AsyncIterator[House]:
    """A house that is closed at the end, and then holds no timer."""
    it = House(**settings)
    yield it
    await it.streams.close()
    await turns()
    loop = asyncio.get_running_loop()
    live = [handle for handle in loop._scheduled if not handle.cancelled()]  # type: ignore[attr-defined]
    assert live == []


def asked(request_id: str = "r", **fields: Any) -> ChatRequested:
    """A chat_request."""
    return ChatRequested(request_id=request_id, **{"message": "hi", **fields})


def state(stream: Stream) -> StreamState:
    return stream.log.state


# -- starting


@in_virtual_time
async def test_the_same_request_starts_once() -> None:
    """A request that comes again is the same stream, while it runs and when it has ended."""
    async with house() as h:
        stream = await h.start("r")
        assert await h.start("r", message="something else") is stream
        await h.provider.end()
        assert await h.start("r") is stream
        assert (len(h.provider.requests), h.streams.statistics().started) == (1, 1)
        assert h.streams.is_known("ses", "r")


@in_virtual_time
async def test_requests_of_different_sessions_are_different() -> None:
    """A request id means nothing outside its session."""
    async with house() as h:
        first, second, third = await h.start("r", "a"), await h.start("r", "b"), await h.start("q", "a")
        assert len({first.stream_id, second.stream_id, third.stream_id}) == 3
        assert not h.streams.is_known("b", "q")
        assert h.streams.of_session("a") == [first, third]


@in_virtual_time
async def test_ids_and_epochs_are_random() -> None:
    """No id or epoch comes twice, and an id holds 128 bits at least."""
    async with house() as h:
        started = [await h.start(str(n)) for n in range(100)]
        assert len({stream.stream_id for stream in started}) == 100
        assert len({stream.log.epoch for stream in started}) == 100
        assert all(len(stream.stream_id.removeprefix("s_")) * 6 >= 128 for stream in started)
        assert [record.stream_id for record in h.store.created] == [stream.stream_id for stream in started]


@in_virtual_time
async def test_what_the_provider_is_asked() -> None:
    """A request reaches the provider with its messages and settings, and the server's model where it names none."""
    async with house(model="default") as h:
        await h.start("a")
        await h.start("b", model="mine", messages=[ChatMessage("system", "be brief"), ChatMessage("user", "hi")])
        await h.start("c", model="mine", config=ChatConfig(model="other", temperature=0.5, max_tokens=7))
        first, second, third = h.provider.requests
        assert (first.model, first.messages) == ("default", [ChatMessage("user", "hi")])
        assert (second.model, [message.role for message in second.messages]) == ("mine", ["system", "user"])
        assert (third.model, third.temperature, third.max_tokens) == ("other", 0.5, 7)


@in_virtual_time
async def test_too_many_answers_are_refused() -> None:
    """No more run at once than allowed; whoever is refused may come again, and a known request is no new one."""
    async with house(max_running_streams=2) as h:
        first = await h.start("a")
        await h.start("b")
        with pytest.raises(Capacity) as refused:
            await h.start("c")
        assert (refused.value.retry_after, refused.value.recoverable) == (1.0, True)
        assert await h.start("a") is first
        await h.provider.end(0)
        await h.start("c")


@pytest.mark.parametrize(
    "fields",
    [
        {"config": ChatConfig(provider="os:system")},
        {"config": ChatConfig(fallback=["os:system"])},
        {"config": ChatConfig(on_orphan="stop")},
        {"config": ChatConfig(on_orphan={"stop_after": -1})},
    ],
)
@in_virtual_time
async def test_a_refused_request_leaves_nothing(fields: dict[str, Any]) -> None:
    """What cannot be served is refused before anything was begun, and may be put right under the same id."""
    async with house() as h:
        with pytest.raises(BadRequest):
            await h.start("r", **fields)
        assert h.store.created == []
        assert h.streams.of_session("ses") == []
        assert not h.streams.is_known("ses", "r")
        assert h.streams.statistics().running == 0
        await h.start("r")


@pytest.mark.parametrize("name", ["os:system", "wsstream.providers.demo:make", "", "anthropic", "demo "])
def test_a_client_names_no_provider_outside_the_table(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a server a client can have the providers of its table, and never have it import something."""
    imported: list[str] = []
    monkeypatch.setattr("wsstream.config.import_module", imported.append)
    server = Server(Config(store="memory:", provider="demo"))
    if name:
        with pytest.raises(BadRequest):
            server.assembly.provider(name)
        assert imported == []


@in_virtual_time
async def test_unknown_streams() -> None:
    """An id that never was is unknown."""
    async with house() as h:
        with pytest.raises(UnknownStream):
            h.streams.get("s_guess")
        stream = await h.start()
        assert h.streams.get(stream.stream_id) is stream
        assert h.streams.of_session("nobody") == []


@in_virtual_time
async def test_running_streams_are_listed() -> None:
    """A page that reloads is told what runs in its session, and how far it is."""
    async with house() as h:
        await h.ended("a")
        running = await h.start("b")
        (info,) = h.streams.running_in("ses")
        assert (info.stream_id, info.last_chunk_id, info.state) == (running.stream_id, 1, "running")
        assert h.streams.running_in("other") == []


@pytest.mark.parametrize("how", ["stored", "failed"])
@in_virtual_time
async def test_nobody_is_told_before_a_stream_is_stored(how: str) -> None:
    """A stream is told of when its store has begun it, or has failed to; in memory at once."""
    begun: list[Callable[[], None]] = []
    store = RecordingStore()
    async with house(store=store) as h:
        told: list[str] = []
        (await h.start("a")).when_stored(lambda: told.append("a"))
        assert told == ["a"]
        store.create = lambda record, committed: begun.append(committed)  # type: ignore[method-assign]
        stream = await h.start("b")
        stream.when_stored(lambda: told.append("b"))
        assert told == ["a"]
        if how == "stored":
            begun[0]()
        else:
            store.on_failure(StoreError("The disk is full"), {stream.stream_id})
        stream.when_stored(lambda: told.append("again"))
        assert told == ["a", "b", "again"]


@in_virtual_time
async def test_an_end_and_its_message_are_one_write() -> None:
    """What an answer said is written with its end, not behind it: no crash comes between them."""
    store = RecordingStore()
    written: list[str] = []
    finish = store.finish
    store.save_message = lambda message: written.append(message.role)  # type: ignore[method-assign]
    store.finish = lambda *given: (written.append("end"), finish(*given))[1]  # type: ignore[method-assign]
    async with house(store=store) as h:
        await h.ended()
    assert written == ["user", "assistant", "assistant", "end"]


# -- cancel


@in_virtual_time
async def test_cancel_is_idempotent() -> None:
    """A stream may be cancelled as often as anybody likes, before and after its end."""
    async with house() as h:
        stream = await h.start()
        h.streams.cancel(stream)
        h.streams.cancel(stream)
        await turns()
        h.streams.cancel(stream)
        assert (state(stream), h.provider.stopped, h.streams.statistics().running) == (StreamState.CANCELLED, 1, 0)


@in_virtual_time
async def test_cancel_leaves_an_ended_stream_as_it_is() -> None:
    """A cancel that comes too late changes nothing."""
    async with house() as h:
        stream = await h.ended()
        outcome = stream.log.outcome
        h.streams.cancel(stream)
        await turns()
        assert stream.log.outcome is outcome


# -- orphans


@in_virtual_time
async def test_an_answer_goes_on_without_viewers() -> None:
    """For the time of grace an answer runs for nobody, and is then stopped as interrupted."""
    async with house(on_orphan="stop_after", orphan_grace=60) as h:
        stream = await h.start()
        h.streams.attach(stream, SendWindow(5, 100), lambda _: None)
        stream.log.detach(stream.log.attachments[0])
        await asyncio.sleep(59.9)
        assert state(stream) is StreamState.RUNNING
        await asyncio.sleep(0.2)
        assert (state(stream), h.provider.stopped) == (StreamState.INTERRUPTED, 1)
        assert stream.log.outcome is not None
        assert stream.log.outcome.error_type == "interrupted"


@in_virtual_time
async def test_one_viewer_is_enough() -> None:
    """Nobody's leaving matters while somebody else is there."""
    async with house(on_orphan="stop_after", orphan_grace=60) as h:
        stream = await h.start()
        first, _ = h.view(stream), h.view(stream)
        stream.log.detach(first)
        await asyncio.sleep(1000)
        assert state(stream) is StreamState.RUNNING


@in_virtual_time
async def test_a_viewer_who_returns_in_time() -> None:
    """Somebody who returns just before the end of the grace saves the answer, and the next grace is a whole one."""
    async with house(on_orphan="stop_after", orphan_grace=60) as h:
        stream = await h.start()
        for _ in range(3):
            viewer = h.view(stream)
            stream.log.detach(viewer)
            await asyncio.sleep(59.9)
        viewer = h.view(stream)
        await asyncio.sleep(1000)
        assert state(stream) is StreamState.RUNNING
        stream.log.detach(viewer)
        await asyncio.sleep(60.1)
        assert state(stream) is StreamState.INTERRUPTED


@in_virtual_time
async def test_an_ended_answer_is_no_orphan() -> None:
    """Leaving an answer that has ended starts no clock, and one that ends within the grace ends well."""
    async with house(on_orphan="stop_after", orphan_grace=60) as h:
        stream = await h.start()
        viewer = h.view(stream)
        stream.log.detach(viewer)
        assert stream.orphan_timer is not None
        await h.provider.end()
        assert (state(stream), stream.orphan_timer) == (StreamState.COMPLETE, None)
        stream.log.detach(h.view(stream))
        assert stream.orphan_timer is None


@pytest.mark.parametrize("where", ["server", "request"])
@in_virtual_time
async def test_an_answer_may_go_on_for_nobody(where: str) -> None:
    """Where the server or the request says so, an answer goes on to its end without any viewer."""
    wish = {"config": ChatConfig(on_orphan="continue")} if where == "request" else {}
    async with house(on_orphan="continue" if where == "server" else "stop_after") as h:
        stream = await h.start(**wish)
        stream.log.detach(h.view(stream))
        await asyncio.sleep(10_000)
        await h.provider.end()
        assert state(stream) is StreamState.COMPLETE


@in_virtual_time
async def test_a_request_has_its_own_grace() -> None:
    """A request may say for how long its answer runs for nobody."""
    async with house(on_orphan="continue") as h:
        stream = await h.start(config=ChatConfig(on_orphan={"stop_after": 5}))
        stream.log.detach(h.view(stream))
        await asyncio.sleep(4.9)
        assert state(stream) is StreamState.RUNNING
        await asyncio.sleep(0.2)
        assert state(stream) is StreamState.INTERRUPTED


@in_virtual_time
async def test_an_answer_may_wait_for_somebody() -> None:
    """A paused answer is read no further without viewers, is never late for it, and goes on when somebody returns."""
    async with house(chunk_timeout=10, provider="demo") as h:
        h.demo = True
        wish = ChatConfig(on_orphan="pause", model="demo:rate=10,tokens=100")
        stream = await h.start(config=wish)
        stream.log.detach(h.view(stream))
        await asyncio.sleep(1000)
        assert (state(stream), len(stream.log)) == (StreamState.RUNNING, pytest.approx(1, abs=1))
        viewer = h.streams.attach(stream, SendWindow(1000, 1 << 20), lambda _: None)
        await asyncio.sleep(11)
        assert (state(stream), len(stream.log)) == (StreamState.COMPLETE, 100)
        stream.log.detach(viewer)


@pytest.mark.parametrize("rate", [0, 10, 100_000])
@in_virtual_time
async def test_an_answer_may_stop_after_some_chunks(rate: int) -> None:
    """Without viewers an answer stops after so many chunks more, whatever its pace, and the loop goes on."""
    async with house() as h:
        h.demo = True
        wish = ChatConfig(on_orphan={"stop_after_chunks": 20}, model=f"demo:rate={rate},tokens=1000000")
        stream = h.streams.start("ses", asked(config=wish))
        stream.log.detach(h.view(stream))
        await asyncio.sleep(100)
        assert state(stream) is StreamState.INTERRUPTED
        assert 20 <= len(stream.log) <= 20 + 200


# -- retention


async def _is_kept(h: House, stream: Stream) -> bool:
    try:
        h.streams.get(stream.stream_id)
    except LogTrimmed:
        return False
    return True


@in_virtual_time
async def test_ended_streams_are_kept_for_a_while() -> None:
    """An ended stream is kept for its time, then forgotten everywhere, and is then "no longer kept"."""
    async with house(retention=100) as h:
        stream = await h.ended("r")
        await asyncio.sleep(99.9)
        assert h.streams.get(stream.stream_id) is stream
        await asyncio.sleep(0.2)
        with pytest.raises(LogTrimmed):
            h.streams.get(stream.stream_id)
        assert h.store.deleted == [stream.stream_id]
        assert (h.streams.of_session("ses"), h.streams.is_known("ses", "r")) == ([], False)
        assert h.streams.statistics()[1:3] == (0, 0)
        again = await h.start("r")
        assert again is not stream


@in_virtual_time
async def test_running_streams_are_never_forgotten() -> None:
    """Only what has ended counts for retention."""
    async with house(retention=10, max_retained=1, max_memory_bytes=1) as h:
        stream = await h.start()
        await asyncio.sleep(20)
        assert await _is_kept(h, stream)


@in_virtual_time
async def test_only_so_many_are_kept() -> None:
    """Beyond the number of ended streams to keep, the oldest is forgotten."""
    async with house(max_retained=3) as h:
        ended = [await h.ended(str(n)) for n in range(5)]
        assert [await _is_kept(h, stream) for stream in ended] == [False, False, True, True, True]
        assert h.streams.statistics().retained == 3


@in_virtual_time
async def test_only_so_many_bytes_are_kept() -> None:
    """Beyond the bytes to keep, the oldest are forgotten, and the count of bytes stays true."""
    async with house(max_memory_bytes=5000) as h:
        h.provider.text = "x" * 2000
        ended = [await h.ended(str(n)) for n in range(4)]
        assert [await _is_kept(h, stream) for stream in ended] == [False, False, True, True]
        assert h.streams.statistics().retained_bytes == sum(stream.log.weight for stream in ended[2:])


@in_virtual_time
async def test_one_timer_waits_for_all() -> None:
    """However many streams are kept, one timer waits for the next to be forgotten, each in its time."""
    async with house(retention=100) as h:
        loop = asyncio.get_running_loop()
        ended = []
        for n in range(20):
            ended.append(await h.ended(str(n)))
            await asyncio.sleep(1)
        live = [handle for handle in loop._scheduled if not handle.cancelled()]  # type: ignore[attr-defined]
        assert len(live) == 1
        await asyncio.sleep(90 - 0.5)
        assert [await _is_kept(h, stream) for stream in ended] == [False] * 10 + [True] * 10


@in_virtual_time
async def test_a_viewer_reads_a_forgotten_stream_to_its_end() -> None:
    """Whoever follows a stream already loses nothing when it is forgotten."""
    async with house(retention=1) as h:
        stream = await h.ended()
        viewer = h.view(stream)
        await asyncio.sleep(2)
        assert not await _is_kept(h, stream)
        assert viewer.take(1000) == (1, 1)
        assert viewer.take_outcome() is not None
        stream.log.detach(viewer)


@in_virtual_time
async def test_tombstones_are_bounded() -> None:
    """Not even the ids of forgotten streams are remembered for ever."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "TOMBSTONES", 2)
        async with house(max_retained=1) as h:
            ended = [await h.ended(str(n)) for n in range(5)]
            expected: list[type[Exception]] = [UnknownStream, UnknownStream, LogTrimmed, LogTrimmed]
            for stream, error in zip(ended[:4], expected, strict=True):
                with pytest.raises(error):
                    h.streams.get(stream.stream_id)


# -- a store that keeps logs


class DurableStore(RecordingStore):
    """Keeps ended logs, and reads them back when the test says so."""

    durable = True

    def __init__(self) -> None:
        super().__init__()
        self.logs: dict[str, StoredLog] = {}
        self.loads: list[tuple[str, asyncio.Future[StoredLog | None]]] = []
        self.cancelled: list[str] = []
        self.summaries: list[StreamSummary] = []

    async def open(self, end: End) -> list[StreamSummary]:
        return self.summaries

    def cancel(self, stream_id: str) -> None:
        self.cancelled.append(stream_id)

    def finish(
        self, stream_id: str, outcome: Outcome, bodies: Sequence[bytes], kinds: bytes, committed: Callable[[], None]
    ) -> None:
        record = next(record for record in self.created if record.stream_id == stream_id)
        self.logs[stream_id] = StoredLog(record, list(bodies), kinds, outcome)
        committed()

    def load(self, stream_id: str) -> asyncio.Future[StoredLog | None]:
        future: asyncio.Future[StoredLog | None] = asyncio.get_running_loop().create_future()
        self.loads.append((stream_id, future))
        return future

    async def answer(self) -> None:
        """Read what was asked for."""
        loads, self.loads = self.loads, []
        for stream_id, future in loads:
            future.set_result(self.logs.get(stream_id))
        await turns()


@in_virtual_time
async def test_ended_logs_leave_the_memory() -> None:
    """With a store that keeps them, the chunks of ended streams leave the memory, and come back when asked for."""
    store = DurableStore()
    async with house(store=store, max_memory_bytes=5000) as h:
        h.provider.text = "x" * 2000
        first, second, third = [await h.ended(str(n)) for n in range(3)]
        assert [stream.log.loaded for stream in (first, second, third)] == [False, True, True]
        assert await _is_kept(h, first)
        assert h.streams.load(second) is None
        loading = h.streams.load(first)
        assert loading is not None
        assert h.streams.load(first) is loading
        await store.answer()
        assert first.log.loaded
        assert first.log.chunks(1, 1)[0].content == "x" * 2000
        assert not third.log.loaded  # the second was looked at later
        assert [stream_id for stream_id, _ in store.loads] == []


@in_virtual_time
async def test_a_followed_log_stays_in_memory() -> None:
    """Nothing is taken from under somebody who reads it."""
    async with house(store=DurableStore(), max_memory_bytes=5000) as h:
        h.provider.text = "x" * 2000
        first = await h.ended("0")
        viewer = h.view(first)
        for n in range(1, 4):
            await h.ended(str(n))
        assert first.log.loaded
        first.log.detach(viewer)
        for n in range(4, 7):
            await h.ended(str(n))
        assert not first.log.loaded


@in_virtual_time
async def test_a_log_that_cannot_be_read() -> None:
    """A failed read leaves the stream as it was, and may be tried again."""
    store = DurableStore()
    async with house(store=store, max_memory_bytes=1) as h:
        stream = await h.ended()
        loading = h.streams.load(stream)
        assert loading is not None
        store.loads.pop()[1].set_exception(StoreError("The disk is gone"))
        with pytest.raises(StoreError):
            await loading
        await turns()
        assert not stream.log.loaded
        again = h.streams.load(stream)
        assert again is not None
        assert again is not loading
        store.loads.pop()[1].cancel()
        await turns()
        assert stream.loading is None


@in_virtual_time
async def test_what_a_store_has_is_taken_over() -> None:
    """A new process knows the streams of the one before: their ids, requests, ends and ages."""
    store = DurableStore()
    outcome = Outcome(StreamState.INTERRUPTED, 2, error_type="interrupted")
    for number, age in enumerate([90.0, 10.0]):
        record = StreamRecord(f"s_{number}", "ses", f"r{number}", "e", None, 0.0)
        store.summaries.append(StreamSummary(number, record, outcome, time.time() - age, 100))
    async with house(store=store, retention=100) as h:
        await h.streams.open()
        assert [stream.stream_id for stream in h.streams.of_session("ses")] == ["s_0", "s_1"]
        assert await h.start("r0") is h.streams.get("s_0")
        assert (h.streams.running_in("ses"), h.streams.statistics()[:3]) == ([], (0, 2, 200))
        await asyncio.sleep(11)
        with pytest.raises(LogTrimmed):
            h.streams.get("s_0")
        assert h.streams.get("s_1").log.outcome == outcome


@in_virtual_time
async def test_a_cancel_is_noted_before_it_is_done() -> None:
    """The store hears of a cancel first, so that no restart brings the answer back."""
    store = DurableStore()
    async with house(store=store) as h:
        stream = await h.start()
        h.streams.cancel(stream)
        assert store.cancelled == [stream.stream_id]
        assert state(stream) is StreamState.RUNNING
        await turns()
        h.streams.cancel(stream)
        assert store.cancelled == [stream.stream_id]


@in_virtual_time
async def test_a_store_that_fails_ends_what_it_lost() -> None:
    """Streams whose writes were lost end as a failure worth another try; the others and unknown ones do not care."""
    async with house() as h:
        lost, other = await h.start("a"), await h.start("b")
        h.store.on_failure(StoreError("The disk is full"), {lost.stream_id, "s_unknown"})
        await turns()
        assert (state(lost), state(other)) == (StreamState.FAILED, StreamState.RUNNING)
        assert lost.log.outcome is not None
        assert (lost.log.outcome.error_type, lost.log.outcome.recoverable) == ("internal_error", True)
        assert "disk" not in (lost.log.outcome.message or "")


# -- sessions


@in_virtual_time
async def test_a_conversation_is_continued() -> None:
    """A request with one new message brings the provider what was said before, and history shows all of it."""
    async with house() as h:
        h.provider.text = "one"
        await h.ended("a")
        h.provider.text = "two"
        await h.start("b", message="and then?")
        said = [("user", "hi"), ("assistant", "one"), ("user", "and then?")]
        assert [(message.role, message.content) for message in h.provider.requests[-1].messages] == said
        history, _ = await h.streams.history("ses")
        assert [(message.role, message.content) for message in history] == [*said, ("assistant", "two")]
        assert [message.is_complete for message in history] == [True, True, True, False]


@in_virtual_time
async def test_a_session_is_renamed_and_deleted() -> None:
    """A session has the title it was given; deleted, its answers are stopped and nothing of it is left."""
    async with house() as h:
        done, running = await h.ended("a"), await h.start("b")
        other = await h.start("c", "other")
        h.streams.rename_session("ses", "a title")
        assert (await h.streams.history("ses"))[1] == "a title"
        h.streams.delete_session("ses")
        await turns()
        assert (state(running), state(other)) == (StreamState.CANCELLED, StreamState.RUNNING)
        assert h.streams.of_session("ses") == []
        assert {done.stream_id, running.stream_id} == set(h.store.deleted)
        assert await h.streams.history("ses") == ([], None)
        assert h.streams.statistics().retained == 0


# -- the end of the process


@in_virtual_time
async def test_close_interrupts_what_runs() -> None:
    """At the end of the process running answers end as interrupted, and ended ones stay as they are."""
    h = House()
    done, first, second = await h.ended("a"), await h.start("b"), await h.start("c")
    await h.streams.close()
    assert [state(stream) for stream in (done, first, second)] == ["complete", "interrupted", "interrupted"]
    assert (h.provider.stopped, h.streams.statistics().running) == (2, 0)


@in_virtual_time
async def test_close_does_not_wait_for_ever() -> None:
    """A provider that does not let go holds the end of the process up for two seconds at most."""
    h = House()
    h.provider.close_delay = 3600.0
    stream = await h.start()
    before = asyncio.get_running_loop().time()
    await h.streams.close()
    assert asyncio.get_running_loop().time() - before == pytest.approx(2.0)
    assert stream.task is not None
    await asyncio.wait([stream.task])


@in_virtual_time
async def test_wait_idle() -> None:
    """Waiting for the running answers succeeds when they end and gives up after the patience."""
    async with house() as h:
        assert await h.streams.wait_idle(1)
        await h.start()
        assert not await h.streams.wait_idle(1)
        asyncio.get_running_loop().call_later(0.5, h.provider._ends[0].set_result, Finish())
        assert await h.streams.wait_idle(1)


@in_virtual_time
async def test_wait_read() -> None:
    """Waiting for the viewers succeeds when they have left and gives up after the patience."""
    async with house() as h:
        clock: Callable[[], float] = asyncio.get_running_loop().time
        viewer = h.view(await h.ended())
        begun = clock()
        await h.streams.wait_read(1)
        assert clock() - begun == pytest.approx(1, abs=0.05)
        viewer.log.detach(viewer)
        await h.streams.wait_read(1)
        assert clock() - begun == pytest.approx(1, abs=0.05)


# -- providers that fail


class Failing:
    """A provider that says what it is given, and fails."""

    def __init__(self, failure: StreamFailure, *texts: str) -> None:
        self.failure = failure
        self.texts = texts

    async def answer(self, request: ChatRequest, sink: Sink) -> Finish:
        """Fail."""
        for text in self.texts:
            sink.put([Delta(text)])
        raise self.failure

    async def close(self) -> None:
        """Nothing is shared."""


@asynccontextmanager
async def several(providers: dict[str | None, Any], **settings: Any) -> AsyncIterator[Streams]:
    """Streams with these providers."""

    def find(name: str | None) -> Provider:
        if name not in providers:
            raise BadRequest("There is no such provider")
        return providers[name]  # type: ignore[no-any-return]

    on_failure = settings.pop("on_failure", {})
    streams = Streams(Config(**{"store": "memory:", **settings}), MemoryStore(), find, on_failure)
    yield streams
    await streams.close()


@pytest.mark.parametrize("where", ["server", "request"])
@in_virtual_time
async def test_a_fallback_is_turned_to(where: str) -> None:
    """The server's list, or that of the request, names who is asked next, and the end says who it was."""
    providers = {None: Failing(ProviderError()), "module:other": DemoProvider(), "x": Failing(ProviderError())}
    entry = "module:other:demo:rate=0,tokens=3"
    settings, config = ({"fallback": f"x {entry}"}, {}) if where == "server" else ({}, {"fallback": ["x", entry]})
    async with several(providers, **settings) as streams:
        stream = streams.start("ses", asked("r", config=ChatConfig(**config)))
        await asyncio.sleep(1)
        outcome = stream.log.outcome
        assert outcome is not None
        assert (outcome.state, outcome.model) == (StreamState.COMPLETE, "demo:rate=0,tokens=3")
        assert (outcome.retry_count, streams.statistics().retries) == (2, 2)


@in_virtual_time
async def test_a_request_may_refuse_all_fallbacks() -> None:
    """An empty list is a list."""
    async with several({None: Failing(ProviderError()), "x": DemoProvider()}, fallback="x") as streams:
        stream = streams.start("ses", asked("r", config=ChatConfig(fallback=[])))
        await asyncio.sleep(1)
        assert stream.log.state is StreamState.FAILED


@in_virtual_time
async def test_who_a_fallback_names() -> None:
    """Providers and models may both hold colons; the longest provider that there is counts."""
    one, two = DemoProvider(), DemoProvider()
    async with several({"a": one, "a:b": two}) as streams:
        assert streams.find_target("a") == (one, "a", None)
        assert streams.find_target("a:c:d") == (one, "a", "c:d")
        assert streams.find_target("a:b:c") == (two, "a:b", "c")
        with pytest.raises(BadRequest, match="nobody:x"):
            streams.find_target("nobody:x")


@in_virtual_time
async def test_an_operator_decides() -> None:
    """A callback of the server's decides what becomes of a failure of its type."""
    seen: list[FailedTry] = []
    on_failure = {ErrorType.PROVIDER_ERROR: seen.append}
    async with several({None: Failing(ProviderError())}, on_failure=on_failure) as streams:
        streams.start("ses", asked("r"))
        await asyncio.sleep(1)
        assert [type(failed.failure) for failed in seen] == [ProviderError]


@in_virtual_time
async def test_what_was_wasted() -> None:
    """Tokens that were generated and sent to nobody are counted, until somebody reads them."""
    async with house(on_orphan="continue") as h:
        stream = await h.start("r")
        viewer = h.view(stream)
        await h.provider.end()
        assert h.streams.statistics().wasted == 0
        stream.log.detach(viewer)
        assert h.streams.statistics().wasted == 1
        viewer = h.view(stream)
        viewer.take(1 << 20)
        stream.log.detach(viewer)
        assert h.streams.statistics().wasted == 0
        await h.ended("r2")
        assert h.streams.statistics().wasted == 1


# -- short of memory


@in_virtual_time
async def test_orphans_wait_while_memory_is_short() -> None:
    """Nothing is begun, what nobody follows is read no further, and afterwards one after the other goes on."""
    async with house(on_orphan="continue") as it:
        before, after = await it.start("before"), await it.start("after")
        leaving = it.view(after)
        it.streams.press(True)
        with pytest.raises(Capacity):
            it.streams.start("ses", asked("new"))
        after.log.detach(leaving)
        assert (before.log.has_room(), after.log.has_room()) == (False, False)
        it.streams.press(False)
        it.streams.let_one_go_on()
        assert sorted((before.log.has_room(), after.log.has_room())) == [False, True]
        it.streams.let_one_go_on()
        assert (before.log.has_room(), after.log.has_room()) == (True, True)
        it.streams.let_one_go_on()


@in_virtual_time
async def test_orphans_are_ended_where_memory_stays_short() -> None:
    """One at a time, the one that has waited longest first; one that somebody follows again is not."""
    async with house(on_orphan="continue") as it:
        streams = [await it.start(name) for name in ("first", "followed", "third")]
        it.streams.press(True)
        it.view(streams[1])
        held = [stream for stream in streams if stream.log.paused]
        assert len(held) == 2
        for _ in range(3):
            it.streams.stop_one_held()
            await asyncio.sleep(0.1)
        assert [stream.log.state for stream in streams] == ["interrupted", "running", "interrupted"]


@in_virtual_time
async def test_somebody_who_comes_need_not_wait_for_memory() -> None:
    """An orphan that waits goes on for a viewer, and is not forgotten afterwards."""
    async with house() as it:
        stream = await it.start()
        it.streams.press(True)
        assert not stream.log.has_room()
        it.view(stream)
        assert stream.log.has_room()
        it.streams.press(False)
        it.streams.let_one_go_on()
        assert stream.log.has_room()


@in_virtual_time
async def test_providers_are_less_far_ahead_while_memory_is_short() -> None:
    """What waits for a slow viewer is a sixteenth of what it may be otherwise."""
    async with house() as it:
        stream = await it.start()
        it.view(stream)
        stream.log.append([Delta("x" * 100_000)])
        assert stream.log.has_room()
        it.streams.press(True)
        assert not stream.log.has_room()
        it.streams.press(False)
        assert stream.log.has_room()


@in_virtual_time
async def test_watchers_are_told() -> None:
    """Each new answer is told once at its beginning and once at its end; the same request again is none."""

    class Watcher:
        """Remembers."""

        def __init__(self) -> None:
            self.told: list[str] = []

        def on_started(self, stream: Stream, asked: ChatRequested) -> None:
            """Remember it."""
            self.told.append("started " + asked.request_id)

        def on_ended(self, stream: Stream) -> None:
            """Remember it."""
            assert stream.log.outcome is not None
            self.told.append("ended " + stream.log.outcome.state)

    async with house() as it:
        watcher = Watcher()
        it.streams.watchers = [watcher]
        await it.start("a")
        await it.start("a")
        await it.provider.end()
    assert watcher.told == ["started a", "ended complete"]


@in_virtual_time
async def test_a_crowd_of_orphans_is_stopped_one_by_one() -> None:
    """Of those whose time is over in the same moment, each is stopped a little after the one before."""
    async with house(orphan_grace=1.0) as it:
        streams = [await it.start(str(number)) for number in range(5)]
        for stream in streams:
            stream.log.detach(it.view(stream))
        back = streams[3]
        await asyncio.sleep(1.0)
        assert it.provider.stopped == 1
        it.view(back)  # while it waits for its turn: it goes on
        await asyncio.sleep(0.1)
        assert it.provider.stopped == 4
        assert state(back) is StreamState.RUNNING
