"""Real servers that are killed in the middle of answers which can go on, and those who follow them."""

from __future__ import annotations

import asyncio
import signal

from tests.conftest import ServerProcess, Spawn
from tests.native import Message, Native, connected

COUNTING = ("--provider", "tests.data.scripted:counting")
COUNT = 150
FAR = 10_000


async def kill(server: ServerProcess) -> None:
    """End it at once."""
    server.tell(signal.SIGKILL)
    await server.wait()


def counted(conversation: str, count: int = COUNT) -> str:
    """The whole answer."""
    return f"[{conversation}] " + "".join(f"{number} " for number in range(1, count + 1))


async def resumed(client: Native, stream_id: str, last: int, epoch: str) -> Message:
    """Go on with a stream from behind a chunk, under the epoch it had before."""
    return await client.resume(stream_id, last, epoch=epoch)


async def test_an_answer_goes_on_after_a_kill(spawn: Spawn, sqlite: str) -> None:
    """A viewer goes on behind what it has, a new one reads the same from the start, and it has one end for ever."""
    server = await spawn(*COUNTING, "--store", sqlite)
    async with connected(server, session_id="ses") as client:
        await client.read(await client.ask(message="2"))
        stream_id = await client.ask(message=str(COUNT))
        epoch = next(seen["epoch"] for seen in client.seen if seen.get("stream_id") == stream_id)
        had = await client.read(stream_id, to=20)
        await kill(server)
    server = await spawn(*COUNTING, "--store", sqlite)
    async with connected(server, session_id="ses") as client, connected(server) as other:
        assert (await resumed(client, stream_id, had.last, epoch))["state"] == "running"
        await resumed(other, stream_id, 0, epoch)
        rest, whole = await asyncio.gather(client.read(stream_id), other.read(stream_id))
        conversation = f"user: 2 | assistant: {counted('user: 2', 2)} | user: {COUNT}"
        assert had.text + rest.text == whole.text == counted(conversation)
        assert whole.end == rest.end
        assert whole.end is not None
        assert (whole.end["finish_reason"], whole.end["final_chunk_id"]) == ("stop", whole.last)
        assert whole.end["retry_count"] == 1
        assert await client.ask(message=str(COUNT), request_id="r2") == stream_id
    await kill(server)
    server = await spawn(*COUNTING, "--store", sqlite)
    async with connected(server) as client:
        assert (await resumed(client, stream_id, 0, epoch))["state"] == "complete"
        again = await client.read(stream_id)
        assert (again.text, again.end) == (whole.text, whole.end)


async def test_an_answer_goes_on_after_two_kills(spawn: Spawn, sqlite: str) -> None:
    """The second crash takes nothing that the first has left, nor what came since."""
    server = await spawn(*COUNTING, "--store", sqlite)
    parts: list[str] = []
    last = 0
    async with connected(server) as client:
        stream_id = await client.ask(messages=[{"role": "user", "content": str(COUNT)}], message=None)
        epoch = next(seen["epoch"] for seen in client.seen if seen.get("stream_id") == stream_id)
        answer = await client.read(stream_id, to=15)
        await kill(server)
    for to in (45, None):
        parts.append(answer.text)
        last = answer.last
        server = await spawn(*COUNTING, "--store", sqlite)
        async with connected(server) as client:
            await resumed(client, stream_id, last, epoch)
            answer = await client.read(stream_id, to=to)
            if to is not None:
                await kill(server)
    assert "".join([*parts, answer.text]) == counted(f"user: {COUNT}")
    assert answer.end is not None
    assert (answer.end["type"], answer.end["retry_count"]) == ("stream_complete", 2)


