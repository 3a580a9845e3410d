"""The fake upstream: what it counts, what it answers by name, and its command line."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import urllib.error
import urllib.request
from typing import Any

import pytest

from wsstream.errors import StreamFailure
from wsstream.providers.openai import OpenAIProvider
from wsstream.testing.sinks import ListSink, ask
from wsstream.testing.upstream import FAULTS, Load, Step, Upstream, playing, serving, whole
from wsstream.testing.upstream.__main__ import make_parser
from wsstream.testing.upstream.faults import parse_load


async def say(port: int, *data: bytes) -> bytes:
    """What a connection that sends this gets, up to its end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for each in data:
        writer.write(each)
        await writer.drain()
    answer = await reader.read()
    writer.close()
    return answer


async def test_a_script_of_steps() -> None:
    """Bytes, waits, events and functions are steps; each connection has its script, the last one all that follow."""
    event = asyncio.Event()
    event.set()
    async with playing([b"one", 0.001, event], [Step.REQUEST, lambda seen: [seen.path.encode(), b"!"]]) as upstream:
        assert await say(upstream.port) == b"one"
        for path in (b"/a", b"/b"):
            assert await say(upstream.port, b"GET " + path + b" HTTP/1.1\r\n\r\n") == path + b"!"
        assert [seen.written for seen in upstream.seen] == [3, 3, 3]
        assert [seen.writes for seen in upstream.seen] == [1, 2, 2]


async def test_a_request_is_kept() -> None:
    """What a client has asked can be looked at."""
    async with playing([Step.REQUEST, whole(b"ok")]) as upstream:
        await say(upstream.port, b'POST /x HTTP/1.1\r\nContent-Length: 8\r\n\r\n{"a"', b": 1}")
        assert (upstream.seen[0].path, upstream.seen[0].body) == ("/x", {"a": 1})


@pytest.mark.parametrize("step", [Step.RESET, Step.CLOSE])
async def test_ends(step: Step) -> None:
    """A connection can be ended in its middle."""
    async with playing([b"a", 0.01, step, Step.HOLD]) as upstream:
        reader, writer = await asyncio.open_connection("127.0.0.1", upstream.port)
        if step is Step.RESET:
            with pytest.raises(ConnectionResetError):
                await reader.read()
        else:
            assert await reader.read() == b"a"
        writer.close()


def test_loads_are_read_from_names() -> None:
    """A model's name says what the flags say, and what it does not say stays."""
    default = Load(rate=9, tokens=8, fault="crlf", at=7)
    assert parse_load("fake", default) == default
    assert parse_load("fake:tokens=3,fault=closed", default) == Load(9, 3, "closed", 7)
    for wrong in ("fake:number=1", "fake:what=1", "fake:tokens=-1", "fake:fault=none such", "fake:rate=x"):
        with pytest.raises(ValueError, match=r"fake:rate|Expected|there is no fault"):
            parse_load(wrong, default)


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_says_what_it_does(name: str) -> None:
    """Help has a line on each."""
    assert (FAULTS[name].__doc__ or "").strip()
    assert name in make_parser().format_help()


async def test_a_server_that_is_asked_by_name() -> None:
    """One server answers well and badly, request by request, as the model's name says, and lists its model."""
    upstream = Upstream(serving(Load(rate=0, tokens=2)))
    await upstream.start()
    provider = OpenAIProvider("k", upstream.url, model=None)

    async def outcome(model: str | None) -> str:
        sink = ListSink()
        try:
            await provider.answer(ask(model=model), sink)
        except StreamFailure as failure:
            return f"{sink.text}{failure.error_type}"
        return sink.text

    assert await outcome(None) == "w0 w1 "
    assert await outcome("fake:tokens=5,fault=truncated,at=1") == "w0 interrupted"
    assert await outcome("fake:fault=closed,at=1") == "w0 interrupted"
    assert await outcome("fake:fault=nonsense") == "provider_error"
    assert sorted([await outcome("fake:fault=flaky"), await outcome("fake:fault=flaky")]) == [
        "provider_error",
        "w0 w1 ",
    ]
    await provider.close()
    await upstream.close()


def test_the_command() -> None:
    """It prints where it is, answers, and ends at a signal."""
    command = [sys.executable, "-m", "wsstream.testing.upstream", "--rate", "0", "--tokens", "2", "--fault", "404"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line: Any = process.stdout.readline()
        assert line.startswith("upstream is ready: http://127.0.0.1:")
        url = line.split()[3]
        request = urllib.request.Request(url + "/chat/completions", b'{"model": "fake:fault=none"}')
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.read().endswith(b"data: [DONE]\n\n")
        request = urllib.request.Request(url + "/messages", b"{}")
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(request, timeout=10)
        process.terminate()
        assert process.wait(10) == 0
