"""The real server on real sockets, spoken to by a client that shares no code with it."""

from __future__ import annotations

from tests.conftest import Serve
from tests.native import connected


async def test_ask_stream_acknowledge_complete(serve: Serve) -> None:
    """An answer comes whole, in order, behind a stream_start and before its stream_complete."""
    server = await serve()
    async with connected(server) as native:
        stream_id = await native.ask("demo:rate=0,tokens=300")
        answer = await native.read(stream_id)
    assert answer.last == 300
    assert answer.end is not None
    assert answer.end["finish_reason"] == "stop"
