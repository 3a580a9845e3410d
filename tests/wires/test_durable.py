"""Logs read under the Durable Streams protocol: catch-up, long polls, events, the end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.answers import begun
from tests.conftest import SCRIPTED, Serve
from tests.data.scripted import Scripted
from tests.native import connected
from tests.wires.http import browsing, events
from wsstream.wires.durable import cursor

FAST = "demo:rate=0,tokens=40"


async def ended(client: Any) -> str:
    """The address of an answer that has ended."""
    answer = await client.post("/api/chat", json={"message": "hi", "model": FAST})
    return f"/durable/{answer.json()['stream_id']}"


async def test_reading_what_there_is(serve: Serve) -> None:
    """From the start come all messages and the end, behind which the stream is closed; from there nothing more."""
    async with browsing(await serve()) as client:
        path = await ended(client)
        whole = await client.get(path)
        again = await client.get(path, params={"offset": "-1"})
        headers = whole.headers
        rest = await client.get(path, params={"offset": headers["stream-next-offset"]})
    assert [message["id"] for message in whole.json()[:-1]] == list(range(1, 41))
    assert whole.json()[-1]["type"] == "done"
    assert again.json() == whole.json()
    assert headers["content-type"] == "application/json"
    assert headers["stream-closed"] == headers["stream-up-to-date"] == "true"
    assert rest.json() == []
    assert rest.headers["stream-closed"] == "true"


@pytest.mark.parametrize("after", [0, 1, 39, 40])
async def test_offsets(serve: Serve, after: int) -> None:
    """Behind any chunk come exactly the others; offsets sort as texts."""
    async with browsing(await serve()) as client:
        path = await ended(client)
        whole = (await client.get(path)).json()
        rest = await client.get(path, params={"offset": f"{after:016d}"})
    assert rest.json() == whole[after:]
    assert f"{after:016d}" < rest.headers["stream-next-offset"]


async def test_reading_in_pieces(serve: Serve) -> None:
    """A long log takes several reads, each of which says where the next one begins."""
    async with browsing(await serve(max_read_bytes=50)) as client:
        path = await ended(client)
        found: list[Any] = []
        offset, reads = "-1", 0
        while True:
            reply = await client.get(path, params={"offset": offset})
            found += reply.json()
            offset, reads = reply.headers["stream-next-offset"], reads + 1
            if reply.headers.get("stream-closed"):
                break
            assert "stream-up-to-date" not in reply.headers
    assert reads > 3
    assert len(found) == 41


async def test_a_client_that_has_it_already(serve: Serve) -> None:
    """An answer has a tag, and who shows it is told that nothing has changed."""
    async with browsing(await serve()) as client:
        path = await ended(client)
        tag = (await client.get(path)).headers["etag"]
        assert (await client.get(path, headers={"If-None-Match": tag})).status_code == 304
        assert (await client.get(path, headers={"If-None-Match": '"other"'})).status_code == 200


async def test_long_polls(serve: Serve, scripted: Scripted) -> None:
    """They wait for what comes next, say when nothing does, and are told at once where all is over."""
    server = await serve(provider=SCRIPTED, long_poll_timeout=0.2)
    async with browsing(server) as client, connected(server) as native:
        stream_id, run = await begun(native, scripted)
        path = f"/durable/{stream_id}"
        live = {"live": "long-poll"}
        silent = await client.get(path, params={"offset": "-1", **live})
        assert silent.status_code == 204
        assert silent.headers["stream-up-to-date"] == "true"
        asyncio.get_running_loop().call_later(0.05, run.put, "a")
        told = await client.get(path, params={"offset": "now", "cursor": silent.headers["stream-cursor"], **live})
        assert told.json() == [{"id": 1, "type": "token", "content": "a"}]
        assert int(told.headers["stream-cursor"]) > int(silent.headers["stream-cursor"])
        run.finish()
        last = await client.get(path, params={"offset": told.headers["stream-next-offset"], **live})
        assert last.json()[0]["type"] == "done"
        over = await client.get(path, params={"offset": last.headers["stream-next-offset"], **live})
        assert over.status_code == 204
        assert over.headers["stream-closed"] == "true"


async def test_events(serve: Serve, scripted: Scripted) -> None:
    """Each data event is followed by where it ended; the last one says that the stream is closed."""
    server = await serve(provider=SCRIPTED)
    async with browsing(server) as client, connected(server) as native:
        stream_id, run = await begun(native, scripted)
        params = {"offset": "-1", "live": "sse"}
        async with events(client, "GET", f"/durable/{stream_id}", params=params) as stream:
            first = await stream.next()
            assert first is not None
            assert first.name == "control"
            assert first.data["upToDate"]
            run.put("a", "b")
            run.finish()
            told = await stream.rest()
    assert [event.name for event in told] == ["data", "control"] * (len(told) // 2)
    found = [message for event in told[::2] for message in event.data]
    assert [message.get("content") for message in found] == ["a", "b", None]
    assert told[-1].data["streamClosed"]
    assert told[-1].data["streamNextOffset"] == f"{2:016d}-end"


async def test_events_of_a_stream_that_is_over(serve: Serve) -> None:
    """Who has heard the end is told only that it was the end."""
    async with browsing(await serve()) as client:
        path = await ended(client)
        params = {"offset": f"{40:016d}-end", "live": "sse"}
        async with events(client, "GET", path, params=params) as stream:
            told = await stream.rest()
    assert [event.name for event in told] == ["control"]
    assert told[0].data["streamClosed"]


async def test_now_and_head(serve: Serve) -> None:
    """Both say where the stream ends, without anything of it."""
    async with browsing(await serve()) as client:
        path = await ended(client)
        now = await client.get(path, params={"offset": "now"})
        head = await client.head(path)
    assert now.json() == []
    assert head.content == b""
    for reply in (now, head):
        assert reply.status_code == 200
        assert reply.headers["stream-next-offset"] == f"{40:016d}-end"
        assert reply.headers["stream-closed"] == "true"
        assert reply.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "query", ["offset=", "offset=1", "offset=x", "live=sse", "live=long-poll", "live=maybe&offset=-1", "offset=1,2"]
)
async def test_bad_reads(serve: Serve, query: str) -> None:
    """What is no offset and no mode is refused."""
    async with browsing(await serve()) as client:
        assert (await client.get(f"{await ended(client)}?{query}")).status_code == 400


async def test_nothing_there(serve: Serve) -> None:
    """Unknown streams are 404, trimmed ones 410, and nothing can be written."""
    async with browsing(await serve(max_retained=1)) as client:
        first = await ended(client)
        second = await ended(client)
        assert (await client.get("/durable/nothing")).status_code == 404
        assert (await client.get(first)).status_code == 410
        assert (await client.post(second, json=[1])).status_code == 405


def test_cursors_never_stand_still() -> None:
    """Whatever cursor comes, the next one is greater."""
    now = int(cursor(None))
    assert int(cursor(str(now))) > now
    assert int(cursor(str(now + 5))) > now + 5
    assert int(cursor("x" * 40)) >= now
