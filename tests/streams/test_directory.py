"""Streams are found by what they are called, by those who may see them."""

from __future__ import annotations

import pytest

from tests.house import house
from tests.virtual import in_virtual_time
from wsstream.errors import (
    LogTrimmed,
    UnknownStream,
)
from wsstream.streams import directory


@in_virtual_time
async def test_the_same_request_starts_once() -> None:
    """A request that comes again is the same stream, while it runs and when it has ended."""
    async with house() as h:
        stream = await h.start("r")
        assert await h.start("r", message="something else") is stream
        await h.provider.end()
        assert await h.start("r") is stream
        assert (len(h.provider.requests), h.streams.statistics().started) == (1, 1)
        assert h.streams.is_known("ses", "r")


@in_virtual_time
async def test_requests_of_different_sessions_are_different() -> None:
    """A request id means nothing outside its session."""
    async with house() as h:
        first, second, third = await h.start("r", "a"), await h.start("r", "b"), await h.start("q", "a")
        assert len({first.stream_id, second.stream_id, third.stream_id}) == 3
        assert not h.streams.is_known("b", "q")
        assert h.streams.of_session("a") == [first, third]


@in_virtual_time
async def test_unknown_streams() -> None:
    """An id that never was is unknown."""
    async with house() as h:
        with pytest.raises(UnknownStream):
            h.streams.get("s_guess")
        stream = await h.start()
        assert h.streams.get(stream.stream_id) is stream
        assert h.streams.of_session("nobody") == []


@in_virtual_time
async def test_running_streams_are_listed() -> None:
    """A page that reloads is told what runs in its session, and how far it is."""
    async with house() as h:
        await h.ended("a")
        running = await h.start("b")
        (info,) = h.streams.running_in("ses")
        assert (info.stream_id, info.last_chunk_id, info.state) == (running.stream_id, 1, "running")
        assert h.streams.running_in("other") == []


@in_virtual_time
async def test_tombstones_are_bounded() -> None:
    """Not even the ids of forgotten streams are remembered for ever."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(directory, "TOMBSTONES", 2)
        async with house(max_retained=1) as h:
            ended = [await h.ended(str(n)) for n in range(5)]
            expected: list[type[Exception]] = [UnknownStream, UnknownStream, LogTrimmed, LogTrimmed]
            for stream, error in zip(ended[:4], expected, strict=True):
                with pytest.raises(error):
                    h.streams.get(stream.stream_id)
