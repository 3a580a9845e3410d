"""All connections break at once, and all clients come back: see benchmarks/storm.py."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from benchmarks.drain import server, strike
from benchmarks.storm import Result, main
from tests.conftest import Spawn
from tests.crash import Terminate, World
from tests.native import connected
from tests.test_crash import run


def check(result: Result, clients: int) -> None:
    """Everybody is back, with every chunk once, and nobody was turned away without a time."""
    assert (result.back, result.wrong, result.refused_without_time) == (clients, [], 0), result


async def test_three_hundred_come_back() -> None:
    """Clients that are dropped at once reconnect and resume, and no chunk is lost or comes twice."""
    check(await main(300, 30), 300)


async def test_everybody_hears_of_a_drain_at_once(spawn: Spawn) -> None:
    """On SIGTERM each of many clients is told when to come back, at a moment of its own, before anything is closed."""
    server = await spawn("--drain-timeout", "2")
    async with asyncio.timeout(30):
        natives = [connected(server) for _ in range(50)]
        clients = [await native.__aenter__() for native in natives]
        stream_id = await clients[0].ask("demo:rate=50,tokens=25")
        server.tell(signal.SIGTERM)
        told = [await client.until("going_away") for client in clients]
        assert len({message["reconnect_after_ms"] for message in told}) > 25
        assert (await clients[0].read(stream_id)).last == 25
        assert {(await client.closed())[0] for client in clients} == {1012}
        assert await server.wait() == 0
        for native in natives:
            await native.__aexit__(None, None, None)


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_five_thousand_come_back() -> None:
    """All within 15 seconds, while the loop of the server is never more than a tenth of a second late."""
    result = await main(5000, 500)
    check(result, 5000)
    assert result.passed, result


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_drain_is_announced_to_a_thousand_in_a_tenth_of_a_second() -> None:
    """A thousand clients are told, which costs the server less than 100 ms of its CPU."""
    with server(1000) as (port, pid):
        times = strike(port, pid, 1000, asleep=True)
    told = times.told
    print(f"\nthe first of {len(told)} was told after {told[0]:.0f} ms, the last after {told[-1]:.0f} ms")
    assert len(told) == 1000
    assert times.user + times.system < 100  # how soon it gets that much is the machine's matter


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_twenty_restarts_with_the_usual_drain(tmp_path: Path) -> None:
    """Twenty times under load with the default settings: nothing lost, and an exit within 15 seconds each."""
    await run(World(tmp_path, 11), [(Terminate(0.3), False) for _ in range(20)])
