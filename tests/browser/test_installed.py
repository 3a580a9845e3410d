"""The page as an installed package serves it, far from any checkout, in a real browser."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
hatchling = pytest.importorskip("hatchling.build", reason="builds the wheel")


async def run(*command: str | Path, **variables: str) -> str:
    """Run a program to its end; what it said."""
    process = await asyncio.create_subprocess_exec(
        *command, env={**os.environ, **variables}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    text = output.decode(errors="replace")
    assert process.returncode == 0, text
    return text


@asynccontextmanager
async def serving(program: Path, folder: Path) -> AsyncIterator[str]:
    """The address of an installed server that knows nothing of this checkout."""
    known = {name: value for name, value in os.environ.items() if not re.match("PYTHON|WSSTREAM_|OPENAI_", name)}
    flags = ("--port", "0", "--store", "memory:", "--provider", "demo")
    server = await asyncio.create_subprocess_exec(
        program, *flags, cwd=folder, env=known, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        assert server.stdout is not None
        async for line in server.stdout:
            if ready := re.search(rb" is ready: (http://\S+)", line):
                yield ready[1].decode()
                break
    finally:
        server.kill()
        await server.wait()


async def test_the_page_of_a_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Built, installed into a fresh environment and started, it opens, answers and breaks no rule of its policy."""
    monkeypatch.chdir(ROOT)
    wheel = tmp_path / hatchling.build_wheel(str(tmp_path))
    assert "wsstream/_web/chat/index.html" in zipfile.ZipFile(wheel).namelist()
    fresh = tmp_path / "venv"
    await run(sys.executable, "-m", "venv", fresh)
    pip = (fresh / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    await run(*pip, "--constraint", ROOT / "constraints.txt", wheel)
    async with serving(fresh / "bin" / "wsstream", tmp_path) as address:
        said = await run(ROOT / "tests" / "browser" / "run.sh", "look", address)
    if " here: " in said:
        pytest.skip(said)
    assert said.endswith("the page answers\n")
