"""docs/http.md is executed: each curl example, in order, brings what stands behind it."""

from __future__ import annotations

import asyncio
import re
import shutil

import pytest

from tests.conftest import ROOT, Serve
from wsstream.server import Server

PAGE = (ROOT / "docs" / "http.md").read_text(encoding="utf-8")
AISDK = (ROOT / "docs" / "aisdk.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```sh\n(.*?)```\n```text\n(.*?)```", PAGE, re.DOTALL)


def pattern(line: str) -> str:
    """A line of the page as an expression: the ellipsis stands for anything, the end of a cut line too."""
    return ".*".join(re.escape(part) for part in line.split("…"))


async def run(server: Server) -> list[str]:
    """What each example prints; they share a shell."""
    script = "".join(f"{command}\necho; echo '@@@'\n" for command, _ in EXAMPLES)
    script = script.replace("http://127.0.0.1:8765/", server.url)
    process = await asyncio.create_subprocess_exec("sh", "-eu", "-c", script, stdout=asyncio.subprocess.PIPE)
    async with asyncio.timeout(60):
        output, _ = await process.communicate()
    assert process.returncode == 0
    return output.decode().replace("\r", "").split("@@@")


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed here")
async def test_every_example_does_what_it_says(serve: Serve) -> None:
    """The documented lines appear in the output, in their order."""
    outputs = await run(await serve())
    assert len(EXAMPLES) == PAGE.count("```sh") > 10
    for (command, expected), output in zip(EXAMPLES, outputs, strict=False):
        wanted = ".*".join(pattern(line) for line in expected.strip().split("\n"))
        assert re.search(wanted, output, re.DOTALL), f"{command}\n{output}"


async def test_every_endpoint_is_documented(serve: Serve) -> None:
    """Each address that a wire has stands on the page, those of the AI SDK on theirs."""
    server = await serve()
    for wire in server.assembly.wires():
        for endpoint in wire:
            path = re.sub(r"\{(\w+)(:\w+)?\}", r"{\1}", endpoint.path)
            shown = {
                path,
                path.replace("response_id", "id"),
                path.replace("/v1/streams/{stream_id}", "/v1/streams/{id}"),
            }
            short = {"/api/sessions/{session_id}/streams": "/streams"}.get(path)
            assert any(name in PAGE + AISDK for name in shown) or (short and f"`{short}`" in PAGE), path
