"""What becomes of answers that nobody follows, on real sockets: each policy, its limit, and viewers who return."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.answers import begun, cancelled, until
from tests.conftest import SCRIPTED, Serve
from tests.data.scripted import Scripted
from tests.native import connected
from wsstream.chunks import ChatRequest
from wsstream.server import Server

COUNTING = f"{__name__}:counting"
SLACK = 100
"""Chunks that may come after the last one wanted: what is under way when a provider is told."""


class _Count:
    """How far the newest answer of `counting` was read."""

    def __init__(self) -> None:
        self.read = 0
        self.length = 10**9
        self.closed = False


count = _Count()


async def counting(request: ChatRequest) -> AsyncIterator[str]:
    """Numbers, as fast as they are read."""
    try:
        while count.read < count.length:
            count.read += 1
            yield f"{count.read} "
    finally:
        count.closed = True


@pytest.fixture(autouse=True)
def _count_anew() -> None:
    count.__init__()  # type: ignore[misc]


def wish(policy: Any) -> dict[str, Any]:
    """The field of a request that asks for an orphan policy."""
    return {"config": {"on_orphan": policy}}


def state(server: Server, stream_id: str) -> str:
    """How the stream is."""
    return server.streams.get(stream_id).log.state


def followed(server: Server, stream_id: str) -> bool:
    """Whether anybody follows it."""
    return bool(server.streams.get(stream_id).log.attachments)


@pytest.mark.parametrize("where", ["server", "request"])
async def test_stopped_after_a_while(serve: Serve, scripted: Scripted, store: str, where: str) -> None:
    """Without viewers an answer is stopped after its time, the provider's connection with it; what came is kept."""
    settings = {"on_orphan": "stop_after", "orphan_grace": 0.1} if where == "server" else {}
    server = await serve(provider=SCRIPTED, store=store, **settings)
    async with connected(server) as native:
        stream_id, run = await begun(native, scripted, **(wish({"stop_after": 0.1}) if where == "request" else {}))
        run.put("a", "b")
        await native.read(stream_id, to=2)
    await asyncio.sleep(0.05)
    assert state(server, stream_id) == "running"
    run.put("c")
    async with asyncio.timeout(1):
        await run.closed.wait()
    async with connected(server) as late:
        await late.resume(stream_id, 0)
        answer = await late.read(stream_id)
    assert answer.text == "abc"
    assert answer.end is not None
    assert (answer.end["error_type"], answer.end["recoverable"]) == ("interrupted", True)


async def test_back_just_before_the_limit(serve: Serve, scripted: Scripted, store: str) -> None:
    """A viewer who returns just before the limit saves the answer, and the next time without viewers is a whole one."""
    server = await serve(provider=SCRIPTED, store=store)
    async with connected(server) as native:
        stream_id, run = await begun(native, scripted, **wish({"stop_after": 0.6}))
    for _ in range(2):
        await asyncio.sleep(0.35)
        async with connected(server) as back:
            await back.resume(stream_id, 0)
    await asyncio.sleep(0.35)
    async with connected(server) as back:
        await back.resume(stream_id, 0)
        await asyncio.sleep(0.4)
        run.put("still here")
        run.finish()
        assert (await back.read(stream_id)).text == "still here"


@pytest.mark.parametrize("where", ["server", "request"])
async def test_continued_for_nobody(serve: Serve, scripted: Scripted, store: str, where: str) -> None:
    """An answer that is to continue goes on to its end without viewers, whatever the server's grace."""
    settings = {"on_orphan": "continue"} if where == "server" else {"orphan_grace": 0.01}
    server = await serve(provider=SCRIPTED, store=store, **settings)
    async with connected(server) as native:
        stream_id, run = await begun(native, scripted, **(wish("continue") if where == "request" else {}))
    await until(lambda: not followed(server, stream_id))
    await asyncio.sleep(0.05)
    run.put("whole")
    run.finish()
    await until(lambda: state(server, stream_id) == "complete")


@pytest.mark.parametrize("where", ["server", "request"])
async def test_paused(serve: Serve, store: str, where: str) -> None:
    """A paused answer is read no further by as much as a token, and goes on to its end when somebody returns."""
    settings: dict[str, Any] = {"on_orphan": "pause"} if where == "server" else {}
    server = await serve(provider=COUNTING, store=store, chunk_timeout=0.1, **settings)
    async with connected(server) as native:
        stream_id = await native.ask(**(wish("pause") if where == "request" else {}))
        await native.read(stream_id, to=200)
    await until(lambda: not followed(server, stream_id))
    await asyncio.sleep(0.02)
    paused_at = count.read
    await asyncio.sleep(0.25)  # longer than a provider may be silent
    assert (count.read, state(server, stream_id), count.closed) == (paused_at, "running", False)
    count.length = paused_at + 500
    async with connected(server) as back:
        await back.resume(stream_id, 0)
        answer = await back.read(stream_id)
    assert answer.text.split() == [str(n) for n in range(1, paused_at + 501)]
    assert (answer.end or {})["finish_reason"] == "stop"


async def test_paused_again_and_again(serve: Serve) -> None:
    """Every return lets a paused answer go on, and every leaving holds it again."""
    server = await serve(provider=COUNTING)
    async with connected(server) as native:
        stream_id = await native.ask(**wish("pause"))
    position = 0
    for _ in range(3):
        await until(lambda: not followed(server, stream_id))
        await asyncio.sleep(0.02)
        before = count.read
        await asyncio.sleep(0.03)
        assert count.read == before
        async with connected(server) as back:
            await back.resume(stream_id, position)
            position = (await back.read(stream_id, to=before + 100)).last
        assert count.read >= before + 100


