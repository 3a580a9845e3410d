"""Reading a log for a wire without acks: flow control by asking for more, every beginning and every end."""

from __future__ import annotations

import asyncio
from asyncio import Future
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.conftest import Serve
from tests.virtual import in_virtual_time, turns
from wsstream.chunklog import ChunkLog
from wsstream.chunks import Delta, Kind, Outcome, StreamState
from wsstream.errors import ResumeAhead, StoreError
from wsstream.messages import ChatRequested, encode, rewind_body
from wsstream.stores.memory import MemoryStore
from wsstream.wires import reader as reader_module
from wsstream.wires.reader import Entry, LogReader, Run, Span, stored

OUTCOME = Outcome(StreamState.COMPLETE, 0, finish_reason="stop")


class OneStream:
    """A stream and all there are of them, at once."""

    def __init__(self, log: ChunkLog | None = None, *, stored: bool = True) -> None:
        self.log = ChunkLog("s", "e", MemoryStore(), overhead=100) if log is None else log
        self.stream_id = "s"
        self.record: Any = None
        self.loading: Future[Any] | None = None
        self.untold: list[Callable[[], None]] = []
        self._stored = stored

    def when_stored(self, tell: Callable[[], None]) -> None:
        if self._stored:
            tell()
        else:
            self.untold.append(tell)

    def load(self, _: Any) -> Future[Any] | None:
        return self.loading

    def attach(self, stream: Any, window: Any, wake: Any) -> Any:
        return stream.log.attach(window, wake)

    def put(self, *texts: str, kind: Kind = Kind.TEXT) -> None:
        self.log.append([Delta(text, kind) for text in texts])

    def reader(self, after: int = 0, **limits: int) -> LogReader:
        return LogReader(self, self, after, **limits)  # type: ignore[arg-type]


def contents(span: Any) -> list[str]:
    assert isinstance(span, Span)
    return [entry.content for entry in span.entries()]


async def test_reads_what_there_is_then_what_comes_then_the_end() -> None:
    """Replay, live delivery and the outcome are one iteration, in order and without gaps."""
    one = OneStream()
    one.put("a", "b")
    seen: list[Any] = []

    async def read() -> None:
        async with one.reader() as reader:
            async for item in reader:
                seen.append(item if isinstance(item, Outcome) else contents(item))

    reading = asyncio.create_task(read())
    await turns()
    one.put("c")
    await turns()
    one.log.finish(OUTCOME)
    await reading
    assert seen == [["a", "b"], ["c"], OUTCOME]
    assert one.log.attachments == []


@pytest.mark.parametrize("after", [0, 1, 2, 3])
async def test_begins_behind_any_chunk(after: int) -> None:
    """What comes first is the chunk behind the one that was named; behind the last comes only the end."""
    one = OneStream()
    one.put("a", "b", "c")
    one.log.finish(OUTCOME)
    async with one.reader(after) as reader:
        items = [item async for item in reader]
    assert [entry.chunk_id for span in items[:-1] for entry in span.entries()] == list(range(after + 1, 4))  # type: ignore[union-attr]
    assert items[-1] == OUTCOME


async def test_a_chunk_that_is_not_there_yet() -> None:
    """A position beyond the log is refused, and nobody is attached."""
    one = OneStream()
    with pytest.raises(ResumeAhead):
        async with one.reader(1):
            pass
    assert one.log.attachments == []


async def test_asking_for_more_acknowledges() -> None:
    """What was given is in flight until the next is asked for: then the socket has taken it."""
    one = OneStream()
    one.put("a", "b")
    async with one.reader() as reader:
        await reader.next()
        assert one.log.floor == 0
        assert await reader.next(patience=0.0) is None
        assert one.log.floor == 2


async def test_a_reader_that_stalls_holds_the_producer_at_the_high_mark() -> None:
    """Nothing is read for a socket that takes nothing, and the provider waits; when it takes, the provider goes on."""
    one = OneStream(ChunkLog("s", "e", MemoryStore(), high=10, low=5))
    async with one.reader(window=3) as reader:
        one.put("x")
        assert contents(await reader.next()) == ["x"]
        for _ in range(9):
            one.put("y")
        assert not one.log.has_room()
        assert contents(await reader.next()) == ["y"] * 3
        await reader.next()
        assert one.log.has_room()


async def test_a_write_is_bounded_in_bytes() -> None:
    """A backlog goes out in slices, a chunk larger than the window alone."""
    one = OneStream()
    one.put(*["z" * 1000] * 40, "Z" * 300_000, "end")
    sizes = []
    async with one.reader() as reader:
        while (item := await reader.next(patience=0.0)) is not None:
            assert isinstance(item, Span)
            sizes.append(sum(map(len, item.bodies)))
    assert sum(sizes) == 40_000 + 300_000 + 3
    assert all(size <= reader_module.WRITE_SLICE or size == 300_000 for size in sizes)


@in_virtual_time
async def test_patience() -> None:
    """Where nothing comes in time the reader says so, so that a heartbeat can go out, and reading goes on."""
    one = OneStream()
    loop = asyncio.get_running_loop()
    begin = loop.time()
    async with one.reader() as reader:
        assert await reader.next(patience=15.0) is None
        assert loop.time() - begin == 15.0
        loop.call_later(3.0, one.put, "late")
        assert contents(await reader.next(patience=15.0)) == ["late"]
        assert loop.time() - begin == 18.0


