"""The tools of others that say whether what is shipped for deployment holds, and how they are called."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.conftest import ROOT

BIN = ROOT / ".venv" / "deploy" / "bin"
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "wsstream"
MARKS = [pytest.mark.slow, pytest.mark.deploy, pytest.mark.timeout(600)]


def tool(name: str) -> str:
    """Where a tool is; the test that wants it is skipped where there is none."""
    own = BIN / name
    found = str(own) if own.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"no {name} here")
    return found


def attempt(
    *command: str | Path, cwd: Path = ROOT, environ: Mapping[str, str] | None = None, patience: float = 300
) -> subprocess.CompletedProcess[str]:
    """What a command says, however it ends; what it says on stderr is in stdout."""
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=patience,
    )


def run(*command: str | Path, **how: object) -> str:
    """What a command says that must end well."""
    done = attempt(*command, **how)  # type: ignore[arg-type]
    assert done.returncode == 0, f"{' '.join(str(part) for part in command)}:\n{done.stdout[-4000:]}"
    return done.stdout


def wait_for(what: Callable[[], bool], seconds: float, why: Callable[[], str] = str) -> None:
    """Ask other programs until they agree: they have no way to call."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, f"not within {seconds} seconds: {why()}"
        time.sleep(0.2)


def python_with(module: str) -> str:
    """A Python that has ``module``, which is none of ours; the test that wants it is skipped where there is none."""
    found = BIN / "python"
    if not found.exists() or attempt(found, "-c", f"import {module}").returncode:
        pytest.skip(f"no {module} here")
    return str(found)


def python() -> str:
    """The Python that runs the tests."""
    return sys.executable
