"""What a server in a process of its own has taken for large answers, and gives back when they are gone."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import psutil
import pytest

from tests.conftest import ServerProcess, Spawn
from tests.native import connected
from wsstream.monitor import LOOK_EVERY, MEMORY_EVERY

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the C library keeps what it has")

MIB = 1024 * 1024
READERS = 6
ANSWERS = 2
PROMPT = "q" * 30_000
LONG_ENOUGH = 3 * LOOK_EVERY * MEMORY_EVERY
"""Seconds within which it is given back: two looks, and one that had just been made."""
TAKEN = 50 * MIB
"""What the answers take at the least while they are read."""
LEFT_BEHIND = 5 * MIB
"""What may be left of twelve answers of 8 MiB: pages that something small lives on, SQLite's cache."""


def peak_of(pid: int) -> int:
    """The most memory that a process ever had."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


async def converse(server: ServerProcess, session: str) -> None:
    """Ask twice with a long question and all that was said before, and read to the end."""
    async with connected(server, session_id=session) as native:
        for number in range(ANSWERS):
            stream_id = await native.ask(request_id=f"{session}-{number}", message=PROMPT)
            answer = native.answer(stream_id)
            while answer.end is None:
                await native.receive()
                answer.parts.clear()
                native.seen.clear()
                await native.ack(stream_id)


@pytest.mark.timeout(120)
async def test_what_large_answers_took_is_given_back(spawn: Spawn, tmp_path: Path) -> None:
    """When a hundred megabytes of answers and their conversations are gone, the process is nearly what it was."""
    server = await spawn(
        *("--provider", "tests.data.scripted:long", "--max-memory-bytes", "100000", "--max-prompt-chars", "40000"),
        environ={"WSSTREAM_STORE": f"sqlite:{tmp_path / 'store.db'}"},
    )
    process = psutil.Process(server.pid)
    await asyncio.sleep(LONG_ENOUGH)
    before = process.memory_info().rss
    await asyncio.gather(*[converse(server, f"s{number}") for number in range(READERS)])
    peak = peak_of(server.pid)
    await asyncio.sleep(LONG_ENOUGH)
    after = process.memory_info().rss
    print(f"\n{before / MIB:.0f} MiB before, {peak / MIB:.0f} at most, {after / MIB:.0f} later")
    assert peak - before > TAKEN
    assert after - before < LEFT_BEHIND
