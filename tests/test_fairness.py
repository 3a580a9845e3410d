"""Streams that share one connection: each gets the same bytes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.conftest import SCRIPTED, Serve
from tests.data.scripted import Scripted
from tests.house import House, house
from tests.native import Message, connected
from tests.virtual import in_virtual_time, turns
from wsstream.chunklog import ChunkLog
from wsstream.chunks import Delta
from wsstream.config import Config
from wsstream.frames import payloads
from wsstream.registry import Registry
from wsstream.wires.base import OpenGate
from wsstream.wires.hub import Hub
from wsstream.wires.native import Dialogue
from wsstream.wires.outlet import CALM, GATHER, MAX_GATHER, SHORT_SLICE, WRITE_SLICE

WIDE = {"max_window": 1_000_000, "max_window_bytes": 1 << 30, "high_water": 1_000_000, "low_water": 1}
SLACK = 3 * WRITE_SLICE
"""What may be between two streams: a slice each, and a chunk."""


def weight(message: Message) -> int:
    """Its bytes, those around the content too: of short turns, they are a good part."""
    return len(json.dumps(message, separators=(",", ":")))


async def test_streams_that_wait_get_the_same_bytes(serve: Serve, scripted: Scripted) -> None:
    """Whatever waits in three logs for a connection that did not read goes out in equal shares."""
    server = await serve(provider=SCRIPTED, **WIDE)
    async with connected(server, window=1_000_000, window_bytes=1 << 30) as native:
        ids, runs = [], []
        for _ in range(3):
            ids.append(await native.ask())
            runs.append(scripted.last)
        native.socket.transport.pause_reading()
        await asyncio.sleep(0.05)
        for run, text, count in zip(runs, ("a" * 20, "b" * 900, "c" * 12_000), (50_000, 1200, 90), strict=True):
            run.put(*[text] * count)
        await asyncio.sleep(0.3)
        native.socket.transport.resume_reading()
        sent = dict.fromkeys(ids, 0)
        gaps = []
        while min(sent.values()) < 700_000:
            message = await native.receive()
            if message["type"] in ("content_chunk", "chunk_batch"):
                sent[message["stream_id"]] += weight(message)
                if min(sent.values()) > 300_000:  # before that, the first may have begun alone
                    gaps.append(max(sent.values()) - min(sent.values()))
        assert gaps
        assert max(gaps) - min(gaps) <= SLACK
        assert len(native.seen) < 2000


class Line:
    """Where a dialogue writes to; ``full``: each write is one too many."""

    def __init__(self) -> None:
        self.connection_id = "c_1"
        self.paused = False
        self.full = False
        self.short: list[bool] = []
        self.written: list[bytes] = []

    session_key = access = None

    def write(self, data: bytes) -> None:
        """Keep it."""
        self.written.append(data)
        self.paused = self.full

    def write_anyway(self, data: bytes) -> None:
        """Not of interest."""

    def keep_short(self, short: bool) -> None:
        """Keep it."""
        self.short.append(short)

    def take(self) -> list[dict[str, Any]]:
        """The messages written since the last time."""
        data, self.written = b"".join(self.written), []
        return [json.loads(payload) for payload in payloads(data)]


class Talk:
    """A dialogue that follows two streams."""

    def __init__(self, house: House, dialogue: Dialogue, line: Line, logs: list[ChunkLog]) -> None:
        self.dialogue = dialogue
        self.line = line
        self.fast, self.slow = logs
        self.house = house

    def read(self) -> None:
        """The client takes what is under way."""
        self.line.paused = False
        self.dialogue.on_unpaused()

    async def fall_behind(self) -> None:
        """Be paused once, and read again."""
        self.line.full = True
        self.fast.append([Delta("x")])
        self.line.full = False
        self.read()
        await asyncio.sleep(MAX_GATHER)
        await turns()
        self.line.take()


@asynccontextmanager
async def talk(window: int = 10_000) -> AsyncIterator[Talk]:
    """Two answers, not begun, on one connection."""
    config = Config(store="memory:", max_window=window, max_window_bytes=1 << 30)
    async with house() as it:
        hub = Hub(asyncio.get_running_loop(), config.protocol(), OpenGate(it.streams), Registry(10))
        line = Line()
        dialogue = Dialogue(hub, line, batch=True)  # type: ignore[arg-type]
        hello = {"type": "hello", "session_id": "ses", "window": window, "window_bytes": 1 << 30}
        asks = [{"type": "chat_request", "request_id": name, "message": "hi"} for name in ("fast", "slow")]
        for message in (hello, *asks):
            dialogue.receive(json.dumps(message).encode())
            dialogue.carry_out()
            await turns()
        line.take()
        yield Talk(it, dialogue, line, [attachment.log for attachment in dialogue.attachments.values()])
        dialogue.end()
        hub.wheel.close()


@in_virtual_time
async def test_streams_that_keep_up_do_not_wait_for_each_other() -> None:
    """Where the client reads, each chunk of either stream is written in the turn of the loop in which it came."""
    async with talk() as t:
        for log in (t.fast, t.slow, t.fast):
            await asyncio.sleep(0.01)
            log.append([Delta("x")])
            await turns()
            assert len(t.line.take()) == 1


@in_virtual_time
async def test_a_turn_is_short_while_the_client_is_behind() -> None:
    """What a slow client takes at a time is a little of each stream, however much of one there is."""
    async with talk() as t:
        await t.fall_behind()
        t.line.full = True
        t.fast.append([Delta("word ")] * 5000)
        t.slow.append([Delta("word ")] * 5000)
        sent: dict[str, int] = dict.fromkeys((t.fast.stream_id, t.slow.stream_id), 0)
        await asyncio.sleep(MAX_GATHER)
        while messages := t.line.take():
            for message in messages:
                sent[message["stream_id"]] += len(message["content"])
            assert sum(len(message["content"]) for message in messages) <= SHORT_SLICE
            assert max(sent.values()) - min(sent.values()) <= SHORT_SLICE
            t.read()
            await turns()
        assert set(sent.values()) == {25_000}


@in_virtual_time
async def test_who_was_behind_is_sent_gathered_chunks_for_a_while() -> None:
    """Chunks are joined for a moment, so that small frames do not fill the socket anew, until all was well for long."""
    async with talk() as t:
        await t.fall_behind()
        t.fast.append([Delta("a")])
        t.fast.append([Delta("b")])
        await turns()
        assert t.line.take() == []
        await asyncio.sleep(GATHER)
        await turns()
        assert [message["content"] for message in t.line.take()] == ["ab"]
        for _ in range(CALM):
            t.fast.append([Delta("x")])
            await asyncio.sleep(GATHER)
            await turns()
        t.line.take()
        t.fast.append([Delta("c")])
        await turns()
        assert [message["content"] for message in t.line.take()] == ["c"]


@in_virtual_time
async def test_who_falls_behind_again_gathers_longer() -> None:
    """A second pause doubles the time for which chunks are joined, and it grows no further."""
    async with talk() as t:
        for _ in range(4):
            await t.fall_behind()
        t.fast.append([Delta("a")])
        await asyncio.sleep(GATHER * 1.5)
        assert t.line.take() == []
        await asyncio.sleep(MAX_GATHER - GATHER * 1.5)
        await turns()
        assert [message["content"] for message in t.line.take()] == ["a"]


@in_virtual_time
async def test_control_does_not_wait_for_what_is_gathered() -> None:
    """A chunk that waits for company does not hold up what the server has to say, and goes with it."""
    async with talk() as t:
        await t.fall_behind()
        t.fast.append([Delta("a")])
        t.dialogue.receive(b'{"type":"list_streams"}')
        t.dialogue.carry_out()
        await turns()
        assert [message["content"] for message in t.line.take()] == ["a"]


@in_virtual_time
async def test_only_streams_that_share_have_short_queues() -> None:
    """The queue below is kept short from the second stream on, and as usual when one is left alone."""
    async with talk() as t:
        assert t.line.short == [True]
        await t.fall_behind()
        await t.house.provider.end()
        await asyncio.sleep(MAX_GATHER)
        await turns()
        assert t.line.short == [True, False]
        t.line.take()
        (left,) = t.dialogue.attachments.values()
        left.log.append([Delta("x")])
        await turns()
        assert len(t.line.take()) == 1
