"""A server in a process of its own that is given less memory than its clients want it to take."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from websockets.exceptions import InvalidStatus

from tests.conftest import ROOT, ServerProcess, Spawn, clean_environ
from tests.native import Closed, connected
from tests.test_web import get

MIB = 1024 * 1024
LIMIT = 160 * MIB
SLACK = 1.25
"""The limit is a mark and no wall: providers write a hundred megabytes a second here, between four looks."""
ANSWER = 8 * MIB


class Watch:
    """The most memory that a process had."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self.peak = 0

    async def run(self) -> None:
        """Look ten times a second."""
        while True:
            self.peak = max(self.peak, self._process.memory_info().rss)
            await asyncio.sleep(0.1)


async def read_one(server: ServerProcess, chunks: int = 1000) -> bool:
    """Have so much of an answer; False where the server would not."""
    try:
        async with connected(server) as native:
            answer = await native.read(await native.ask(), to=chunks)
            assert answer.last >= chunks
            await native.send("cancel_stream", stream_id=answer.stream_id)
            return True
    except (Closed, InvalidStatus) as refused:
        code = refused.code if isinstance(refused, Closed) else refused.response.status_code
        assert code in (1013, 503)
        return False


async def wait_ready(server: ServerProcess) -> None:
    """Wait until new work is taken."""
    async with asyncio.timeout(20):
        while (await get(server, "/readyz")).status != 200:  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def recovered(server: ServerProcess, chunks: int = 1000) -> None:
    """See that it takes work and does it, and goes on to."""
    for _ in range(3):
        async with asyncio.timeout(30):
            while not await read_one(server, chunks):
                await wait_ready(server)


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_never_more_than_it_may_have(spawn: Spawn, tmp_path: Path) -> None:
    """Three times its memory is asked of it by clients who read, beside clients who do not, and it stays within."""
    server = await spawn(
        *("--provider", "tests.data.scripted:long", "--memory-limit", str(LIMIT)),
        environ={"WSSTREAM_STORE": f"sqlite:{tmp_path / 'store.db'}"},
    )
    watch = Watch(server.pid)
    watching = asyncio.create_task(watch.run())
    had = refused = 0
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(20):  # these ask, read a window, and never acknowledge
            deaf = await stack.enter_async_context(connected(server))
            await deaf.ask()
        while had < 3 * LIMIT // ANSWER:
            if await read_one(server):
                had += 1
            else:
                refused += 1
                await wait_ready(server)
    watching.cancel()
    await recovered(server)
    assert watch.peak < SLACK * LIMIT, f"{watch.peak / MIB:.0f} MiB"
    assert json.loads((await get(server, "/healthz")).body)["status"] == "ok"
    print(f"\npeak {watch.peak / MIB:.0f} of {LIMIT / MIB:.0f} MiB, {had} answers of 8 MiB, {refused} times refused")


@pytest.mark.timeout(120)
async def test_a_crowd_that_does_not_read(spawn: Spawn, tmp_path: Path) -> None:
    """Clients who each ask for an answer and read none of it are refused; when they are gone, all is well."""
    server = await spawn(
        *("--provider", "tests.data.scripted:steady", "--memory-limit", str(LIMIT), "--orphan-grace", "2"),
        environ={"WSSTREAM_STORE": f"sqlite:{tmp_path / 'store.db'}"},
    )
    watch = Watch(server.pid)
    watching = asyncio.create_task(watch.run())
    refused = 0
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(200):
            try:
                deaf = await stack.enter_async_context(connected(server))
                await deaf.ask()
            except (Closed, InvalidStatus):
                refused += 1
        await asyncio.sleep(3.0)
        assert refused > 0
    watching.cancel()
    await recovered(server, 50)
    assert watch.peak < SLACK * LIMIT, f"{watch.peak / MIB:.0f} MiB"
    assert await server.logged("memory is short")
    assert await server.logged("memory eases")
    print(f"\npeak {watch.peak / MIB:.0f} of {LIMIT / MIB:.0f} MiB, {refused} of 200 refused")


GROUPS = Path("/sys/fs/cgroup/memory")


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group of 256 MiB, where this process may make one."""
    path = GROUPS / f"wsstream-test-{os.getpid()}"
    try:
        path.mkdir()
        (path / "memory.limit_in_bytes").write_text(str(256 * MIB))
    except OSError:
        pytest.skip("no control group of version 1 can be made here")
    yield path
    for _ in range(50):
        try:
            path.rmdir()
            return
        except OSError:  # what was in it is still leaving
            time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_the_kernel_need_not_end_it(group: Path, tmp_path: Path) -> None:
    """In a control group of 256 MiB, four hundred clients who read nothing get it refused, and it is never killed."""
    log = tmp_path / "log"
    with log.open("w") as stderr:
        process = await asyncio.create_subprocess_exec(
            *("sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh", sys.executable, "-m", "wsstream"),
            *("--port", "0", "--provider", "tests.data.scripted:steady", "--orphan-grace", "2"),
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            cwd=ROOT,
            env={**clean_environ(), "WSSTREAM_STORE": f"sqlite:{tmp_path / 'store.db'}"},
        )
    server = ServerProcess(process, log)
    try:
        await server.wait_ready()
        refused = 0
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(400):
                try:
                    deaf = await stack.enter_async_context(connected(server))
                    await deaf.ask()
                except (Closed, InvalidStatus):
                    refused += 1
            await asyncio.sleep(3.0)
        assert refused > 0
        assert await server.logged("memory is short")
        await recovered(server, 50)
        assert process.returncode is None
        peak = int((group / "memory.max_usage_in_bytes").read_text())
        print(f"\npeak {peak / MIB:.0f} of 256 MiB with the page cache, {refused} of 400 refused")
    finally:
        await server.end()
