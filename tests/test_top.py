"""``python -m wsstream top``: a running server's state, in a terminal."""

from __future__ import annotations

import asyncio
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator

import pytest

from tests.conftest import ROOT, Serve, clean_environ
from tests.native import connected
from wsstream import top
from wsstream.errors import ConfigError, ConnectionFailed
from wsstream.top import Change, Reading, parse, render

TEXT = """
# TYPE wsstream_info gauge
wsstream_info{version="1.2.3"} 1.0
# TYPE wsstream_ready gauge
wsstream_ready 1.0
# TYPE wsstream_streams_running gauge
wsstream_streams_running 7.0
# TYPE wsstream_chunks_total counter
wsstream_chunks_total %d
# TYPE wsstream_rejected_total counter
wsstream_rejected_total{reason="draining"} 0.0
wsstream_rejected_total{reason="memory"} 3.0
# TYPE wsstream_loop_lag_seconds histogram
wsstream_loop_lag_seconds_bucket{le="0.001"} %d
wsstream_loop_lag_seconds_bucket{le="0.1"} %d
wsstream_loop_lag_seconds_bucket{le="+Inf"} %d
wsstream_loop_lag_seconds_count 1
wsstream_loop_lag_seconds_sum 1
# TYPE wsstream_memory_limit_bytes gauge
wsstream_memory_limit_bytes 1000
# TYPE wsstream_memory_used_bytes gauge
wsstream_memory_used_bytes 500
"""


def change() -> Change:
    """Two readings, two seconds apart."""
    return Change(parse(TEXT % (100, 0, 0, 0), 10.0), parse(TEXT % (300, 90, 98, 100), 12.0))


def test_a_screen() -> None:
    """It shows rates between two readings, quantiles of what was counted between them, and what went wrong."""
    screen = "\n".join(render(change(), "http://x/metrics", 100))
    assert screen.startswith("wsstream 1.2.3 at http://x/metrics: ready\n")
    assert "7 running" in screen
    assert "100/s" in screen
    assert "loop lag    p50 ≤ 1 ms, p99 beyond all bounds" in screen
    assert "50% of 1,000 B" in screen
    assert "rejected    memory 3\n" in screen


def test_lines_are_cut_to_the_terminal() -> None:
    """A narrow one is not wrapped."""
    assert max(map(len, render(change(), "http://x/metrics", 20))) == 20


def test_a_server_that_was_restarted() -> None:
    """Counters that begin anew make no negative rate."""
    before, after = change()
    assert Change(after, before).rate("wsstream_chunks_total") == 0.0
    assert Change(after, before).quantile("wsstream_loop_lag_seconds", 0.5) is None


def test_nothing_is_known_yet() -> None:
    """A server without any metric of ours still makes a screen."""
    nothing = Reading(0.0, {})
    assert "not ready" in render(Change(nothing, nothing), "http://x", 80)[0]


def test_what_is_no_address() -> None:
    """It is said in one line, and so is that nobody is there."""
    with pytest.raises(ConfigError, match="--url"):
        top.top("file:///etc/passwd", 1.0)
    with pytest.raises(ConnectionFailed, match="cannot read"):
        top.top("http://127.0.0.1:1/metrics", 1.0)


async def test_every_metric_on_the_screen_exists(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """The screen asks for no name that a server does not have."""
    server = await serve(metrics_port=None)
    async with connected(server) as native:
        await native.read(await native.ask("demo:rate=0,tokens=5"))
        await native.send("resume_stream", stream_id="s_none", last_chunk_id=0)
        await native.until("error")
        reading = await asyncio.to_thread(top.fetch, f"http://127.0.0.1:{server.metrics_port}/metrics")
    asked: set[str] = set()

    class Watching(dict[str, object]):
        def get(self, name: str, default: object = None) -> object:
            asked.add(name)
            return super().get(name, default)

    watched = reading._replace(samples=Watching(reading.samples))  # type: ignore[arg-type]
    render(Change(watched, watched), "http://x", 80)
    # Tables of what has gone wrong are empty where nothing has.
    assert {name for name in asked if name not in reading.samples} <= {
        "wsstream_stream_errors_total",
        "wsstream_closes_total",
    }


async def test_one_screen_without_a_terminal(serve: Serve) -> None:
    """Where stdout is no terminal there is one screen, as lines."""
    server = await serve(metrics_port=None)
    process = await asyncio.create_subprocess_exec(
        *command(server.metrics_port), "--interval", "0.1", stdout=subprocess.PIPE, cwd=ROOT, env=clean_environ()
    )
    assert process.stdout is not None
    async with asyncio.timeout(20):
        out = (await process.stdout.read()).decode()
        assert await process.wait() == 0
    assert out.startswith("wsstream ")
    assert "\x1b" not in out
    assert "0 running" in out


def command(port: int) -> list[str]:
    """``wsstream top`` for a server's metrics."""
    return [sys.executable, "-m", "wsstream", "top", "--url", f"http://127.0.0.1:{port}/metrics"]


class Terminal:
    """A pseudo terminal, and a program in it."""

    def __init__(self, arguments: list[str]) -> None:
        self._master, slave = pty.openpty()
        self.before = termios.tcgetattr(slave)
        self.process = subprocess.Popen(
            arguments, stdin=slave, stdout=slave, stderr=slave, cwd=ROOT, env=clean_environ(), start_new_session=True
        )
        self._slave = slave
        self.shown = ""

    def read_until(self, text: str, count: int = 1) -> None:
        """Read what it shows until ``text`` was there so often."""
        deadline = time.monotonic() + 20
        while self.shown.count(text) < count:
            assert time.monotonic() < deadline, self.shown
            self.shown += os.read(self._master, 65536).decode()

    def press(self, key: str) -> None:
        """Type."""
        os.write(self._master, key.encode())

    def settings(self) -> list[object]:
        """How the terminal is set."""
        return termios.tcgetattr(self._slave)

    def close(self) -> None:
        """See that everything ends."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._slave)
        os.close(self._master)


@pytest.fixture
def terminals() -> Iterator[list[Terminal]]:
    """Terminals that are closed at the end."""
    opened: list[Terminal] = []
    yield opened
    for terminal in opened:
        terminal.close()


@pytest.mark.parametrize("leave", ["q", "ctrl-c", "sigterm"])
async def test_in_a_terminal(serve: Serve, terminals: list[Terminal], leave: str) -> None:
    """It refreshes until q, Ctrl-C or SIGTERM, and leaves the terminal as it was."""
    server = await serve(metrics_port=None)
    terminal = Terminal([*command(server.metrics_port), "--interval", "0.1"])
    terminals.append(terminal)
    await asyncio.to_thread(terminal.read_until, "q leaves", 3)
    if leave == "q":
        terminal.press("q")
    else:
        terminal.process.send_signal(signal.SIGINT if leave == "ctrl-c" else signal.SIGTERM)
    assert await asyncio.to_thread(terminal.process.wait, 10) == 0
    await asyncio.to_thread(terminal.read_until, top.ORDINARY)
    assert terminal.settings() == terminal.before


async def test_a_server_that_goes_away(serve: Serve, terminals: list[Terminal]) -> None:
    """It is said on the screen, and waited for."""
    server = await serve(metrics_port=None)
    terminal = Terminal([*command(server.metrics_port), "--interval", "0.1"])
    terminals.append(terminal)
    await asyncio.to_thread(terminal.read_until, "q leaves")
    await server.stop()
    await asyncio.to_thread(terminal.read_until, "cannot read")
    terminal.press("q")
    assert await asyncio.to_thread(terminal.process.wait, 10) == 0
