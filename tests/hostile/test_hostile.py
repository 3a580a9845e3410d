"""Attacks on a real server in a process of its own: each has its answer, nobody else notices, and nothing is left.

The names in brackets are those of the threat model in docs/security.md.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import psutil
import pytest
from websockets.exceptions import InvalidStatus

from tests.conftest import ROOT, ServerProcess, Spawn, clean_environ
from tests.native import Native, connected, fetch, frame
from wsstream.monitor import MEMORY_EVERY, TRIM_EVERY

CONT, TEXT, BINARY, PING = 0, 1, 2, 9
SLOW_DEMO = "demo:rate=200,tokens=1000000"
ALICE, BOB = "alice-token-0123456789", "bob-token-0123456789"
TOKENS = f'[users]\nalice = "{ALICE}"\nbob = "{BOB}"\n'
BURST = 100 + 4 * 16
"""Messages that one connection may send at once by default."""
LEFT_BEHIND = 5 * 1024 * 1024
"""Bytes that all attacks together, again and again, may leave in the server."""
HOST = b"Host: 127.0.0.1\r\n"
UPGRADE = (
    b"GET /ws HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)

Attack = Callable[[ServerProcess], Awaitable[object]]


def wire(type: str, **fields: Any) -> bytes:
    """A message."""
    return json.dumps({"type": type, **fields}).encode()


def framed(*data: bytes, greet: bool = True) -> Attack:
    """Write ``data``, which is frames already; the close code."""

    async def attack(server: ServerProcess) -> int:
        async with connected(server, greet=greet) as native:
            for part in data:
                native.send_bytes(part)
            return (await native.closed())[0]

    return attack


def said(*messages: bytes) -> Attack:
    """Send messages; the type of the error that the last one gets, after which the connection still works."""

    async def attack(server: ServerProcess) -> str:
        async with connected(server) as native:
            found = ""
            for message in messages:
                await native.send_text(message)
                found = (await native.until("error"))["error_type"]
            await native.round_trip()
            return found

    return attack


def streaming(*messages: dict[str, Any]) -> Attack:
    """Send messages about a running stream of one's own, then see whether it is still there; the close code, or 0."""

    async def attack(server: ServerProcess) -> int:
        async with connected(server) as native:
            stream_id = await native.ask(SLOW_DEMO)
            await native.read(stream_id, to=3)
            for message in messages:
                with suppress(Exception):
                    native.send_bytes(frame(TEXT, json.dumps({"stream_id": stream_id, **message}).encode()))
            await native.send("cancel_stream", stream_id=stream_id)
            last = await native.closed() if len(messages) > BURST or "forged" in str(messages) else None
            return last[0] if last else (await native.read(stream_id)).end is None

    return attack


def raw(data: bytes) -> Attack:
    """Write bytes to the port; the status of the answer, or nothing."""

    async def attack(server: ServerProcess) -> bytes:
        answer = await fetch(server, data)
        return answer.split(b" ", 2)[1] if answer.startswith(b"HTTP/") else answer

    return attack


def upgrade(**headers: str) -> Attack:
    """Ask for a WebSocket with these headers; the status of the refusal."""

    async def attack(server: ServerProcess) -> int:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            async with connected(server, greet=False, headers=named):
                return 101
        except InvalidStatus as refused:
            return refused.response.status_code

    return attack


async def churn(server: ServerProcess) -> str:
    """Begin and cancel as fast as possible; what ends it."""
    async with connected(server) as native:
        for number in range(10 * BURST):
            native.send_bytes(frame(TEXT, wire("chat_request", request_id=f"r{number}", message="hi", model=SLOW_DEMO)))
            native.send_bytes(frame(TEXT, wire("cancel_stream")))
        return f"{(await native.closed())[0]}"