async def test_a_paused_answer_is_cancelled(serve: Serve) -> None:
    """A paused answer can be stopped by somebody who does not follow it."""
    server = await serve(provider=COUNTING)
    async with connected(server) as native:
        stream_id = await native.ask(**wish("pause"))
    await until(lambda: not followed(server, stream_id))
    async with connected(server) as other:
        end = await cancelled(other, stream_id)
    assert (end["finish_reason"], count.closed) == ("cancelled", True)


async def test_stopped_after_some_chunks(serve: Serve, store: str) -> None:
    """Without viewers an answer is stopped after so many chunks more, as interrupted."""
    server = await serve(provider=COUNTING, store=store)
    async with connected(server) as native:
        stream_id = await native.ask(**wish({"stop_after_chunks": 300}))
        await native.read(stream_id, to=10)
        await native.round_trip()
    await until(lambda: state(server, stream_id) == "interrupted")
    assert count.closed
    tail = server.streams.get(stream_id).log.tail
    async with connected(server) as late:
        await late.resume(stream_id, 0)
        answer = await late.read(stream_id)
    assert (answer.last, (answer.end or {})["error_type"]) == (tail, "interrupted")
    assert 310 <= tail <= 50 + 1000 + 300 + SLACK


async def test_stopped_after_some_chunks_of_a_viewer_who_did_not_read(serve: Serve) -> None:
    """An answer held back by its viewer goes on when that one leaves, for so many chunks."""
    server = await serve(provider=COUNTING, high_water=500, low_water=250)
    async with connected(server) as native:
        stream_id = await native.ask(**wish({"stop_after_chunks": 300}))
        log = server.streams.get(stream_id).log
        await until(lambda: len(log) >= 500)
        await asyncio.sleep(0.02)
        held_at = count.read
    await until(lambda: state(server, stream_id) == "interrupted")
    assert held_at + 300 <= log.tail <= held_at + 300 + SLACK


async def test_back_before_so_many_chunks(serve: Serve, scripted: Scripted) -> None:
    """A viewer who returns before the last of the chunks saves the answer, and the count begins anew."""
    server = await serve(provider=SCRIPTED)
    async with connected(server) as native:
        stream_id, run = await begun(native, scripted, **wish({"stop_after_chunks": 3}))
    for _ in range(3):
        await until(lambda: not followed(server, stream_id))
        run.put("a")
        run.put("b")
        async with connected(server) as back:
            await back.resume(stream_id, 0)
            await back.round_trip()
    await until(lambda: not followed(server, stream_id))
    assert state(server, stream_id) == "running"
    for text in "xyz":
        run.put(text)
    async with asyncio.timeout(1):
        await run.closed.wait()


@pytest.mark.parametrize("policy", [{"stop_after": 0}, {"stop_after_chunks": 0}])
async def test_stopped_at_once(serve: Serve, scripted: Scripted, policy: dict[str, int]) -> None:
    """With a limit of nothing an answer is stopped as soon as nobody follows it, however silent its provider is."""
    server = await serve(provider=SCRIPTED)
    async with connected(server) as native:
        stream_id, run = await begun(native, scripted, **wish(policy))
        run.put("a")
        await native.read(stream_id, to=1)
        await native.resume(stream_id, 0)
        await native.round_trip()
        assert state(server, stream_id) == "running", "a resume is no leaving"
    async with asyncio.timeout(1):
        await run.closed.wait()


async def test_one_of_two_viewers_leaves(serve: Serve, scripted: Scripted) -> None:
    """An answer with a viewer left is no orphan."""
    server = await serve(provider=SCRIPTED)
    async with connected(server) as first, connected(server) as second:
        stream_id, run = await begun(first, scripted, **wish({"stop_after": 0}))
        await second.resume(stream_id, 0)
        first.drop()
        await until(lambda: len(server.registry) == 1)
        run.put("on")
        run.finish()
        assert (await second.read(stream_id)).text == "on"


async def test_whoever_leaves_before_the_start_is_told(serve: Serve, scripted: Scripted, sqlite: str) -> None:
    """A request whose asker is gone at once is an orphan like any other."""
    server = await serve(provider=SCRIPTED, store=sqlite)
    async with connected(server, session_id="mine") as native:
        await native.send("chat_request", request_id="r", message="hi", **wish({"stop_after": 0.05}))
        await until(lambda: server.streams.of_session("mine"))
        native.drop()
    await until(lambda: server.streams.of_session("mine")[0].log.state == "interrupted")


@pytest.mark.parametrize(
    "policy",
    [
        *("stop", "", 5, [], {}),
        *({"stop_after": -1}, {"stop_after": "x"}, {"stop_after_chunks": 1.5}, {"pause": 1}),
        {"stop_after": 1, "stop_after_chunks": 1},
    ],
)
async def test_no_such_policy(serve: Serve, scripted: Scripted, policy: Any) -> None:
    """A policy that there is not is refused, and nothing is begun."""
    server = await serve(provider=SCRIPTED)
    async with connected(server) as native:
        await native.send("chat_request", request_id="r", message="hi", **wish(policy))
        error = await native.until("error", request_id="r")
        assert error["error_type"] == "bad_request"
    assert scripted.runs == []
