"""The clients of a soak, kind by kind. Each asks, reads to some end, and holds what it got against the plan.

A lost connection is nothing special to any of them: they come back as their wire has it, for as long as it takes; a
watch in the world ends a visit that takes too long, which is a violation.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Protocol

import httpx2
import openai
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException
from websockets.typing import Subprotocol

import wsstream.client
from tests.soak.answers import Plan
from tests.soak.book import FAILED, OVER, Book, Reading, Told
from wsstream.errors import ConnectionFailed, RequestError, StreamFailure

Message = dict[str, Any]

LOST = (OSError, WebSocketException, httpx2.TransportError, httpx2.StreamError, EOFError)
"""What a restart of the server looks like."""
VISITS = 3
"""Answers in one session."""


class World(Protocol):
    """Where clients live."""

    book: Book
    over: bool
    """Whether nothing new should be begun."""

    @property
    def port(self) -> int: ...

    def plan(self, draw: random.Random, tokens: int | None = None, rate: float = 0.0) -> Plan: ...

    def leave(self, told: Told) -> None:
        """Nobody here follows it any more: whether it ends well is for others to see."""


Watch = Callable[["Client", Coroutine[Any, Any, None]], Awaitable[None]]
"""Awaits a visit of a client's, as long as it comes on."""


class Client(ABC):
    """One client: one visit after another until all is over."""

    kind: str

    def __init__(self, world: World, seed: str) -> None:
        self.world = world
        self.book = world.book
        self.draw = random.Random(seed)
        self._seed = seed.replace("/", ":")
        self._visits = 0

    async def run(self, watch: Watch) -> None:
        """Come again and again; ``watch`` awaits each visit."""
        while not self.world.over:
            await watch(self, self.visit())
            self.count("visits")
            self._visits += 1
            await asyncio.sleep(self.draw.random() * 0.3)

    @abstractmethod
    async def visit(self) -> None:
        """One answer."""

    def where(self) -> str:
        """How far it is, for people."""
        reading: Reading | None = getattr(self, "reading", None)
        if reading is None:
            return f"nothing has begun ({getattr(self, 'plan', None)})"
        told = reading.told
        return f"{told} read to chunk {reading.last}, character {reading.size} of {told.size}, ended: {told.how}"

    def count(self, what: str) -> None:
        """Count for the table."""
        self.book.counts[f"{self.kind} {what}"] += 1

    async def lost(self) -> None:
        """A connection was lost or refused: wait a moment."""
        self.count("losses")
        await asyncio.sleep(0.05 + self.draw.random() * 0.2)

    @property
    def session(self) -> str:
        """The session of this visit."""
        return f"soak:{self._seed}:{self._visits // VISITS}"

    def request(self, plan: Plan) -> Message:
        """A request as the native wire and its sisters have it."""
        return {
            "session_id": self.session,
            "request_id": f"r{plan.number}",
            "message": f"Question {plan.number}",
            "config": {"model": plan.model, "on_interrupt": plan.on_interrupt},
        }

    @property
    def root(self) -> str:
        """The server's address."""
        return f"http://127.0.0.1:{self.world.port}"


# -- the native wire, over its two transports


class Link(Protocol):
    """One connection, that carries messages. Both methods raise one of `LOST`."""

    async def send(self, *messages: Message) -> None: ...

    async def receive(self) -> Message: ...


