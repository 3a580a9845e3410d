"""The AI SDK's frames at /ai, by a client that knows them only from their description."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode

from tests.answers import until
from tests.conftest import SCRIPTED, Serve
from tests.data.scripted import Scripted
from tests.native import PATIENCE, HasPort, connected
from wsstream.chunks import Kind
from wsstream.errors import Forbidden, ProviderError, RateLimited, Unauthorized
from wsstream.server import Server
from wsstream.wires import aisdk
from wsstream.wires.base import StreamsLike, Visitor

Frame_ = dict[str, Any]


class Client:
    """One socket. Chunks are checked to be numbered from 0 on, each request for itself."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.chunks: dict[str, list[Frame_]] = {}

    async def say(self, type: str, **fields: Any) -> None:
        await self.socket.send(json.dumps({"type": type, **fields}))

    async def send(self, request_id: str = "r", chat: str = "chat", text: str = "hi", **fields: Any) -> None:
        message = {"id": "m1", "role": "user", "parts": [{"type": "text", "text": text}]}
        given = {"trigger": "submit-message", "messages": [message], "headers": {}, "body": {}, **fields}
        await self.say("send", requestId=request_id, id=chat, **given)

    async def resume(self, request_id: str = "again", chat: str = "chat", **fields: Any) -> None:
        await self.say("resume", requestId=request_id, id=chat, **{"headers": {}, "body": {}, **fields})

    async def receive(self) -> Frame_:
        frame: Frame_ = json.loads(await self.socket.recv())
        if frame["type"] == "chunk":
            chunks = self.chunks.setdefault(frame["requestId"], [])
            assert frame["sequence"] == len(chunks)
            chunks.append(frame["chunk"])
        return frame

    async def until(self, type: str, request_id: str = "r") -> Frame_:
        async with asyncio.timeout(PATIENCE):
            while (frame := await self.receive())["type"] != type or frame["requestId"] != request_id:
                pass
        return frame

    async def until_text(self, text: str, request_id: str = "r") -> None:
        async with asyncio.timeout(PATIENCE):
            while self.text(request_id) != text:
                await self.receive()

    def text(self, request_id: str = "r") -> str:
        return "".join(c["delta"] for c in self.chunks.get(request_id, []) if c["type"] == "text-delta")

    async def closed(self) -> int:
        async with asyncio.timeout(PATIENCE):
            try:
                while True:
                    await self.receive()
            except ConnectionClosed:
                return self.socket.close_code or 0


@asynccontextmanager
async def ai(server: HasPort, **options: Any) -> AsyncIterator[Client]:
    async with connect(
        f"ws://127.0.0.1:{server.port}/ai", proxy=None, compression=None, ping_interval=None, max_size=None, **options
    ) as socket:
        yield Client(socket)


async def started(client: Client, scripted: Scripted, **request: Any) -> Any:
    before = len(scripted.runs)
    await client.send(**request)
    await until(lambda: len(scripted.runs) > before)
    return scripted.last


async def test_an_answer(serve: Serve, scripted: Scripted, store: str) -> None:
    """A send is answered by numbered chunks from `start` to `finish`, and an end."""
    async with ai(await serve(provider=SCRIPTED, store=store)) as client:
        run = await started(client, scripted)
        assert [(m.role, m.content) for m in run.request.messages] == [("user", "hi")]
        run.put("hm", kind=Kind.REASONING)
        run.put("one ", "two")
        run.finish()
        await client.until("end")
        types = [chunk["type"] for chunk in client.chunks["r"]]
        assert types[:2] == ["start", "start-step"]
        assert types[-3:] == ["text-end", "finish-step", "finish"]
        assert client.text() == "one two"


async def test_a_resume_from_another_connection(serve: Serve, scripted: Scripted, store: str) -> None:
    """It is told the same chunks by the same numbers, and goes on live; with a number, only what is behind it."""
    server = await serve(provider=SCRIPTED, store=store)
    async with ai(server) as first:
        run = await started(first, scripted)
        run.put("one ", "two ")
        await first.until_text("one two ")
    async with ai(server) as second, ai(server) as third:
        await second.resume()
        assert (await second.receive())["type"] == "start"
        await second.until_text("one two ", "again")
        assert second.chunks["again"] == first.chunks["r"]
        await third.resume(lastSequence=3)
        assert (await third.receive())["type"] == "start"
        assert json.loads(await third.socket.recv())["sequence"] == 4
        run.put("three")
        run.finish()
        await second.until("end", "again")
        assert second.text("again") == "one two three"


