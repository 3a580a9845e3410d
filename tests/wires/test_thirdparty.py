"""Other people's clients, installed for the occasion."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed here")
async def test_other_peoples_clients(tmp_path: Path) -> None:
    """OpenAI's client, the AI SDK, the Durable Streams client and that protocol's suite all get what they expect."""
    process = await asyncio.create_subprocess_exec(
        "sh",
        str(ROOT / "tests" / "thirdparty" / "run.sh"),
        "conformance",
        env={
            **os.environ,
            "WSSTREAM_SCRATCH": str(tmp_path),
            "WSSTREAM_STORE": f"sqlite:{tmp_path / 'store.db'}",
            "PYTHON": sys.executable,
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    assert output.decode().count("\nok: ") == 2
    assert re.search(r"Tests +332 passed \| 6 skipped", output.decode())  # those skipped are about subscriptions
