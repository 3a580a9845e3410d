"""The native messages over HTTP: one response down, one POST after another up."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2 as httpx
import pytest

from tests.answers import begun, until
from tests.conftest import ROOT, SCRIPTED, Serve
from tests.data.scripted import Scripted
from tests.native import connected
from tests.wires.http import Event, Events, browsing, events
from wsstream.frames import text_frame
from wsstream.wires import native_http
from wsstream.wires.native_http import events as as_events

FAST = "demo:rate=0,tokens=40"


class Talk:
    """One connection of a client."""

    def __init__(self, client: httpx.AsyncClient, stream: Events) -> None:
        self.client = client
        self.stream = stream
        self.connection_id = ""

    async def receive(self) -> Event:
        event = await self.stream.next()
        assert event is not None
        return event

    async def until(self, type_: str) -> dict[str, Any]:
        while (event := await self.receive()).data["type"] != type_:
            assert event.name is None
        return dict(event.data)

    async def send(self, *messages: Any) -> httpx.Response:
        body = messages[0] if len(messages) == 1 else list(messages)
        return await self.client.post(f"/api/native/{self.connection_id}", json=body)

    async def read(self, stream_id: str, after: int = 0) -> tuple[str, dict[str, Any]]:
        """Read a stream to its end, acknowledging everything."""
        text = ""
        while True:
            message = (await self.receive()).data
            if message["type"] in ("content_chunk", "chunk_batch"):
                first = message.get("first_chunk_id") or message["chunk_id"]
                after_ = message.get("last_chunk_id") or message["chunk_id"]
                assert first == after + 1
                after = after_
                text += message["content"]
                await self.send({"type": "chunk_ack", "stream_id": stream_id, "chunk_id": after})
            elif message["type"] == "stream_complete":
                return text, message


@asynccontextmanager
async def talking(client: httpx.AsyncClient, *first: Any) -> AsyncIterator[Talk]:
    opening = list(first) or {"type": "hello"}
    async with events(client, "POST", "/api/native", json=opening) as stream:
        talk = Talk(client, stream)
        if stream.response.status_code == 200:
            established = await talk.receive()
            assert established.data["type"] == "connection_established"
            talk.connection_id = established.data["connection_id"]
        yield talk


async def test_a_conversation(serve: Serve) -> None:
    """Everything of the native wire is there: a request, its chunks behind a window that acks move, and its end."""
    async with browsing(await serve(window=5)) as client, talking(client) as talk:
        assert talk.stream.response.headers["x-accel-buffering"] == "no"
        ask = {"type": "chat_request", "request_id": "r", "message": "hi", "model": FAST}
        assert (await talk.send(ask)).status_code == 204
        started = await talk.until("stream_start")
        text, end = await talk.read(started["stream_id"])
    assert len(text.split()) == 40
    assert end["final_chunk_id"] == 40


async def test_the_window_holds(serve: Serve) -> None:
    """Without acks a window of chunks comes and no more."""
    server = await serve(window=5)
    ask = {"type": "chat_request", "request_id": "r", "message": "hi", "model": FAST}
    async with browsing(server) as client, talking(client, {"type": "hello", "batch": False}, ask) as talk:
        started = await talk.until("stream_start")
        for n in range(1, 6):
            assert (await talk.until("content_chunk"))["chunk_id"] == n
        await talk.send({"type": "heartbeat", "timestamp": "mark"})
        while (message := (await talk.receive()).data)["type"] != "heartbeat_ack":
            assert message["type"] == "heartbeat"
        await talk.send({"type": "chunk_ack", "chunk_id": 1, "stream_id": started["stream_id"]})
        assert (await talk.until("content_chunk"))["chunk_id"] == 6


async def test_going_on_from_a_socket(serve: Serve, scripted: Scripted) -> None:
    """What began on a WebSocket goes on here, and the same rules say from where."""
    server = await serve(provider=SCRIPTED)
    async with connected(server, session_id="s") as native:
        stream_id, run = await begun(native, scripted)
        run.put("a", "b", "c")
        await native.read(stream_id, to=2)
    run.put("d")
    run.finish()
    resume = {"type": "resume_stream", "stream_id": stream_id, "last_chunk_id": 2}
    hello = {"type": "hello", "session_id": "s"}
    async with browsing(server) as client, talking(client, hello, resume) as talk:
        await talk.until("stream_resumed")
        assert (await talk.read(stream_id, 2))[0] == "cd"


async def test_other_tabs_are_told(serve: Serve) -> None:
    """Connections of both kinds hear of each other's answers."""
    server = await serve()
    async with (
        browsing(server) as client,
        talking(client, {"type": "hello", "session_id": "s"}) as talk,
        connected(server, session_id="s") as native,
    ):
        stream_id = await native.ask(model=FAST)
        assert (await talk.until("session_changed"))["stream_id"] == stream_id


