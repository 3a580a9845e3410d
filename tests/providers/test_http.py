"""The way to an upstream: connections kept and replaced, bodies of every form, reading that stops, and ends at once."""

from __future__ import annotations

import asyncio
import gc
import ssl
import time
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import httpx2
import pytest
import uvloop

from wsstream.config import Config
from wsstream.providers import http
from wsstream.providers.http import MAX_HEAD, finish, http_client, pump
from wsstream.providers.reading import bounds_of
from wsstream.testing.upstream import CHUNKED, LAST, Script, Step, Upstream, chunked, head, playing, whole

REQUEST, HOLD, RESET = Step.REQUEST, Step.HOLD, Step.RESET
PATIENCE = 5.0


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@asynccontextmanager
async def talking(*scripts: Script, max_head: int = MAX_HEAD) -> AsyncIterator[tuple[Upstream, httpx2.AsyncClient]]:
    """An upstream that plays these, and a client that talks to it."""
    async with playing(*scripts) as upstream, asyncio.timeout(PATIENCE):
        client = http_client(upstream.url, max_head)
        async with client:
            yield upstream, client


async def fetch(client: httpx2.AsyncClient, upstream: Upstream, content: bytes = b"") -> bytes:
    """The body of one answer, pumped to its end."""
    pieces: list[bytes] = []

    def take(data: bytes) -> bool:
        pieces.append(data)
        return True

    async with client.stream("POST", upstream.url, content=content) as response:
        assert not await pump(response, take)
    return b"".join(pieces)


# -- bodies


@pytest.mark.parametrize(
    "script",
    [
        [REQUEST, whole(b"hello"), HOLD],
        [REQUEST, head(Content_Length="5") + b"he", 0.01, b"llo", HOLD],
        [REQUEST, CHUNKED, 0.01, chunked(b"he"), 0.01, chunked(b"l", b"lo"), LAST, HOLD],
        [REQUEST, CHUNKED + chunked(b"hello") + LAST, HOLD],
        [REQUEST, head() + b"hel", 0.01, b"lo"],
        [REQUEST, head() + b"hello", Step.HALF_CLOSE, HOLD],
        [REQUEST, head(Connection="close") + b"hello"],
        [REQUEST, whole(b"hello", Connection="close")],
        [REQUEST, b"HTTP/1.0 200 OK\r\n\r\nhello"],
        [REQUEST, head("103 Early Hints", Link="x"), head("100 Continue"), whole(b"hello"), HOLD],
    ],
    ids=["length", "pieces", "chunked", "at once", "close", "half-close", "said", "both", "1.0", "interim"],
)
async def test_bodies_of_every_form(script: Script) -> None:
    """A body is read to its end, however the upstream says where that is."""
    async with talking(script) as (upstream, client):
        assert await fetch(client, upstream) == b"hello"


@pytest.mark.parametrize("script", [[REQUEST, whole(b""), HOLD], [REQUEST, head("204 No Content"), HOLD]])
async def test_empty_bodies(script: Script) -> None:
    """A body may be empty."""
    async with talking(script) as (upstream, client):
        assert await fetch(client, upstream) == b""


@pytest.mark.parametrize("where", range(1, 60, 7))
async def test_a_response_in_two_reads(where: int) -> None:
    """Where a response is cut means nothing."""
    data = head(Transfer_Encoding="chunked") + chunked(b"hel", b"lo") + LAST
    async with talking([REQUEST, data[:where], 0.005, data[where:], HOLD]) as (upstream, client):
        assert await fetch(client, upstream) == b"hello"


async def test_an_sdk_may_read_the_body_itself() -> None:
    """The body is an ordinary one for whoever does not pump it."""
    async with talking([REQUEST, CHUNKED, chunked(b"he"), 0.01, chunked(b"llo"), LAST, HOLD]) as (upstream, client):
        response = await client.post(upstream.url)
        assert (response.status_code, response.content) == (200, b"hello")
        assert response.headers["content-type"] == "text/event-stream"