ATTACKS: dict[str, tuple[Attack, object]] = {
    "H1 an ack of what was never sent": (streaming({"type": "chunk_ack", "chunk_id": 2**50, "forged": 1}), 4400),
    "H2 acks that are no numbers": (
        framed(*[frame(TEXT, wire("chunk_ack", chunk_id=bad)) for bad in (-1, 1.5, "1")]),
        1008,
    ),
    "H3 the same ack again": (streaming(*[{"type": "chunk_ack", "chunk_id": 1}] * 50), False),
    "H3 older acks": (streaming(*[{"type": "chunk_ack", "chunk_id": n} for n in (3, 2, 1, 0)]), False),
    "H4 acks at the limit": (streaming(*[{"type": "chunk_ack", "chunk_id": 1}] * (BURST - 20)), False),
    "H4 a flood of acks": (streaming(*[{"type": "chunk_ack", "chunk_id": 1}] * (BURST + 200)), 4429),
    "H4 ten times that": (streaming(*[{"type": "chunk_ack", "chunk_id": 1}] * (10 * BURST)), 4429),
    "H4 a flood of heartbeats": (framed(frame(TEXT, wire("heartbeat")) * 10 * BURST), 4429),
    "H4 a flood of what nobody knows": (framed(frame(TEXT, wire("content_chunk")) * 10 * BURST), 4429),
    "H9 beyond the end": (said(wire("resume_stream", stream_id="s_x", last_chunk_id=2**50)), "unknown_stream"),
    "H11 a foreign page": (upgrade(Origin="https://evil.example"), 403),
    "H11 a page without a name": (upgrade(Origin="null"), 403),
    "H11 two pages": (raw(UPGRADE + b"Origin: http://127.0.0.1\r\nOrigin: https://evil.example\r\n\r\n"), b"400"),
    "H17 a frame of 2^63 bytes": (framed(b"\x81\xff\x7f" + b"\xff" * 7 + b"mask"), 1009),
    "H17 a message one byte too large": (framed(frame(TEXT, b" " * (64 * 1024 + 1))), 1009),
    "H18 endless fragments": (framed(frame(TEXT, b"", fin=False) + frame(CONT, b"", fin=False) * 5000), 1009),
    "H19 deep JSON": (said(b'{"type":"list_streams","x":' + b"[" * 30_000 + b"]" * 30_000 + b"}"), "bad_request"),
    "H19 one key 5,000 times": (
        said(b'{"type":"cancel_stream",' + b'"stream_id":"a",' * 3000 + b'"stream_id":"b"}'),
        "unknown_stream",
    ),
    "H19 a number of 60,000 digits": (said(b'{"type":"chunk_ack","chunk_id":' + b"9" * 60_000 + b"}"), "bad_request"),
    "H20 a binary message": (framed(frame(BINARY, wire("heartbeat"))), 1003),
    "H20 not UTF-8": (framed(frame(TEXT, b'{"type":"\xff"}')), 1007),
    "H21 a compressed frame": (framed(b"\xc1" + frame(TEXT, b"{}")[1:]), 1002),
    "H22 a flood of pings": (framed(frame(PING, b"x" * 100) * 10 * BURST), 4429),
    "H23 begin and cancel": (churn, "4429"),
    "H25 a header of 20 KiB": (raw(b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"x" * 20_000 + b"\r\n\r\n"), b"400"),
    "H25 an address of 20 KiB": (raw(b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n"), b"400"),
    "H26 HTTP/2": (raw(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0" * 100), b"400"),
    "H26 TLS": (raw(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 500), b"400"),
    "H26 noise": (raw(bytes(range(256)) * 20), b"400"),
    "H27 two hosts": (raw(b"GET / HTTP/1.1\r\n" + HOST + b"Host: evil.example\r\n\r\n"), b"400"),
    "H27 an upgrade of two hosts": (raw(UPGRADE + b"Host: evil.example\r\n\r\n"), b"400"),
    "H28 a thousand and one messages": (
        said(wire("chat_request", request_id="r", messages=[{"role": "user", "content": ""}] * 1001)),
        "bad_request",
    ),
    "H28 a million messages": (
        framed(frame(TEXT, wire("chat_request", request_id="r", messages=[{"role": "user", "content": ""}] * 10_000))),
        1009,
    ),
    "H34 escapes in every field": (
        said(wire("cancel_stream", stream_id="\x1b[2J\r\nERROR all is lost"), wire("\x1b[31m\r\n")),
        "unknown_message",
    ),
    "H35 broken messages": (framed(frame(TEXT, b"{" * 60_000) * 3), 1008),
    "H44 a page reads by a name of its own": (
        raw(b"GET /v1/models HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"),
        b"403",
    ),
    "H40 another protocol": (upgrade(Sec_WebSocket_Protocol="wsstream.v0"), 101),
    "H41 a server's own messages": (
        said(wire("going_away", deadline_ms=1), wire("stream_complete")),
        "unknown_message",
    ),
}


class Bystander:
    """Somebody whose answer must flow on, whatever others do: the longest pause is noted."""

    def __init__(self, native: Native) -> None:
        self._native = native
        self.chunks = 0

    async def read(self) -> None:
        """Read and acknowledge, for ever."""
        stream_id = await self._native.ask("demo:rate=50,tokens=1000000")
        while True:
            await self._native.receive()
            self.chunks = self._native.answer(stream_id).last
            await self._native.ack(stream_id)


@asynccontextmanager
async def bystander(server: ServerProcess, **hello: Any) -> AsyncIterator[Bystander]:
    """An answer that flows meanwhile; it must have come on in the end."""
    async with connected(server, **hello) as native:
        it = Bystander(native)
        reading = asyncio.create_task(it.read())
        try:
            yield it
            before = it.chunks
            async with asyncio.timeout(5):
                while it.chunks < before + 3 and not reading.done():  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            assert not reading.done(), "somebody else was disturbed"
        finally:
            reading.cancel()
            await asyncio.wait([reading])


@pytest.mark.parametrize("name", ATTACKS)
async def test_each_attack_has_its_answer(spawn: Spawn, name: str) -> None:
    """The attack is answered as documented, the server lives, somebody else's answer flows on, the log stays short."""
    attack, expected = ATTACKS[name]
    server = await spawn("--provider", "demo", "--log-level", "warning")
    async with bystander(server):
        assert await attack(server) == expected
    assert len(server.log) < 2000
    assert "Traceback" not in server.log
    assert "\x1b" not in server.log


async def test_nothing_of_them_is_left(spawn: Spawn) -> None:
    """All attacks, again and again: the server's memory is what it was, and so are its connections and streams."""
    server = await spawn("--provider", "demo", "--max-retained", "10", "--orphan-grace", "0.1")
    process = psutil.Process(server.pid)

    async def everything() -> int:
        for attack, _ in ATTACKS.values():
            await attack(server)
        await asyncio.sleep(1)
        return int(process.memory_info().rss)

    await everything()
    before = await everything()
    for _ in range(3):
        after = await everything()
    assert after - before < LEFT_BEHIND
    assert b'"connections":0' in await fetch(server, b"GET /healthz HTTP/1.0\r\n\r\n")


async def test_a_tenant_guesses_replays_and_churns(spawn: Spawn) -> None:
    """With users known, guesses, replays and churn end in `rate_limit`, and another user is not concerned."""
    flags = ("--replay-per-minute", "20000", "--max-running-per-user", "100")
    server = await spawn("--provider", "demo", *flags, environ={"WSSTREAM_TOKENS": TOKENS})
    async with bystander(server, token=BOB), connected(server, token=ALICE) as native:
        ended = await native.ask("demo:tokens=1000,rate=0")
        await native.read(ended)
        for number in range(4):
            await native.ask(SLOW_DEMO, request_id=f"churn{number}")
            await native.send("cancel_stream")
        await native.send("chat_request", request_id="one too many", message="hi")
        refused = await native.until("error")
        assert (refused["error_type"], refused["request_id"]) == ("rate_limit", "one too many")
        assert 0 < refused["retry_after"] <= 6
        for error in ["unknown_stream"] * 10 + ["rate_limit"] * 5:
            await native.send("resume_stream", stream_id="s_guess", last_chunk_id=0)
            assert (await native.until("error"))["error_type"] == error
        await native.resume(ended, 0)
        await native.read(ended)
        await native.send("resume_stream", stream_id=ended, last_chunk_id=0)
        assert (await native.until("error"))["error_type"] == "rate_limit"


async def test_malformed_frames_cost_no_more_log_than_they_are(spawn: Spawn) -> None:
    """A thousand broken handshakes and messages leave less in the log than one byte for each of theirs."""
    server = await spawn("--provider", "demo", "--log-level", "info")
    before, sent = len(server.log), 0
    for _ in range(100):
        for data in (b"\xff" * 20, b"GET /ws HTTP/1.0\r\n\r\n", UPGRADE.replace(b": 13", b": 99") + b"\r\n"):
            await fetch(server, data)
            sent += len(data)
        async with connected(server, greet=False) as native:
            data = frame(TEXT, b"\x80") + frame(TEXT, b"{")
            native.send_bytes(data)
            sent += len(data)
            await native.closed()
    assert len(server.log) - before <= sent


TIDY = 2 * TRIM_EVERY * MEMORY_EVERY
"""Seconds within which a server has returned what a crowd has left behind."""
SILENT = 10_000
"""TCP sockets that say nothing, as far as this machine has files for them."""


def affordable() -> int:
    """How many of them a server and a client may have here."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return SILENT if hard == resource.RLIM_INFINITY else min(SILENT, hard - 500)


@asynccontextmanager
async def silence(server: ServerProcess, count: int) -> AsyncIterator[asyncio.StreamReader]:
    """A process that opens so many sockets and says nothing; what it prints."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.data.silent", str(server.port), str(count)),
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env=clean_environ(),
    )
    try:
        assert process.stdout is not None
        yield process.stdout
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_ten_thousand_silent_sockets(spawn: Spawn) -> None:
    """All are closed by the time for a head, others are served meanwhile, and their memory is given back."""
    count = affordable()
    before_us = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before_us[1], before_us[1]))  # the server inherits it
    try:
        server = await spawn("--provider", "demo", "--request-timeout", "30")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before_us)
    process = psutil.Process(server.pid)
    files = process.num_fds()

    async def storm(count: int) -> int:
        async with silence(server, count) as said:
            assert int(await said.readline()) == count
            held = process.num_fds() - files
            async with connected(server) as late:
                answer = await late.read(await late.ask("demo:tokens=5,rate=1000"))
                assert answer.end is not None
            assert int(await said.readline()) == count
        await asyncio.sleep(1)
        assert process.num_fds() <= files + 3  # those of who looks on
        return held

    async with bystander(server):
        await storm(100)  # what is made once
        before = process.memory_info().rss
        held = [await storm(count) for _ in range(2)]
        await asyncio.sleep(TIDY)
        after = process.memory_info().rss
    print(f"{count} sockets, {held} open at once, memory {before >> 10} KiB before and {after >> 10} after")
    assert min(held) > count / 2
    assert after - before < LEFT_BEHIND
    assert b"Traceback" not in server.log.encode()


