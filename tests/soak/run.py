"""A server with all kinds of clients, restarts and a provider that fails: ``python -m tests.soak.run``, ``make soak``.

Exit status: 0 nothing was wrong, 1 something was. ``--seed`` repeats the plan: who asks for what, when the server is
killed. Where exactly a kill hits is up to the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.soak.world import World, describe


def make_parser() -> argparse.ArgumentParser:
    """The parser."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.run", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=600.0, help="how long clients come; the end takes some more")
    parser.add_argument("--seed", type=int, default=None, help="what a run before has printed")
    parser.add_argument("--crowds", type=int, default=1, help="so many times the usual clients")
    parser.add_argument("--keep", type=Path, default=None, help="where the store and the server's log are to be left")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it, and say what was seen."""
    given = make_parser().parse_args(arguments)
    seed = time.time_ns() % 1_000_000 if given.seed is None else given.seed
    print(f"soaking for {given.seconds:.0f} s, seed {seed}", flush=True)
    with tempfile.TemporaryDirectory() as place:
        world = World(given.keep or Path(place), seed, given.seconds, crowds=given.crowds)
        asyncio.run(world.run())
    print(describe(world))
    return 1 if world.book.violations else 0


if __name__ == "__main__":
    raise SystemExit(main())
