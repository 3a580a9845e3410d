"""What a server looks at from time to time, and what it does about memory."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus
from websockets.http11 import Response

from tests.conftest import SCRIPTED, Serve
from tests.data.scripted import Scripted
from tests.house import house
from tests.native import HasPort, connected
from tests.virtual import in_virtual_time
from wsstream.ledger import Ledger
from wsstream.memory import Memory, MemoryReader
from wsstream.monitor import GLANCE_EVERY, LAG_EVERY, LOOK_EVERY, MANY, MEMORY_EVERY, MUCH, SAMPLE_EVERY, Monitor
from wsstream.pressure import PATIENCE, Level, Pressure


class Reader(MemoryReader):
    """Reads what a test says."""

    def __init__(self) -> None:
        super().__init__(root=Path("/nonexistent"))
        self.share = 0.1
        self.idle = 0
        """Bytes that are in no use."""
        self.reads = 0

    def read(self) -> Memory:
        """A share of a thousand bytes."""
        self.reads += 1
        return Memory(0, 0, round(1000 * self.share), 1000)

    def unused(self) -> int:
        """What a test says."""
        return self.idle


async def refused(server: HasPort) -> Response:
    """The answer to a handshake that is not let in."""
    with pytest.raises(InvalidStatus) as caught:
        async with connected(server):
            pass
    return caught.value.response


class House:
    """Remembers what is done about memory."""

    def __init__(self) -> None:
        self.connections = 100
        self.gone = 0
        self.refusing = False
        self.dropped = 0
        self.shed_counts: list[int] = []
        self.stopped = 0

    def refuse(self, refusing: bool) -> None:
        """Remember it."""
        self.refusing = refusing

    def drop_retained(self) -> int:
        """Remember it."""
        self.dropped += 1
        return 0

    def shed(self, count: int) -> None:
        """Remember it."""
        self.shed_counts.append(count)

    def let_one_go_on(self) -> None:
        """Nothing waits."""

    def stop_one(self) -> None:
        """Remember it."""
        self.stopped += 1


@in_virtual_time
async def test_memory_that_fills_between_two_looks_is_seen() -> None:
    """From half of it on there are glances between two looks: at the next one it might be too late."""
    reader, rooms = Reader(), House()
    monitor = Monitor(Ledger(list, "demo"), reader, Pressure(), rooms)
    monitor.start()
    await asyncio.sleep(4 * MEMORY_EVERY + 0.01)
    reader.share = 0.9
    await asyncio.sleep(MEMORY_EVERY - 0.02)
    assert not rooms.refusing  # who takes little is not looked at so often
    reader.share = 0.6
    await asyncio.sleep(4 * MEMORY_EVERY + 0.02)  # just behind a look
    reader.share = 0.95
    await asyncio.sleep(GLANCE_EVERY + 0.01)
    assert (monitor.level, rooms.refusing, rooms.dropped) == (Level.REFUSE, True, 1)
    assert rooms.shed_counts == []  # that it was more than this for a moment is no reason to close anybody's socket
    monitor.close()
    before = reader.reads
    await asyncio.sleep(10)
    assert reader.reads == before


@in_virtual_time
async def test_a_glance_is_no_look() -> None:
    """What goes by looks, as who is shed and what is ended, goes no faster for the glances between them."""
    reader, rooms = Reader(), House()
    monitor = Monitor(Ledger(list, "demo"), reader, Pressure(), rooms)
    monitor.start()
    reader.share = 0.95
    await asyncio.sleep(4.1)
    assert rooms.shed_counts == [10, 10]
    assert rooms.stopped == 0
    monitor.close()


@in_virtual_time
async def test_memory_is_read_judged_and_acted_upon(caplog: pytest.LogCaptureFixture) -> None:
    """Short: refuse, and drop what the store has; shorter: shed; enough again: as before, with a line for each turn."""
    reader, rooms = Reader(), House()
    monitor = Monitor(Ledger(list, "demo"), reader, Pressure(), rooms)
    monitor.start()
    with caplog.at_level(logging.WARNING):
        await asyncio.sleep(2.5)
        assert (monitor.level, rooms.refusing, rooms.dropped) == (Level.FINE, False, 0)
        reader.share = 0.87
        await asyncio.sleep(2)
        assert (monitor.level, rooms.refusing, rooms.shed_counts) == (Level.REFUSE, True, [])
        assert rooms.dropped > 2
        reader.share = 0.95
        await asyncio.sleep(4)
        assert (monitor.level, rooms.shed_counts, monitor.shed) == (Level.SHED, [10, 10], 20)
        assert rooms.stopped == 0
        reader.share = 0.5
        await asyncio.sleep(1)
    assert (monitor.level, rooms.refusing) == (Level.FINE, False)
    lines = [record.getMessage() for record in caplog.records]
    assert [line.split(":")[0].split(",")[0] for line in lines] == [
        "memory is short",
        "memory is short",
        "memory is short",
        "memory is short",
        "memory eases",
    ]
    monitor.close()


@in_virtual_time
async def test_memory_that_is_short_for_a_moment_ends_nothing() -> None:
    """Answers that nobody follows are ended only where memory stays short, and no more of them when it does not."""
    reader, rooms = Reader(), House()
    monitor = Monitor(Ledger(list, "demo"), reader, Pressure(), rooms)
    monitor.start()
    reader.share = 0.87
    await asyncio.sleep(10)
    assert rooms.stopped == 0
    await asyncio.sleep(2)
    stopped = rooms.stopped
    assert stopped > 0
    reader.share = 0.5
    await asyncio.sleep(5)
    assert rooms.stopped == stopped
    monitor.close()


@in_virtual_time
async def test_a_loop_that_is_held_up_shows() -> None:
    """A timer that comes late is counted with how late it came; an idle loop's come in time."""
    async with house() as it:
        monitor = Monitor(Ledger(lambda: it.streams.running, "demo"), Reader(), Pressure(), House())
        monitor.start()
        await asyncio.sleep(1.0)
        assert monitor.lag.quantile(1.0) <= 0.001
        clock = time.monotonic.__self__  # type: ignore[attr-defined]
        clock.now += 3.0  # something that did not give way
        await asyncio.sleep(LAG_EVERY)
        assert monitor.lag.quantile(1.0) == 5.0
        monitor.close()


