"""What becomes of answers that nobody follows."""

from __future__ import annotations

import asyncio

import pytest

from tests.house import asked, house, state
from tests.virtual import in_virtual_time
from wsstream.chunks import StreamState
from wsstream.errors import (
    Capacity,
)
from wsstream.flow import SendWindow
from wsstream.messages import ChatConfig


@in_virtual_time
async def test_an_answer_goes_on_without_viewers() -> None:
    """For the time of grace an answer runs for nobody, and is then stopped as interrupted."""
    async with house(on_orphan="stop_after", orphan_grace=60) as h:
        stream = await h.start()
        h.streams.attach(stream, SendWindow(5, 100), lambda _: None)
        stream.log.detach(stream.log.attachments[0])
        await asyncio.sleep(59.9)
        assert state(stream) is StreamState.RUNNING
        await asyncio.sleep(0.2)
        assert (state(stream), h.provider.stopped) == (StreamState.INTERRUPTED, 1)
        assert stream.log.outcome is not None
        assert stream.log.outcome.error_type == "interrupted"


@in_virtual_time
async def test_one_viewer_is_enough() -> None:
    """Nobody's leaving matters while somebody else is there."""
    async with house(on_orphan="stop_after", orphan_grace=60) as h:
        stream = await h.start()
        first, _ = h.view(stream), h.view(stream)
        stream.log.detach(first)
        await asyncio.sleep(1000)
        assert state(stream) is StreamState.RUNNING


@in_virtual_time
async def test_a_viewer_who_returns_in_time() -> None:
    """Somebody who returns just before the end of the grace saves the answer, and the next grace is a whole one."""
    async with house(on_orphan="stop_after", orphan_grace=60) as h:
        stream = await h.start()
        for _ in range(3):
            viewer = h.view(stream)
            stream.log.detach(viewer)
            await asyncio.sleep(59.9)
        viewer = h.view(stream)
        await asyncio.sleep(1000)
        assert state(stream) is StreamState.RUNNING
        stream.log.detach(viewer)
        await asyncio.sleep(60.1)
        assert state(stream) is StreamState.INTERRUPTED


@in_virtual_time
async def test_an_ended_answer_is_no_orphan() -> None:
    """Leaving an answer that has ended starts no clock, and one that ends within the grace ends well."""
    async with house(on_orphan="stop_after", orphan_grace=60) as h:
        stream = await h.start()
        viewer = h.view(stream)
        stream.log.detach(viewer)
        assert stream.orphan_timer is not None
        await h.provider.end()
        assert (state(stream), stream.orphan_timer) == (StreamState.COMPLETE, None)
        stream.log.detach(h.view(stream))
        assert stream.orphan_timer is None


@pytest.mark.parametrize("where", ["server", "request"])
@in_virtual_time
async def test_an_answer_may_go_on_for_nobody(where: str) -> None:
    """Where the server or the request says so, an answer goes on to its end without any viewer."""
    wish = {"config": ChatConfig(on_orphan="continue")} if where == "request" else {}
    async with house(on_orphan="continue" if where == "server" else "stop_after") as h:
        stream = await h.start(**wish)
        stream.log.detach(h.view(stream))
        await asyncio.sleep(10_000)
        await h.provider.end()
        assert state(stream) is StreamState.COMPLETE


@in_virtual_time
async def test_a_request_has_its_own_grace() -> None:
    """A request may say for how long its answer runs for nobody."""
    async with house(on_orphan="continue") as h:
        stream = await h.start(config=ChatConfig(on_orphan={"stop_after": 5}))
        stream.log.detach(h.view(stream))
        await asyncio.sleep(4.9)
        assert state(stream) is StreamState.RUNNING
        await asyncio.sleep(0.2)
        assert state(stream) is StreamState.INTERRUPTED


@in_virtual_time
async def test_an_answer_may_wait_for_somebody() -> None:
    """A paused answer is read no further without viewers, is never late for it, and goes on when somebody returns."""
    async with house(chunk_timeout=10, provider="demo") as h:
        h.demo = True
        wish = ChatConfig(on_orphan="pause", model="demo:rate=10,tokens=100")
        stream = await h.start(config=wish)
        stream.log.detach(h.view(stream))
        await asyncio.sleep(1000)
        assert (state(stream), len(stream.log)) == (StreamState.RUNNING, pytest.approx(1, abs=1))
        viewer = h.streams.attach(stream, SendWindow(1000, 1 << 20), lambda _: None)
        await asyncio.sleep(11)
        assert (state(stream), len(stream.log)) == (StreamState.COMPLETE, 100)
        stream.log.detach(viewer)


