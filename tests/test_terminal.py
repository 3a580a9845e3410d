"""``python -m wsstream chat``, in this process, against the real server."""

from __future__ import annotations

import asyncio
import io
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.proxy import Proxy
from wsstream import errors
from wsstream.chunks import ChatRequest
from wsstream.client import connect
from wsstream.config import Config
from wsstream.server import Server
from wsstream.terminal import chat

EXAMPLE = Path(__file__).parent.parent / "clients" / "python" / "chat.py"


async def scripted(request: ChatRequest) -> AsyncGenerator[Any, None]:
    """A provider that repeats the conversation, or fails."""
    question = str(request.messages[-1].content)
    yield " / ".join(str(message.content) for message in request.messages)
    if question == "fail":
        raise errors.ContentFiltered("Not this")


@asynccontextmanager
async def serving(provider: str = f"{__name__}:scripted", **config: Any) -> AsyncIterator[Server]:
    async with Server(Config(store="memory:", port=0, provider=provider, listeners=1, **config)).running() as server:
        yield server


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsstream.terminal.connect", partial(connect, random=lambda: 0.0))


async def test_one_question(capsys: pytest.CaptureFixture[str]) -> None:
    """The answer, and nothing else, goes to stdout."""
    async with serving() as server:
        assert await chat(server.url, "hello", None, None) == 0
    assert capsys.readouterr() == ("hello\n", "")


async def test_failed_answer(capsys: pytest.CaptureFixture[str]) -> None:
    """A failed answer leaves what there was of it, one line on stderr, and status 1."""
    async with serving() as server:
        assert await chat(server.url, "fail", None, None) == 1
    assert capsys.readouterr() == ("fail\n", "wsstream: Not this\n")


async def test_unknown_model(capsys: pytest.CaptureFixture[str]) -> None:
    """The model is passed on; one that there is not is a failure with one line."""
    async with serving("demo") as server:
        assert await chat(server.url, "hello", "gpt", None) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


async def test_nobody_there(capsys: pytest.CaptureFixture[str], unused_tcp_port: int) -> None:
    """Where no server is, each try is told in one line, and the last names the address."""
    assert await chat(f"http://127.0.0.1:{unused_tcp_port}", "hello", None, None) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "wsstream: no connection (connection refused); try 1 in 0.0 s"
    assert f"ws://127.0.0.1:{unused_tcp_port}/ws" in lines[-1]
    assert len(lines) == 6


async def test_conversation(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a question, each line of stdin is one, with all that the session holds, failed answers too."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\n\nfail\ntwo\n"))
    async with serving() as server:
        assert await chat(server.url, None, None, "my-session") == 0
        assert len(server.streams.of_session("my-session")) == 3
    out, err = capsys.readouterr()
    assert out == "one\none / one / fail\none / one / fail / one / one / fail / two\n"
    assert err == "wsstream: Not this\n"


async def test_a_named_session_is_continued(capsys: pytest.CaptureFixture[str]) -> None:
    """With the name of a session, the model is told what was said in it before, by whichever program."""
    async with serving() as server:
        assert await chat(server.url, "one", None, "my-session") == 0
        assert await chat(server.url, "two", None, "my-session") == 0
    assert capsys.readouterr().out == "one\none / one / two\n"


async def test_a_credential_is_shown(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A server that asks for tokens answers to a good one, and says what is missing without."""
    tokens = tmp_path / "tokens.toml"
    tokens.write_text('[users]\nalice = "a-token-of-sixteen-characters"\n', encoding="utf-8")
    async with serving(tokens_file=str(tokens)) as server:
        assert await chat(server.url, "hello", None, None) == 1
        assert await chat(server.url, "hello", None, None, "a-token-of-sixteen-characters") == 0
    out, err = capsys.readouterr()
    assert out == "hello\n"
    assert "A valid token is needed" in err


async def test_lost_connection_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """A loss and the resume are two lines on stderr; stdout has every character once."""
    async with serving("demo") as server, Proxy(server.port) as proxy:
        asking = asyncio.create_task(chat(proxy.url, "hello", "demo:rate=2000,tokens=400", "s"))
        log = await _log_of(server, "s")
        await _until(lambda: log.tail >= 100)
        proxy.cut()
        assert await asking == 0
        text = "".join(chunk.content for chunk in log.chunks(1, log.tail))
    out, err = capsys.readouterr()
    assert out == text + "\n"
    assert err == (
        "wsstream: no connection (the connection broke); try 1 in 0.0 s\n"
        "wsstream: connected again, the answer goes on\n"
    )


async def _until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(2):
        while not condition():  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.005)


async def _log_of(server: Server, session_id: str) -> Any:
    await _until(lambda: server.streams.of_session(session_id))
    return server.streams.of_session(session_id)[0].log


async def test_interrupt_cancels_the_answer(capsys: pytest.CaptureFixture[str]) -> None:
    """The first Ctrl-C cancels the running answer at the server."""
    async with serving("demo") as server:
        asking = asyncio.create_task(chat(server.url, "hello", "demo:rate=500,tokens=100000", "s"))
        log = await _log_of(server, "s")
        await asyncio.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)
        assert await asking == 130
        assert log.state == "cancelled"
    assert capsys.readouterr().out.endswith("\n")


async def test_second_interrupt_leaves() -> None:
    """The second Ctrl-C does not wait for the answer to end."""
    async with serving("demo") as server, Proxy(server.port) as proxy:
        asking = asyncio.create_task(chat(proxy.url, "hello", "demo:rate=500,tokens=100000", "s"))
        await _log_of(server, "s")
        await asyncio.sleep(0.05)
        proxy.freeze()
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(0.01)
        assert await asking == 130


async def test_interrupt_at_the_prompt_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no answer runs, the first Ctrl-C leaves, though stdin is still being read."""
    reading, writing = os.pipe()
    with os.fdopen(reading) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        async with serving() as server:
            asking = asyncio.create_task(chat(server.url, None, None, None))
            await asyncio.sleep(0.05)
            os.kill(os.getpid(), signal.SIGINT)
            assert await asking == 130
        os.close(writing)
        for thread in threading.enumerate():
            if thread.name == "stdin":
                thread.join(1)


async def _run(*arguments: str, url: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stdout=subprocess.PIPE, env={**os.environ, "WSSTREAM_URL": url}
    )
    out, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode()


async def test_command_and_example() -> None:
    """The command and the example work as documented, as processes of their own."""
    async with serving() as server:
        url = f"ws://127.0.0.1:{server.port}/ws"
        command, example = await asyncio.gather(
            _run("-m", "wsstream", "chat", "hello there", "--url", url, url=url),
            _run(str(EXAMPLE), "hello", "there", url=url),
        )
    assert command == (0, "hello there\n")
    assert example == (0, "hello there")


def test_example_is_short() -> None:
    """The example stays an example: forty lines, and nothing but the public client."""
    text = EXAMPLE.read_text()
    assert len(text.splitlines()) <= 40
    assert set(re.findall(r"from (wsstream\S*)", text)) == {"wsstream.client", "wsstream.errors"}
