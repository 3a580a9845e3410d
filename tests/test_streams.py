"""All answers of a process: begun once, deserted, retained for a while, forgotten, and the end of everything."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.virtual import in_virtual_time, turns
from wsstream import streams as module
from wsstream.chunklog import Attachment
from wsstream.chunks import ChatMessage, ChatRequest, Delta, Finish, StreamState
from wsstream.config import Config
from wsstream.errors import BadRequest, Capacity, LogTrimmed, UnknownStream
from wsstream.flow import SendWindow
from wsstream.messages import ChatConfig, ChatRequested
from wsstream.providers.base import Provider, Sink
from wsstream.server import Server
from wsstream.stores.base import StreamRecord
from wsstream.stores.memory import MemoryStore
from wsstream.streams import Stream, Streams


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

    def create(self, record: StreamRecord) -> None:
        self.created.append(record)

    def delete(self, stream_id: str) -> None:
        self.deleted.append(stream_id)


class House:
    """Streams with a provider and a store that can be watched."""

    def __init__(self, **settings: Any) -> None:
        self.provider = Waiting()
        self.store = RecordingStore()
        self.streams = Streams(
            Config(**{"store": "memory:", "chunk_timeout": 80_000, **settings}), self.store, self._provided
        )

    def _provided(self, name: str | None) -> Provider:
        if name is not None:
            raise BadRequest("There is no such provider")
        return self.provider

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
        {"config": ChatConfig(buffer_size=2)},
        {"config": ChatConfig(boundary="word")},
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
    monkeypatch.setattr("wsstream.providers.import_module", imported.append)
    server = Server(Config(store="memory:", provider="demo"))
    if name:
        with pytest.raises(BadRequest):
            server._provider(name)
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