async def test_closing_the_response_closes_the_connection(serve: Serve, scripted: Scripted) -> None:
    """Nothing is left of it, and its answers are without their viewer."""
    server = await serve(provider=SCRIPTED)
    ask = {"type": "chat_request", "request_id": "r", "message": "hi", "session_id": "s"}
    async with browsing(server) as client:
        async with talking(client, ask) as talk:
            await talk.until("stream_start")
            log = server.streams.of_session("s")[0].log
            assert len(log.attachments) == 1
            assert len(server.registry) == 1
        await until(lambda: not len(server.registry))
        assert not log.attachments
        assert (await talk.send({"type": "heartbeat"})).status_code == 404


async def test_an_end_is_said_with_its_code(serve: Serve) -> None:
    """An ack for what was never sent closes as on the socket: the last event says so, and the response ends."""
    async with browsing(await serve()) as client, talking(client) as talk:
        await talk.send({"type": "chat_request", "request_id": "r", "message": "hi", "model": FAST})
        stream_id = (await talk.until("stream_start"))["stream_id"]
        await talk.send({"type": "chunk_ack", "stream_id": stream_id, "chunk_id": 1000})
        rest = await talk.stream.rest()
    assert rest[-1].name == "close"
    assert rest[-1].data["code"] == 4400


async def test_a_server_that_leaves(serve: Serve) -> None:
    """A drain is announced, and ends with the code for a restart."""
    server = await serve(drain_timeout=0.05)
    async with browsing(server) as client, talking(client) as talk:
        await talk.send({"type": "heartbeat"})
        draining = asyncio.create_task(server.drain())
        await talk.until("going_away")
        rest = await talk.stream.rest()
        await draining
        assert rest[-1].data["code"] == 1012
        reply = await client.post("/api/native", json={"type": "hello"})
        assert reply.status_code == 503
        assert reply.headers["retry-after"] == "1"