@in_virtual_time
async def test_a_sample_of_many_answers_holds_nobody_up() -> None:
    """Between its slices the loop has its turns, and every second it begins anew, through or not."""
    begun: list[int] = []
    turns_of_others = 0

    class Slow(Ledger):
        def sampling(self, now: float) -> Iterator[None]:
            begun.append(turns_of_others)
            for _ in range(5):
                yield

    async with house() as it:
        monitor = Monitor(Slow(lambda: it.streams.running, "demo"), Reader(), Pressure(), House())
        monitor.start()
        await asyncio.sleep(SAMPLE_EVERY)
        for _ in range(6):
            await asyncio.sleep(0)
            turns_of_others += 1
        assert list(monitor._sampling) == [], "it was through after as many turns as there were slices"
        await asyncio.sleep(SAMPLE_EVERY)
        assert begun == [0, 6]
        monitor.close()


async def test_a_server_that_is_short_of_memory(serve: Serve, scripted: Scripted) -> None:
    """It begins no stream (1013) and lets nobody in (503), each with a time to come back; what runs goes on."""
    server = await serve(provider=SCRIPTED)
    reader = Reader()
    server.assembly.monitor._reader = reader
    async with connected(server) as following, connected(server) as asking:
        stream_id = await following.ask()
        await following.round_trip()
        reader.share = 0.9
        server.assembly.monitor.check_memory()
        assert server.assembly.readiness() == ["memory"]
        await asking.send("chat_request", request_id="r", message="hi")
        error = await asking.until("error")
        assert (error["error_type"], error["retry_after"], error["recoverable"]) == ("capacity", 5.0, True)
        assert (await asking.closed())[0] == 1013
        response = await refused(server)
        assert (response.status_code, response.headers["Retry-After"]) == (503, "5")
        assert server.assembly.rejections.statistics()["memory"] >= 1
        scripted.last.put("still ")
        scripted.last.finish()
        assert (await following.read(stream_id)).text == "still "
        reader.share = 0.1
        server.assembly.monitor.check_memory()
        assert server.assembly.readiness() == []
        async with connected(server) as again:
            await again.ask()


async def test_the_idlest_and_oldest_are_shed_and_can_come_back(serve: Serve, scripted: Scripted) -> None:
    """A tenth a round, those that follow nothing first; who followed an answer resumes it afterwards."""
    server = await serve(provider=SCRIPTED)
    reader = Reader()
    server.assembly.monitor._reader = reader
    async with connected(server) as old, connected(server) as following, connected(server) as young:
        stream_id = await following.ask()
        scripted.last.put("half ")
        await following.read(stream_id, to=1)
        reader.share = 0.95
        server.assembly.monitor.check_memory()
        assert (await old.closed()) == (1013, "memory is short, come back later")
        await young.round_trip()
        for last in (young, following):
            for _ in range(PATIENCE + 1):
                server.assembly.monitor.check_memory()
            assert (await last.closed())[0] == 1013
        assert server.assembly.monitor.shed == 3
        reader.share = 0.1
        server.assembly.monitor.check_memory()
        async with connected(server) as back:
            await back.resume(stream_id, 1)
            scripted.last.put("more")
            scripted.last.finish()
            assert (await back.read(stream_id)).text == "more"


