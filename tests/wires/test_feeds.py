"""Durable streams of clients over HTTP: made, appended to, read in every way, closed, forked, deleted, and refused."""

from __future__ import annotations

import asyncio
import base64
import json
import signal
from typing import Any

import httpx2 as httpx
import pytest

from tests.conftest import Serve, Spawn
from tests.wires.http import browsing
from wsstream.config import Config
from wsstream.wires import feeds
from wsstream.wires.feeds import data_event, offset_of

A = "/v1/stream/a"
TEXT = {"Content-Type": "text/plain"}
JSON = {"Content-Type": "application/json"}
BINARY = {"Content-Type": "application/octet-stream"}


async def read_events(client: httpx.AsyncClient, path: str, until: str, **params: str) -> tuple[Any, list[list[str]]]:
    """The blocks of an event stream up to the one that holds ``until``, as lines."""
    found: list[list[str]] = [[]]
    async with client.stream("GET", path, params={"live": "sse", **params}) as response:
        async for line in response.aiter_lines():
            if line:
                found[-1].append(line)
            elif any(until in each for each in found[-1]):
                break
            else:
                found.append([])
    return response.headers, found


async def test_one_life(serve: Serve, store: str) -> None:
    """A stream is made, appended to, read, closed and deleted, over both stores."""
    async with browsing(await serve(store=store)) as client:
        made = await client.put(A, headers=TEXT, content="one")
        more = await client.post(A, headers=TEXT, content="two")
        whole = await client.get(A)
        rest = await client.get(A, params={"offset": made.headers["stream-next-offset"]})
        closed = await client.post(A, headers={"Stream-Closed": "true"})
        late = await client.post(A, headers=TEXT, content="three")
        head = await client.head(A)
        gone = [await client.delete(A), await client.get(A)]
    assert (made.status_code, more.status_code, closed.status_code, late.status_code) == (201, 204, 204, 409)
    assert made.headers["location"].endswith(A)
    assert (whole.text, rest.text) == ("onetwo", "two")
    assert whole.headers["content-type"] == "text/plain"
    assert whole.headers["stream-up-to-date"] == "true"
    assert "stream-closed" not in whole.headers
    assert head.headers["stream-next-offset"] == more.headers["stream-next-offset"] == offset_of(2)
    assert late.headers["stream-closed"] == head.headers["stream-closed"] == "true"
    assert [reply.status_code for reply in gone] == [204, 404]


@pytest.mark.parametrize("name", ["%E2%82%AC", "%F0%9F%98%80", "a%20b", "a%3Fb%23c", "%25", "%C3%A4"])
async def test_a_name_in_any_script(serve: Serve, name: str) -> None:
    """Where such a stream is, is told as an address has to be written, and leads to it."""
    async with browsing(await serve()) as client:
        made = await client.put(f"/v1/stream/{name}", headers=TEXT, content="x")
        assert (made.status_code, made.headers["location"].isascii()) == (201, True)
        assert made.headers["location"].endswith(f"/v1/stream/{name}")
        assert (await client.get(made.headers["location"])).text == "x"


async def test_it_survives_a_restart(serve: Serve, sqlite: str) -> None:
    """What was acknowledged is there at the same offsets, and a retry of it is known."""
    claim = {"Producer-Id": "w", "Producer-Epoch": "0", "Producer-Seq": "0"}
    first = await serve(store=sqlite)
    async with browsing(first) as client:
        await client.put(A, headers=JSON)
        before = await client.post(A, headers={**JSON, **claim}, json=[1, {"b": 2}])
    await first.stop()
    async with browsing(await serve(store=sqlite)) as client:
        again = await client.post(A, headers={**JSON, **claim}, json=[1, {"b": 2}])
        whole = await client.get(A)
        waiting = asyncio.ensure_future(client.get(A, params={"offset": offset_of(2), "live": "long-poll"}))
        await asyncio.sleep(0.05)
        await client.post(A, headers=JSON, json={"c": 3})
        live = await waiting
    assert (before.status_code, again.status_code) == (200, 204)
    assert before.headers["stream-next-offset"] == again.headers["stream-next-offset"]
    assert whole.json() == [1, {"b": 2}]
    assert live.json() == [{"c": 3}]