async def test_events_that_are_held_back(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that does not answer the first heartbeat sees nothing: the end, which no proxy holds back, says why."""
    monkeypatch.setattr(native_http, "BUFFER_CHECK", 0.1)
    async with browsing(await serve()) as client, talking(client) as talk:
        rest = await talk.stream.rest()
    assert rest[-1].name == "close"
    assert rest[-1].data == {"code": 1013, "reason": native_http.HELD_BACK}


async def test_who_answers_is_not_suspected(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """One message is enough to show that events arrive."""
    monkeypatch.setattr(native_http, "BUFFER_CHECK", 0.1)
    async with browsing(await serve()) as client, talking(client) as talk:
        await talk.send({"type": "heartbeat_ack"})
        await asyncio.sleep(0.15)
        assert (await talk.send({"type": "heartbeat"})).status_code == 204


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"[]", 400),
        (b"[{}, 1", 400),
        (b'[{"type":"heartbeat"}]' + b" " * 2**20, 413),
        (b"[" + b",".join([b"{}"] * 1025) + b"]", 400),
    ],
)
async def test_bodies_that_are_not_messages(serve: Serve, body: bytes, status: int) -> None:
    """They are refused as a whole, to begin with and later, and disturb nobody."""
    headers = {"Content-Type": "application/json"}
    async with browsing(await serve()) as client, talking(client) as talk:
        for path in ("/api/native", f"/api/native/{talk.connection_id}"):
            assert (await client.post(path, content=body, headers=headers)).status_code == status
        assert (await talk.send({"type": "heartbeat"})).status_code == 204


async def test_messages_are_as_bounded_as_on_the_socket(serve: Serve) -> None:
    """A message larger than the socket would take ends the connection with the same code."""
    server = await serve(max_message_bytes=1000)
    async with browsing(server) as client, talking(client) as talk:
        await talk.send({"type": "chat_request", "request_id": "r", "message": "x" * 1000})
        assert (await talk.stream.rest())[-1].data["code"] == 1009


async def test_strangers(serve: Serve) -> None:
    """A connection can be posted to by who opened it, and looks to others as if there were none."""
    server = await serve()
    async with browsing(server) as client, talking(client) as talk:
        line = server.registry.get(talk.connection_id)
        assert isinstance(line, native_http.EventLine)
        line.opened_by = "somebody else"
        stranger = await talk.send({"type": "heartbeat"})
        nobody = await client.post("/api/native/c_nothing", json={"type": "heartbeat"})
        assert stranger.status_code == nobody.status_code == 404
        assert stranger.content == nobody.content


async def test_a_message_whose_connection_ends_while_it_comes(serve: Serve) -> None:
    """Whoever posts it is told that there is no such connection, and not that it was taken."""
    server = await serve()
    async with browsing(server) as client, talking(client) as talk:

        async def slowly() -> AsyncIterator[bytes]:
            yield b'{"type":'
            server.registry.close_all()
            await until(lambda: not len(server.registry))
            yield b'"heartbeat"}'

        address = f"/api/native/{talk.connection_id}"
        reply = await client.post(address, content=slowly(), headers={"Content-Type": "application/json"})
        assert reply.status_code == 404


async def test_sockets_cannot_be_posted_to(serve: Serve) -> None:
    """The id of a WebSocket connection is no address here."""
    server = await serve()
    async with browsing(server) as client, connected(server, greet=False) as native:
        connection_id = (await native.hello())["connection_id"]
        reply = await client.post(f"/api/native/{connection_id}", json={"type": "heartbeat"})
    assert reply.status_code == 404


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed here")
async def test_the_browser_client_speaks_it(serve: Serve) -> None:
    """The project's own client, its WebSocket taken away, reads an answer here and resumes one that was cut."""
    server = await serve()
    script = ROOT / "tests" / "wires" / "browser_client.mjs"
    process = await asyncio.create_subprocess_exec(
        "node", str(script), server.url, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(30):
        output, _ = await process.communicate()
    assert output.decode() == "ok\n"


@pytest.mark.parametrize("size", [1, 125, 126, 65535, 65536])
def test_frames_become_events(size: int) -> None:
    """Frames of every length are taken apart rightly, several in a row."""
    messages = [b"x" * size, b"y"]
    assert as_events(b"".join(map(text_frame, messages))) == [b"data: %b\n\n" % message for message in messages]


@pytest.mark.parametrize(("lists", "goes_on"), [(5, True), (6, False), (50, False)])
async def test_max_list_bytes(serve: Serve, lists: int, *, goes_on: bool) -> None:
    """What one read asks for is told until it is more than may be: four lists and one; who asks for more is closed."""
    size = len(text_frame(b'{"type":"stream_list","streams":[]}'))
    server = await serve(max_list_bytes=4 * size)
    async with browsing(server) as client, talking(client) as talk:
        await talk.send(*[{"type": "list_streams"}] * lists)
        if goes_on:
            for _ in range(lists):
                await talk.until("stream_list")
        else:
            while (event := await talk.receive()).name != "close":
                pass
            assert event.data["code"] == 1008
            assert server.rejections.statistics()["messages"] == 1