async def test_what_can_be_resumed(serve: Serve, scripted: Scripted) -> None:
    """A complete answer is told again, one that was stopped is not, and a chat without answers has none."""
    async with ai(await serve(provider=SCRIPTED)) as client:
        await client.resume("none", "empty")
        assert await client.receive() == {"type": "no-active", "requestId": "none"}
        run = await started(client, scripted)
        run.put("text")
        run.finish()
        await client.until("end")
        await client.resume("whole")
        await client.until("end", "whole")
        assert client.chunks["whole"] == client.chunks["r"]
        await started(client, scripted, request_id="stopped")
        await client.say("abort", requestId="stopped")
        await until(lambda: scripted.last.closed.is_set())
        await client.resume("after")
        assert (await client.until("no-active", "after"))["type"] == "no-active"


async def test_a_failure_that_nobody_saw(serve: Serve, scripted: Scripted) -> None:
    """Whoever was away when an answer failed is told what there was, and that it failed; once."""
    server = await serve(provider=SCRIPTED)
    async with ai(server) as client:
        run = await started(client, scripted)
    await until(lambda: not server.streams.of_session("chat")[0].log.attachments)
    run.put("half")
    run.fail(ProviderError("It broke"))
    async with ai(server) as client:
        await client.resume()
        await client.until("end", "again")
        assert client.text("again") == "half"
        assert client.chunks["again"][-1] == {"type": "error", "errorText": "It broke"}
        await client.resume("once more")
        assert (await client.receive())["type"] == "no-active"


async def test_an_end_that_was_lost_on_its_way(serve: Serve, scripted: Scripted) -> None:
    """Whoever says how far they read an answer is told its end, however it ended and whatever a socket took."""
    async with ai(await serve(provider=SCRIPTED)) as client:
        run = await started(client, scripted, request_id="failed", chat="a")
        run.put("half")
        run.fail(ProviderError("It broke"))
        await client.until("end", "failed")
        await client.resume("rest", "a", lastSequence=2)
        assert (await client.receive())["type"] == "start"
        told = [json.loads(await client.socket.recv()) for _ in range(3)]
        assert [frame.get("sequence") for frame in told] == [3, 4, 5]
        assert [frame["chunk"] for frame in told] == client.chunks["failed"][3:]
        assert told[-1]["chunk"] == {"type": "error", "errorText": "It broke"}
        await client.until("end", "rest")
        await started(client, scripted, request_id="stopped", chat="b")
        await client.say("abort", requestId="stopped")
        await until(lambda: scripted.last.closed.is_set())
        await client.resume("stop", "b", lastSequence=1)
        await client.until("start", "stop")
        assert json.loads(await client.socket.recv())["chunk"]["type"] == "abort"


async def test_an_abort(serve: Serve, scripted: Scripted) -> None:
    """It stops the answer for everybody; the other chat on the socket goes on."""
    async with ai(await serve(provider=SCRIPTED)) as client:
        one = await started(client, scripted, request_id="one", chat="a")
        two = await started(client, scripted, request_id="two", chat="b")
        await client.say("abort", requestId="one")
        await client.say("abort", requestId="unknown")
        await asyncio.wait_for(one.closed.wait(), PATIENCE)
        two.put("text")
        two.finish()
        await client.until("end", "two")
        assert client.text("two") == "text"


