"""The AI SDK itself, from npm, against this server: its tests are JavaScript, in `aisdk/`."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest

from tests.conftest import ROOT, Spawn

HERE = Path(__file__).parent / "aisdk"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


async def run(*command: str, cwd: Path, **variables: str) -> tuple[int, str]:
    """Run a program; its exit status and what it said."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=cwd,
        env={**os.environ, **variables},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode is not None
    return process.returncode, output.decode(errors="replace")


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pinned packages, and a Node new enough for them, in a folder of their own with the tests beside them."""
    if shutil.which("npm") is None:
        pytest.skip("no npm here")
    folder = tmp_path_factory.mktemp("aisdk")
    for file in HERE.iterdir():
        if file.is_file():
            shutil.copy(file, folder)
    client = ROOT / "clients" / "js"
    shutil.copytree(client, folder / "wsstream", ignore=shutil.ignore_patterns("node_modules", "test"))
    install = ("npm", "install", "--no-save", "--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error")
    status, output = asyncio.run(run(*install, cwd=folder))
    if status:
        pytest.skip(f"the packages cannot be installed here: {output[-300:]}")
    return folder


@pytest.mark.parametrize("name", sorted(path.name for path in HERE.glob("*.test.js")))
async def test_the_ai_sdk(packages: Path, spawn: Spawn, name: str) -> None:
    """Every test of this file passes with the real package against a real server."""
    server = await spawn("--provider", "tests.data.chatty:answer")
    node = str(packages / "node_modules" / ".bin" / "node")
    status, output = await run(node, "--test", name, cwd=packages, WSSTREAM_PORT=str(server.port))
    assert status == 0, output
    assert "# pass 0" not in output
