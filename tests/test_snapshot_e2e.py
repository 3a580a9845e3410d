"""Joining a long answer late on real sockets: what was missed comes in a few large messages, then the live tail."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.answers import answered, begun, until
from tests.conftest import SCRIPTED, Serve
from tests.data.scripted import Run, Scripted
from tests.native import Message, Native, connected
from tests.proxy import Proxy
from wsstream.chunks import Kind
from wsstream.client import connect
from wsstream.server import Server

LONG = 100_000
TEXTS = [f"tök{n % 1000:03} " for n in range(LONG)]
WHOLE = "".join(TEXTS)
MAX_FRAME = 256 * 1024
CHUNKS = ("content_chunk", "chunk_batch", "stream_rewind")


async def long_answer(server: Server, scripted: Scripted) -> tuple[str, Run]:
    """An answer of 100,000 tokens that still runs."""
    async with connected(server) as asker:
        stream_id, run = await begun(asker, scripted)
    run.put(*TEXTS)
    await until(lambda: server.streams.get(stream_id).log.tail == LONG)
    return stream_id, run


def frames(native: Native, stream_id: str) -> list[Message]:
    """The chunk messages that came of a stream."""
    return [message for message in native.seen if message["type"] in CHUNKS and message["stream_id"] == stream_id]


def size(message: Message) -> int:
    """Bytes of the message on the wire."""
    return len(json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode())


async def test_joining_a_long_answer_late(serve: Serve, scripted: Scripted, store: str) -> None:
    """100,000 tokens come in a dozen messages of at most 256 KiB, and then what follows, token by token."""
    server = await serve(provider=SCRIPTED, store=store)
    async with connected(server) as late:
        stream_id, run = await long_answer(server, scripted)
        await late.resume(stream_id, 0, snapshot=True)
        answer = await late.read(stream_id, to=LONG)
        missed = frames(late, stream_id)
        assert len(missed) <= 12
        assert max(size(message) for message in missed) <= MAX_FRAME
        run.put("and ")
        await late.read(stream_id, to=LONG + 1)
        run.put("on")
        run.finish()
        await late.read(stream_id)
        assert answer.text == WHOLE + "and on"
        assert [message["type"] for message in frames(late, stream_id)[-2:]] == ["content_chunk"] * 2


async def test_joining_when_all_is_over(serve: Serve, scripted: Scripted, sqlite: str) -> None:
    """An answer that has ended comes the same way, also after a restart, from any position."""
    server = await serve(provider=SCRIPTED, store=sqlite)
    stream_id, run = await long_answer(server, scripted)
    run.finish()
    await server.streams.wait_idle(1)
    for restart in (False, True):
        if restart:
            await server.stop()
            server = await serve(provider=SCRIPTED, store=sqlite)
        for start in (0, 12_345):
            async with connected(server) as late:
                await late.resume(stream_id, start, snapshot=True)
                answer = await late.read(stream_id)
                assert answer.text == "".join(TEXTS[start:])
                assert (answer.end or {})["final_chunk_id"] == LONG
                assert len(frames(late, stream_id)) <= 12


async def test_nothing_follows_an_unread_snapshot(serve: Serve, scripted: Scripted) -> None:
    """A snapshot is in flight like everything else: until it is acknowledged nothing comes behind it."""
    server = await serve(provider=SCRIPTED)
    async with connected(server) as asker, connected(server) as late:
        stream_id, run = await begun(asker, scripted)
        asker.drop()
        run.put(*["x"] * 500)
        await late.resume(stream_id, 0, snapshot=True)
        await late.read(stream_id, to=500, ack=False)
        run.put("live")
        await late.ack(stream_id, 400)
        await late.round_trip()
        assert late.answer(stream_id).last == 500
        await late.ack(stream_id, 451)
        assert (await late.read(stream_id, to=501)).text == "x" * 500 + "live"


async def test_only_what_was_missed_is_a_snapshot(serve: Serve, scripted: Scripted) -> None:
    """Behind the snapshot the window holds as ever."""
    server = await serve(provider=SCRIPTED)
    async with connected(server) as asker, connected(server, window=5) as late:
        stream_id, run = await begun(asker, scripted)
        asker.drop()
        run.put(*["x"] * 20)
        await late.resume(stream_id, 10, snapshot=True)
        await late.read(stream_id, to=20)
        assert len(frames(late, stream_id)) == 1
        run.put(*["y"] * 20)
        await late.round_trip()
        assert late.answer(stream_id).last == 25


async def test_a_snapshot_of_nothing(serve: Serve, scripted: Scripted) -> None:
    """Whoever has missed nothing gets just what follows."""
    server = await serve(provider=SCRIPTED)
    async with connected(server) as asker, connected(server) as late:
        stream_id, run = await begun(asker, scripted)
        await late.resume(stream_id, 0, snapshot=True)
        run.put("live")
        run.finish()
        assert (await late.read(stream_id)).text == "live"


async def test_a_snapshot_of_several_kinds(serve: Serve, scripted: Scripted) -> None:
    """Reasoning and text do not mix: each run of one kind is a message of its own."""
    server = await serve(provider=SCRIPTED)
    async with connected(server) as asker, connected(server) as late:
        stream_id, run = await begun(asker, scripted)
        asker.drop()
        run.put(*["hm "] * 5000, kind=Kind.REASONING)
        run.put(*["so "] * 5000)
        await late.resume(stream_id, 0, snapshot=True)
        await late.read(stream_id, to=10_000)
        found: list[Any] = [
            (m["first_chunk_id"], m["last_chunk_id"], m.get("kind", "text")) for m in frames(late, stream_id)
        ]
        assert found == [(1, 5000, "reasoning"), (5001, 10_000, "text")]


async def test_huge_chunks_in_a_snapshot(serve: Serve, scripted: Scripted) -> None:
    """However large its chunks, no message of a snapshot is larger than 256 KiB."""
    server = await serve(provider=SCRIPTED)
    async with connected(server) as asker, connected(server) as late:
        stream_id, run = await begun(asker, scripted)
        asker.drop()
        run.put(*['"' * 16_000] * 60, *["é" * 16_000] * 60)
        await late.resume(stream_id, 0, snapshot=True)
        answer = await late.read(stream_id, to=120)
        assert answer.text == '"' * 960_000 + "é" * 960_000
        assert max(size(message) for message in frames(late, stream_id)) <= MAX_FRAME


async def test_who_takes_no_batches_gets_no_snapshot(serve: Serve, scripted: Scripted) -> None:
    """A client that reads chunks one by one is sent them through its window, snapshot or not."""
    server = await serve(provider=SCRIPTED)
    async with connected(server) as asker, connected(server, batch=False) as late:
        stream_id = await answered(asker, scripted, *["x"] * 100)
        await late.resume(stream_id, 0, snapshot=True)
        await late.round_trip()
        assert late.answer(stream_id).last == 50
        await late.ack(stream_id)
        assert (await late.read(stream_id)).last == 100


async def test_many_join_at_once(serve: Serve, scripted: Scripted) -> None:
    """Several who join at once, from different places, all read the same."""
    server = await serve(provider=SCRIPTED)
    stream_id, run = await long_answer(server, scripted)
    async with connected(server) as a, connected(server) as b, connected(server) as c:
        starts = {a: 0, b: 0, c: 99_000}
        for late, start in starts.items():
            await late.resume(stream_id, start, snapshot=True)
        for late, start in starts.items():
            assert (await late.read(stream_id, to=LONG)).text == "".join(TEXTS[start:])
        run.put("live")
        run.finish()
        for late in starts:
            assert (await late.read(stream_id)).text.endswith("live")


@pytest.mark.parametrize("cut_after", [300_000, 700_000])
async def test_the_client_loses_its_connection_in_a_snapshot(serve: Serve, scripted: Scripted, cut_after: int) -> None:
    """The project's client asks for a snapshot after every loss, and reads each token once."""
    server = await serve(provider=SCRIPTED)
    stream_id, run = await long_answer(server, scripted)
    run.finish()
    async with Proxy(server.port) as proxy, connect(proxy.url, random=lambda: 0.0) as client:
        proxy.cut_after(cut_after)
        stream = client.follow(stream_id, snapshot=True)
        pieces = [text async for text in stream]
    assert "".join(pieces) == WHOLE
    assert stream.resumes >= 2
    assert len(pieces) <= 12
