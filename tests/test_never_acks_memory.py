"""What a thousand clients cost that ask, and then neither read nor acknowledge."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from tests.conftest import ROOT, ServerProcess, Spawn

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]

CLIENTS = 1000
KIB = 1024
SOCKSTAT = Path("/proc/net/sockstat")
PAGE = 4096


class Cost(NamedTuple):
    """KiB for each connection."""

    resident: float
    kernel: float


def kernel_memory() -> int:
    """Bytes that TCP holds, in this network namespace."""
    words = next(line for line in SOCKSTAT.read_text().splitlines() if line.startswith("TCP:")).split()
    return int(words[words.index("mem") + 1]) * PAGE


@asynccontextmanager
async def deaf_clients(server: ServerProcess, count: int, model: str, session: str) -> AsyncIterator[None]:
    """Clients in a process of their own, for as long as the block runs."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.data.deaf", str(server.port), str(count), model, session),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            assert await process.stdout.readline() == b"ready\n"
        yield
    finally:
        process.stdin.close()
        await process.wait()


async def settled(read: Callable[[], int], samples: int = 15) -> int:
    """The least of several readings: others use the network and the allocator too."""
    values = []
    for _ in range(samples):
        await asyncio.sleep(0.2)
        values.append(read())
    return min(values[samples // 2 :])


async def cost_of(server: ServerProcess, count: int, model: str, session: str) -> Cost:
    """What ``count`` deaf clients cost, each, beyond the first few."""
    process = psutil.Process(server.pid)
    async with deaf_clients(server, 20, model, session):
        resident = await settled(lambda: process.memory_info().rss, 5)
        kernel = await settled(kernel_memory, 5)
        async with deaf_clients(server, count, model, session):
            return Cost(
                (await settled(lambda: process.memory_info().rss) - resident) / KIB / count,
                (await settled(kernel_memory) - kernel) / KIB / count,
            )


@pytest.mark.parametrize(
    ("provider", "model", "session"),
    [
        ("demo", "demo:rate=50,tokens=100000", ""),
        ("demo", "demo:rate=0,tokens=100000", "one"),
        ("tests.data.scripted:large", "x", "one"),
    ],
    ids=["small tokens, an answer each", "small tokens, one answer", "chunks of 8 KiB, one answer"],
)
async def test_a_deaf_client_costs_little(
    spawn: Spawn, record_property: Callable[[str, object], None], provider: str, model: str, session: str
) -> None:
    """With the default window: at most 64 KiB of the process and 48 KiB of the kernel for each."""
    server = await spawn("--provider", provider, "--max-running-streams", "2000", "--heartbeat-timeout", "100")
    cost = await cost_of(server, CLIENTS, model, session)
    record_property("cost", cost)
    print(cost)
    assert cost.resident <= 64
    assert cost.kernel <= 48


async def test_an_unread_answer_is_bounded_in_chunks(spawn: Spawn) -> None:
    """An answer of its own that nobody reads is produced up to the high-water mark, and no further."""
    server = await spawn("--provider", "demo", "--max-running-streams", "2000", "--heartbeat-timeout", "100")
    cost = await cost_of(server, CLIENTS, "demo:rate=0,tokens=100000", "")
    print(cost)
    assert cost.resident <= 64
    assert cost.kernel <= 48


async def test_an_unread_answer_is_bounded_in_bytes(spawn: Spawn) -> None:
    """Large chunks fill no more memory than small ones: a provider waits for a viewer that is a few windows behind."""
    server = await spawn("--provider", "tests.data.scripted:large", "--heartbeat-timeout", "100")
    cost = await cost_of(server, 50, "x", "")
    print(cost)
    assert cost.resident <= 2048
