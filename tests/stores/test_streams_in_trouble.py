"""Answers while the disk is in trouble: they fail and say so, the server goes on, and all is well with the disk."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import apsw
import pytest

from tests.conftest import SCRIPTED
from tests.data.scripted import Scripted
from tests.native import connected
from tests.stores.byhand import ByHand
from tests.stores.power import Disk
from tests.virtual import in_virtual_time
from wsstream.chunklog import Attachment
from wsstream.chunks import ChatRequest, Delta, Finish, StreamState
from wsstream.config import Config
from wsstream.errors import LogTrimmed, StoreError
from wsstream.flow import SendWindow
from wsstream.messages import ChatRequested
from wsstream.providers.base import Sink
from wsstream.server import Server
from wsstream.stores.sqlite import RETRY, SqliteStore
from wsstream.streams import Stream, Streams


class Told:
    """A provider that says what the test tells it to."""

    def __init__(self) -> None:
        self.sinks: list[Sink] = []
        self.ends: list[asyncio.Future[Finish]] = []

    async def answer(self, request: ChatRequest, sink: Sink) -> Finish:
        """Wait for the test."""
        self.sinks.append(sink)
        self.ends.append(asyncio.get_running_loop().create_future())
        return await self.ends[-1]

    async def close(self) -> None:
        """Nothing is shared."""


class House:
    """Streams on a disk that does what the test says."""

    def __init__(self, disk: Disk, **settings: Any) -> None:
        self.disk = disk
        self.provider = Told()
        self.store = ByHand("x.db", "power", disk.name)
        self.streams = Streams(Config(**settings), self.store, lambda _: self.provider)
        self._asked = 0

    async def start(self, session: str = "ses") -> Stream:
        """Begin an answer."""
        self._asked += 1
        stream = self.streams.start(session, ChatRequested(request_id=f"r{self._asked}", message="hi"))
        await asyncio.sleep(0.01)
        return stream

    async def say(self, *texts: str, answer: int = -1) -> None:
        """Have the provider say it."""
        self.provider.sinks[answer].put([Delta(text) for text in texts])
        await asyncio.sleep(0.01)

    async def end(self, answer: int = -1) -> None:
        """Have the provider end."""
        self.provider.ends[answer].set_result(Finish())
        await asyncio.sleep(0.01)

    async def ended(self, *texts: str) -> Stream:
        """An answer that has ended well."""
        stream = await self.start()
        await self.say(*texts)
        await self.end()
        return stream

    def view(self, stream: Stream) -> Attachment:
        """Somebody follows it."""
        return self.streams.attach(stream, SendWindow(50, 1 << 20), lambda _: None)

    def break_down(self) -> None:
        """From now on nothing can be written."""
        self.disk.trouble = lambda kind, _: apsw.SQLITE_FULL if kind == "write" else None

    async def mend(self) -> None:
        """All is well again."""
        self.disk.trouble = lambda *_: None
        await asyncio.sleep(3 * RETRY)


@asynccontextmanager
async def house(disk: Disk | None = None, **settings: Any) -> AsyncIterator[House]:
    """A house, closed at the end."""
    it = House(disk or Disk(), **settings)
    await it.streams.open()
    yield it
    await it.streams.close()
    await it.store.close()


@in_virtual_time
async def test_a_running_answer_fails_and_keeps_what_was_seen() -> None:
    """Its viewer gets an internal error that can be recovered from, behind exactly what was stored."""
    disk = Disk()
    async with house(disk) as h:
        stream = await h.start()
        viewer = h.view(stream)
        await h.say("a", "b")
        assert viewer.take(1000) == (1, 2)
        h.break_down()
        await h.say("c", "d")
        await h.say("e")
        outcome = viewer.take_outcome()
        assert outcome is not None
        assert (outcome.state, outcome.error_type, outcome.recoverable) == ("failed", "internal_error", True)
        assert (outcome.final_chunk_id, len(stream.log), stream.log.text()) == (2, 2, "ab")
        assert h.streams.statistics().running == 0
        await h.mend()
        viewer.log.detach(viewer)
    async with house(Disk(disk.copy())) as h:
        again = h.streams.get(stream.stream_id)
        assert again.log.outcome == outcome
        loading = h.streams.load(again)
        assert loading is not None
        await loading
        assert again.log.text() == "ab"
        (_, said), _ = await h.streams.history("ses")
        assert (said.content, said.is_complete) == ("ab", False)


@in_virtual_time
async def test_half_a_character_does_not_outlive_its_answer() -> None:
    """What the producer still holds when its answer fails is not added behind what was stored."""
    async with house() as h:
        stream = await h.start()
        viewer = h.view(stream)
        await h.say("a")
        h.break_down()
        await h.say("b", "\ud83d")
        await asyncio.sleep(RETRY)
        assert (stream.log.tail, len(stream.log)) == (1, 1)
        assert viewer.take(1000) == (1, 1)
        outcome = viewer.take_outcome()
        assert outcome is not None
        assert outcome.final_chunk_id == 1
        await h.mend()


@in_virtual_time
async def test_an_answer_that_only_waited_for_its_end_to_be_stored() -> None:
    """It fails too: nobody was told that it was complete."""
    async with house() as h:
        stream = await h.start()
        viewer = h.view(stream)
        await h.say("a")
        h.break_down()
        await h.end()
        outcome = viewer.take_outcome() if viewer.take(1000) else None
        assert outcome is not None
        assert (outcome.state, outcome.final_chunk_id) == (StreamState.FAILED, 1)
        await h.mend()
        found = await h.store.load(stream.stream_id)
        assert found is not None
        assert found.outcome == outcome


@in_virtual_time
async def test_new_answers_fail_until_the_disk_works_again() -> None:
    """While nothing can be stored they fail and leave nothing behind; afterwards they work, without a restart."""
    async with house() as h:
        kept = await h.ended("kept")
        h.break_down()
        failed = [await h.start() for _ in range(5)]
        await asyncio.sleep(6 * RETRY)
        assert {stream.log.state for stream in failed} == {StreamState.FAILED}
        assert h.store.trouble() is not None
        assert h.streams.get(kept.stream_id).log.text() == "kept"
        await h.mend()
        assert h.store.trouble() is None
        stream = await h.ended("well")
        assert stream.log.state is StreamState.COMPLETE
        messages, _ = await h.streams.history("ses")
        assert [message.content for message in messages] == ["hi", "kept", "hi", "well"]


@in_virtual_time
async def test_an_ended_log_that_cannot_be_read() -> None:
    """Whoever asks is told, and the next who asks may succeed."""
    disk = Disk()
    async with house(disk) as h:
        stream = await h.ended(*["x" * 5000] * 900)
    async with house(Disk(disk.copy())) as h:
        again = h.streams.get(stream.stream_id)
        h.disk.trouble = lambda kind, _: apsw.SQLITE_IOERR_READ if kind == "read" else None
        loading = h.streams.load(again)
        assert loading is not None
        with pytest.raises(StoreError):
            await loading
        h.disk.trouble = lambda *_: None
        loading = h.streams.load(again)
        assert loading is not None
        await loading
        assert len(again.log) == 900


@in_virtual_time
async def test_a_disk_that_hangs_holds_the_provider_back() -> None:
    """What waits to be stored is bounded like what waits to be read, and goes on when the disk does."""
    async with house() as h:
        stream = await h.start()
        h.store.takes = 3600.0
        sink = h.provider.sinks[-1]
        while sink.put([Delta("x")]):
            pass
        assert len(stream.log) <= 1000
        assert stream.log.tail == 0
        await asyncio.sleep(60)
        assert h.store.trouble() is not None
        assert sum(len(group.operations) for group in h.store._groups) <= 1000
        h.store.takes = 0.0
        await asyncio.sleep(8000)
        assert stream.log.tail == len(stream.log)
        assert h.store.trouble() is None


# -- retention, across restarts


@in_virtual_time
async def test_age_counts_across_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer is kept for its time from its end on, however often the server is started meanwhile."""
    offset = 0.0
    started = asyncio.get_running_loop().time()
    monkeypatch.setattr("time.time", lambda: 1e9 + offset + asyncio.get_running_loop().time() - started)
    disk = Disk()
    async with house(disk, retention=100) as h:
        old = await h.ended("old")
        await asyncio.sleep(50)
        new = await h.ended("new")
    offset = 30.0  # for which the server was not running
    async with house(disk := Disk(disk.copy()), retention=100) as h:
        assert h.streams.get(old.stream_id).log.state is StreamState.COMPLETE
        await asyncio.sleep(25)
        with pytest.raises(LogTrimmed):
            h.streams.get(old.stream_id)
        assert h.streams.get(new.stream_id).log.state is StreamState.COMPLETE
    offset = 1000.0
    async with house(Disk(disk.copy()), retention=100) as h:
        with pytest.raises(LogTrimmed):
            h.streams.get(new.stream_id)
        assert await h.store.load(new.stream_id) is None
        assert h.streams.statistics().retained == 0