CROWD = 5000
"""WebSockets at once."""


async def come_and_go(server: ServerProcess, count: int) -> None:
    """So many say hello, all are there at once, and all leave."""
    writers: list[asyncio.StreamWriter] = []

    async def come() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writers.append(writer)
        writer.write(UPGRADE + b"\r\n" + frame(TEXT, wire("hello")))
        while b"connection_established" not in await reader.read(4096):
            pass

    for begin in range(0, count, 100):
        await asyncio.gather(*[come() for _ in range(begin, min(count, begin + 100))])
    for writer in writers:
        writer.close()
    await asyncio.sleep(TIDY)


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_crowds_of_websockets_leave_no_more_and_no_more(spawn: Spawn) -> None:
    """What the allocator keeps of a first crowd is used by the next ones: after the third it is no more."""
    count = min(CROWD, affordable())
    before_us = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before_us[1], before_us[1]))
    try:
        server = await spawn("--provider", "demo")
        process = psutil.Process(server.pid)
        taken = []
        for _ in range(3):
            await come_and_go(server, count)
            taken.append(process.memory_info().rss)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before_us)
    print(f"{count} WebSockets come and go, memory {[size >> 10 for size in taken]} KiB")
    assert taken[2] - taken[0] < LEFT_BEHIND


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_answers_that_are_not_kept_take_no_memory(spawn: Spawn) -> None:
    """Two thousand answers, of which the newest fifty are kept: the second thousand takes nothing more."""
    server = await spawn("--provider", "demo", "--max-retained", "50", "--message-burst", "10000")
    process = psutil.Process(server.pid)
    taken = []
    for _ in range(2):
        for _ in range(50):
            async with connected(server) as native:
                for _ in range(20):
                    answer = await native.read(await native.ask("demo:tokens=50,rate=0"))
                    assert answer.end is not None
        await asyncio.sleep(TIDY)
        taken.append(process.memory_info().rss)
    print(f"2000 answers, memory {[size >> 10 for size in taken]} KiB")
    assert taken[1] - taken[0] < LEFT_BEHIND