async def test_ended_answers_leave_memory_first(serve: Serve, sqlite: str) -> None:
    """What the store has is dropped from memory, and read back when somebody asks."""
    server = await serve(store=sqlite)
    reader = Reader()
    server.assembly.monitor._reader = reader
    async with connected(server) as native:
        stream_id = await native.ask("demo:rate=0,tokens=50")
        text = (await native.read(stream_id)).text
        await native.round_trip()
        assert server.streams.statistics().memory_bytes > 0
        reader.share = 0.86
        server.assembly.monitor.check_memory()
        assert server.streams.statistics().memory_bytes == 0
        assert not server.streams.get(stream_id).log.loaded
        await native.resume(stream_id, 0)
        assert (await native.read(stream_id)).text == text


@in_virtual_time
async def test_what_a_crowd_leaves_behind_is_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    """When many sockets have gone, free memory is returned to the system; for a few, or while they go, it is not."""
    trims: list[float] = []
    monkeypatch.setattr("wsstream.monitor.trim", lambda: trims.append(time.monotonic()))
    async with house() as it:
        rooms = House()
        monitor = Monitor(Ledger(lambda: it.streams.running, "demo"), Reader(), Pressure(), rooms)
        monitor.start()
        rooms.gone = MANY - 1
        await asyncio.sleep(60)
        assert not trims
        for _ in range(50):
            rooms.gone += MANY
            await asyncio.sleep(0.25)
        assert not trims  # they are still on their way
        await asyncio.sleep(60)
        monitor.close()
    assert len(trims) == 1


LOOK = LOOK_EVERY * MEMORY_EVERY
"""Seconds between two looks at what is in no use."""
HELD = 20 * MUCH
"""What is in no use either, and cannot be returned."""


@contextmanager
def trimming(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Reader, list[float]]]:
    """A monitor that looks at memory; and when it has returned some, which leaves `HELD`."""
    trims: list[float] = []
    reader = Reader()
    reader.idle = HELD

    def trim() -> None:
        trims.append(time.monotonic())
        reader.idle = min(reader.idle, HELD)

    monkeypatch.setattr("wsstream.monitor.trim", trim)
    monitor = Monitor(Ledger(list, "demo"), reader, Pressure(), House())
    monitor.start()
    yield reader, trims
    monitor.close()


@in_virtual_time
async def test_what_answers_leave_behind_is_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in no use at two looks is returned, once, and what cannot be is not asked for again."""
    with trimming(monkeypatch) as (reader, trims):
        await asyncio.sleep(10 * LOOK)
        assert not trims
        reader.idle = HELD + MUCH
        begun = time.monotonic()
        await asyncio.sleep(20 * LOOK)
        assert [LOOK <= at - begun <= 2 * LOOK for at in trims] == [True]
        reader.idle = HELD + 100 * MUCH
        await asyncio.sleep(20 * LOOK)
        assert len(trims) == 2


@in_virtual_time
async def test_what_was_taken_before_the_first_look_is_returned_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the server took to start is what it is compared with, not what its first clients took."""
    with trimming(monkeypatch) as (reader, trims):
        reader.idle = HELD + MUCH
        await asyncio.sleep(3 * LOOK)
        assert len(trims) == 1


@in_virtual_time
async def test_what_is_used_again_is_not_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that is in no use at one look and in use at the next is left where it is; so is what is little."""
    with trimming(monkeypatch) as (reader, trims):
        for _ in range(20):
            reader.idle = HELD + 50 * MUCH
            await asyncio.sleep(LOOK)
            reader.idle = HELD
            await asyncio.sleep(LOOK)
        reader.idle = HELD + MUCH - 1
        await asyncio.sleep(20 * LOOK)
        assert not trims


@in_virtual_time
async def test_pages_that_something_lives_on_are_returned_when_it_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be returned and was used since is looked at anew: the comparison is with the least there was."""
    with trimming(monkeypatch) as (reader, trims):
        reader.idle = HELD - 2 * MUCH
        await asyncio.sleep(2 * LOOK)
        reader.idle = HELD - MUCH
        await asyncio.sleep(3 * LOOK)
        assert len(trims) == 1


@pytest.mark.parametrize(
    ("share", "refuses", "sheds"),
    [(0.499, False, False), (0.5, True, False), (0.599, True, False), (0.6, True, True), (0.95, True, True)],
)
@in_virtual_time
async def test_memory_refuse_at_and_memory_shed_at(share: float, *, refuses: bool, sheds: bool) -> None:
    """Below the first share nothing is done, from there nothing begins, from the second on connections are shed."""
    reader, rooms = Reader(), House()
    monitor = Monitor(Ledger(list, "demo"), reader, Pressure(0.5, 0.6), rooms)
    reader.share = share
    for _ in range(PATIENCE):
        monitor.check_memory()
    assert (rooms.refusing, bool(rooms.shed_counts), monitor.shed > 0) == (refuses, sheds, sheds)
