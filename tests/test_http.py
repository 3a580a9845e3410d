"""The guarded HTTP front: what an open port has to bear before anything is a request or a WebSocket."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import time

import pytest

from tests.answers import until
from tests.conftest import Serve
from tests.native import PATIENCE, UPGRADE, connected, fetch, frame
from wsstream.connection import NativeConnection
from wsstream.http import GuardedHttp, Porch

HELLO = frame(1, b'{"type":"hello"}')
PAGE = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
LAST = PAGE + b"Connection: close\r\n\r\n"


def upgrade(**changes: str | None) -> bytes:
    """The upgrade request with other headers, or without some."""
    lines = UPGRADE.decode().split("\r\n")[:-2]
    for name, value in changes.items():
        name = name.replace("_", "-")
        lines = [line for line in lines if not line.lower().startswith(name + ":")]
        if value is not None:
            lines.append(f"{name}: {value}")
    return "\r\n".join([*lines, "", ""]).encode()


def status(answer: bytes) -> int:
    """The status of the first response."""
    return int(answer.split(b" ", 2)[1])


# -- heads that are too large


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"x" * 16 * 1024 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        PAGE + b"X: " + b"x" * 16 * 1024 + b"\r\n\r\n",
        PAGE + b"".join(b"X%04d: 0123456789\r\n" % n for n in range(1000)) + b"\r\n",
        UPGRADE[:-2] + b"X: " + b"x" * 16 * 1024 + b"\r\n\r\n",
    ],
    ids=["address", "header", "headers", "upgrade"],
)
async def test_a_head_that_is_too_large_is_refused(serve: Serve, head: bytes) -> None:
    """More than 16 KiB of head is answered 400 and the connection is closed."""
    assert status(await fetch(await serve(), head)) == 400


async def test_an_endless_head_is_refused_before_its_end(serve: Serve) -> None:
    """Nobody waits for the end of a head that is too large already."""
    assert status(await fetch(await serve(), PAGE + b"X: 1\r\n" * 4000)) == 400


async def test_a_large_head_is_still_read(serve: Serve) -> None:
    """Fifteen kilobytes of cookies are no attack."""
    assert (
        status(await fetch(await serve(), PAGE + b"Cookie: " + b"x" * 15_000 + b"\r\nConnection: close\r\n\r\n")) == 200
    )


async def test_each_head_has_its_own_limit(serve: Serve) -> None:
    """Heads of one connection do not add up."""
    head = PAGE + b"Cookie: " + b"x" * 10_000 + b"\r\n"
    answer = await fetch(await serve(), (head + b"\r\n") * 3 + head + b"Connection: close\r\n\r\n")
    assert answer.count(b"HTTP/1.1 200 ") == 4


# -- heads that do not come


@pytest.mark.parametrize(
    "data",
    [b"", b"GET / HT", PAGE, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf"],
    ids=["nothing", "half a line", "half a head", "half a body"],
)
async def test_a_silent_connection_is_cut(serve: Serve, data: bytes) -> None:
    """Who begins a request and does not go on is let go of."""
    server = await serve(request_timeout=0.1)
    async with asyncio.timeout(2):
        await fetch(server, data)


async def test_a_silent_second_request_is_cut(serve: Serve) -> None:
    """One good request does not buy a connection for ever."""
    server = await serve(request_timeout=0.1)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        writer.write(PAGE + b"\r\n")
        await reader.readuntil(b"}")
        writer.write(b"G")
        async with asyncio.timeout(2):
            assert await reader.read() == b""
    finally:
        writer.close()


async def test_a_dripping_head_is_cut(serve: Serve) -> None:
    """A byte now and then does not prolong the time for a head."""
    server = await serve(request_timeout=0.1)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    sent = 0
    try:
        for byte in PAGE * 10:
            if reader.at_eof() or reader.exception() is not None:  # a reset, where a byte crosses the end
                break
            writer.write(bytes((byte,)))
            sent += 1
            await asyncio.sleep(0.02)
    finally:
        writer.close()
    assert sent < 20


async def test_a_complete_request_is_not_cut(serve: Serve) -> None:
    """The time for heads does not run while a connection waits for its next request."""
    server = await serve(request_timeout=0.1)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        writer.write(PAGE + b"\r\n")
        await asyncio.sleep(0.2)
        writer.write(LAST)
        assert (await reader.read()).count(b"HTTP/1.1 200 ") == 2
    finally:
        writer.close()


async def test_a_websocket_is_not_cut(serve: Serve) -> None:
    """After the upgrade the time for heads is over."""
    server = await serve(request_timeout=0.1)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        writer.write(UPGRADE)
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.2)
        writer.write(HELLO)
        assert b"connection_established" in await reader.read(1000)
    finally:
        writer.close()


# -- upgrades


@pytest.mark.parametrize("cuts", [1, 7, 10_000])
async def test_nothing_behind_the_upgrade_request_is_lost(serve: Serve, cuts: int) -> None:
    """Frames that come with the upgrade request, in whatever pieces, reach the WebSocket."""
    server = await serve()
    data = UPGRADE + HELLO + frame(1, b'{"type":"heartbeat","timestamp":7}')
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        for start in range(0, len(data), cuts):
            writer.write(data[start : start + cuts])
            await asyncio.sleep(0)
        async with asyncio.timeout(PATIENCE):
            await reader.readuntil(b'"type":"connection_established"')
            await reader.readuntil(b'{"type":"heartbeat_ack","timestamp":7}')
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("request_head", "expected"),
    [
        (UPGRADE.replace(b"/ws", b"/elsewhere"), 404),
        (upgrade(sec_websocket_key=None), 400),
        (upgrade(sec_websocket_key="short"), 400),
        (upgrade(sec_websocket_version="8"), 400),
        (upgrade(sec_websocket_version=None), 400),
    ],
    ids=["path", "no key", "short key", "version", "no version"],
)
async def test_a_wrong_upgrade_is_refused(
    serve: Serve, caplog: pytest.LogCaptureFixture, request_head: bytes, expected: int
) -> None:
    """What is no handshake of RFC 6455 gets an HTTP status, whatever comes behind it, and fills no log."""
    server = await serve()
    caplog.clear()
    assert status(await fetch(server, request_head + HELLO)) == expected
    assert caplog.records == []
    assert len(server.registry) == 0


async def test_an_upgrade_to_something_else_is_ignored(serve: Serve) -> None:
    """Clients that offer HTTP/2 in passing (curl --http2) are answered in HTTP/1.1."""
    offer = PAGE + b"Connection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n"
    answer = await fetch(await serve(), offer)
    assert status(answer) == 200
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["status"] == "ok"


async def test_behind_an_ignored_upgrade_the_connection_ends(serve: Serve) -> None:
    """A client that sends its next request there learns at once that it must open another connection."""
    offer = PAGE + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n"
    answer = await fetch(await serve(), offer)
    assert status(answer) == 200
    assert b"connection: close" in answer.lower()


# -- what is no HTTP at all


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"SSH-2.0-x\r\n",
        b"\x00" * 50,
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
    ],
    ids=["TLS", "SSH", "zeros", "header"],
)
async def test_garbage_is_refused(serve: Serve, caplog: pytest.LogCaptureFixture, data: bytes) -> None:
    """What is no HTTP is answered 400 and closed, with one line in the log at most."""
    server = await serve()
    caplog.clear()
    assert status(await fetch(server, data)) == 400
    assert len([record for record in caplog.records if record.levelno >= logging.INFO]) <= 1


# -- what a streamed response may ask of its connection


async def test_who_streams_is_told_that_the_client_has_left(serve: Serve) -> None:
    """Also where another request waits behind the streamed one, of which the library tells nobody."""
    server = await serve(on_orphan="continue")
    body = b'{"message":"hi","model":"demo:rate=1,tokens=100","session_id":"s"}'
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    head = b"POST /api/chat/stream HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    writer.write(head % len(body) + body)
    await until(lambda: server.streams.of_session("s") and server.streams.of_session("s")[0].log.attachments)
    log = server.streams.of_session("s")[0].log
    writer.write(PAGE + b"\r\n")
    await writer.drain()
    writer.transport.abort()
    await until(lambda: not log.attachments)


# -- what sockets leave behind


def living() -> int:
    """Connections that are in memory, used or not."""
    return sum(type(each) in (Porch, GuardedHttp, NativeConnection) for each in gc.get_objects())


async def test_sockets_that_are_gone_leave_no_garbage(serve: Serve) -> None:
    """Whoever has gone is out of memory at once, and not when somebody looks for garbage."""
    server = await serve()
    gc.collect()
    gc.disable()
    try:
        before = living()
        for path in ("/ws", "/ai"):
            async with connected(server, path=path, greet=path == "/ws"):
                assert living() == before + 1
        await fetch(server, LAST)
        await fetch(server, b"nonsense\r\n\r\n")
        await until(lambda: living() == before)
    finally:
        gc.enable()


async def test_a_late_first_byte_buys_no_more_time(serve: Serve) -> None:
    """The time for a head begins with the connection, however late its first byte."""
    server = await serve(request_timeout=0.6)
    begun = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    async with asyncio.timeout(PATIENCE):
        deadlines = server.assembly.hub.wheel._slots
        await until(lambda: bool(deadlines))
        first = set(deadlines)
        await asyncio.sleep(0.3)
        writer.write(b"GET / HT")
        await until(lambda: any(isinstance(each, GuardedHttp) for members in deadlines.values() for each in members))
        assert {slot for slot, members in deadlines.items() if members} == first
        assert await reader.read() == b""
    assert time.monotonic() - begun >= 0.5
    writer.close()


# -- heads that say too little, or too much


@pytest.mark.parametrize(("version", "wanted"), [("1.1", 400), ("1.0", 200)])
async def test_no_answer_without_a_host(serve: Serve, version: str, wanted: int) -> None:
    """HTTP/1.1 without Host is refused with the reason (RFC 9112, 3.2); HTTP/1.0 knows no Host."""
    answer = await fetch(await serve(), b"GET /healthz HTTP/%b\r\nConnection: close\r\n\r\n" % version.encode())
    assert status(answer) == wanted
    assert (b"needs a Host header" in answer) == (wanted == 400)


@pytest.mark.parametrize("head", [b"GET /v1/models\r\n\r\n", b"GET /v1/models HTTP/2.0\r\n\r\n"])
async def test_other_versions_need_a_host_too(serve: Serve, head: bytes) -> None:
    """A version that is none of ours is no way around the name that the server is called by."""
    assert status(await fetch(await serve(), head)) == 400


@pytest.mark.parametrize(
    ("target", "wanted"),
    [
        ("http://localhost:8765/healthz", 200),
        ("HTTP://LOCALHOST:8765/healthz", 200),
        ("http://evil.example/healthz", 400),
        ("http://localhost/healthz", 400),
        ("http://localhost:8765@evil.example/healthz", 400),
        ("http://evil.example?http://localhost:8765/", 400),
    ],
)
async def test_target_and_host_agree(serve: Serve, target: str, wanted: int) -> None:
    """A target that is a whole address names the host of the Host header; else 400 says so."""
    head = f"GET {target} HTTP/1.1\r\nHost: localhost:8765\r\nConnection: close\r\n\r\n"
    answer = await fetch(await serve(), head.encode())
    assert status(answer) == wanted
    assert (b"names another host" in answer) == (wanted == 400)


async def test_no_websocket_in_an_old_version(serve: Serve) -> None:
    """HTTP/1.0 knows no upgrade, and no Host to be checked: such a request is one for a page."""
    head = upgrade(host=None).replace(b"HTTP/1.1", b"HTTP/1.0")
    assert status(await fetch(await serve(), head)) == 426


@pytest.mark.parametrize("body", [{"content_length": "5"}, {"transfer_encoding": "chunked"}])
async def test_an_upgrade_with_a_body_is_told_why(serve: Serve, body: dict[str, str]) -> None:
    """It would have to be read as frames: 400 with the reason, and not a closed socket without a word."""
    answer = await fetch(await serve(), upgrade(**body) + b"hello")
    assert status(answer) == 400
    assert b"has no body" in answer


async def test_an_upgrade_with_an_empty_body_is_one(serve: Serve) -> None:
    """A length of 0 is no body."""
    assert status(await fetch(await serve(), upgrade(content_length="0") + frame(8, b""))) == 101
