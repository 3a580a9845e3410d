"""Bytes that nobody would send, to everything that takes bytes from outside: a few thousand each, or a minute."""

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


def fuzz(name: str, *bound: str, folder: Path, patience: float = 120.0) -> None:
    """Fuzz a target in a process of its own, as far as ``bound`` says."""
    ended = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.fuzz", name, *bound],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**clean_environ(), "PYTHONPATH": str(ROOT)},
        timeout=patience,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-4000:]
    (runs,) = re.findall(r"number_of_executed_units: (\d+)", ended.stderr)
    print(f"\n{name}: {int(runs):,} inputs")
    assert int(runs) > len(targets.SEEDS[name])


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
    """A few hundred inputs, however long they take here, find nothing."""
    fuzz(name, "-runs=500", folder=tmp_path)


@needs_atheris
@pytest.mark.slow
@pytest.mark.parametrize("name", targets.SEEDS)
def test_a_minute_of_fuzzing(name: str, tmp_path: Path) -> None:
    """Sixty seconds find nothing."""
    fuzz(name, "-max_total_time=60", folder=tmp_path)
