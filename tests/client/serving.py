"""Servers for tests of the asyncio client: ours, and one that is scripted message by message."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import websockets
from websockets.asyncio.server import ServerConnection, serve

from tests.proxy import Proxy
from wsstream import client_protocol as core
from wsstream import errors
from wsstream.chunks import ChatRequest, Delta, Kind
from wsstream.client import ChatStream, Client
from wsstream.client import connect as connect_really
from wsstream.config import Config
from wsstream.server import Server

connect = partial(connect_really, random=lambda: 0.0)
"""Without waiting between tries."""

PACED = "demo:rate=2000,tokens=400"
FAST = "demo:rate=0,tokens=400"
ENDLESS = "demo:rate=2000,tokens=1000000"

ESTABLISHED = (
    '{"type":"connection_established","connection_id":"c","session_id":"ses","heartbeat_interval":10,'
    '"heartbeat_timeout":25,"window":50,"window_bytes":65536,"limits":{"max_message_bytes":65536,"max_streams":16},'
    '"active_streams":[]}'
)


async def scripted(request: ChatRequest) -> AsyncGenerator[Any, None]:
    """A provider whose answer is told by the question."""
    question = str(request.messages[-1].content)
    yield Delta("thinking", Kind.REASONING)
    yield f"{len(request.messages)} messages: "
    if question == "fail":
        raise errors.ContentFiltered("Not this")
    yield question


@asynccontextmanager
async def serving(**settings: Any) -> AsyncIterator[Server]:
    config = Config(store="memory:", **{"port": 0, "provider": "demo", "listeners": 1, **settings})
    async with Server(config).running() as server:
        yield server


@asynccontextmanager
async def talking(**options: Any) -> AsyncIterator[tuple[Server, Client]]:
    """A server, and a client with these options that is connected to it."""
    async with serving() as server, connect(url_of(server), **options) as client:
        yield server, client


@asynccontextmanager
async def proxied(**options: Any) -> AsyncIterator[tuple[Server, Proxy, Client]]:
    """The same, with a proxy between them that breaks connections."""
    async with serving() as server, Proxy(server.port) as proxy, connect(proxy.url, **options) as client:
        yield server, proxy, client


def url_of(server: Server) -> str:
    return f"ws://127.0.0.1:{server.port}/ws"


def logged_text(server: Server, stream_id: str, user: str = "") -> str:
    log = server.streams.get(stream_id, user).log
    return "".join(chunk.content for chunk in log.chunks(1, log.tail))


async def until(condition: Callable[[], object]) -> None:
    """Wait for something that this process is about to do."""
    async with asyncio.timeout(2):
        while not condition():  # noqa: ASYNC110 - most of what is waited for has no event
            await asyncio.sleep(0.002)


async def read(stream: ChatStream) -> str:
    return "".join([text async for text in stream])


@asynccontextmanager
async def scripted_server(*answers: Callable[[ServerConnection], Any]) -> AsyncIterator[str]:
    """A server whose n-th connection is handled by the n-th of ``answers``, and later ones by the last."""
    connections = iter(answers)

    async def handle(connection: ServerConnection) -> None:
        await connection.recv()
        await next(connections, answers[-1])(connection)

    async with serve(handle, "127.0.0.1", 0, subprotocols=[websockets.Subprotocol("wsstream.v1")]) as server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/ws"


def started(request: str | bytes) -> str:
    request_id = core.m.decode_client(request.encode() if isinstance(request, str) else request).request_id  # type: ignore[union-attr]
    return (
        f'{{"type":"stream_start","request_id":"{request_id}","stream_id":"s","session_id":"ses","epoch":"e",'
        '"model":null,"window":50,"timestamp":0}'
    )
