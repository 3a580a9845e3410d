"""Fuzz one target: ``python -m tests.fuzz.fuzz TARGET -runs=500``, or with any other bound of libFuzzer's.

Exit status 0: nothing was found. Coverage guides it (atheris). What is found is
written to a file ``crash-…`` in the working directory, by libFuzzer, and belongs into `SEEDS` once it is mended.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["wsstream", "websockets"]):
    from tests.fuzz import targets


class _Found(logging.Handler):
    """Turns what a connection survived into what a fuzzer sees."""

    def emit(self, record: logging.LogRecord) -> None:
        if targets.unexpected(record) and record.exc_info is not None and record.exc_info[1] is not None:
            raise record.exc_info[1]


def main(name: str, bound: str) -> None:
    """Fuzz until something is found or the bound is reached."""
    logging.getLogger("wsstream").addHandler(_Found())
    target = targets.Frames() if name == "frames" else getattr(targets, name)
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(targets.SEEDS[name]):
            Path(corpus, str(number)).write_bytes(seed)
        flags = [
            bound,
            "-timeout=5",
            "-rss_limit_mb=1024",
            "-verbosity=0",
            "-print_final_stats=1",
        ]
        atheris.Setup([sys.argv[0], *flags, corpus], target)
        atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
