"""One answer, as its one consumer reads it."""

from __future__ import annotations

import asyncio
import gc
import json

import pytest
from websockets.asyncio.server import ServerConnection

from tests.client.serving import (
    ENDLESS,
    ESTABLISHED,
    FAST,
    PACED,
    connect,
    logged_text,
    proxied,
    read,
    scripted_server,
    serving,
    started,
    talking,
    until,
    url_of,
)
from tests.proxy import Proxy
from wsstream.chunks import ChatMessage, StreamState
from wsstream.client import ClientState
from wsstream.errors import LocalError


async def test_messages_and_kinds() -> None:
    """A conversation goes as a list; plain iteration yields text alone, pieces() everything."""
    async with serving(provider="tests.client.serving:scripted") as server, connect(url_of(server)) as client:
        messages = [{"role": "user", "content": "a"}, ChatMessage("assistant", "b"), {"role": "user", "content": "c"}]
        assert await read(await client.chat(messages)) == "3 messages: c"
        stream = await client.chat("d", config={"temperature": 0.5})
        pieces = [piece async for piece in stream.pieces()]
        assert (pieces[0].kind, pieces[0].content) == ("reasoning", "thinking")
        assert stream.text == "3 messages: d", "a text alone continues the conversation"


async def test_cancel() -> None:
    """A cancelled answer ends its iteration normally, and its outcome says so."""
    async with talking() as (server, client):
        stream = await client.chat("hello", model=ENDLESS)
        async for _ in stream:
            await stream.cancel()
        assert stream.outcome is not None
        assert stream.outcome.state is StreamState.CANCELLED
        assert stream.outcome.receipt is not None
        assert stream.text == logged_text(server, stream.stream_id)[: len(stream.text)] != ""


async def test_cancel_while_disconnected() -> None:
    """A cancel that finds no connection is said on the next one."""
    async with proxied(tries=1000) as (_, proxy, client):
        stream = await client.chat("hello", model=ENDLESS)
        await anext(stream)
        proxy.refuse()
        proxy.cut()
        await until(lambda: client.state is not ClientState.CONNECTED)
        await stream.cancel()
        proxy.accept()
        await read(stream)
        assert stream.outcome is not None
        assert stream.outcome.state is StreamState.CANCELLED


async def test_nothing_is_acknowledged_unread() -> None:
    """Chunks that nobody takes are not acknowledged, and the server stops at the window."""
    async with talking(window=10) as (server, client):
        stream = await client.chat("hello", model=FAST)
        await until(lambda: client.statistics().unprocessed == 10)
        await asyncio.sleep(0.03)
        log = server.streams.get(stream.stream_id).log
        assert client.statistics().unprocessed == 10
        assert [attachment.window.acked for attachment in log.attachments] == [0]
        assert await read(stream) == logged_text(server, stream.stream_id)


async def test_slow_consumer_is_bounded() -> None:
    """However fast the provider, what is received and not processed never exceeds the window."""
    async with talking(window=16, adaptive=False) as (server, client):
        stream = await client.chat("hello", model=FAST)
        most = 0
        async for _ in stream:
            await asyncio.sleep(0.001)
            most = max(most, client.statistics().unprocessed)
        assert 0 < most <= 16
        assert stream.text == logged_text(server, stream.stream_id)


async def test_last_chunks_are_acknowledged() -> None:
    """When an answer was read to its end, the client owes the server no ack: not even when it leaves at once."""
    async with serving() as server:
        async with Proxy(server.port) as proxy, connect(proxy.url) as client:
            acked: list[int] = []
            stream = await client.chat("hello", model="demo:rate=100,tokens=3")
            attachment = server.streams.get(stream.stream_id).log.attachments[0]
            await read(stream)
            await client.close()
            acked.append(attachment.window.acked)
        assert acked == [3]


async def test_dropped_stream_goes_on_for_others() -> None:
    """Leaving an iteration neither cancels the answer nor holds it up."""
    async with serving(high_water=100, low_water=50) as server, connect(url_of(server), window=20) as client:
        async for _ in await client.chat("hello", model=FAST):
            break
        gc.collect()
        stream = server.streams.of_session(client.session_id or "")[0]
        await until(lambda: stream.log.outcome is not None)
        assert stream.log.state is StreamState.COMPLETE
        await until(lambda: not stream.log.attachments)
        assert client.statistics().streams == 0


async def test_closed_stream() -> None:
    """A closed stream is read no further, and other streams of its client are untouched."""
    async with talking() as (server, client):
        closed, other = await client.chat("a", model=PACED), await client.chat("b", model=PACED)
        await anext(closed)
        await closed.aclose()
        await closed.aclose()
        with pytest.raises(LocalError):
            await anext(closed)
        assert await read(other) == logged_text(server, other.stream_id)


async def test_chat_that_is_given_up_is_cancelled() -> None:
    """An answer whose chat() was cancelled before it began is cancelled at the server too."""
    async with proxied() as (server, proxy, client):
        proxy.freeze()
        asking = asyncio.create_task(client.chat("hello", model=ENDLESS))
        await asyncio.sleep(0.01)
        asking.cancel()
        await asyncio.wait([asking])
        proxy.thaw()
        await until(lambda: server.streams.of_session(client.session_id or ""))
        log = server.streams.of_session(client.session_id or "")[0].log
        await until(lambda: log.state is StreamState.CANCELLED)


