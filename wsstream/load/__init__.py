"""The load tester: ``python -m wsstream bench``. Runs many answers at once against a server, checks and measures them.

Every token of the provider ``demo`` carries the moment at which it was made, so a token's age on arrival is its
delivery latency, as long as both ends run on one machine.

Exit status: 0 all is well; 1 a chunk was lost, duplicated or reordered, or a stream or connection failed; 2 used
wrongly; 130 stopped by Ctrl-C with nothing wrong until then. It ends by itself `settings.GRACE` seconds after the time
asked for, at the latest.

This module is imported for every command, so it imports nothing that takes long.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

DEFAULT_URL = "ws://127.0.0.1:8765/ws"
DEFAULT_TOKENS = 20_000
STDOUT = "-"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what ``bench`` takes."""
    add = parser.add_argument
    add("--url", default=DEFAULT_URL, help=f"the server (default {DEFAULT_URL})")
    add("--streams", type=_count(1), default=100, metavar="N", help="answers at once (default 100)")
    add("--rate", type=_number(0, 1e6), default=50.0, metavar="R", help="tokens a second of each; 0: unpaced")
    add(
        "--seconds",
        type=_number(0.1, 86400),
        default=10.0,
        metavar="S",
        help="an answer's length in time (default 10)",
    )
    add("--tokens", type=_count(1), metavar="N", help=f"of each answer, with --rate 0 (default {DEFAULT_TOKENS})")
    add("--window", type=_count(1), metavar="W", help="chunks in flight (default: the server's)")
    add("--slow-readers", type=_number(0, 1), default=0.0, metavar="F", help="fraction of clients that stall at times")
    add("--drop", type=_number(0, 1), default=0.0, metavar="F", help="fraction of connections that break and resume")
    add("--connections", type=_count(1), metavar="C", help="spread the answers over these (default: one each)")
    add("--json", nargs="?", const=STDOUT, metavar="FILE", help="print JSON instead of a table, or write it to FILE")
    add("--pid", type=_count(1), help="the server's process (default: who listens on the port)")
    add("--quiet", action="store_true", help="no progress line")
    add("--i-own-this-server", action="store_true", help="allow a server that is not on this machine")


def main(parsed: argparse.Namespace) -> int:
    """Run the load and report; the exit status.

    Raises:
        ConfigError: the arguments do not go together, or not with this machine.
        ConnectionFailed: there is nothing to load.
    """
    from wsstream.load.command import bench

    return bench(parsed)


def _number(least: float, most: float) -> Callable[[str], float]:
    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"must be a number from {least:g} to {most:g}, got {text!r}")
        return value

    return number


def _count(least: int) -> Callable[[str], int]:
    def count(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"must be a whole number from {least} on, got {text!r}")
        return value

    return count
