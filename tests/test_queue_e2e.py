"""Requests that wait for a place: told where they stand, in a fair order, cancelled, deserted, restarted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import SCRIPTED, Serve
from tests.data.scripted import Scripted
from tests.native import Message, Native, connected
from wsstream.server import Server


async def queue_up(native: Native, request_id: str, **fields: Any) -> Message:
    """Ask, and be told to wait."""
    await native.send("chat_request", request_id=request_id, message="hi", **fields)
    return await native.until("stream_queued", request_id=request_id)


async def told(native: Native, type: str, **fields: Any) -> Message:
    """A message that has come, or is to come."""
    for message in native.seen:
        if message["type"] == type and fields.items() <= message.items():
            return message
    return await native.until(type, **fields)


async def soon(condition: Callable[[], bool]) -> None:
    """Wait for what the server does by itself."""
    async with asyncio.timeout(2):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def full(serve: Serve, **settings: Any) -> Server:
    """A server with one place."""
    return await serve(provider=SCRIPTED, **{"max_running_streams": 1, "max_queued": 3, **settings})


async def test_a_request_waits_and_is_told_its_place(serve: Serve, scripted: Scripted, store: str) -> None:
    """Who waits is told the place, again when it changes, and is served in turn as if there had been no wait."""
    server = await full(serve, store=store)
    async with connected(server) as native:
        first = await native.ask(request_id="r0")
        places = [(await queue_up(native, f"r{number}"))["position"] for number in (1, 2, 3)]
        assert places == [1, 2, 3]
        assert server.streams.statistics().queued == 3
        assert len(scripted.runs) == 1
        scripted.last.finish()
        await native.read(first)
        started = await told(native, "stream_start", request_id="r1")
        await told(native, "stream_queued", request_id="r2", position=1)
        await told(native, "stream_queued", request_id="r3", position=2)
        scripted.last.put("x")
        scripted.last.finish()
        assert (await native.read(started["stream_id"])).text == "x"


async def test_beyond_the_queue_is_queue_full(serve: Serve, scripted: Scripted) -> None:
    """One more than may wait is told `queue_full` and when to come back; a connection with nothing else is closed."""
    server = await full(serve)
    async with connected(server) as native:
        await native.ask(request_id="r")
        for number in range(3):
            await queue_up(native, f"q{number}")
        for number in range(10):
            async with connected(server) as other:
                await other.send("chat_request", request_id=f"r{number}", message="hi")
                error = await other.until("error")
                assert (error["error_type"], error["recoverable"]) == ("queue_full", True)
                assert error["retry_after"] > 0
                assert await other.closed() == (1013, "Server at capacity")
        await native.send("chat_request", request_id="mine", message="hi")
        assert (await native.until("error"))["error_type"] == "queue_full"
        await native.round_trip()
    assert server.rejections.statistics()["queue_full"] == 11


async def test_priority_goes_first_among_ones_own(serve: Serve, scripted: Scripted) -> None:
    """The more urgent request is served before one that came earlier."""
    server = await full(serve)
    async with connected(server) as native:
        first = await native.ask(request_id="r")
        await queue_up(native, "later")
        assert (await queue_up(native, "urgent", config={"priority": 10}))["position"] == 1
        await told(native, "stream_queued", request_id="later", position=2)
        scripted.last.finish()
        await native.read(first)
        await told(native, "stream_start", request_id="urgent")


async def test_cancel_while_waiting(serve: Serve, scripted: Scripted, store: str) -> None:
    """A waiting request that is cancelled ends as cancelled, with a receipt of nothing, and was never asked for."""
    server = await full(serve, store=store)
    async with connected(server) as native:
        await native.ask(request_id="r")
        waiting = await queue_up(native, "q1")
        await queue_up(native, "q2")
        await native.send("cancel_stream", stream_id=waiting["stream_id"])
        end = await native.until("stream_complete", stream_id=waiting["stream_id"])
        assert (end["finish_reason"], end["receipt"]["generated_chunks"]) == ("cancelled", 0)
        await told(native, "stream_queued", request_id="q2", position=1)
        assert len(scripted.runs) == 1
        assert server.streams.statistics().queued == 1


async def test_who_leaves_while_waiting_gives_up_the_place(serve: Serve, scripted: Scripted) -> None:
    """Nobody following a waiting request, its orphan policy decides: it is dropped, or goes on waiting."""
    server = await full(serve)
    async with connected(server) as native:
        await native.ask(request_id="r")
        async with connected(server, session_id="gone") as leaver:
            await queue_up(leaver, "dropped", config={"on_orphan": {"stop_after": 0.05}})
            kept = await queue_up(leaver, "kept", config={"on_orphan": "continue"})
        await soon(lambda: server.streams.statistics().queued == 1)
        async with connected(server, session_id="gone") as back:
            assert [stream["state"] for stream in back.seen[0]["active_streams"]] == ["queued"]
            assert (await back.resume(kept["stream_id"], 0))["state"] == "queued"
            assert (await back.until("stream_queued", request_id="kept"))["position"] == 1
            scripted.last.finish()
            await soon(lambda: len(scripted.runs) == 2)
            scripted.last.put("late")
            scripted.last.finish()
            assert (await back.read(kept["stream_id"])).text == "late"
            (dialogue,) = [c._dialogue for c in server.registry if c.session_id == "gone"]
            assert dialogue._desk._queued == {}  # what it followed is not held for as long as it stays


async def test_the_same_request_again_keeps_its_place(serve: Serve, scripted: Scripted) -> None:
    """A request that is sent again while it waits starts nothing and waits on."""
    server = await full(serve)
    async with connected(server, session_id="ses") as native:
        first = await native.ask(request_id="r")
        stream_id = (await queue_up(native, "q"))["stream_id"]
        for _ in range(5):
            await native.send("chat_request", request_id="q", message="hi")
        assert (await queue_up(native, "q"))["stream_id"] == stream_id
        await native.round_trip()
        scripted.last.finish()
        await native.read(first)
        await told(native, "stream_start", request_id="q")
        await native.round_trip()
        assert native.types().count("stream_start") == 2
        assert server.streams.statistics().queued == 0


async def test_a_restart_ends_what_waited(serve: Serve, scripted: Scripted, sqlite: str) -> None:
    """A waiting request that a restart cuts off ends as interrupted, so that it can be asked again."""
    server = await full(serve, store=sqlite)
    async with connected(server) as native:
        await native.ask(request_id="r")
        waiting = await queue_up(native, "q")
        await server.stop()
    server = await full(serve, store=sqlite)
    async with connected(server) as native:
        await native.resume(waiting["stream_id"], 0)
        end = (await native.read(waiting["stream_id"])).end
        assert end is not None
        assert (end["error_type"], end["recoverable"], end["last_chunk_id"]) == ("interrupted", True, 0)


async def test_a_drain_dismisses_who_waits(serve: Serve, scripted: Scripted) -> None:
    """When the server goes, whoever waits is told at once."""
    server = await full(serve, drain_timeout=3.0)
    async with connected(server) as native:
        await native.ask(request_id="r")
        waiting = await queue_up(native, "q")
        draining = asyncio.create_task(server.drain())
        assert (await native.until("stream_error", stream_id=waiting["stream_id"]))["error_type"] == "interrupted"
        scripted.last.finish()
        await draining


@pytest.mark.parametrize(("running", "waits"), [(1, False), (9, False), (10, True)])
async def test_without_a_wish_a_tenth_may_wait(serve: Serve, scripted: Scripted, running: int, waits: bool) -> None:
    """The queue is a tenth of the places, so that a server with few has none and says `capacity`."""
    server = await serve(provider=SCRIPTED, max_running_streams=running)
    async with connected(server) as native:
        for number in range(running):
            await native.ask(request_id=f"r{number}")
        await native.send("chat_request", request_id="q", message="hi")
        found = await native.until_that(lambda message: message["type"] in ("stream_queued", "error"))
        assert found["type"] == ("stream_queued" if waits else "error")
        assert waits or found["error_type"] == "capacity"
