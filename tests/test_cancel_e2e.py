"""Cancel on real sockets: by anybody, at any time, as often as they like, and the receipt for it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from tests.answers import answered, begun, cancelled, history, until
from tests.conftest import SCRIPTED, Serve
from tests.data.scripted import Scripted
from tests.native import connected


@pytest.mark.parametrize("canceller", ["asker", "viewer", "tab", "stranger"])
async def test_from_anywhere(serve: Serve, scripted: Scripted, store: str, canceller: str) -> None:
    """Whoever knows the stream may stop it; all who follow it and whoever asked are told the same end."""
    server = await serve(provider=SCRIPTED, store=store)
    async with (
        connected(server, session_id="mine") as asker,
        connected(server, session_id="mine") as viewer,
        connected(server, session_id="mine") as tab,
        connected(server) as stranger,
    ):
        stream_id, run = await begun(asker, scripted)
        await viewer.resume(stream_id, 0)
        run.put("a", "b", "c")
        for native in (asker, viewer):
            await native.read(stream_id, to=3)
            await native.round_trip()
        who = {"asker": asker, "viewer": viewer, "tab": tab, "stranger": stranger}[canceller]
        ends: list[Any] = [await cancelled(who, stream_id)]
        ends += [(await native.read(stream_id)).end for native in (asker, viewer)]
        assert run.closed.is_set()
        assert ends == [ends[0]] * 3
        receipt = ends[0]["receipt"]
        assert (receipt["generated_chunks"], receipt["delivered_chunk_id"]) == (3, 3)
        assert 0 <= receipt["upstream_closed_ms"] < 1000
        assert (ends[0]["final_chunk_id"], ends[0]["finish_reason"]) == (3, "cancelled")


async def test_the_receipt_is_exact(serve: Serve, scripted: Scripted, store: str) -> None:
    """A receipt counts what was generated, the furthest that anybody had acknowledged, and how long closing took."""
    server = await serve(provider=SCRIPTED, store=store)
    async with connected(server) as native, connected(server) as other:
        stream_id, run = await begun(native, scripted)
        run.close_delay = 0.1
        await other.resume(stream_id, 0)
        run.put(*"abcdefgh")
        await native.read(stream_id, to=8, ack=False)
        await native.ack(stream_id, 5)
        await native.round_trip()
        await other.read(stream_id, to=8, ack=False)
        await other.ack(stream_id, 2)
        await other.round_trip()
        started = time.monotonic()
        receipt = (await cancelled(other, stream_id))["receipt"]
        assert (receipt["generated_chunks"], receipt["delivered_chunk_id"]) == (8, 5)
        assert 90 <= receipt["upstream_closed_ms"] <= (time.monotonic() - started) * 1000


async def test_the_receipt_knows_who_has_left(serve: Serve, scripted: Scripted) -> None:
    """What a viewer had acknowledged counts, also when nobody is there any more."""
    server = await serve(provider=SCRIPTED)
    async with connected(server) as native:
        stream_id, run = await begun(native, scripted)
        run.put("a", "b", "c")
        await native.read(stream_id, to=2)
        await native.round_trip()
    await until(lambda: not server.streams.get(stream_id).log.attachments)
    async with connected(server) as other:
        receipt = (await cancelled(other, stream_id))["receipt"]
    assert (receipt["generated_chunks"], receipt["delivered_chunk_id"]) == (3, 3)


async def test_before_the_first_token(serve: Serve, scripted: Scripted, store: str) -> None:
    """An answer that has not said anything yet ends with nothing generated."""
    server = await serve(provider=SCRIPTED, store=store)
    async with connected(server) as native:
        stream_id, run = await begun(native, scripted)
        end = await cancelled(native, stream_id)
        run.put("too late")
        await native.round_trip()
        assert (end["final_chunk_id"], end["receipt"]["generated_chunks"]) == (0, 0)
        assert (await history(native))["messages"][-1]["content"] == ""


async def test_before_the_provider_is_asked(serve: Serve, scripted: Scripted, sqlite: str) -> None:
    """An answer that is cancelled in the same breath ends so, and its provider need not hear of it."""
    server = await serve(provider=SCRIPTED, store=sqlite)
    async with connected(server, session_id="mine") as native:
        await native.send("chat_request", request_id="r", message="hi")
        await native.send("cancel_stream")
        end = await native.until("stream_complete")
        assert native.types()[-2:] == ["stream_start", "stream_complete"]
        assert (end["finish_reason"], end["final_chunk_id"]) == ("cancelled", 0)
    assert server.streams.statistics().running == 0


async def test_during_replay(serve: Serve, scripted: Scripted, store: str) -> None:
    """Whoever cancels in the middle of a replay reads the rest of it, and then the end in its place."""
    server = await serve(provider=SCRIPTED, store=store)
    async with connected(server) as native, connected(server, window=2, batch=False) as late:
        stream_id, run = await begun(native, scripted)
        run.put(*"abcdefgh")
        await native.read(stream_id, to=8)
        await late.resume(stream_id, 0)
        await late.read(stream_id, to=2, ack=False)
        await late.send("cancel_stream", stream_id=stream_id)
        await native.until("stream_complete")
        answer = await late.read(stream_id, to=2)
        assert answer.end is None
        await late.ack(stream_id)
        answer = await late.read(stream_id)
        assert answer.text == "abcdefgh"
        assert (answer.end or {})["finish_reason"] == "cancelled"


async def test_after_the_end(serve: Serve, scripted: Scripted, store: str) -> None:
    """A cancel that comes too late is answered with the end as it was."""
    server = await serve(provider=SCRIPTED, store=store)
    async with connected(server) as native, connected(server) as other:
        stream_id = await answered(native, scripted, "a")
        end = native.answer(stream_id).end
        assert await cancelled(native, stream_id) == end
        assert await cancelled(other, stream_id) == end
        assert (end or {})["finish_reason"] == "stop"


async def test_twice(serve: Serve, scripted: Scripted, store: str) -> None:
    """The second cancel, while the provider closes or after that, changes nothing and gets the same receipt."""
    server = await serve(provider=SCRIPTED, store=store)
    async with connected(server) as native, connected(server) as other:
        stream_id, run = await begun(native, scripted)
        run.close_delay = 0.05
        run.put("a")
        await native.read(stream_id, to=1)
        await native.send("cancel_stream", stream_id=stream_id)
        ends = [await cancelled(other, stream_id), await cancelled(other, stream_id)]
        ends.append((await native.read(stream_id)).end or {})
        assert all(end == ends[0] for end in ends)


async def test_after_a_restart(serve: Serve, scripted: Scripted, sqlite: str) -> None:
    """A cancelled answer is still that after a restart, with its receipt; cancelling it again changes nothing."""
    server = await serve(provider=SCRIPTED, store=sqlite)
    async with connected(server) as native:
        stream_id, run = await begun(native, scripted)
        run.put("a", "b")
        await native.read(stream_id, to=2)
        end = await cancelled(native, stream_id)
    await server.stop()
    server = await serve(provider=SCRIPTED, store=sqlite)
    async with connected(server) as native:
        assert await cancelled(native, stream_id) == end
        assert (await native.resume(stream_id, 0))["state"] == "cancelled"
        assert (await native.read(stream_id)).end == end


async def test_while_the_log_is_read_from_the_store(serve: Serve, scripted: Scripted, sqlite: str) -> None:
    """Whoever resumes and cancels in one breath reads the chunks first, and the end once."""
    server = await serve(provider=SCRIPTED, store=sqlite, max_memory_bytes=1)
    async with connected(server) as native, connected(server) as late:
        stream_id = await answered(native, scripted, "a", "b")
        await answered(native, scripted, "another")
        assert not server.streams.get(stream_id).log.loaded
        await late.send("resume_stream", stream_id=stream_id, last_chunk_id=0)
        await late.send("cancel_stream", stream_id=stream_id)
        assert (await late.read(stream_id)).text == "ab"
        await late.round_trip()
        assert late.types().count("stream_complete") in (1, 2)  # twice where the cancel came after the end
        assert late.types()[:3] == ["connection_established", "stream_resumed", "chunk_batch"]


async def test_the_upstream_is_closed_though_nobody_waits(serve: Serve, scripted: Scripted) -> None:
    """Whoever cancels and leaves has still stopped the answer."""
    server = await serve(provider=SCRIPTED)
    async with connected(server) as native:
        stream_id, run = await begun(native, scripted)
        await native.send("cancel_stream", stream_id=stream_id)
    async with asyncio.timeout(1):
        await run.closed.wait()
    await until(lambda: server.streams.get(stream_id).log.state == "cancelled")


async def test_no_such_stream(serve: Serve) -> None:
    """A stream that never was cannot be cancelled."""
    server = await serve()
    async with connected(server) as native:
        await native.send("cancel_stream", stream_id="s_guess")
        assert (await native.until("error"))["error_type"] == "unknown_stream"