async def test_rewind_corrects_the_text() -> None:
    """Withdrawn text is no longer in text; pieces() shows where it was withdrawn."""

    async def answer(connection: ServerConnection) -> None:
        await connection.send(ESTABLISHED)
        await connection.send(started(await connection.recv()))
        for message in (
            '{"type":"content_chunk","stream_id":"s","chunk_id":1,"content":"A"}',
            '{"type":"chunk_batch","stream_id":"s","first_chunk_id":2,"last_chunk_id":4,"content":"BCD"}',
            '{"type":"stream_rewind","stream_id":"s","chunk_id":5,"to_chunk_id":1,"reason":"retry"}',
            '{"type":"content_chunk","stream_id":"s","chunk_id":6,"content":"E"}',
            '{"type":"stream_complete","stream_id":"s","final_chunk_id":6,"finish_reason":"stop"}',
        ):
            await connection.send(message)
        await connection.wait_closed()

    async with scripted_server(answer) as url, connect(url) as client:
        stream = await client.chat("hello")
        kinds = [(piece.kind, piece.content, piece.to) async for piece in stream.pieces()]
        assert kinds == [("text", "A", None), ("text", "BCD", None), ("rewind", "", 1), ("text", "E", None)]
        assert stream.text == "AE"


async def test_rewind_into_a_batch_cuts_it() -> None:
    """A batch of which a part is withdrawn is cut where the rewind says, and again further back by the next one."""

    async def answer(connection: ServerConnection) -> None:
        await connection.send(ESTABLISHED)
        await connection.send(started(await connection.recv()))
        for message in (
            '{"type":"chunk_batch","stream_id":"s","first_chunk_id":1,"last_chunk_id":4,"content":"A😀BCD"}',
            '{"type":"content_chunk","stream_id":"s","chunk_id":5,"content":"EF"}',
            '{"type":"stream_rewind","stream_id":"s","chunk_id":6,"to_chunk_id":3,"reason":"retry","withdrawn":3}',
            '{"type":"stream_rewind","stream_id":"s","chunk_id":7,"to_chunk_id":1,"reason":"retry","withdrawn":3}',
            '{"type":"content_chunk","stream_id":"s","chunk_id":8,"content":"!"}',
            '{"type":"stream_complete","stream_id":"s","final_chunk_id":8,"finish_reason":"stop","retry_count":1,'
            '"model":"m"}',
        ):
            await connection.send(message)
        await connection.wait_closed()

    async with scripted_server(answer) as url, connect(url) as client:
        stream = await client.chat("hello")
        texts = [stream.text async for _ in stream.pieces()]
        assert texts == ["A😀BCD", "A😀BCDEF", "A😀BC", "A", "A!"]
        assert stream.outcome is not None
        assert (stream.outcome.retry_count, stream.outcome.model) == (1, "m")


@pytest.mark.parametrize("every", [0, 3600])
async def test_objects_that_are_not_complete(every: float) -> None:
    """While JSON streams in, what there is of it can be had, as often as is wished, and in the end in any case."""

    async def answer(connection: ServerConnection) -> None:
        await connection.send(ESTABLISHED)
        await connection.send(started(await connection.recv()))
        for number, text in enumerate(['{"a": {"b"', ': [1, {"c": "x', 'y"}]}', "}"], 1):
            chunk = {"type": "content_chunk", "stream_id": "s", "chunk_id": number, "content": text}
            await connection.send(json.dumps(chunk))
        await connection.send(
            '{"type":"stream_complete","stream_id":"s","final_chunk_id":4,"finish_reason":"stop","parsed":{"a":1}}'
        )
        await connection.wait_closed()

    async with scripted_server(answer) as url, connect(url) as client:
        stream = await client.chat("hello")
        assert stream.partial() is None
        seen = [found async for found in stream.partials(every)]
        objects = [{"a": {}}, {"a": {"b": [1, {"c": "x"}]}}, {"a": {"b": [1, {"c": "xy"}]}}]
        assert seen == (objects if not every else [objects[0], objects[2]])
        assert stream.partial() is stream.partial()
        assert stream.outcome is not None
        assert stream.outcome.parsed == {"a": 1}


async def test_rewind_into_a_batch() -> None:
    """Where a batch would have to be cut to withdraw a part of it, the part that stays is fetched once more."""

    async def answer(connection: ServerConnection) -> None:
        await connection.send(ESTABLISHED)
        await connection.send(started(await connection.recv()))
        for message in (
            '{"type":"chunk_batch","stream_id":"s","first_chunk_id":1,"last_chunk_id":4,"content":"ABCD"}',
            '{"type":"stream_rewind","stream_id":"s","chunk_id":5,"to_chunk_id":2,"reason":"retry"}',
        ):
            await connection.send(message)
        asked = json.loads(await connection.recv())
        while asked["type"] != "resume_stream":
            asked = json.loads(await connection.recv())
        assert (asked["last_chunk_id"], asked["window"]) == (0, 2)
        for message in (
            '{"type":"stream_resumed","stream_id":"s","last_chunk_id":0,"tail_chunk_id":5,'
            '"epoch":"e","state":"running","window":2}',
            '{"type":"chunk_batch","stream_id":"s","first_chunk_id":1,"last_chunk_id":2,"content":"AB"}',
            '{"type":"chunk_batch","stream_id":"s","first_chunk_id":3,"last_chunk_id":4,"content":"CD"}',
            '{"type":"stream_rewind","stream_id":"s","chunk_id":5,"to_chunk_id":2,"reason":"retry"}',
            '{"type":"stream_complete","stream_id":"s","final_chunk_id":5,"finish_reason":"stop"}',
        ):
            await connection.send(message)
        await connection.wait_closed()

    async with scripted_server(answer) as url, connect(url) as client:
        stream = await client.chat("hello")
        await read(stream)
        assert stream.text == "AB"