async def test_it_survives_being_killed(spawn: Spawn, sqlite: str) -> None:
    """Every append that was acknowledged is there when its server was killed, and the next goes behind it."""
    server = await spawn("--store", sqlite)
    async with browsing(server) as client:
        await client.put(A, headers=TEXT, content="0")
        for number in range(1, 10):
            assert (await client.post(A, headers=TEXT, content=str(number))).status_code == 204
        server.tell(signal.SIGKILL)
        await server.wait()
    async with browsing(await spawn("--store", sqlite)) as client:
        last = await client.post(A, headers={**TEXT, "Stream-Closed": "true"}, content="!")
        whole = await client.get(A)
    assert (last.headers["stream-next-offset"], whole.text) == (offset_of(11), "0123456789!")


@pytest.mark.parametrize(
    ("headers", "data", "shown"),
    [
        (JSON, b'[{"a":1},2]', b'[{"a":1},2]'),
        (TEXT, b" a\r\nb\xc3", b" a\nb"),
        (BINARY, b"\x00\xff", b"\x00\xff"),
    ],
)
async def test_events(serve: Serve, headers: dict[str, str], data: bytes, shown: bytes) -> None:
    """Data comes as it can in events, bytes in base64, and behind it where that ended; the end is told once."""
    async with browsing(await serve()) as client:
        await client.put(A, headers={**headers, "Stream-Closed": "true"}, content=data)
        told, (first, second) = await read_events(client, A, "streamClosed", offset="-1")
    assert told["content-type"] == "text/event-stream"
    assert first[0] == "event: data"
    text = "\n".join(line.removeprefix("data:").removeprefix(" ") if line[5] == " " else line[5:] for line in first[1:])
    is_binary = "stream-sse-data-encoding" in told
    assert is_binary is (headers is BINARY)
    assert (base64.b64decode(text) if is_binary else text.encode()).startswith(shown)
    control = json.loads(second[1].removeprefix("data:"))
    assert control == {
        "streamNextOffset": offset_of(2 if headers is JSON else 1),
        "streamClosed": True,
        "upToDate": True,
    }


async def test_letters_that_two_appends_share(serve: Serve) -> None:
    """As events they are whole where both parts are sent."""
    async with browsing(await serve()) as client:
        await client.put(A, headers=TEXT, content=b"\xc3")
        await client.post(A, headers=TEXT, content=b"\xa4")
        _, found = await read_events(client, A, "upToDate", offset="-1")
    assert "data:ä" in found[0]


async def test_a_live_reader_gets_what_comes_with_the_end(serve: Serve) -> None:
    """A last append is told before the end it came with."""
    async with browsing(await serve()) as client:
        await client.put(A, headers=TEXT)
        reading = asyncio.ensure_future(read_events(client, A, "streamClosed", offset="now"))
        await asyncio.sleep(0.05)
        await client.post(A, headers={**TEXT, "Stream-Closed": "true"}, content="last")
        _, found = await reading
    assert ["event: data", "data:last"] in found


async def test_long_polls(serve: Serve) -> None:
    """One that waited in vain says where the stream is, and that of a closed stream does not wait."""
    async with browsing(await serve(long_poll_timeout=0.01)) as client:
        await client.put(A, headers=TEXT)
        vain = await client.get(A, params={"offset": "now", "live": "long-poll"})
        await client.post(A, headers={"Stream-Closed": "true"})
        closed = await client.get(A, params={"offset": offset_of(0), "live": "long-poll"})
    assert (vain.status_code, closed.status_code) == (204, 204)
    assert vain.headers["stream-up-to-date"] == "true"
    assert vain.headers["stream-cursor"].isdigit()
    assert closed.headers["stream-closed"] == "true"


async def test_reading_in_pieces(serve: Serve) -> None:
    """A long stream takes several reads; only the last says that it is up to date and closed."""
    async with browsing(await serve(max_read_bytes=10)) as client:
        await client.put(A, headers={**JSON, "Stream-Closed": "true"}, json=list(range(100)))
        found, offset, reads = [], "-1", 0
        while True:
            reply = await client.get(A, params={"offset": offset})
            found += reply.json()
            offset, reads = reply.headers["stream-next-offset"], reads + 1
            if "stream-closed" in reply.headers:
                break
            assert "stream-up-to-date" not in reply.headers
    assert found == list(range(100))
    assert reads > 3


async def test_tags(serve: Serve) -> None:
    """What a reader has already is not sent again, until there is more, or the end."""
    async with browsing(await serve()) as client:
        await client.put(A, headers=TEXT, content="x")
        tag = (await client.get(A)).headers["etag"]
        same = await client.get(A, headers={"If-None-Match": tag})
        await client.post(A, headers={"Stream-Closed": "true"})
        ended = await client.get(A, headers={"If-None-Match": tag})
    assert (same.status_code, ended.status_code) == (304, 200)


