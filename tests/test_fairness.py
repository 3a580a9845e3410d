"""Streams that share one connection: each gets the same bytes."""

from __future__ import annotations

import asyncio

from tests.conftest import SCRIPTED, Serve
from tests.data.scripted import Scripted
from tests.native import Message, connected
from wsstream.wires.native import WRITE_SLICE

WIDE = {"max_window": 1_000_000, "max_window_bytes": 1 << 30, "high_water": 1_000_000, "low_water": 1}
SLACK = 3 * WRITE_SLICE
"""What may be between two streams: a slice each, and a chunk."""


def weight(message: Message) -> int:
    """Bytes of content."""
    return len(message["content"])


async def test_streams_that_wait_get_the_same_bytes(serve: Serve, scripted: Scripted) -> None:
    """Whatever waits in three logs for a connection that did not read goes out in equal shares."""
    server = await serve(provider=SCRIPTED, **WIDE)
    async with connected(server, window=1_000_000, window_bytes=1 << 30) as native:
        ids, runs = [], []
        for _ in range(3):
            ids.append(await native.ask())
            runs.append(scripted.last)
        native.socket.transport.pause_reading()
        await asyncio.sleep(0.05)
        for run, text, count in zip(runs, ("a" * 20, "b" * 900, "c" * 12_000), (50_000, 1200, 90), strict=True):
            run.put(*[text] * count)
        await asyncio.sleep(0.3)
        native.socket.transport.resume_reading()
        sent = dict.fromkeys(ids, 0)
        gaps = []
        while min(sent.values()) < 700_000:
            message = await native.receive()
            if message["type"] in ("content_chunk", "chunk_batch"):
                sent[message["stream_id"]] += weight(message)
                if min(sent.values()) > 300_000:  # before that, the first may have begun alone
                    gaps.append(max(sent.values()) - min(sent.values()))
        assert gaps
        assert max(gaps) - min(gaps) <= SLACK
        assert len(native.seen) < 2000
