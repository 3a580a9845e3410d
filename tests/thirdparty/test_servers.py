"""The whole gateway in front of model servers that nobody here wrote, each installed into a place of its own.

aimock (npm) speaks all three APIs, thinks, calls tools, refuses and breaks off; MockLLM (PyPI) is the usual FastAPI on
uvicorn, speaks chat completions, and breaks down where it is asked for Messages. Both say what
their files beside this one hold.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from tests.answers import until
from tests.conftest import ServerProcess, Spawn
from tests.native import Answer, Native, connected

HERE = Path(__file__).parent
SAID = "Hello from a server that nobody here wrote, in a few words."
INSTALL_TIMEOUT = 600

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _install(*command: str, cwd: Path) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=INSTALL_TIMEOUT)
    if done.returncode:
        pytest.skip(f"cannot be installed here: {(done.stderr.strip() or '?').splitlines()[-1][:200]}")


def install_aimock(place: Path) -> Callable[[int], list[str]]:
    """From npm; what starts it on a port."""
    if shutil.which("npm") is None:
        pytest.skip("no npm here")
    quiet = ("--no-save", "--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error")
    _install("npm", "install", *quiet, "@copilotkit/aimock@1.43.0", cwd=place)
    shutil.copy(HERE / "aimock.json", place)
    return lambda port: [
        "node",
        "node_modules/.bin/llmock",
        "-p",
        str(port),
        "-f",
        "aimock.json",
        "--log-level",
        "warn",
    ]


def install_mockllm(place: Path) -> Callable[[int], list[str]]:
    """From PyPI, into a virtual environment; what starts it on a port."""
    subprocess.run([sys.executable, "-m", "venv", str(place / "venv")], check=True)
    python = str(place / "venv" / "bin" / "python")
    _install(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "mockllm==0.0.8", cwd=place)
    shutil.copy(HERE / "mockllm.yml", place / "responses.yml")
    return lambda port: [python, "-m", "uvicorn", "mockllm.server:app", "--host", "127.0.0.1", "--port", str(port)]


class Installed(NamedTuple):
    """A server that can be started."""

    name: str
    place: Path
    command: Callable[[int], list[str]]


@pytest.fixture(scope="module", params=["aimock", "mockllm"])
def installed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """One of them, freshly installed."""
    place = tmp_path_factory.mktemp(request.param)
    install = {"aimock": install_aimock, "mockllm": install_mockllm}[request.param]
    return Installed(request.param, place, install(place))


class Running:
    """A server under way."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self._process = process
        self.port = port

    async def wait_ready(self) -> None:
        """Wait until it listens."""
        async with asyncio.timeout(60):
            while not await self._listens():
                assert self._process.returncode is None, "it has ended"
                await asyncio.sleep(0.1)

    async def _listens(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        return True

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def connections(self) -> int:
        """How many are connected to it now."""
        found = psutil.Process(self._process.pid).net_connections("tcp")
        return sum(one.status == psutil.CONN_ESTABLISHED and one.laddr.port == self.port for one in found)


@asynccontextmanager
async def running(installed: Installed) -> AsyncIterator[Running]:
    """Start it; it ends with the block."""
    port = _free_port()
    # Offline in any case: nothing of theirs is to be asked over the network for what it would count tokens with.
    offline = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "no_proxy": "127.0.0.1"}
    with (installed.place / "log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *installed.command(port), cwd=installed.place, stdout=log, stderr=log, env={**os.environ, **offline}
        )
    try:
        server = Running(process, port)
        await server.wait_ready()
        yield server
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


WAYS = {"chat": ("openai", "/v1"), "responses": ("openai-responses", "/v1"), "messages": ("anthropic", "")}
MODELS = {"chat": "gpt-4o-mini", "responses": "gpt-4o-mini", "messages": "claude-3-5-haiku-latest"}


async def gateway(spawn: Spawn, way: str, port: int, *flags: str) -> ServerProcess:
    """The gateway in front of it, that asks by one of its APIs."""
    provider, path = WAYS[way]
    keys = {"OPENAI_API_KEY": "k", "ANTHROPIC_API_KEY": "k", "no_proxy": "127.0.0.1"}
    address = ("--provider", provider, "--base-url", f"http://127.0.0.1:{port}{path}", "--model", MODELS[way])
    return await spawn(*address, *flags, environ=keys)


@pytest.fixture(params=list(WAYS))
def way(request: pytest.FixtureRequest, installed: Installed) -> str:
    """One of the APIs that it speaks."""
    name: str = request.param
    if installed.name == "mockllm" and name != "chat":
        pytest.skip("MockLLM speaks chat completions alone")
    return name


async def read(native: Native, question: str) -> Answer:
    """Ask nothing but this, and read the answer to its end."""
    messages = [{"role": "user", "content": question}]
    return await native.read(await native.ask(message=None, messages=messages))