async def test_the_request_as_it_is_sent() -> None:
    """The request goes out whole, asks for no compression, and names its host."""
    async with talking([REQUEST, whole(b"ok"), HOLD]) as (upstream, client):
        await fetch(client, upstream, b"x" * 300_000)
        (request,) = upstream.seen[0].requests
        start, _, content = request.partition(b"\r\n\r\n")
        lines = start.lower().split(b"\r\n")
        assert lines[0] == b"post /v1 http/1.1"
        assert [line for line in lines if line.startswith(b"accept-encoding")] == [b"accept-encoding: identity"]
        assert b"host: 127.0.0.1:%d" % upstream.port in lines
        assert content == b"x" * 300_000


# -- connections


@pytest.mark.parametrize(
    "parts", [[CHUNKED + chunked(b"a") + LAST], [CHUNKED, chunked(b"a"), 0.01, LAST], [whole(b"a")]]
)
async def test_connections_are_kept(parts: list[bytes | float]) -> None:
    """One connection serves requests that follow each other."""
    async with talking([REQUEST, *parts] * 3 + [HOLD]) as (upstream, client):
        for _ in range(3):
            assert await fetch(client, upstream) == b"a"
        assert len(upstream.seen) == 1
        assert len(upstream.seen[0].requests) == 3


async def test_a_connection_is_kept_after_a_reader_had_enough() -> None:
    """Where a reader stopped with the last byte, the next request on that connection is answered."""
    async with talking([REQUEST, CHUNKED + chunked(b"end") + LAST] * 2 + [HOLD]) as (upstream, client):
        for _ in range(2):
            async with asyncio.timeout(1), client.stream("POST", upstream.url) as response:
                assert await pump(response, lambda data: False)
                await finish(response, 0.5)
        assert len(upstream.seen) == 1