async def test_forks(serve: Serve) -> None:
    """A fork is a stream of its own that begins as its source did."""
    async with browsing(await serve()) as client:
        await client.put(A, headers={**TEXT, "Stream-TTL": "60"}, content="hello")
        wish = {"Stream-Forked-From": A, "Stream-Fork-Offset": offset_of(0), "Stream-Fork-Sub-Offset": "3"}
        made = [await client.put("/v1/stream/f", headers=wish) for _ in range(2)]
        await client.post("/v1/stream/f", headers=TEXT, content="p")
        whole, head = await client.get("/v1/stream/f"), await client.head("/v1/stream/f")
        await client.delete(A)
        gone = await client.get(A)
    assert [reply.status_code for reply in made] == [201, 200]
    assert (whole.text, head.headers["stream-ttl"], gone.status_code) == ("help", "60", 410)


@pytest.mark.parametrize(
    ("method", "headers", "statuses"),
    [
        ("PUT", {"Stream-Forked-From": "/v1/stream/{}"}, [404, 400, 400]),
        ("POST", {**TEXT, "Stream-Seq": "{}"}, [204, 400, 400]),
        ("POST", {**TEXT, "Producer-Id": "{}", "Producer-Epoch": "0", "Producer-Seq": "0"}, [200, 400, 400]),
    ],
    ids=["source of a fork", "Stream-Seq", "Producer-Id"],
)
async def test_names_in_headers(serve: Serve, method: str, headers: dict[str, str], statuses: list[int]) -> None:
    """A name in a header is as long as may be; one that is longer is refused, and counted."""
    server = await serve(max_feed_name_chars=20, max_writer_chars=20)
    found = []
    async with browsing(server) as client:
        await client.put(A, headers=TEXT)
        for size in (20, 21, 200):
            filled = {name: value.format("n" * size) for name, value in headers.items()}
            path = A if method == "POST" else "/v1/stream/f"
            found.append((await client.request(method, path, headers=filled, content=b"x")).status_code)
    assert found == statuses
    assert server.rejections.statistics()["parameter"] == 2


@pytest.mark.parametrize(
    "headers",
    [
        {"Stream-TTL": "060"},
        {"Stream-TTL": "9" * 20},
        {"Stream-TTL": "1", "Stream-Expires-At": "2030-01-01T00:00:00Z"},
        {"Stream-Expires-At": "2030-01-01"},
        {"Stream-Expires-At": "2030-13-01T00:00:00Z"},
        {"Content-Type": "nothing"},
        {"Content-Type": 'text/html; a="\xe4"'.encode("latin-1")},
        {"Stream-Fork-Offset": offset_of(0)},
        {"Stream-Forked-From": A, "Stream-Fork-Sub-Offset": "-1"},
        {"Stream-Forked-From": A, "Stream-Fork-Offset": "1"},
    ],
    ids=str,
)
async def test_bad_wishes(serve: Serve, headers: Any) -> None:
    """What cannot be meant is refused, and no stream is made."""
    async with browsing(await serve()) as client:
        assert (await client.put("/v1/stream/b", headers=headers)).status_code == 400
        assert (await client.get("/v1/stream/b")).status_code == 404


@pytest.mark.parametrize(
    ("headers", "data", "status"),
    [
        ({}, b"x", 400),
        (TEXT, b"", 400),
        (JSON, b"[]", 409),
        ({**TEXT, "Producer-Id": "w"}, b"x", 400),
        ({**TEXT, "Producer-Id": "", "Producer-Epoch": "0", "Producer-Seq": "0"}, b"x", 400),
        ({**TEXT, "Producer-Id": "w", "Producer-Epoch": "0", "Producer-Seq": "1e1"}, b"x", 400),
        ({**TEXT, "Producer-Id": "w", "Producer-Epoch": "0", "Producer-Seq": "1"}, b"x", 409),
        ({**TEXT, "Stream-Seq": "s" * 200}, b"x", 400),
        (TEXT, b"x" * 2001, 413),
    ],
)
async def test_bad_appends(serve: Serve, headers: dict[str, str], data: bytes, status: int) -> None:
    """What is refused has changed nothing."""
    async with browsing(await serve(max_body_bytes=2000)) as client:
        await client.put(A, headers=TEXT)
        reply = await client.post(A, headers=headers, content=data)
        assert reply.status_code == status
        assert (await client.get(A)).text == ""