async def test_kinds_and_rewinds() -> None:
    """Kinds are told apart, neighbours of one kind merge, and a rewind is told as such by itself."""
    one = OneStream()
    one.put("think", kind=Kind.REASONING)
    one.put("a", "b")
    one.log.append_bodies([rewind_body(1, "retry")], bytes([Kind.REWIND]))
    one.log.append_bodies([encode("c")[1:-1]], bytes([Kind.TEXT]))
    async with one.reader() as reader:
        span = await reader.next()
    assert isinstance(span, Span)
    assert list(span.runs())[:2] == [Run(1, 1, Kind.REASONING, b"think"), Run(2, 3, Kind.TEXT, b"ab")]
    rewind, last = list(span.runs())[2:]
    assert (rewind.first, rewind.last, rewind.rewind.to_chunk_id, rewind.rewind.reason) == (4, 4, 1, "retry")
    assert last == Run(5, 5, Kind.TEXT, b"c")
    assert list(span.entries())[2] == Entry(3, Kind.TEXT, b"b")
    assert [entry.chunk_id for entry in span.entries()] == [1, 2, 3, 4, 5]
    assert list(span.entries())[3].rewind == rewind.rewind


async def test_two_rewinds_in_a_row_do_not_merge() -> None:
    """Each rewind is a run of its own, whatever stands beside it."""
    bodies = [rewind_body(0, "a"), rewind_body(0, "b")]
    runs = list(Span(1, bodies, bytes([Kind.REWIND] * 2)).runs())
    assert [run.rewind.reason for run in runs] == ["a", "b"]


async def test_a_cancelled_response_detaches() -> None:
    """A request that is given up leaves no viewer behind, whatever it was waiting for."""
    one = OneStream()

    async def read() -> None:
        async with one.reader() as reader:
            await reader.next()

    reading = asyncio.create_task(read())
    await turns()
    assert len(one.log.attachments) == 1
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    assert one.log.attachments == []


async def test_closing_wakes_who_reads() -> None:
    """A reader that is closed from elsewhere ends its iteration at once."""
    one = OneStream()
    async with one.reader() as reader:
        reading = asyncio.create_task(anext(aiter(reader), None))
        await turns()
        reader.close()
        assert await reading is None
        with pytest.raises(StopAsyncIteration):
            await reader.next()


async def test_nothing_behind_the_end() -> None:
    """The outcome is given once."""
    one = OneStream()
    one.log.finish(OUTCOME)
    async with one.reader() as reader:
        assert await reader.next() == OUTCOME
        with pytest.raises(StopAsyncIteration):
            await reader.next()


class Unloaded(OneStream):
    """A stream whose chunks are in the store only."""

    def __init__(self) -> None:
        log = ChunkLog.ended("s", "e", MemoryStore(), Outcome(StreamState.COMPLETE, 2), overhead=0)
        super().__init__(log)
        self.loading = asyncio.get_running_loop().create_future()
        self.loading.add_done_callback(self._fill)
        self.bodies: Sequence[bytes] = [b"a", b"b"]

    def _fill(self, loaded: Future[Any]) -> None:
        if not loaded.cancelled() and loaded.exception() is None and self.bodies:
            self.log.fill(self.bodies, bytes(2))
            asyncio.get_running_loop().call_soon(self._forget)

    def _forget(self) -> None:
        if not self.log.attachments:
            self.log.empty()


async def test_an_answer_that_must_be_read_from_the_store() -> None:
    """Its reader is attached the moment the chunks are there: a turn later memory may be wanted for others."""
    one = Unloaded()
    reading = asyncio.create_task(first_of(one))
    await turns()
    assert one.loading is not None
    one.loading.set_result(None)
    assert contents(await reading) == ["a", "b"]


async def first_of(one: OneStream) -> Any:
    async with one.reader() as reader:
        return await reader.next()


@pytest.mark.parametrize("trouble", ["failed", "gone", "cancelled"])
async def test_an_answer_that_cannot_be_read(trouble: str) -> None:
    """A store that fails is told as such, and nobody stays attached."""
    one = Unloaded()
    one.bodies = []
    entering = asyncio.create_task(one.reader().__aenter__())
    await turns()
    assert one.loading is not None
    if trouble == "failed":
        one.loading.set_exception(StoreError("disk"))
    elif trouble == "gone":
        one.loading.set_result(None)
    else:
        one.loading.cancel()
    with pytest.raises(StoreError):
        await entering
    assert one.log.attachments == []


async def test_giving_up_while_the_store_reads() -> None:
    """A request that leaves before its chunks are there does not cancel the read that others wait for."""
    one = Unloaded()
    entering = asyncio.create_task(one.reader().__aenter__())
    await turns()
    entering.cancel()
    await asyncio.gather(entering, return_exceptions=True)
    assert one.loading is not None
    assert not one.loading.cancelled()
    one.loading.set_result(None)
    await turns()
    assert one.log.attachments == []


async def test_waiting_until_a_stream_is_stored() -> None:
    """A stream may be told of once it is stored; who stops waiting is not disturbed by that."""
    one = OneStream(stored=False)
    waiting = asyncio.create_task(stored(one))
    given_up = asyncio.create_task(stored(one))
    await turns()
    assert not waiting.done()
    given_up.cancel()
    await turns()
    for tell in one.untold:
        tell()
    await waiting
    await stored(OneStream())


async def test_follows_a_stream_of_a_server(serve: Serve) -> None:
    """A reader attached right after the start, and one that comes when all is over, read the same."""
    server = await serve()
    stream = server.streams.start("ses", ChatRequested(request_id="r", message="hi", model="demo:rate=0,tokens=300"))
    texts = []
    for _ in range(2):
        async with LogReader(server.streams, stream) as reader:
            text = ""
            async for item in reader:
                text += "" if isinstance(item, Outcome) else "".join(contents(item))
        texts.append(text)
    assert texts[0] == texts[1] == stream.log.text() != ""
