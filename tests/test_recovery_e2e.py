"""Providers that fail, seen from a client: statuses, fallbacks, answers that go on, and text that is withdrawn."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.conftest import SCRIPTED, Serve
from tests.data.scripted import Scripted
from wsstream import messages as m
from wsstream.chunks import StreamState
from wsstream.client import connect
from wsstream.client_protocol import Told
from wsstream.errors import ConfigError, ErrorType, Interrupted, ProviderError, ProviderRateLimited
from wsstream.recovery import Retry
from wsstream.server import Config, Server


async def run(scripted: Scripted, number: int) -> Any:
    """The provider's try of that number, as soon as it has begun."""
    for _ in range(5000):
        if len(scripted.runs) >= number:
            return scripted.runs[number - 1]
        await asyncio.sleep(0.001)
    raise AssertionError(f"there is no try {number}")


async def test_a_viewer_is_told_why_it_waits(serve: Serve, scripted: Scripted, store: str) -> None:
    """Everybody who follows is told of the wait, also who joins meanwhile; then the answer comes as if nothing was."""
    server = await serve(provider=SCRIPTED, store=store)
    told: list[m.StreamStatus] = []
    late: list[m.StreamStatus] = []

    def note(where: list[m.StreamStatus]) -> Any:
        return lambda event: where.append(event.message) if isinstance(event, Told) else None

    async with connect(server.url, on_event=note(told)) as client, connect(server.url, on_event=note(late)) as other:
        stream = await client.chat("hi")
        (await run(scripted, 1)).fail(ProviderRateLimited(retry_after=0.3))
        await asyncio.sleep(0.1)
        second = other.follow(stream.stream_id)
        again = await run(scripted, 2)
        again.put("a", "b")
        again.finish()
        assert "".join([text async for text in stream]) == "ab"
        assert "".join([text async for text in second]) == "ab"
        assert stream.outcome is not None
        assert stream.outcome.retry_count == 1
    statuses = [message for message in told if isinstance(message, m.StreamStatus)]
    assert [(status.status, status.retry_count, status.retry_after) for status in statuses] == [
        ("rate_limited", 1, 0.3)
    ]
    assert [status for status in late if isinstance(status, m.StreamStatus)] == statuses


@pytest.mark.parametrize("snapshot", [True, False])
async def test_withdrawn_text_is_the_same_for_everybody(
    serve: Serve, scripted: Scripted, store: str, snapshot: bool
) -> None:
    """Who followed, who joins late, and who reads the history see one text, though a part of it was withdrawn."""
    server = await serve(provider=SCRIPTED, store=store, on_interrupt="restart", retry_base=0.01)
    async with connect(server.url) as client, connect(server.url) as other:
        stream = await client.chat("hi")
        first = await run(scripted, 1)
        first.put("The ", "quick ", "brown ", "f", "\U0001f98a")
        first.fail(Interrupted())
        second = await run(scripted, 2)
        second.put("The quick", " brown dog")
        second.finish()
        async for _ in stream:
            pass
        late = other.follow(stream.stream_id, snapshot=snapshot)
        async for _ in late:
            pass
        history = await client.history()
        texts = {stream.text, late.text, history.messages[-1].content}
    assert texts == {"The quick brown dog"}


async def test_a_restarted_server_tells_the_same(scripted: Scripted, sqlite: str, quick_stop: None) -> None:
    """A rewind is kept with the log: behind a restart, a replay and the history still show what stands."""
    config = Config(port=0, provider=SCRIPTED, store=sqlite, on_interrupt="restart", retry_base=0.01, listeners=1)
    async with Server(config).running() as server, connect(server.url) as client:
        stream = await client.chat("hi")
        session_id, stream_id = client.session_id, stream.stream_id
        first = await run(scripted, 1)
        first.put("one ", "two")
        first.fail(Interrupted())
        second = await run(scripted, 2)
        second.put("one 2")
        second.finish()
        async for _ in stream:
            pass
    async with Server(config).running() as server, connect(server.url, session_id=session_id) as client:
        again = client.follow(stream_id)
        async for _ in again:
            pass
        history = await client.history()
        assert (again.text, history.messages[-1].content) == ("one 2", "one 2")


async def test_another_provider_answers(serve: Serve, scripted: Scripted) -> None:
    """Where the configured provider refuses, the fallback answers, and the client learns which model it was."""
    server = await serve(provider=SCRIPTED, fallback="demo:demo:rate=0,tokens=3")
    async with connect(server.url) as client:
        stream = await client.chat("hi")
        (await run(scripted, 1)).fail(ProviderError("No."))
        async for _ in stream:
            pass
        assert stream.outcome is not None
        assert (stream.outcome.state, stream.outcome.model) == (StreamState.COMPLETE, "demo:rate=0,tokens=3")


async def test_a_callback_of_the_server(scripted: Scripted, quick_stop: None) -> None:
    """What is registered with the server decides before the settings do."""
    config = Config(port=0, provider=SCRIPTED, store="memory:", listeners=1, retries=0)
    server = Server(config, on_failure={ErrorType.PROVIDER_ERROR: lambda failed: Retry(0.0)})
    async with server.running(), connect(server.url) as client:
        stream = await client.chat("hi")
        (await run(scripted, 1)).fail(ProviderError("No."))
        (await run(scripted, 2)).finish()
        async for _ in stream:
            pass
        assert stream.outcome is not None
        assert stream.outcome.retry_count == 1


async def test_a_fallback_that_is_not_there() -> None:
    """A server whose list names nobody does not begin."""
    server = Server(Config(port=0, provider="demo", store="memory:", listeners=1, fallback="demo nobody:x"))
    with pytest.raises(ConfigError, match="nobody:x"):
        await server.start()


async def test_chunks_of_words(serve: Serve, scripted: Scripted) -> None:
    """A client that asks for words gets words, and for tokens in threes, threes."""
    server = await serve(provider=SCRIPTED)
    async with connect(server.url) as client:
        words = await client.chat("hi", config={"boundary": "word"})
        (await run(scripted, 1)).put("Hel", "lo wor", "ld and", " all")
        (await run(scripted, 1)).finish()
        async for _ in words:
            pass
        threes = await client.chat("hi", config={"buffer_size": 3})
        (await run(scripted, 2)).put(*"abcdefg")
        (await run(scripted, 2)).finish()
        async for _ in threes:
            pass
        assert (words.text, threes.text, threes.last_chunk_id) == ("Hello world and all", "abcdefg", 3)