@pytest.mark.parametrize("rate", [0, 10, 100_000])
@in_virtual_time
async def test_an_answer_may_stop_after_some_chunks(rate: int, caplog: pytest.LogCaptureFixture) -> None:
    """Without viewers an answer stops after so many chunks more, whatever its pace, and nobody stumbles over it."""
    async with house() as h:
        h.demo = True
        wish = ChatConfig(on_orphan={"stop_after_chunks": 20}, model=f"demo:rate={rate},tokens=1000000")
        stream = h.streams.start("ses", asked(config=wish))
        stream.log.detach(h.view(stream))
        await asyncio.sleep(100)
        assert state(stream) is StreamState.INTERRUPTED
        assert 20 <= len(stream.log) <= 20 + 200
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


@in_virtual_time
async def test_orphans_wait_while_memory_is_short() -> None:
    """Nothing is begun, what nobody follows is read no further, and afterwards one after the other goes on."""
    async with house(on_orphan="continue") as it:
        before, after = await it.start("before"), await it.start("after")
        leaving = it.view(after)
        it.streams.press(True)
        with pytest.raises(Capacity):
            it.streams.start("ses", asked("new"))
        after.log.detach(leaving)
        assert (before.log.has_room(), after.log.has_room()) == (False, False)
        it.streams.press(False)
        it.streams.let_one_go_on()
        assert sorted((before.log.has_room(), after.log.has_room())) == [False, True]
        it.streams.let_one_go_on()
        assert (before.log.has_room(), after.log.has_room()) == (True, True)
        it.streams.let_one_go_on()


@in_virtual_time
async def test_a_queued_orphan_is_not_forgotten_while_memory_is_short() -> None:
    """Who left a waiting request while memory was short has an answer all the same, when its turn comes later."""
    async with house(on_orphan="continue", max_running_streams=1, max_queued=1) as it:
        running = await it.start("running")
        queued = it.streams.start("ses", asked("queued"))
        viewers = [it.view(running), it.view(queued)]
        it.streams.press(True)
        queued.log.detach(viewers[1])
        it.streams.press(False)
        it.streams.let_one_go_on()
        await it.provider.end()
        assert queued.log.state == "running"
        assert queued.log.has_room()


@in_virtual_time
async def test_orphans_are_ended_where_memory_stays_short() -> None:
    """One at a time, the one that has waited longest first; one that somebody follows again is not."""
    async with house(on_orphan="continue") as it:
        streams = [await it.start(name) for name in ("first", "followed", "third")]
        it.streams.press(True)
        it.view(streams[1])
        held = [stream for stream in streams if stream.log.paused]
        assert len(held) == 2
        for _ in range(3):
            it.streams.stop_one_held()
            await asyncio.sleep(0.1)
        assert [stream.log.state for stream in streams] == ["interrupted", "running", "interrupted"]


@in_virtual_time
async def test_somebody_who_comes_need_not_wait_for_memory() -> None:
    """An orphan that waits goes on for a viewer, and is not forgotten afterwards."""
    async with house() as it:
        stream = await it.start()
        it.streams.press(True)
        assert not stream.log.has_room()
        it.view(stream)
        assert stream.log.has_room()
        it.streams.press(False)
        it.streams.let_one_go_on()
        assert stream.log.has_room()


@in_virtual_time
async def test_a_crowd_of_orphans_is_stopped_one_by_one() -> None:
    """Of those whose time is over in the same moment, each is stopped a little after the one before."""
    async with house(orphan_grace=1.0) as it:
        streams = [await it.start(str(number)) for number in range(5)]
        for stream in streams:
            stream.log.detach(it.view(stream))
        back = streams[3]
        await asyncio.sleep(1.0)
        assert it.provider.stopped == 1
        it.view(back)  # while it waits for its turn: it goes on
        await asyncio.sleep(0.1)
        assert it.provider.stopped == 4
        assert state(back) is StreamState.RUNNING
