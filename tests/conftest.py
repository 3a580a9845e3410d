"""What many tests share: servers in this loop and in processes of their own, and a watch on what tests leave behind."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.data import scripted as scripts
from wsstream.config import Config
from wsstream.server import Server

ROOT = Path(__file__).resolve().parent.parent
FAVOURS = ("OPENAI_API_KEY", "OPENAI_BASE_URL")
SCRIPTED = "tests.data.scripted:current"

Serve = Callable[..., Coroutine[Any, Any, Server]]
Spawn = Callable[..., Coroutine[Any, Any, "ServerProcess"]]


# -- what tests leave behind


@pytest.fixture(autouse=True)
def _own_tasks(request: pytest.FixtureRequest) -> None:
    """Fail an asynchronous test that leaves tasks behind."""
    if inspect.iscoroutinefunction(getattr(request.node, "obj", None)):
        request.getfixturevalue("_no_task_left")


@pytest.fixture
async def _no_task_left() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    ours = asyncio.current_task()
    for _ in range(20):  # what was cancelled last needs a few turns to end
        left = {task for task in asyncio.all_tasks() - before if task is not ours}
        if not left:
            return
        await asyncio.sleep(0.005)
    pytest.fail(f"tasks left behind: {left}")


# -- a server in this loop


class _Hurried:
    """asyncio as uvicorn sees it in tests: it looks ten times a second whether it should stop."""

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    @staticmethod
    async def sleep(delay: float) -> None:
        await asyncio.sleep(min(delay, 0.005))


@pytest.fixture
def quick_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers in this loop stop at once."""
    monkeypatch.setattr("uvicorn.server.asyncio", _Hurried())


@pytest.fixture
async def serve(quick_stop: None) -> AsyncIterator[Serve]:
    """Starts servers in this loop: ``await serve(window=5)``. They stop with the test, at once."""
    async with AsyncExitStack() as stack:

        async def start(**settings: Any) -> Server:
            usual = {"port": 0, "provider": "demo", "listeners": 1, "store": "memory:", "metrics_port": 0}
            config = Config(**{**usual, **settings})
            return await stack.enter_async_context(Server(config).running())

        yield start


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    """A store in a file of the test's own."""
    return f"sqlite:{tmp_path / 'store.db'}"


@pytest.fixture(params=["memory:", "sqlite:"])
def store(request: pytest.FixtureRequest, sqlite: str) -> str:
    """Each of the stores in turn."""
    return sqlite if request.param == "sqlite:" else str(request.param)


@pytest.fixture
def scripted() -> Iterator[scripts.Scripted]:
    """The provider ``SCRIPTED``: the test says what it answers, and when."""
    scripts.current = scripts.Scripted()
    yield scripts.current
    for run in scripts.current.runs:
        run.finish()


# -- a server in its own process


class Operators(NamedTuple):
    """Where a server's metrics are."""

    port: int


class ServerProcess:
    """``python -m wsstream`` with a free port, ready to be connected to."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log
        self.page = ""
        self.port = 0

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def url(self) -> str:
        """The native wire."""
        return f"ws://127.0.0.1:{self.port}/ws"

    async def wait_ready(self) -> None:
        """Read the line that says where it is. To start takes a second of CPU, and more where others want it."""
        assert self._process.stdout is not None
        async with asyncio.timeout(40):
            line = (await self._process.stdout.readline()).decode()
        assert " is ready: http" in line, line + self.log
        self.page = line.split()[-1]
        self.port = int(self.page.rstrip("/").rpartition(":")[2])

    async def for_operators(self) -> Operators:
        """Its metrics' port, as its log has it."""
        await self.logged("metrics on http://")
        return Operators(int(self.log.partition("metrics on http://127.0.0.1:")[2].partition("/")[0]))

    async def logged(self, text: str) -> bool:
        """Wait until its log holds ``text``: a thread writes it, a moment later. True, to be asserted."""
        async with asyncio.timeout(10):
            while text not in self.log:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        return True

    @property
    def log(self) -> str:
        """What it wrote to stderr."""
        return self._log.read_text()

    def tell(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    async def wait(self, patience: float = 15.0) -> int:
        """Its exit status."""
        async with asyncio.timeout(patience):
            return await self._process.wait()

    async def end(self) -> None:
        """See that it is gone."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()


@pytest.fixture
async def spawn(tmp_path: Path) -> AsyncIterator[Spawn]:
    """Starts servers in processes of their own: ``await spawn("--window", "5")``. They end with the test."""
    started: list[ServerProcess] = []

    async def start(*flags: str, environ: dict[str, str] | None = None) -> ServerProcess:
        path = tmp_path / f"log{len(started)}"
        with path.open("w") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "wsstream", "--port", "0", *flags),
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                cwd=ROOT,
                env={**clean_environ(), "WSSTREAM_STORE": "memory:", **(environ or {})},
            )
        server = ServerProcess(process, path)
        started.append(server)
        await server.wait_ready()
        return server

    yield start
    for server in started:
        await server.end()


def clean_environ() -> dict[str, str]:
    """This process's environment without what would change a server's settings."""
    return {k: v for k, v in os.environ.items() if k not in FAVOURS and not k.startswith("WSSTREAM_")}


@pytest.fixture(autouse=True)
def _plain_environ(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key of whoever runs the tests decides what is tested."""
    for name in FAVOURS:
        monkeypatch.delenv(name, raising=False)