@in_virtual_time
async def test_the_one_that_ended_first_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a restart too, age is that of the end and not of the beginning."""
    monkeypatch.setattr("time.time", lambda: 1e9 + asyncio.get_running_loop().time())
    disk = Disk()
    async with house(disk) as h:
        long = await h.start()
        await asyncio.sleep(10)
        short = await h.ended("short")
        await asyncio.sleep(10)
        await h.end(0)
    async with house(Disk(disk.copy()), max_retained=1) as h:
        assert h.streams.get(long.stream_id).log.state is StreamState.COMPLETE
        with pytest.raises(LogTrimmed):
            h.streams.get(short.stream_id)


@in_virtual_time
async def test_number_and_size_count_across_restarts() -> None:
    """A server that is to keep less than it has, keeps the newest."""
    disk = Disk()
    async with house(disk) as h:
        ended = [await h.ended("x" * 2000) for _ in range(6)]
    for settings, kept in (({"max_retained": 4}, 4), ({"max_retained_bytes": 5000}, 2)):
        async with house(disk := Disk(disk.copy()), **settings) as h:
            there = [stream.stream_id in h.streams._directory for stream in ended]
            assert there == [False] * (6 - kept) + [True] * kept
            with pytest.raises(LogTrimmed):
                h.streams.get(ended[5 - kept].stream_id)
    async with house(Disk(disk.copy())) as h:
        assert h.streams.statistics().retained == 2


@in_virtual_time
async def test_a_log_larger_than_the_memory_can_be_read() -> None:
    """What is in memory is bounded, but whoever has asked for a log gets it, however large."""
    async with house(max_memory_bytes=1000) as h:
        streams = [await h.ended("x" * 900, "y" * 900) for _ in range(3)]
        assert not any(stream.log.loaded for stream in streams)
        for stream in streams:
            loading = h.streams.load(stream)
            assert loading is not None
            attached: list[Attachment] = []
            loading.add_done_callback(lambda _, it=stream, to=attached: to.append(h.view(it)))  # type: ignore[misc]
            await asyncio.sleep(1)
            assert attached[0].take(10_000) == (1, 2)
            stream.log.detach(attached[0])
        assert sum(stream.log.loaded for stream in streams) <= 1


# -- the real server


async def _health(server: Server) -> str:
    def ask() -> str:
        with urllib.request.urlopen(f"{server.url}healthz") as response:
            return str(json.load(response)["status"])

    return await asyncio.to_thread(ask)


async def test_the_server_stays_up(scripted: Scripted, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On a disk that is full the answer fails, health says degraded, and with room again all works on."""
    monkeypatch.setattr("wsstream.stores.sqlite.RETRY", 0.02)
    disk = Disk()
    monkeypatch.setattr("wsstream.assembly.open_store", lambda *_: SqliteStore("x.db", "process", disk.name))
    async with Server(Config(port=0, provider=SCRIPTED, listeners=1)).running() as server, connected(server) as native:
        stream_id = await native.ask()
        await native.round_trip()
        scripted.last.put("seen ")
        await native.read(stream_id, to=1)
        disk.trouble = lambda kind, _: apsw.SQLITE_FULL if kind == "write" else None
        scripted.last.put("lost")
        answer = await native.read(stream_id)
        assert answer.text == "seen "
        assert answer.end is not None
        assert (answer.end["type"], answer.end["error_type"]) == ("stream_error", "internal_error")
        assert (answer.end["recoverable"], answer.end["last_chunk_id"]) == (True, 1)
        assert await _health(server) == "degraded"
        disk.trouble = lambda *_: None
        for _ in range(200):
            await asyncio.sleep(0.01)
            if await _health(server) == "ok":
                break
        stream_id = await native.ask()
        await native.round_trip()
        scripted.last.put("well")
        scripted.last.finish()
        answer = await native.read(stream_id)
        assert answer.end is not None
        assert (answer.text, answer.end["type"]) == ("well", "stream_complete")


@pytest.mark.parametrize(("more", "kept"), [(0, True), (1, False), (2 * 9, False)])
@in_virtual_time
async def test_max_retained_bytes(more: int, *, kept: bool) -> None:
    """Ended answers are kept up to so many bytes; with one answer more, or ten times as many, the first is gone."""
    async with house(Disk()) as h:
        await h.ended("x" * 1000)
        weight = h.streams.statistics().retained_bytes
    async with house(Disk(), max_retained_bytes=2 * weight) as h:
        ended = [await h.ended("x" * 1000) for _ in range(2 + more)]
        assert h.streams.statistics().retained == 2
        if kept:
            assert h.streams.get(ended[0].stream_id) is ended[0]
        else:
            with pytest.raises(LogTrimmed):
                h.streams.get(ended[0].stream_id)