async def test_what_was_cancelled_stays_so(spawn: Spawn, sqlite: str) -> None:
    """A cancel that was answered ends the answer for ever, though its neighbour goes on."""
    server = await spawn(*COUNTING, "--store", sqlite)
    async with connected(server) as client:
        cancelled = await client.ask(message=str(FAR))
        other = await client.ask(message=str(FAR))
        await client.read(cancelled, to=5)
        await client.send("cancel_stream", stream_id=cancelled)
        await client.until("stream_complete", stream_id=cancelled)
        await client.read(other, to=5)
        await kill(server)
    server = await spawn(*COUNTING, "--store", sqlite)
    async with connected(server) as client:
        states = [(await client.resume(stream_id, 0))["state"] for stream_id in (cancelled, other)]
        assert states == ["cancelled", "running"]


async def test_an_orderly_end_is_an_end(spawn: Spawn, sqlite: str) -> None:
    """What a drain has interrupted does not go on, whoever starts the server again."""
    server = await spawn(*COUNTING, "--store", sqlite, "--drain-timeout", "0.1")
    async with connected(server) as client:
        stream_id = await client.ask(message=str(FAR))
        await client.read(stream_id, to=5)
        server.tell(signal.SIGTERM)
        ended = await client.until("stream_error", stream_id=stream_id)
    assert await server.wait() == 0
    server = await spawn(*COUNTING, "--store", sqlite)
    async with connected(server) as client:
        assert (await client.resume(stream_id, 0))["state"] == "interrupted"
        assert (await client.read(stream_id)).end == ended


async def test_who_cannot_go_on_is_interrupted(spawn: Spawn, sqlite: str) -> None:
    """With a provider that cannot continue a text, a crash ends its answers, as does the wish of a request."""
    server = await spawn("--provider", "demo", "--store", sqlite)
    async with connected(server) as client:
        stream_id = await client.ask("demo:rate=100,tokens=5000")
        await client.read(stream_id, to=5)
        await kill(server)
    server = await spawn(*COUNTING, "--store", sqlite)
    async with connected(server) as client:
        assert (await client.resume(stream_id, 0))["state"] == "interrupted"
        wish = await client.ask(message=str(FAR), config={"on_interrupt": "fail"}, request_id="wish")
        await client.read(wish, to=5)
        await kill(server)
    server = await spawn(*COUNTING, "--store", sqlite)
    async with connected(server) as client:
        assert (await client.resume(wish, 0))["state"] == "interrupted"
        end = (await client.read(wish)).end
        assert end is not None
        assert (end["error_type"], end["recoverable"]) == ("interrupted", True)


async def test_an_answer_that_ends_where_it_begins(spawn: Spawn, sqlite: str) -> None:
    """Begin and end may be committed together: whoever asked is told of both."""
    server = await spawn("--provider", "tests.data.scripted:quick_counting", "--store", sqlite)
    async with connected(server) as client:
        for _ in range(5):
            answer = await client.read(await client.ask(message="0"))
            assert answer.end is not None
            assert (answer.end["type"], answer.text) == ("stream_complete", "")


async def test_whoever_was_answering_is_asked_first(spawn: Spawn, sqlite: str) -> None:
    """Where another model was turned to, an answer goes on with that one, crash by crash, and says so at its end,
    with all tries after the first: the other model's and two behind crashes."""
    fickle = "tests.data.scripted:fickle"
    config = {"model": "first", "fallback": [f"{fickle}:second", f"{fickle}:third"]}
    server = await spawn("--provider", fickle, "--store", sqlite)
    async with connected(server) as client:
        stream_id = await client.ask(message=str(COUNT), config=config)
        await client.read(stream_id, to=10)
        await kill(server)
    server = await spawn("--provider", fickle, "--store", sqlite)
    async with connected(server) as client:
        await client.resume(stream_id, 0)
        await client.read(stream_id, to=COUNT // 2)
        await kill(server)
    server = await spawn("--provider", fickle, "--store", sqlite)
    async with connected(server) as client:
        await client.resume(stream_id, 0)
        whole = await client.read(stream_id)
        assert whole.text == "".join(f"second-{number} " for number in range(COUNT))
        assert whole.end is not None
        assert (whole.end["type"], whole.end["model"], whole.end["retry_count"]) == ("stream_complete", "second", 3)
