"""One answer, and who is told of it when."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.house import RecordingStore, house, state
from tests.virtual import in_virtual_time, turns
from wsstream.chunks import StreamState
from wsstream.errors import (
    StoreError,
)
from wsstream.messages import ChatRequested
from wsstream.streams import Stream


@pytest.mark.parametrize("how", ["stored", "failed"])
@in_virtual_time
async def test_nobody_is_told_before_a_stream_is_stored(how: str) -> None:
    """A stream is told of when its store has begun it, or has failed to; in memory at once."""
    begun: list[Callable[[], None]] = []
    store = RecordingStore()
    async with house(store=store) as h:
        told: list[str] = []
        (await h.start("a")).when_stored(lambda: told.append("a"))
        assert told == ["a"]
        store.create = lambda record, committed: begun.append(committed)  # type: ignore[method-assign]
        stream = await h.start("b")
        stream.when_stored(lambda: told.append("b"))
        assert told == ["a"]
        assert [info.stream_id for info in h.streams.running_in("ses")] == [h.streams.of_session("ses")[0].stream_id]
        if how == "stored":
            begun[0]()
        else:
            store.on_failure(StoreError("The disk is full"), {stream.stream_id})
        stream.when_stored(lambda: told.append("again"))
        assert told == ["a", "b", "again"]
        assert [stream.is_stored for stream in h.streams.of_session("ses")] == [True, True]


@in_virtual_time
async def test_cancel_is_idempotent() -> None:
    """A stream may be cancelled as often as anybody likes, before and after its end."""
    async with house() as h:
        stream = await h.start()
        h.streams.cancel(stream)
        h.streams.cancel(stream)
        await turns()
        h.streams.cancel(stream)
        assert (state(stream), h.provider.stopped, h.streams.statistics().running) == (StreamState.CANCELLED, 1, 0)


@in_virtual_time
async def test_cancel_leaves_an_ended_stream_as_it_is() -> None:
    """A cancel that comes too late changes nothing."""
    async with house() as h:
        stream = await h.ended()
        outcome = stream.log.outcome
        h.streams.cancel(stream)
        await turns()
        assert stream.log.outcome is outcome


@in_virtual_time
async def test_watchers_are_told() -> None:
    """Each new answer is told once at its beginning and once at its end; the same request again is none."""

    class Watcher:
        """Remembers."""

        def __init__(self) -> None:
            self.told: list[str] = []

        def on_started(self, stream: Stream, asked: ChatRequested) -> None:
            """Remember it."""
            self.told.append("started " + asked.request_id)

        def on_ended(self, stream: Stream) -> None:
            """Remember it."""
            assert stream.log.outcome is not None
            self.told.append("ended " + stream.log.outcome.state)

    async with house() as it:
        watcher = Watcher()
        it.streams.watchers = [watcher]
        await it.start("a")
        await it.start("a")
        await it.provider.end()
    assert watcher.told == ["started a", "ended complete"]