async def test_text(installed: Installed, way: str, spawn: Spawn) -> None:
    """An answer comes in pieces and ends well, and one connection to the server is used again for the next."""
    async with running(installed) as upstream, connected(await gateway(spawn, way, upstream.port)) as native:
        for _ in range(2):
            answer = await read(native, "say it")
            assert answer.end is not None
            assert (answer.text, answer.end["type"], answer.end["finish_reason"]) == (SAID, "stream_complete", "stop")
            assert answer.last > 3
        assert upstream.connections() == 1


async def test_a_cancel(installed: Installed, way: str, spawn: Spawn) -> None:
    """It ends the connection to the server while that still writes, and the server answers the next request."""
    async with running(installed) as upstream, connected(await gateway(spawn, way, upstream.port)) as native:
        stream_id = await native.ask(message="slowly")
        await native.read(stream_id, to=3)
        assert upstream.connections() == 1
        await native.send("cancel_stream", stream_id=stream_id)
        ended = await native.until("stream_complete", stream_id=stream_id)
        assert (ended["finish_reason"], ended["receipt"]["generated_chunks"] < 60) == ("cancelled", True)
        await until(lambda: upstream.connections() == 0)
        answer = await read(native, "say it")
        assert answer.text == SAID


async def test_a_server_that_goes_away(installed: Installed, way: str, spawn: Spawn) -> None:
    """An answer that loses its server has its text still, and an error that says so; a new one waits, then fails."""
    flags = ("--retries", "1", "--retry-base", "0.01")
    async with running(installed) as upstream:
        server = await gateway(spawn, way, upstream.port, *flags)
        left = await _left_alone(server, upstream)
    assert left.end is not None
    assert (left.end["type"], left.end["error_type"]) == ("stream_error", "interrupted")
    assert (left.end["recoverable"], left.last >= 3) == (True, True)
    async with connected(server) as other:
        refused = await read(other, "say it")
        assert refused.end is not None
        assert (refused.end["error_type"], refused.end["retry_count"]) == ("provider_error", 1)


async def _left_alone(server: ServerProcess, upstream: Running) -> Answer:
    async with connected(server) as native:
        stream_id = await native.ask(message="slowly")
        await native.read(stream_id, to=3)
        upstream.kill()
        return await native.read(stream_id)


async def test_a_server_that_breaks_down(installed: Installed, spawn: Spawn) -> None:
    """A page that says that something went wrong inside is a failure of the provider's, tried again and told."""
    if installed.name != "mockllm":
        pytest.skip("only MockLLM does")
    flags = ("--retries", "1", "--retry-base", "0.01")
    async with (
        running(installed) as upstream,
        connected(await gateway(spawn, "messages", upstream.port, *flags)) as native,
    ):
        failed = await read(native, "say it")
    assert failed.end is not None
    told = {name: failed.end[name] for name in ("error_type", "recoverable", "retry_count")}
    assert told == {"error_type": "provider_error", "recoverable": True, "retry_count": 1}


async def test_thoughts_and_calls(installed: Installed, way: str, spawn: Spawn) -> None:
    """Thoughts and calls of tools arrive as what they are, and stand in the history as the model's server said them."""
    if installed.name != "aimock":
        pytest.skip("only aimock has them")
    async with running(installed) as upstream, connected(await gateway(spawn, way, upstream.port)) as native:
        answer = await read(native, "think")
        assert answer.end is not None
        called = await read(native, "call")
        assert called.end is not None
        assert called.end["finish_reason"] == "tool_calls"
        await native.send("get_history")
        messages = (await native.until("history"))["messages"]
    assert (messages[1]["content"], messages[1]["reasoning"]) == ("It is so.", "Let me see.")
    (call,) = messages[3]["tool_calls"]
    assert (call["name"], call["arguments"].replace(" ", "")) == ("get_weather", '{"city":"Ulm"}')


async def test_refusals(installed: Installed, way: str, spawn: Spawn) -> None:
    """A refusal is tried again, then told as what it is and not in the server's words; a cut answer is no whole one."""
    if installed.name != "aimock":
        pytest.skip("only aimock refuses")
    flags = ("--retries", "1", "--retry-base", "0.01")
    async with running(installed) as upstream, connected(await gateway(spawn, way, upstream.port, *flags)) as native:
        refused = await read(native, "refuse")
        assert refused.end is not None
        assert (refused.end["error_type"], refused.end["recoverable"]) == ("rate_limit", True)
        assert "secret" not in str(native.seen)
        cut = await read(native, "break off")
        assert cut.end is not None
        assert (cut.end["type"], cut.end["error_type"]) == ("stream_error", "interrupted")
        assert "This will be cut off".startswith(cut.text)