class SocketLink:
    """A WebSocket."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket

    async def send(self, *messages: Message) -> None:
        for message in messages:
            await self._socket.send(json.dumps(message))

    async def receive(self) -> Message:
        message: Message = json.loads(await self._socket.recv())
        return message


@asynccontextmanager
async def socket_link(port: int, hello: Message) -> AsyncIterator[Link]:
    """Connect by WebSocket and greet."""
    options: Message = {"proxy": None, "compression": None, "ping_interval": None, "max_size": None}
    async with connect(
        f"ws://127.0.0.1:{port}/ws",
        subprotocols=[Subprotocol("wsstream.v1")],
        open_timeout=5,
        close_timeout=1,
        **options,
    ) as socket:
        link = SocketLink(socket)
        await link.send({"type": "hello", **hello})
        yield link


class PostLink:
    """An event stream, and POSTs."""

    def __init__(self, client: httpx2.AsyncClient, lines: AsyncGenerator[str, None]) -> None:
        self._client = client
        self._lines = lines
        self._id = ""

    async def send(self, *messages: Message) -> None:
        response = await self._client.post(f"/api/native/{self._id}", json=list(messages))
        if response.status_code != 204:
            raise EOFError(response.text)

    async def receive(self) -> Message:
        async for line in self._lines:
            if line == "event: close":
                raise EOFError("closed")
            if line.startswith("data: "):
                message: Message = json.loads(line[6:])
                self._id = message.get("connection_id", self._id)
                return message
        raise EOFError("the events have ended")


@asynccontextmanager
async def post_link(port: int, hello: Message) -> AsyncIterator[Link]:
    """Connect by POST and greet."""
    async with (
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=20) as client,
        client.stream("POST", "/api/native", json=[{"type": "hello", **hello}]) as response,
    ):
        if response.status_code != 200:
            raise EOFError(str(response.status_code))
        async with contextlib.aclosing(response.aiter_lines()) as lines:
            yield PostLink(client, lines)


class Native(Client):
    """Reads an answer on the native wire, and comes back when the connection is lost or dropped."""

    kind = "native"
    link: Callable[[int, Message], contextlib.AbstractAsyncContextManager[Link]] = staticmethod(socket_link)
    window = 50

    def __init__(self, world: World, seed: str) -> None:
        super().__init__(world, seed)
        self.reading: Reading | None = None
        self.plan: Plan
        self.gone = False

    async def visit(self) -> None:
        self.plan = self.world.plan(self.draw)
        await self.read_all()

    async def read_all(self, reading: Reading | None = None) -> None:
        """Read to the end, or until this client has had enough."""
        self.reading, self.gone = reading, False
        while not (self.gone or (self.reading is not None and self.reading.ended)):
            try:
                await self._converse()
            except LOST:
                await self.lost()
        if self.reading is not None:
            self.world.leave(self.reading.told)

    async def _converse(self) -> None:
        hello = {"session_id": self.session, "window": self.window, "batch": self.draw.random() < 0.6}
        async with type(self).link(self.world.port, hello) as link:
            established = await link.receive()
            if established["type"] != "connection_established":
                self.book.object(f"hello was answered by {established}")
            await link.send(self._first())
            while not (self.gone or (self.reading is not None and self.reading.ended)):
                await self._on_message(link, await link.receive())

    def _first(self) -> Message:
        if self.reading is None:
            return {"type": "chat_request", **self.request(self.plan)}
        return {
            "type": "resume_stream",
            "stream_id": self.reading.told.stream_id,
            "last_chunk_id": self.reading.last,
            "snapshot": self.draw.random() < 0.3,
        }

    async def _on_message(self, link: Link, message: Message) -> None:
        kind = message["type"]
        if kind == "stream_start" and self.reading is None:
            self.reading = Reading(self.book, self.book.begin(message["stream_id"], message["session_id"], self.plan))
        elif kind in ("content_chunk", "chunk_batch"):
            assert self.reading is not None
            one = message.get("chunk_id")
            self.reading.take(message["content"], message.get("first_chunk_id", one), message.get("last_chunk_id", one))
            await self.on_piece(link, self.reading)
        elif kind in ("stream_complete", "stream_error"):
            self._on_end(message)
        elif kind == "heartbeat":
            await link.send({"type": "heartbeat_ack", "timestamp": message["timestamp"]})
        elif kind == "error":
            if not message["recoverable"]:
                self.book.object(f"{self.kind} was refused: {message}")
                self.gone = True
            raise EOFError(message["error_type"])

    def _on_end(self, message: Message) -> None:
        assert self.reading is not None
        if message["stream_id"] != self.reading.told.stream_id:
            self.book.object(f"{self.kind}: an end that nobody waits for: {message}")
        elif message["type"] == "stream_complete":
            self.reading.end(message["finish_reason"], message["final_chunk_id"])
        else:
            self.reading.end(message["error_type"], message["last_chunk_id"])

    async def on_piece(self, link: Link, reading: Reading) -> None:
        """What a client does with a piece: it renders it, and says so."""
        await self.ack(link, reading)

    async def ack(self, link: Link, reading: Reading) -> None:
        """Acknowledge what was read."""
        await link.send({"type": "chunk_ack", "stream_id": reading.told.stream_id, "chunk_id": reading.last})


class NativeOverHttp(Native):
    """The same without a WebSocket. It gathers its acks, as each is a request."""

    kind = "native-http"
    link = staticmethod(post_link)

    def _first(self) -> Message:
        self._acked = 0 if self.reading is None else self.reading.last
        return super()._first()

    async def on_piece(self, link: Link, reading: Reading) -> None:
        if reading.last - self._acked >= self.window // 5:
            self._acked = reading.last
            await self.ack(link, reading)


class Slow(Native):
    """Renders slowly, in a small window, for a while."""

    kind = "slow"
    window = 8

    async def visit(self) -> None:
        self._left = self.draw.randrange(20, 120)
        await super().visit()

    async def on_piece(self, link: Link, reading: Reading) -> None:
        self._left -= 1
        await asyncio.sleep(0.02 if self._left > 0 and not self.world.over else 0)
        await self.ack(link, reading)


class Deaf(Native):
    """Never acknowledges anything: it gets its window and no more, and leaves without a word."""

    kind = "deaf"
    window = 20

    async def visit(self) -> None:
        self.plan = self.world.plan(self.draw, self.draw.choice((60, 1500)), self.draw.choice((0, 300)))
        leaving = asyncio.get_running_loop().call_later(1 + 3 * self.draw.random(), self._leave)
        try:
            await self.read_all()
        finally:
            leaving.cancel()

    def _leave(self) -> None:
        self.gone = True

    async def _converse(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(4):
                await super()._converse()
        if self.reading is not None:
            self.gone = self.reading.told.deserted = True

    def _first(self) -> Message:
        self._had = 0 if self.reading is None else self.reading.last
        return {**super()._first(), **({} if self.reading is None else {"snapshot": False})}

    async def on_piece(self, link: Link, reading: Reading) -> None:
        if reading.last - self._had > self.window:
            self.book.object(f"{reading.told}: {reading.last - self._had} chunks without an ack, {self.window} allowed")
        reading.told.deserted = True


class Canceller(Native):
    """Stops a long answer in its middle."""

    kind = "canceller"

    async def visit(self) -> None:
        self.plan = self.world.plan(self.draw, self.draw.choice((2000, 20000)), self.draw.choice((100, 1000)))
        self._at = self.draw.randrange(1, 80)
        await self.read_all()
        if self.reading is not None and self.draw.random() < 0.5:
            await self._cancel_again(self.reading)

    async def _converse(self) -> None:
        if self.reading is not None:
            self._at = 0  # the cancel may be lost
        await super()._converse()

    async def on_piece(self, link: Link, reading: Reading) -> None:
        await self.ack(link, reading)
        if reading.last >= self._at:
            self._at = 1 << 60
            reading.told.cancelled = True
            await link.send({"type": "cancel_stream", "stream_id": reading.told.stream_id})

    async def _cancel_again(self, reading: Reading) -> None:
        """Whoever cancels what has ended is told its end."""
        with contextlib.suppress(*LOST):
            async with httpx2.AsyncClient(base_url=self.root, trust_env=False, timeout=20) as client:
                response = await client.delete(f"/api/streams/{reading.told.stream_id}")
                if response.status_code == 200:
                    told = response.json()
                    self.book.on_end(
                        reading.told, told.get("finish_reason") or told["error_type"], reading.size, reading.last
                    )


class Viewer(Native):
    """Follows what somebody else has asked for, from anywhere, dropping its connection again and again."""

    kind = "viewer"

    async def visit(self) -> None:
        running = [told for told in self.book.streams.values() if told.how is None and not told.deserted]
        if not running:
            await asyncio.sleep(0.1)
            return
        told = self.draw.choice(running)
        self._drops = self.draw.randrange(5)
        self._next = self._acked = 0
        await self.read_all(Reading(self.book, told, self.draw.choice(list(told.seams))))

    async def on_piece(self, link: Link, reading: Reading) -> None:
        if self.draw.random() < 0.7 or reading.last - self._acked > self.window // 2:
            self._acked = reading.last
            await self.ack(link, reading)
        self._next += 1
        if self._drops and self._next > 20 and self.draw.random() < 0.1:
            self._drops -= 1
            self._next = 0
            self.count("drops")
            raise EOFError("dropped")


class Auditor(Native):
    """Reads an answer from its start to its end, when those who asked for it have gone."""

    kind = "auditor"
    window = 1000

    told: Told
    """What it reads on its next visit."""

    async def visit(self) -> None:
        await self.read_all(Reading(self.book, self.told))

    async def read(self, told: Told) -> None:
        """All of it, chunk by chunk or in batches."""
        self.told = told
        await self.visit()


# -- the project's own client


class Python(Client):
    """`wsstream.client`, which comes back by itself."""

    kind = "python"

    async def visit(self) -> None:
        client = wsstream.client.connect(
            f"ws://127.0.0.1:{self.world.port}/ws", session_id=self.session, tries=1000, random=lambda: 0.05
        )
        async with client:
            for _ in range(VISITS):
                if not self.world.over:
                    await self._ask(client, self.world.plan(self.draw))

    async def _ask(self, client: wsstream.client.Client, plan: Plan) -> None:
        stream = await self._start(client, plan)
        self.reading = reading = Reading(self.book, self.book.begin(stream.stream_id, self.session, plan))
        slow = self.draw.choice((0, 0, 300))
        try:
            async for piece in stream.pieces():
                reading.take(piece.content, piece.first, piece.last)
                await asyncio.sleep(0.01 if len(reading.told.seams) < slow else 0)
        except StreamFailure:
            pass
        outcome = stream.outcome
        assert outcome is not None
        reading.end(str(outcome.error_type or outcome.finish_reason), reading.last)
        if stream.text != plan.whole[: reading.size]:
            self.book.object(f"{reading.told}: the client's text is not what its pieces were")
        self.book.counts[f"{self.kind} losses"] += stream.resumes
        self.world.leave(reading.told)

    async def _start(self, client: wsstream.client.Client, plan: Plan) -> wsstream.client.ChatStream:
        while True:
            try:
                return await client.chat(
                    f"Question {plan.number}", model=plan.model, config={"on_interrupt": plan.on_interrupt}
                )
            except (RequestError, ConnectionFailed) as error:
                if not error.recoverable:
                    raise
                await self.lost()


# -- HTTP


class OverHttp(Client):
    """A client with a pool of HTTP connections."""

    async def run(self, watch: Watch) -> None:
        """Come again and again."""
        async with httpx2.AsyncClient(base_url=self.root, trust_env=False, timeout=60) as self.http:
            await super().run(watch)


class Events(OverHttp):
    """Server-sent events, from behind the last one after every loss and drop."""

    kind = "sse"

    async def visit(self) -> None:
        self.plan = self.world.plan(self.draw)
        self.reading: Reading | None = None
        self._drops = self.draw.choice((0, 0, 3))
        self._slow = self.draw.choice((0, 0, 300))
        while self.reading is None or not self.reading.ended:
            try:
                await self._read()
            except LOST:
                await self.lost()
        self.world.leave(self.reading.told)

    async def _read(self) -> None:
        async with self._ask() as response:
            if response.status_code != 200:
                await response.aread()
                self._refused(response)
            name = ""
            async with contextlib.aclosing(response.aiter_lines()) as lines:
                async for line in lines:
                    if line.startswith("id: "):
                        name = line[4:]
                    elif line.startswith("data: "):
                        self._on_event(name, json.loads(line[6:]))
                        await self._pause()
        if self.reading is None or not self.reading.ended:
            raise EOFError("the events have ended")

    def _ask(self) -> contextlib.AbstractAsyncContextManager[httpx2.Response]:
        if self.reading is None:
            key = f"soak-{self._seed}-{self.plan.number}"
            return self.http.stream(
                "POST", "/api/chat/stream", json=self.request(self.plan), headers={"Idempotency-Key": key}
            )
        headers = {"Last-Event-ID": str(self.reading.last)}
        return self.http.stream("GET", f"/api/streams/{self.reading.told.stream_id}", headers=headers)

    def _refused(self, response: httpx2.Response) -> None:
        if response.status_code not in (429, 503):
            self.book.object(f"{self.kind}: {response.request.url} was refused: {response.text[:300]}")
        raise EOFError(str(response.status_code))

    def _on_event(self, name: str, event: Message) -> None:
        if event["type"] == "start":
            told = self.book.begin(event["stream_id"], event["session_id"], self.plan)
            self.reading = self.reading or Reading(self.book, told)
        elif event["type"] == "token":
            assert self.reading is not None
            self.reading.take(event["content"], int(name), int(name))
        elif event["type"] in ("done", "error"):
            assert self.reading is not None
            final = int(name.removesuffix("-end"))
            self.reading.end(event["finish_reason" if event["type"] == "done" else "error_type"], final)

    async def _pause(self) -> None:
        if self._slow:
            self._slow -= 1
            await asyncio.sleep(0.01)
        if self._drops and self.draw.random() < 0.02:
            self._drops -= 1
            self.count("drops")
            raise EOFError("dropped")


class Whole(OverHttp):
    """The answer as one piece of JSON; asked again by the same key when the connection is lost."""

    kind = "whole"

    async def visit(self) -> None:
        plan = self.world.plan(self.draw)
        key = f"soak-{self._seed}-{plan.number}"
        while True:
            try:
                response = await self.http.post("/api/chat", json=self.request(plan), headers={"Idempotency-Key": key})
            except LOST:
                await self.lost()
                continue
            answer = response.json()
            if "stream_id" in answer:
                break
            if response.status_code not in (429, 503):
                self.book.object(f"{self.kind}: refused: {response.text[:300]}")
            await self.lost()
        reading = Reading(self.book, self.book.begin(answer["stream_id"], self.session, plan))
        reading.take(answer["content"])
        reading.end(answer.get("finish_reason") or answer["error_type"])
        self.world.leave(reading.told)


class OpenAI(Client):
    """OpenAI's own client, streaming. It knows no resume, so it asks again by the same key, and is told all again."""

    kind = "openai"

    async def visit(self) -> None:
        plan = self.world.plan(self.draw)
        plan.on_interrupt = "continue"
        http = httpx2.AsyncClient(trust_env=False)
        async with openai.AsyncOpenAI(
            api_key="soak", base_url=f"{self.root}/v1", max_retries=0, http_client=http
        ) as client:
            while True:
                try:
                    reading = await self._ask(client, plan)
                    break
                except (openai.APIConnectionError, openai.InternalServerError, openai.RateLimitError, *LOST):
                    await self.lost()
        if reading is not None:
            self.world.leave(reading.told)

    async def _ask(self, client: openai.AsyncOpenAI, plan: Plan) -> Reading | None:
        reading: Reading | None = None
        try:
            stream = await client.chat.completions.create(
                model=plan.model,
                messages=[{"role": "user", "content": f"Question {plan.number}"}],
                stream=True,
                extra_headers={"Idempotency-Key": f"r{plan.number}", "X-Wsstream-Session-Id": self.session},
            )
            async for chunk in stream:
                if reading is None:
                    reading = Reading(self.book, self.book.begin(chunk.id, self.session, plan))
                if self._take(reading, chunk):
                    return reading
        except openai.APIConnectionError:
            raise
        except openai.APIError as error:
            return self._failed(error, reading, plan)
        raise EOFError("the events have ended")

    def _take(self, reading: Reading, chunk: Any) -> bool:
        for choice in chunk.choices:
            if choice.delta.content:
                reading.take(choice.delta.content)
            if choice.finish_reason:
                # A cancelled answer has stopped, for this wire.
                reading.end(OVER if choice.finish_reason == "stop" else choice.finish_reason)
        return reading.ended

    def _failed(self, error: openai.APIError, reading: Reading | None, plan: Plan) -> Reading | None:
        if reading is not None:
            if error.code in ("capacity", "rate_limit"):
                raise EOFError(error.code)
            reading.end(error.code or FAILED)
            return reading
        response = getattr(error, "response", None)
        stream_id = "" if response is None else response.headers.get("x-wsstream-stream-id", "")
        if stream_id or (plan.fault == "400" and error.code == "provider_error"):
            return Reading(self.book, self.book.begin(stream_id, self.session, plan)) if stream_id else None
        if not isinstance(error, openai.InternalServerError | openai.RateLimitError):
            self.book.object(f"{self.kind}: refused: {error}")
        raise error