@pytest.mark.parametrize(
    "parts",
    [
        [whole(b"a", Connection="close"), HOLD],
        [head() + b"a"],
        [b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\na", HOLD],
    ],
)
async def test_connections_that_cannot_be_kept(parts: list[bytes | Step]) -> None:
    """Where the upstream does not keep a connection, the next request has a new one, and the old one is closed."""
    async with talking([REQUEST, *parts]) as (upstream, client):
        for _ in range(2):
            assert await fetch(client, upstream) == b"a"
        assert len(upstream.seen) == 2
        if parts[-1] is HOLD:
            await upstream.seen[0].closed.wait()


@pytest.mark.parametrize("end", [[], [RESET]])
async def test_a_connection_closed_while_idle_is_replaced(end: list[Step]) -> None:
    """A kept connection that the upstream has closed is not used again."""
    async with talking([REQUEST, whole(b"a"), *end], [REQUEST, whole(b"b"), HOLD]) as (upstream, client):
        assert await fetch(client, upstream) == b"a"
        await asyncio.sleep(0.05)
        assert await fetch(client, upstream) == b"b"
        assert len(upstream.seen) == 2


@pytest.mark.parametrize("end", [[], [RESET]])
async def test_a_stale_connection_is_tried_once_more(end: list[Step]) -> None:
    """A kept connection that closes on the next request, without a word, costs only another try on a fresh one."""
    stale: Script = [REQUEST, whole(b"a"), REQUEST, *end]
    async with talking(stale, [REQUEST, whole(b"b"), HOLD]) as (upstream, client):
        assert await fetch(client, upstream) == b"a"
        assert await fetch(client, upstream, b"again") == b"b"
        assert [len(seen.requests) for seen in upstream.seen] == [2, 1]
        assert upstream.seen[0].requests[1] == upstream.seen[1].requests[0]


async def test_a_fresh_connection_is_not_tried_again() -> None:
    """An upstream that closes on a fresh connection has refused: the request is not sent twice."""
    async with talking([REQUEST]) as (upstream, client):
        with pytest.raises(httpx2.RemoteProtocolError):
            await fetch(client, upstream)
        assert len(upstream.seen) == 1


async def test_a_request_that_was_heard_is_not_sent_again() -> None:
    """Once an upstream has begun to answer, it may have begun to bill: no other try, even on a kept connection."""
    async with talking([REQUEST, whole(b"a"), REQUEST, b"HTTP/1.1 20"]) as (upstream, client):
        assert await fetch(client, upstream) == b"a"
        with pytest.raises(httpx2.RemoteProtocolError):
            await fetch(client, upstream)
        assert len(upstream.seen) == 1


async def test_idle_connections_are_closed_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that nobody needs is not kept for ever."""
    monkeypatch.setattr(http, "IDLE_TIMEOUT", 0.05)
    async with talking([REQUEST, whole(b"a"), HOLD]) as (upstream, client):
        await fetch(client, upstream)
        await upstream.seen[0].closed.wait()


async def test_an_idle_connection_holds_no_request() -> None:
    """A kept connection does not keep what was sent over it: a hundred long conversations would be much memory."""
    sent: list[weakref.ref[httpx2.Request]] = []

    async def note(request: httpx2.Request) -> None:
        sent.append(weakref.ref(request))

    async with talking([REQUEST, whole(b"a"), HOLD]) as (upstream, client):
        client.event_hooks = {"request": [note]}
        await fetch(client, upstream, b"x" * 300_000)
        await asyncio.sleep(0)  # the turn that brought the response holds it
        gc.collect()
        assert [request() for request in sent] == [None]
        assert not upstream.seen[0].closed.is_set()


async def test_only_so_many_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the number to keep, a connection is closed when its answer has ended."""
    monkeypatch.setattr(http, "MAX_IDLE", 2)
    async with talking([REQUEST, whole(b"a"), HOLD]) as (upstream, client):
        await asyncio.gather(*(fetch(client, upstream) for _ in range(5)))
        await asyncio.sleep(0.05)
        assert sum(seen.closed.is_set() for seen in upstream.seen) == len(upstream.seen) - 2


async def test_closing_the_client_closes_what_is_idle() -> None:
    """No connection outlives its client."""
    async with talking([REQUEST, whole(b"a"), HOLD]) as (upstream, client):
        await fetch(client, upstream)
        await client.aclose()
        await upstream.seen[0].closed.wait()


async def test_bytes_nobody_asked_for_close_an_idle_connection() -> None:
    """A kept connection on which something comes unasked is not trusted with another request."""
    async with talking([REQUEST, whole(b"a"), 0.02, b"HTTP/1.1 200 OK\r\n", HOLD]) as (upstream, client):
        await fetch(client, upstream)
        await upstream.seen[0].closed.wait()


async def test_any_number_at_once() -> None:
    """There is no limit on connections under way."""
    async with talking([REQUEST, CHUNKED, chunked(b"a"), 0.2, chunked(b"b"), LAST, HOLD]) as (upstream, client):
        assert await asyncio.gather(*(fetch(client, upstream) for _ in range(150))) == [b"ab"] * 150
        assert len(upstream.seen) == 150


# -- bad upstreams


@pytest.mark.parametrize(
    "answer",
    [
        b"garbage\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x16\x03\x01\x02\x00",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/9.9 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nBad Header: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nxyz",
    ],
)
async def test_garbage_is_an_error(answer: bytes) -> None:
    """What is no HTTP response ends the request, and the connection, at once."""
    async with talking([REQUEST, answer, HOLD]) as (upstream, client):
        with pytest.raises(httpx2.TransportError):
            await fetch(client, upstream)
        await upstream.seen[0].closed.wait()


async def test_a_head_may_not_be_huge() -> None:
    """A head that goes on and on is refused long before it fills the memory."""
    endless: Script = [REQUEST, b"HTTP/1.1 200 OK\r\n", *[b"X-Pad: %b\r\n" % (b"x" * 1000)] * 10_000, HOLD]
    async with talking(endless) as (upstream, client):
        with pytest.raises(httpx2.RemoteProtocolError):
            await fetch(client, upstream)
        await asyncio.sleep(0.02)
        assert upstream.seen[0].written < 8_000_000


@pytest.mark.parametrize("most", [2048, MAX_HEAD])
@pytest.mark.parametrize(("times", "more", "taken"), [(1, 0, True), (1, 1, False), (10, 0, False)])
async def test_max_response_head_bytes(most: int, times: int, more: int, *, taken: bool) -> None:
    """A head that is not whole after as many bytes as may be is waited for; after more, not."""
    bounds = bounds_of(Config(max_response_head_bytes=most))
    size = times * most + more
    begin = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n"
    pad = b"X: " + b"x" * 1000 + b"\r\n"
    begin += pad * ((size - len(begin)) // len(pad) - 1)
    begin += b"Y: " + b"y" * (size - len(begin) - 3)
    script = [REQUEST, begin, 0.05, b"\r\n\r\nok", HOLD]
    async with talking(script, max_head=bounds.head_bytes) as (upstream, client):
        if taken:
            assert await fetch(client, upstream) == b"ok"
        else:
            with pytest.raises(httpx2.RemoteProtocolError):
                await fetch(client, upstream)


async def test_one_header_may_not_be_huge() -> None:
    """A single header without an end is refused too."""
    endless: Script = [REQUEST, b"HTTP/1.1 200 OK\r\nX-Pad: ", *[b"x" * 65536] * 500, HOLD]
    async with talking(endless) as (upstream, client):
        with pytest.raises(httpx2.RemoteProtocolError):
            await fetch(client, upstream)


@pytest.mark.parametrize(
    "script",
    [
        [REQUEST, head(Content_Length="10") + b"hello"],
        [REQUEST, head(Content_Length="10") + b"hello", RESET],
        [REQUEST, CHUNKED + chunked(b"hello")],
        [REQUEST, CHUNKED + chunked(b"hello"), RESET],
        [REQUEST, head() + b"hello", 0.02, RESET],
        [REQUEST, CHUNKED + chunked(b"hello") + b"zz\r\n", HOLD],
    ],
    ids=["length", "length reset", "chunked", "chunked reset", "close reset", "bad chunk"],
)
async def test_a_body_that_breaks_off(script: Script) -> None:
    """A body without its end is never taken for a whole one; what came of it is given first."""
    pieces: list[bytes] = []

    def take(data: bytes) -> bool:
        pieces.append(data)
        return True

    async with talking(script) as (upstream, client), client.stream("POST", upstream.url) as response:
        with pytest.raises(httpx2.TransportError):
            await pump(response, take)
        with pytest.raises(httpx2.TransportError):
            await pump(response, take)
    if RESET not in script or script[2] == 0.02:
        assert b"".join(pieces) == b"hello"


@pytest.mark.parametrize("behind", [b"garbage\r\n\r\n", b"\r\n\r\n", whole(b"second"), b"x"])
async def test_bytes_behind_a_body(behind: bytes) -> None:
    """What follows a whole body takes nothing from it and does not hold it up."""
    start = head(Content_Length="5")
    for script in ([REQUEST, start + b"hello" + behind, HOLD], [REQUEST, start, 0.02, b"hello" + behind, HOLD]):
        async with talking(script) as (upstream, client), asyncio.timeout(1):
            assert await fetch(client, upstream) == b"hello"


async def test_nobody_listens() -> None:
    """A refused connection is a ConnectError."""
    async with playing([]) as upstream:
        url = upstream.url
    async with http_client(url) as client:
        with pytest.raises(httpx2.ConnectError):
            await client.post(url)


async def test_connecting_has_a_limit() -> None:
    """A connection that is never accepted is given up."""
    async with http_client("http://127.0.0.1:9/") as client:
        loop = asyncio.get_running_loop()

        async def never(*_: object, **__: object) -> None:
            await asyncio.sleep(1000)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(loop), "create_connection", never)
            with pytest.raises(httpx2.ConnectTimeout):
                await client.post("http://127.0.0.1:9/", timeout=0.05)


async def test_tls_is_verified() -> None:
    """An upstream that speaks no TLS where it should is a ConnectError, and verification is on."""
    async with talking([b"plain words\r\n", HOLD]) as (upstream, client):
        with pytest.raises(httpx2.ConnectError):
            await client.post(upstream.url.replace("http", "https"))
        context = client._transport._ssl  # type: ignore[attr-defined]
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.check_hostname


# -- reading that stops


async def test_without_a_reader_the_upstream_waits() -> None:
    """While nobody takes, no more is read than a buffer's worth: the upstream cannot write on."""
    size = 64 * 1024 * 1024
    piece = b"x" * 65536
    script: Script = [REQUEST, head(Content_Length=str(size)), *[piece] * (size // len(piece)), HOLD]
    async with talking(script) as (upstream, client), client.stream("POST", upstream.url):
        seen = upstream.seen[0]
        await asyncio.sleep(0.2)
        held = seen.written
        await asyncio.sleep(0.1)
        assert seen.written == held < size / 4


async def test_a_reader_that_has_enough_stops_the_upstream() -> None:
    """When a reader says so, reading stops; when it asks again, it goes on without a byte lost."""
    size = 32 * 1024 * 1024
    block = bytes(range(256)) * 256
    script: Script = [REQUEST, head(Content_Length=str(size)), *[block] * (size // len(block)), HOLD]
    taken = bytearray()

    def take(data: bytes) -> bool:
        taken.extend(data)
        return False

    async with talking(script) as (upstream, client), client.stream("POST", upstream.url) as response:
        seen = upstream.seen[0]
        assert await pump(response, take)
        await asyncio.sleep(0.2)
        held = seen.written
        await asyncio.sleep(0.1)
        assert seen.written == held < size / 2
        while await pump(response, take):
            pass
        assert len(taken) == size
        assert bytes(taken) == block * (size // len(block))


async def test_a_reader_that_fails_is_told() -> None:
    """An exception of the reader is its own: it comes out of the pump as it is."""

    def take(data: bytes) -> bool:
        raise KeyError("mine")

    script: Script = [REQUEST, whole(b"a"), HOLD]
    async with talking(script) as (upstream, client), client.stream("POST", upstream.url) as response:
        with pytest.raises(KeyError, match="mine"):
            await pump(response, take)


# -- ends


async def test_an_unread_answer_is_closed_at_once() -> None:
    """Whoever leaves an answer in its middle closes the socket in that moment."""
    async with talking([REQUEST, CHUNKED, chunked(b"a"), HOLD]) as (upstream, client):
        async with client.stream("POST", upstream.url) as response:
            assert await pump(response, lambda data: False)
            left = time.monotonic()
        await upstream.seen[0].closed.wait()
        assert (upstream.seen[0].closed_at or 0) - left < 0.5


@pytest.mark.parametrize("answer", [[], [CHUNKED], [CHUNKED, chunked(b"a")]])
async def test_a_cancelled_request_is_closed_at_once(answer: list[bytes]) -> None:
    """A cancel closes the socket before the first byte, before the body, and in it."""
    async with talking([REQUEST, *answer, HOLD]) as (upstream, client):
        task = asyncio.create_task(fetch(client, upstream))
        await asyncio.sleep(0.05)
        task.cancel()
        cancelled = time.monotonic()
        await asyncio.wait([task])
        await upstream.seen[0].closed.wait()
        assert (upstream.seen[0].closed_at or 0) - cancelled < 0.5


async def test_finish_has_little_patience() -> None:
    """The rest of an answer is waited for a moment only; then its connection is closed instead of kept."""
    async with talking([REQUEST, CHUNKED + chunked(b"a"), HOLD]) as (upstream, client):
        begun = time.monotonic()
        async with client.stream("POST", upstream.url) as response:
            assert await pump(response, lambda data: False)
            await finish(response, 0.05)
        assert time.monotonic() - begun < 0.5
        await upstream.seen[0].closed.wait()


async def test_finish_minds_no_broken_end() -> None:
    """An answer that was read enough of may end as it likes."""
    script: Script = [REQUEST, CHUNKED + chunked(b"a"), 0.02, RESET]
    async with talking(script) as (upstream, client), client.stream("POST", upstream.url) as response:
        assert await pump(response, lambda data: False)
        await finish(response, 1)


async def test_nothing_is_left_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is gone is not held by anything."""
    made: weakref.WeakSet[http._Connection] = weakref.WeakSet()
    connection_made = http._Connection.connection_made

    def note(self: http._Connection, transport: asyncio.BaseTransport) -> None:
        made.add(self)
        connection_made(self, transport)

    monkeypatch.setattr(http._Connection, "connection_made", note)
    async with talking([REQUEST, whole(b"a", Connection="close"), HOLD]) as (upstream, client):
        await fetch(client, upstream)
        assert len(made) == 1
        await upstream.seen[0].closed.wait()
        await asyncio.sleep(0.01)
        gc.collect()
        assert len(made) == 0


# -- through a proxy


@pytest.fixture
def _proxied(monkeypatch: pytest.MonkeyPatch, _no_proxy: None) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")


@pytest.mark.usefixtures("_proxied")
async def test_a_proxy_is_left_to_the_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a proxy is set, requests go to it, and pumping works the same: stopping, going on, and the end."""
    async with playing([REQUEST, CHUNKED + chunked(b"he"), 0.02, chunked(b"llo"), 0.02, LAST, HOLD]) as upstream:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{upstream.port}")
        pieces: list[bytes] = []

        def take(data: bytes) -> bool:
            pieces.append(data)
            return False

        async with (
            asyncio.timeout(PATIENCE),
            http_client("http://model.invalid/v1") as client,
            client.stream("POST", "http://model.invalid/v1") as response,
        ):
            while await pump(response, take):
                pass
            assert not await pump(response, take)
            await finish(response, 0.05)
        assert b"".join(pieces) == b"hello"
        assert upstream.seen[0].requests[0].startswith(b"POST http://model.invalid/v1 HTTP/1.1\r\n")


@pytest.mark.usefixtures("_proxied")
async def test_a_proxy_is_not_used_for_what_is_near(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the proxy's settings leave a host out, it is talked to directly."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    async with talking([REQUEST, whole(b"hello"), HOLD]) as (upstream, client):
        assert await fetch(client, upstream) == b"hello"


# -- on the other loop

BREAKING: Script = [REQUEST, CHUNKED + chunked(b"hello"), RESET]


@pytest.mark.parametrize(
    "scenario",
    [
        partial(test_bodies_of_every_form, [REQUEST, head() + b"hello", Step.HALF_CLOSE, HOLD]),
        partial(test_connections_are_kept, [CHUNKED, chunked(b"a"), 0.01, LAST]),
        test_a_connection_is_kept_after_a_reader_had_enough,
        partial(test_a_connection_closed_while_idle_is_replaced, [RESET]),
        partial(test_a_stale_connection_is_tried_once_more, []),
        partial(test_a_stale_connection_is_tried_once_more, [RESET]),
        partial(test_garbage_is_an_error, b"garbage\r\n\r\n"),
        partial(test_bytes_behind_a_body, b"garbage\r\n\r\n"),
        partial(test_a_body_that_breaks_off, BREAKING),
        test_without_a_reader_the_upstream_waits,
        test_a_reader_that_has_enough_stops_the_upstream,
        test_an_unread_answer_is_closed_at_once,
        partial(test_a_cancelled_request_is_closed_at_once, [CHUNKED]),
        test_closing_the_client_closes_what_is_idle,
        test_nobody_listens,
    ],
    ids=lambda scenario: getattr(scenario, "func", scenario).__name__.removeprefix("test_"),
)
def test_the_same_on_uvloop(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Where loops differ, in how connections end and stop, the one that servers run on does the same."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())