async def test_a_second_thought(serve: Serve, scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    """An abort of a fresh resume stops nothing where another resume follows, and does where none does."""
    monkeypatch.setattr(aisdk, "SECOND_THOUGHT", 0.2)
    async with ai(await serve(provider=SCRIPTED)) as client:
        run = await started(client, scripted)
        await client.resume("one")
        await client.say("abort", requestId="one")
        await client.resume("two")
        await client.until("start", "two")
        await asyncio.sleep(0.25)
        assert not run.closed.is_set()
        await client.resume("three")
        await client.say("abort", requestId="three")
        await asyncio.wait_for(run.closed.wait(), PATIENCE)


@pytest.mark.parametrize(
    "data",
    [
        "no json",
        "[]",
        '{"type":"hello"}',
        '{"type":"send"}',
        '{"type":"abort","requestId":5}',
        '"\xff"',
        '{"type":"send","requestId":"r","metadata":' + "[" * 100_000,
    ],
    ids=lambda data: data[:40],
)
async def test_junk(serve: Serve, data: str) -> None:
    """What is no frame of this protocol closes the connection with 1008."""
    async with ai(await serve()) as client:
        await client.socket.send(data)
        assert await client.closed() == 1008


async def test_bytes_that_are_no_text(serve: Serve) -> None:
    """Neither binary messages nor broken UTF-8 are frames."""
    server = await serve()
    async with ai(server) as client:
        await client.socket.send(b"{}")
        assert await client.closed() == 1003
    async with ai(server) as client:
        client.socket.transport.write(
            Frame(Opcode.TEXT, b'{"type":"abort","requestId":"\xff"}', True).serialize(mask=True)
        )
        assert await client.closed() in (1007, 1008)


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "parts": []}]}, "role"),
        ({"messages": [{"role": "user", "parts": [{"type": "text"}]}]}, "text"),
        ({"chat": "no good id!"}, "id"),
        ({"body": {"config": {"provider": "none"}}}, "provider"),
        ({"trigger": "else"}, "trigger"),
        ({"body": {"config": {"temperature": "hot"}}}, "temperature"),
    ],
)
async def test_a_wrong_request_fails_alone(serve: Serve, scripted: Scripted, fields: Any, word: str) -> None:
    """It is told what is wrong with it; others on the socket go on."""
    async with ai(await serve(provider=SCRIPTED)) as client:
        run = await started(client, scripted, request_id="good", chat="other")
        await client.send(**fields)
        assert word in (await client.until("error"))["errorText"]
        run.finish()
        await client.until("end", "good")


async def test_limits(serve: Serve, scripted: Scripted) -> None:
    """A request's name is used once at a time, and a connection follows no more answers than allowed."""
    async with ai(await serve(provider=SCRIPTED, max_streams=2)) as client:
        await started(client, scripted, request_id="one", chat="a")
        await client.send("one", "a")
        assert "in use" in (await client.until("error", "one"))["errorText"]
        await started(client, scripted, request_id="two", chat="b")
        await client.send("three", "c")
        await client.until("error", "three")
        assert len(scripted.runs) == 2


async def test_a_message_that_is_too_large(serve: Serve) -> None:
    """A conversation may be larger than other messages, but not without end."""
    async with ai(await serve(max_ui_message_bytes=200_000)) as client:
        await client.send(
            text="x" * 9000,
            messages=[
                {"role": "user", "parts": [{"type": "text", "text": "x" * 100_000}]},
                {"role": "user", "parts": [{"type": "text", "text": "hi"}]},
            ],
        )
        await client.until("chunk")
        await client.send("large", text="x" * 300_000)
        assert await client.closed() == 1009


async def test_a_client_that_does_not_read(serve: Serve, scripted: Scripted) -> None:
    """The provider is held back by its socket alone, and goes on when it reads."""
    server = await serve(provider=SCRIPTED, high_water=1000)
    async with ai(server, max_queue=1) as client:
        run = await started(client, scripted)
        await until(lambda: server.streams.of_session("chat")[0].log.attachments)
        client.socket.transport.pause_reading()
        for _ in range(3000):
            if run.put("x" * 2000) or not run.sink.has_room():
                break
            await asyncio.sleep(0)
        assert not run.sink.has_room()
        log = server.streams.of_session("chat")[0].log
        put = len(log)
        assert put < 3000
        client.socket.transport.resume_reading()
        run.finish()
        await client.until("end")
        assert len(client.text()) == put * 2000