# -- the AI SDK's frames


class AiSdk(Client):
    """The AI SDK's WebSocket: chunks are numbered for good, and a resume goes on behind the last one."""

    kind = "ai-sdk"

    async def visit(self) -> None:
        self.plan = self.world.plan(self.draw)
        self.reading: Reading | None = None
        self._sequence = -1
        self._resuming = False
        self._drops = self.draw.choice((0, 0, 2))
        while self.reading is None or not self.reading.ended:
            try:
                await self._converse()
            except LOST:
                await self.lost()
        self.world.leave(self.reading.told)

    @property
    def session(self) -> str:
        """A chat for each answer, as a resume is about the newest one of its chat."""
        return f"soak:{self._seed}:{self._visits}"

    async def _converse(self) -> None:
        options: Message = {"proxy": None, "compression": None, "max_size": None}
        async with connect(
            f"ws://127.0.0.1:{self.world.port}/ai", open_timeout=5, close_timeout=1, **options
        ) as socket:
            self._resuming = self.reading is not None
            await socket.send(json.dumps(self._first()))
            while self.reading is None or not self.reading.ended:
                self._on_frame(json.loads(await socket.recv()))

    def _first(self) -> Message:
        common: Message = {"requestId": f"r{self.plan.number}", "id": self.session, "headers": {}}
        if self._resuming:
            return {"type": "resume", "lastSequence": self._sequence, "body": {}, **common}
        text = {"type": "text", "text": f"Question {self.plan.number}"}
        config = {"on_interrupt": self.plan.on_interrupt}
        return {
            **common,
            "type": "send",
            "trigger": "submit-message",
            "messages": [{"id": "m1", "role": "user", "parts": [text]}],
            "body": {"model": self.plan.model, "config": config},
        }

    def _on_frame(self, frame: Message) -> None:
        if frame["type"] == "chunk":
            if frame["sequence"] != self._sequence + 1:
                self.book.object(f"ai-sdk {self.session}: chunk {frame['sequence']} came behind {self._sequence}")
            self._sequence = frame["sequence"]
            self._on_chunk(frame["chunk"])
        elif frame["type"] == "no-active":
            self.book.object(f"ai-sdk {self.session}: no answer to resume behind {self._sequence}")
            raise EOFError("no-active")
        elif frame["type"] == "error":
            raise EOFError(frame["errorText"])

    def _on_chunk(self, chunk: Message) -> None:
        kind = chunk["type"]
        if kind == "start":
            told = self.book.begin(chunk["messageMetadata"]["streamId"], self.session, self.plan)
            self.reading = Reading(self.book, told)
            return
        assert self.reading is not None
        if kind == "text-delta":
            self.reading.take(chunk["delta"])
            if self._drops and self.draw.random() < 0.02:
                self._drops -= 1
                self.count("drops")
                raise EOFError("dropped")
        elif kind == "finish":
            self.reading.end(chunk["finishReason"])
        elif kind in ("abort", "error"):
            self.reading.end("cancelled" if kind == "abort" else FAILED)


KINDS: dict[type[Client], int] = {
    Python: 2,
    Native: 1,
    NativeOverHttp: 2,
    Events: 3,
    Whole: 2,
    OpenAI: 2,
    AiSdk: 2,
    Viewer: 4,
    Slow: 3,
    Deaf: 2,
    Canceller: 2,
}
"""How many of each there are in one crowd."""
