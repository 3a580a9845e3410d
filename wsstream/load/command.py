"""The command ``bench``: arguments in, a progress line, a table or JSON out."""

from __future__ import annotations

import argparse
import asyncio
import gc
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from wsstream.load import STDOUT
from wsstream.load.report import Report, as_json, as_table
from wsstream.load.run import Run, run_load
from wsstream.load.settings import Settings, allow_files, read_settings

Watch = Callable[[Run], Coroutine[Any, Any, None]]


def bench(parsed: argparse.Namespace) -> int:
    """Run what the arguments ask for; the exit status.

    Raises:
        ConfigError: the arguments do not go together, or not with this machine or server.
        ConnectionFailed: there is nothing to load.
    """
    settings = read_settings(parsed)
    allow_files(settings.connections)
    watch = None if parsed.quiet or not sys.stderr.isatty() else show_progress
    # The run is short and its objects form no cycles on the hot path; a collection would look like latency.
    gc.disable()
    report = run_fast(run_until_interrupted(settings, watch))
    write(report, parsed.json)
    return report.exit_status


def run_fast(work: Coroutine[Any, Any, Report]) -> Report:
    """Run on uvloop where there is one."""
    if sys.platform == "win32":
        return asyncio.run(work)
    import uvloop

    return uvloop.run(work)


async def run_until_interrupted(settings: Settings, watch: Watch | None) -> Report:
    """Run until the end or the first Ctrl-C."""
    stop = asyncio.Event()
    if sys.platform != "win32":
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stop.set)
    return await run_load(settings, stop, watch)


async def show_progress(run: Run) -> None:
    """Keep one line on stderr up to date, once a second."""
    tokens, at = 0, time.monotonic()
    try:
        while True:
            await asyncio.sleep(1)
            progress, now = run.progress(), time.monotonic()
            rate = (progress.tokens - tokens) / (now - at)
            tokens, at = progress.tokens, now
            line = f"{progress.running:,} streams, {rate:,.0f} tokens/s, p99 {progress.p99_ms:.1f} ms"
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
    finally:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def write(report: Report, where: str | None) -> None:
    """The table on stdout; or JSON there instead; or JSON in a file besides."""
    if where == STDOUT:
        print(as_json(report))
        return
    if where is not None:
        Path(where).write_text(as_json(report) + "\n", encoding="utf-8")
    print(as_table(report))