async def test_pings(serve: Serve) -> None:
    """Life is asked for by pings, as the client knows no other message; one that answers none is closed."""
    server = await serve(heartbeat_interval=0.1, heartbeat_timeout=0.4)
    async with ai(server) as client:
        await until(lambda: client.socket.protocol.reader is not None)
        await asyncio.sleep(0.6)
        await client.resume()
        assert (await client.receive())["type"] == "no-active"
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(
        b"GET /ai HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    await until(lambda: len(server.registry) == 1)
    await until(lambda: len(server.registry) == 0)
    writer.close()


async def test_a_drain(serve: Serve, scripted: Scripted) -> None:
    """What runs is told to its end, nothing new begins, and then the connection closes with 1012."""
    server = await serve(provider=SCRIPTED)
    async with ai(server) as client:
        run = await started(client, scripted)
        draining = asyncio.ensure_future(server.drain())
        await until(lambda: server.registry.draining)
        await client.send("late", "other")
        await client.until("error", "late")
        run.put("text")
        run.finish()
        await client.until("end")
        assert client.text() == "text"
        assert await client.closed() == 1012
        await draining


async def test_other_connections_of_the_chat_are_told(serve: Serve, scripted: Scripted) -> None:
    """A native client in the same session hears of the answer, and can follow it by the same ids."""
    server = await serve(provider=SCRIPTED)
    async with connected(server, session_id="chat") as native, ai(server) as client:
        run = await started(client, scripted)
        told = await native.until("session_changed")
        run.put("text")
        run.finish()
        await native.resume(told["stream_id"], 0)
        assert (await native.read(told["stream_id"])).text == "text"
        await client.until("end")
        assert client.chunks["r"][0]["messageMetadata"]["streamId"] == told["stream_id"]


async def test_it_continues_the_last_message(serve: Serve, scripted: Scripted) -> None:
    """An answer to a tool's result goes on with the assistant's message, whose id it bears."""
    async with ai(await serve(provider=SCRIPTED)) as client:
        tool = {"type": "tool-f", "toolCallId": "c", "state": "output-available", "input": {}, "output": 1}
        run = await started(client, scripted, messages=[{"id": "theirs", "role": "assistant", "parts": [tool]}])
        assert [m.role for m in run.request.messages] == ["assistant", "tool"]
        run.finish()
        await client.until("end")
        assert client.chunks["r"][0]["messageId"] == "theirs"


class StrictGate:
    """Lets in whom it is told to, after a while."""

    def __init__(self, streams: StreamsLike, error: Exception | None) -> None:
        self._streams = streams
        self._error = error
        self.open = asyncio.Event()
        self.seen: Visitor | None = None

    def look_at(self, visitor: Visitor) -> None:
        """Any page will do."""

    async def enter(self, visitor: Visitor) -> StreamsLike:
        self.seen = visitor
        await self.open.wait()
        if self._error is not None:
            raise self._error
        return self._streams


def guard(server: Server, error: Exception | None = None) -> StrictGate:
    gate = StrictGate(server.streams, error)
    server.assembly.hub.gate = gate
    return gate


async def test_the_gate(serve: Serve, scripted: Scripted) -> None:
    """What comes before the gate has decided waits, and the gate sees the headers."""
    server = await serve(provider=SCRIPTED)
    gate = guard(server)
    async with ai(server, additional_headers={"Cookie": "a=b"}) as client:
        await client.send()
        await until(lambda: gate.seen)
        assert gate.seen is not None
        assert gate.seen.headers["cookie"] == "a=b"
        assert not scripted.runs
        gate.open.set()
        await until(lambda: scripted.runs)
        scripted.last.finish()
        await client.until("end")


@pytest.mark.parametrize(
    ("error", "code"), [(Unauthorized(), 3000), (Forbidden(), 3003), (RateLimited(), 1013), (ValueError(), 1011)]
)
async def test_a_closed_gate(serve: Serve, error: Exception, code: int) -> None:
    """Who is not let in is closed with the code that says why."""
    server = await serve()
    guard(server, error).open.set()
    async with ai(server, additional_headers={"Authorization": "Bearer wrong"}) as client:
        assert await client.closed() == code


ALICE = "the-token-of-alice"
BOB = "the-token-of-bob"


@pytest.fixture
def users(tmp_path: Path) -> dict[str, Any]:
    """The settings of a server that knows two users by their tokens."""
    file = tmp_path / "tokens.toml"
    file.write_text(f'[users]\nalice = "{ALICE}"\nbob = "{BOB}"\n')
    return {"provider": SCRIPTED, "tokens_file": str(file)}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def test_too_much_before_the_gate(serve: Serve) -> None:
    """Only so much waits for a gate that is slow."""
    server = await serve(max_early_messages=3)
    guard(server)
    async with ai(server) as client:
        for _ in range(4):
            await client.resume()
        assert await client.closed() == 1008


async def test_a_token_in_a_frame(serve: Serve, scripted: Scripted, users: dict[str, Any]) -> None:
    """A page's token comes with its first frame; what follows needs none, and belongs to the token's user."""
    server = await serve(**users)
    async with ai(server) as client:
        run = await started(client, scripted, headers={"authorization": f"Bearer {ALICE}"})
        run.put("text")
        run.finish()
        await client.until("end")
        await client.resume("mine")
        await client.until("end", "mine")
        assert client.text("mine") == "text"
    async with ai(server) as stranger:
        await stranger.say("resume", requestId="hers", id="chat", headers=bearer(BOB), body={})
        assert (await stranger.receive())["type"] == "no-active"


@pytest.mark.parametrize("headers", [{}, bearer("wrong"), {"Authorization": "Basic eDp5"}])
async def test_a_frame_without_a_good_token(serve: Serve, users: dict[str, Any], headers: dict[str, str]) -> None:
    """The request is told why, in words, before the connection is closed."""
    async with ai(await serve(**users)) as client:
        await client.send(headers=headers)
        assert await client.receive() == {"type": "error", "requestId": "r", "errorText": str(Unauthorized())}
        assert await client.closed() == 3000


async def test_a_page_with_a_token_is_no_failure(serve: Serve, users: dict[str, Any]) -> None:
    """Nobody is asked twice: that the socket itself shows no token is not counted as one that is refused."""
    server = await serve(**users)
    async with ai(server) as client:
        await client.resume(headers=bearer(ALICE))
        await client.until("no-active", "again")
    assert not server.assembly.rejections.statistics().get("unauthorized")


async def test_nobody_waits_for_a_token_for_long(serve: Serve, users: dict[str, Any]) -> None:
    """Who shows nothing and says nothing is closed when the patience for a hello ends."""
    async with ai(await serve(**users, hello_timeout=0.05)) as client:
        assert await client.closed() == 3000


async def test_another_token_in_a_later_frame(serve: Serve, scripted: Scripted, users: dict[str, Any]) -> None:
    """A token of another user, or a bad one, fails with its request alone; the connection stays its user's."""
    async with ai(await serve(**users)) as client:
        await client.resume("first", headers=bearer(ALICE))
        await client.until("no-active", "first")
        for token in (BOB, "wrong"):
            await client.send("no", headers=bearer(token))
            await client.until("error", "no")
        run = await started(client, scripted, headers=bearer(ALICE))
        run.finish()
        await client.until("end")
        assert len(scripted.runs) == 1


async def test_a_token_where_nobody_needs_one(serve: Serve, scripted: Scripted, users: dict[str, Any]) -> None:
    """Where strangers may come in as well, a token in a frame still makes the connection its user's."""
    server = await serve(**users, allow_anonymous=True)
    async with ai(server) as client:
        run = await started(client, scripted, headers=bearer(ALICE))
        run.finish()
        await client.until("end")
        await client.resume("mine", headers=bearer(ALICE))
        assert (await client.receive())["type"] == "start"
    async with ai(server) as stranger:
        await stranger.resume("theirs")
        assert (await stranger.receive())["type"] == "no-active"


async def test_an_id_that_no_chat_may_have(serve: Serve) -> None:
    """The error says in words what an id is made of."""
    async with ai(await serve()) as client:
        await client.send(chat="a chat")
        told = await client.receive()
        assert told["errorText"].endswith("of 1 to 128 ASCII letters, digits and _.:~- - at `$.id`")
