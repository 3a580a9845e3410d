"""Ended answers are kept for a while, in the store and in memory."""

from __future__ import annotations

import asyncio
import gc

import pytest

from tests.house import DurableStore, House, house
from tests.virtual import in_virtual_time, turns
from wsstream.chunklog import ChunkLog
from wsstream.chunks import ChatRequest
from wsstream.errors import (
    ContentFiltered,
    LogTrimmed,
    StoreError,
)
from wsstream.frames import FrameBook
from wsstream.producer import Producer
from wsstream.streams import Stream


def _alive() -> list[object]:
    """What answers consist of, as far as it is in memory."""
    return [it for it in gc.get_objects() if type(it) in (Producer, ChunkLog, Stream, ChatRequest)]


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
async def test_beyond_the_limit_a_log_leaves_with_its_last_viewer() -> None:
    """What was followed when it should have left memory leaves it with its viewer, not when something else ends."""
    async with house(store=DurableStore(), max_memory_bytes=3000) as h:
        h.provider.text = "x" * 2000
        streams = [await h.ended("0")]
        for n in range(1, 3):
            stream = await h.start(str(n))
            h.view(stream)
            await h.provider.end()
            streams.append(stream)
        second, third = streams[1:]
        assert [stream.log.loaded for stream in streams] == [False, True, True]
        second.log.detach(second.log.attachments[0])
        assert [stream.log.loaded for stream in streams] == [False, False, True]
        third.log.detach(third.log.attachments[0])
        assert third.log.loaded  # it fits
        assert h.streams.statistics().memory_bytes == third.log.weight
        assert await _is_kept(h, second)


@in_virtual_time
async def test_a_log_read_back_waits_for_all_who_asked() -> None:
    """Who takes a log and leaves at once does not take it from those who asked for it in the same moment."""
    store = DurableStore()
    async with house(store=store, max_memory_bytes=1) as h:
        stream, followed = await h.ended("0"), await h.start("1")
        viewer = h.view(followed)
        await h.provider.end()
        found: list[bool] = []
        loading = h.streams.load(stream)
        assert loading is not None
        for _ in range(2):
            loading.add_done_callback(lambda _: found.append(stream.log.loaded))
            loading.add_done_callback(lambda _: stream.log.detach(h.view(stream)))
        await store.answer()
        assert found == [True, True]
        assert not stream.log.loaded
        followed.log.detach(viewer)


@pytest.mark.parametrize("way", ["ended", "cancelled", "failed", "followed"])
@in_virtual_time
async def test_a_forgotten_answer_does_not_wait_for_the_collector(way: str) -> None:
    """When nobody can ask for it any more, its log and conversation go, however it ended and whoever followed it."""
    gc.collect()
    gc.disable()
    before = len(_alive())
    try:
        async with house(max_retained=1) as h:
            stream = await h.start("0")
            viewer = h.view(stream)
            FrameBook.of(stream.log)
            if way == "cancelled":
                h.streams.cancel(stream)
            elif way == "failed":
                h.provider._ends[-1].set_exception(ContentFiltered())
            else:
                await h.provider.end()
            await turns()
            if way != "followed":
                stream.log.detach(viewer)
            other = await h.ended("1")
            if way == "followed":
                assert stream.log.chunks(1, 1)[0].content == "x"
                stream.log.detach(viewer)
            h.provider.requests.clear()
            h.provider._ends.clear()
            del viewer, stream
            await turns()
            assert len(_alive()) == before + len((other, other.log))
    finally:
        gc.enable()


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