async def test_a_body_that_is_too_large_gets_an_answer(serve: Serve) -> None:
    """Whoever sends far more than may be sent reads the refusal, as the rest is taken and thrown away."""
    async with browsing(await serve()) as client:
        await client.put(A, headers=BINARY)
        assert (await client.post(A, headers=BINARY, content=bytes(10 * 2**20))).status_code == 413


@pytest.mark.parametrize("name", ["x" * 513, "a%00b", "a%0Db", ""])
async def test_bad_names(serve: Serve, name: str) -> None:
    """A name is short and printable."""
    async with browsing(await serve()) as client:
        assert (await client.put(f"/v1/stream/{name}", headers=TEXT)).status_code == 400


async def test_names_belong_to_users(serve: Serve, sqlite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same name is another stream for another user, after a restart too, and a stranger has none."""
    tokens = {"alice": "alice-token-0123456789", "bob": "bob-token-0123456789"}
    monkeypatch.setenv("WSSTREAM_TOKENS", "[users]\n" + "".join(f'{user} = "{tokens[user]}"\n' for user in tokens))
    alice, bob = ({"Authorization": f"Bearer {token}"} for token in tokens.values())
    first = await serve(store=sqlite)
    async with browsing(first) as client:
        await client.put(A, headers={**TEXT, **alice}, content="hers")
        assert (await client.get(A, headers=bob)).status_code == 404
        assert (await client.put("/v1/stream/f", headers={"Stream-Forked-From": A, **bob})).status_code == 404
        await client.put(A, headers={**TEXT, **bob}, content="his")
        assert (await client.get(A)).status_code == 401
    await first.stop()
    async with browsing(await serve(store=sqlite)) as client:
        assert (await client.delete(A, headers=bob)).status_code == 204
        assert (await client.get(A, headers=alice)).text == "hers"


async def test_nobodys_page(serve: Serve) -> None:
    """A page that a client has written runs nothing here."""
    async with browsing(await serve()) as client:
        await client.put(A, headers={"Content-Type": "text/html"}, content="<script>alert(1)</script>")
        page = await client.get(A)
    assert page.headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert page.headers["x-content-type-options"] == "nosniff"


async def test_pages_of_other_origins(serve: Serve) -> None:
    """One that is listed may write streams and read where they end; another may not even ask."""
    page = "https://chat.example"
    asked = {"Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "if-none-match, stream-ttl"}
    async with browsing(await serve(allowed_origins=page)) as client:
        allowed = await client.request("OPTIONS", A, headers={"Origin": page, **asked})
        made = await client.put(A, headers={"Origin": page, **TEXT})
        foreign = await client.put("/v1/stream/b", headers={"Origin": "https://evil.example", **TEXT})
    assert allowed.status_code == 200
    assert "stream-ttl" in allowed.headers["access-control-allow-headers"].lower()
    assert made.headers["access-control-allow-origin"] == page
    assert "stream-next-offset" in made.headers["access-control-expose-headers"].lower()
    assert foreign.status_code == 403


def test_lines_that_begin_with_a_space() -> None:
    """A reader takes one space off, which is therefore put there."""
    assert data_event(feeds.Form.TEXT, b" a\rb") == b"event: data\ndata:  a\ndata:b\n\n"


@pytest.mark.parametrize(
    ("settings", "may"),
    [
        ({"host": "127.0.0.1"}, True),
        ({"host": "::1"}, True),
        ({"host": "localhost"}, True),
        ({"host": "0.0.0.0"}, False),
        ({"host": "example.org"}, False),
        ({"host": "0.0.0.0", "durable_writes": "on"}, True),
        ({"host": "127.0.0.1", "durable_writes": "off"}, False),
    ],
)
def test_who_may_write(settings: Any, may: bool) -> None:
    """Where others can connect, writing is off unless it is asked for."""
    assert Config(**settings).may_write_feeds is may


async def test_where_writing_is_off(serve: Serve, sqlite: str) -> None:
    """Nothing is made, changed or deleted, and what there is can be read."""
    first = await serve(store=sqlite)
    async with browsing(first) as client:
        await client.put(A, headers=TEXT, content="x")
    await first.stop()
    async with browsing(await serve(store=sqlite, durable_writes="off")) as client:
        assert [(await client.request(method, A)).status_code for method in ("PUT", "POST", "DELETE")] == [405] * 3
        assert (await client.get(A)).text == "x"
