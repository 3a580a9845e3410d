"""One log, many wires: what was begun on one is read on, chunk by chunk, on the others."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path

import pytest

from tests.conftest import Serve
from tests.native import Native, connected
from tests.wires.http import browsing, events, text_of
from wsstream.config import Config
from wsstream.server import Server

CROSSINGS = 200
TOKENS = 60
FIRST_DELTA = 3
"""What the ``sequence_number`` of an answer that is text only is ahead of the chunk's id."""


async def _read_killed(server: Server, k: int) -> tuple[str, str]:
    """Begin on a WebSocket and lose it behind chunk ``k``; the stream, and what was read."""
    async with connected(server, subprotocol=None, window=k) as native:
        stream_id = await native.ask(model=f"demo:rate=0,tokens={TOKENS}")
        answer = await _read_to(native, stream_id, k)
        native.drop()
    return stream_id, answer


async def _read_to(native: Native, stream_id: str, k: int) -> str:
    answer = native.answer(stream_id)
    while answer.last < k:
        await native.receive()
    assert answer.last == k
    return answer.text


@pytest.mark.parametrize("seed", [1])
async def test_three_wires_make_one_answer(serve: Serve, seed: int) -> None:
    """WebSocket to chunk k, events to chunk j, a response's events to the end: joined, they are the log."""
    server = await serve(on_orphan="continue")
    dice = random.Random(seed)
    async with browsing(server) as client:
        for _ in range(CROSSINGS):
            k = dice.randint(1, TOKENS - 1)
            stream_id, first = await _read_killed(server, k)
            j = dice.randint(k, TOKENS)
            headers = {"Last-Event-ID": str(k)}
            async with events(client, "GET", f"/api/streams/{stream_id}", headers=headers) as stream:
                second = [event for event in [await stream.next() for _ in range(j - k + 1)] if event is not None]
            params = {"stream": "true", "starting_after": j + FIRST_DELTA}
            async with events(client, "GET", f"/v1/responses/{stream_id}", params=params) as stream:
                third = await stream.rest()
            rest = "".join(e.data["delta"] for e in third if e.data["type"] == "response.output_text.delta")
            log = server.streams.get(stream_id).log
            assert [event.id for event in second[1:]] == [str(n) for n in range(k + 1, j + 1)]
            assert first + text_of(second) + rest == log.text(), json.dumps([k, j])


async def test_every_wire_reads_from_the_store(tmp_path: Path) -> None:
    """After a restart the chunks are in the store alone, and all wires read the same answer from there, at once."""
    config = Config(port=0, provider="demo", listeners=1, store=f"sqlite:{tmp_path}/logs.db")
    async with Server(config).running() as server, browsing(server) as client:
        asked = {"message": "hi", "model": f"demo:rate=0,tokens={TOKENS}", "session_id": "s"}
        answer = (await client.post("/api/chat", json=asked)).json()
    stream_id, text = answer["stream_id"], answer["content"]
    async with Server(config).running() as server, browsing(server) as client:
        assert not server.streams.get(stream_id).log.loaded
        paths = [f"/api/streams/{stream_id}", f"/durable/{stream_id}", f"/v1/responses/{stream_id}"]
        sse, durable, response = await asyncio.gather(*[client.get(path) for path in paths])
        async with events(client, "GET", f"/v1/streams/{stream_id}") as stream:
            chunks = [event.data["choices"][0]["delta"].get("content", "") for event in (await stream.rest())[:-1]]
    told = [json.loads(line[6:]) for line in sse.text.split("\n") if line.startswith("data: ")]
    assert "".join(message["content"] for message in told if message["type"] == "token") == text
    assert "".join(message["content"] for message in durable.json() if message["type"] == "token") == text
    assert response.json()["output"][0]["content"][0]["text"] == text
    assert "".join(chunks) == text
