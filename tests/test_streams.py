"""All answers of a process: begun once, deserted, retained for a while, forgotten, and the end of everything."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.house import DurableStore, House, RecordingStore, house, state
from tests.virtual import in_virtual_time, turns
from wsstream.chunks import Delta, Finish, Outcome, StreamState
from wsstream.errors import (
    BadRequest,
    LogTrimmed,
    StoreError,
)
from wsstream.messages import ChatConfig
from wsstream.stores.base import StreamRecord, StreamSummary

# -- starting


@in_virtual_time
async def test_ids_and_epochs_are_random() -> None:
    """No id or epoch comes twice, and an id holds 128 bits at least."""
    async with house() as h:
        started = [await h.start(str(n)) for n in range(100)]
        assert len({stream.stream_id for stream in started}) == 100
        assert len({stream.log.epoch for stream in started}) == 100
        assert all(len(stream.stream_id.removeprefix("s_")) * 6 >= 128 for stream in started)
        assert [record.stream_id for record in h.store.created] == [stream.stream_id for stream in started]


@pytest.mark.parametrize(
    "fields",
    [
        {"config": ChatConfig(provider="os:system")},
        {"config": ChatConfig(fallback=["os:system"])},
        {"config": ChatConfig(on_orphan="stop")},
        {"config": ChatConfig(on_orphan={"stop_after": -1})},
    ],
)
@in_virtual_time
async def test_a_refused_request_leaves_nothing(fields: dict[str, Any]) -> None:
    """What cannot be served is refused before anything was begun, and may be put right under the same id."""
    async with house() as h:
        with pytest.raises(BadRequest):
            await h.start("r", **fields)
        assert h.store.created == []
        assert h.streams.of_session("ses") == []
        assert not h.streams.is_known("ses", "r")
        assert h.streams.statistics().running == 0
        await h.start("r")


@in_virtual_time
async def test_an_end_and_its_message_are_one_write() -> None:
    """What an answer said is written with its end, not behind it: no crash comes between them."""
    store = RecordingStore()
    written: list[str] = []
    finish = store.finish
    store.save_message = lambda message: written.append(message.role)  # type: ignore[method-assign]
    store.finish = lambda *given: (written.append("end"), finish(*given))[1]  # type: ignore[method-assign]
    async with house(store=store) as h:
        await h.ended()
    assert written == ["user", "assistant", "assistant", "end"]


# -- a store that keeps logs


@in_virtual_time
async def test_what_a_store_has_is_taken_over() -> None:
    """A new process knows the streams of the one before: their ids, requests, ends and ages."""
    store = DurableStore()
    outcome = Outcome(StreamState.INTERRUPTED, 2, error_type="interrupted")
    for number, age in enumerate([90.0, 10.0]):
        record = StreamRecord(f"s_{number}", "ses", f"r{number}", "e", None, 0.0)
        store.summaries.append(StreamSummary(number, record, outcome, time.time() - age, 100))
    async with house(store=store, retention=100) as h:
        await h.streams.open()
        assert [stream.stream_id for stream in h.streams.of_session("ses")] == ["s_0", "s_1"]
        assert await h.start("r0") is h.streams.get("s_0")
        assert (h.streams.running_in("ses"), h.streams.statistics()[:3]) == ([], (0, 2, 200))
        await asyncio.sleep(11)
        with pytest.raises(LogTrimmed):
            h.streams.get("s_0")
        assert h.streams.get("s_1").log.outcome == outcome


@in_virtual_time
async def test_a_cancel_is_noted_before_it_is_done() -> None:
    """The store hears of a cancel first, so that no restart brings the answer back."""
    store = DurableStore()
    async with house(store=store) as h:
        stream = await h.start()
        h.streams.cancel(stream)
        assert store.cancelled == [stream.stream_id]
        assert state(stream) is StreamState.RUNNING
        await turns()
        h.streams.cancel(stream)
        assert store.cancelled == [stream.stream_id]


@in_virtual_time
async def test_a_store_that_fails_ends_what_it_lost() -> None:
    """Streams whose writes were lost end as a failure worth another try; the others and unknown ones do not care."""
    async with house() as h:
        lost, other = await h.start("a"), await h.start("b")
        h.store.on_failure(StoreError("The disk is full"), {lost.stream_id, "s_unknown"})
        await turns()
        assert (state(lost), state(other)) == (StreamState.FAILED, StreamState.RUNNING)
        assert lost.log.outcome is not None
        assert (lost.log.outcome.error_type, lost.log.outcome.recoverable) == ("internal_error", True)
        assert "disk" not in (lost.log.outcome.message or "")


# -- sessions


@in_virtual_time
async def test_a_session_is_renamed_and_deleted() -> None:
    """A session has the title it was given; deleted, its answers are stopped and nothing of it is left."""
    async with house() as h:
        done, running = await h.ended("a"), await h.start("b")
        other = await h.start("c", "other")
        h.streams.rename_session("ses", "a title")
        assert (await h.streams.history("ses"))[1] == "a title"
        h.streams.delete_session("ses")
        await turns()
        assert (state(running), state(other)) == (StreamState.CANCELLED, StreamState.RUNNING)
        assert h.streams.of_session("ses") == []
        assert {done.stream_id, running.stream_id} == set(h.store.deleted)
        assert await h.streams.history("ses") == ([], None)
        assert h.streams.statistics().retained == 0


# -- the end of the process


@in_virtual_time
async def test_close_interrupts_what_runs() -> None:
    """At the end of the process running answers end as interrupted, and ended ones stay as they are."""
    h = House()
    done, first, second = await h.ended("a"), await h.start("b"), await h.start("c")
    await h.streams.close()
    assert [state(stream) for stream in (done, first, second)] == ["complete", "interrupted", "interrupted"]
    assert (h.provider.stopped, h.streams.statistics().running) == (2, 0)


@in_virtual_time
async def test_close_does_not_wait_for_ever() -> None:
    """A provider that does not let go holds the end of the process up for two seconds at most."""
    h = House()
    h.provider.close_delay = 3600.0
    stream = await h.start()
    before = asyncio.get_running_loop().time()
    await h.streams.close()
    assert asyncio.get_running_loop().time() - before == pytest.approx(2.0)
    assert stream.task is not None
    await asyncio.wait([stream.task])


@in_virtual_time
async def test_wait_idle() -> None:
    """Waiting for the running answers succeeds when they end and gives up after the patience."""
    async with house() as h:
        assert await h.streams.wait_idle(1)
        await h.start()
        assert not await h.streams.wait_idle(1)
        asyncio.get_running_loop().call_later(0.5, h.provider._ends[0].set_result, Finish())
        assert await h.streams.wait_idle(1)


@in_virtual_time
async def test_wait_read() -> None:
    """Waiting for the viewers succeeds when they have left and gives up after the patience."""
    async with house() as h:
        clock: Callable[[], float] = asyncio.get_running_loop().time
        viewer = h.view(await h.ended())
        begun = clock()
        await h.streams.wait_read(1)
        assert clock() - begun == pytest.approx(1, abs=0.05)
        viewer.log.detach(viewer)
        await h.streams.wait_read(1)
        assert clock() - begun == pytest.approx(1, abs=0.05)


# -- short of memory


@in_virtual_time
async def test_providers_are_less_far_ahead_while_memory_is_short() -> None:
    """What waits for a slow viewer is a sixteenth of what it may be otherwise."""
    async with house() as it:
        stream = await it.start()
        it.view(stream)
        stream.log.append([Delta("x" * 100_000)])
        assert stream.log.has_room()
        it.streams.press(True)
        assert not stream.log.has_room()
        it.streams.press(False)
        assert stream.log.has_room()
