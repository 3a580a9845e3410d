"""Bytes that nobody would send, to everything that takes bytes from outside: five seconds each, or a minute."""

from __future__ import annotations

import importlib.util
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import ROOT, clean_environ
from tests.fuzz import targets

needs_atheris = pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not here")


def fuzz(name: str, seconds: int, folder: Path) -> None:
    """Fuzz a target in a process of its own."""
    ended = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.fuzz", name, str(seconds)],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**clean_environ(), "PYTHONPATH": str(ROOT)},
        timeout=seconds + 60,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-4000:]
    (runs,) = re.findall(r"number_of_executed_units: (\d+)", ended.stderr)
    print(f"\n{name}: {int(runs):,} inputs in {seconds} s")
    assert int(runs) > 100 * seconds


@pytest.mark.parametrize("name", targets.SEEDS)
def test_the_seeds_are_taken(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """What the fuzzers begin with, and what they have found before, is taken without a mistake."""
    target = targets.Frames() if name == "frames" else getattr(targets, name)
    with caplog.at_level(logging.ERROR):
        for seed in targets.SEEDS[name]:
            target(seed)
    assert not [record for record in caplog.records if targets.unexpected(record)]
    if isinstance(target, targets.Frames):
        target.close()


@given(st.binary(max_size=300))
def test_headers_of_proxies(data: bytes) -> None:
    """Random headers of a trusted proxy give an address."""
    targets.proxies(data)


@needs_atheris
@pytest.mark.parametrize("name", targets.SEEDS)
def test_a_few_seconds_of_fuzzing(name: str, tmp_path: Path) -> None:
    """Five seconds find nothing."""
    fuzz(name, 5, tmp_path)


@needs_atheris
@pytest.mark.slow
@pytest.mark.parametrize("name", targets.SEEDS)
def test_a_minute_of_fuzzing(name: str, tmp_path: Path) -> None:
    """Sixty seconds find nothing."""
    fuzz(name, 60, tmp_path)
