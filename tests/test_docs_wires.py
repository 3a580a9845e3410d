"""What the pages on the AI SDK and on mounting say takes place as it stands there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect

from tests.conftest import Serve
from tests.hosted import hosted
from tests.test_web import get

DOCS = Path(__file__).parent.parent / "docs"


def matches(documented: Any, found: Any) -> bool:
    """Whether ``found`` has all that is documented; a … stands for any end of a text."""
    if isinstance(documented, dict):
        return isinstance(found, dict) and all(matches(value, found.get(name)) for name, value in documented.items())
    if isinstance(documented, str) and documented.endswith("…"):
        return isinstance(found, str) and found.startswith(documented[:-1])
    return bool(documented == found)


async def test_the_frames_of_the_ai_sdk(serve: Serve) -> None:
    """Every frame of the documented conversation is said as it stands there."""
    server = await serve()
    (block,) = re.findall(r"```frames\n(.*?)```", (DOCS / "aisdk.md").read_text(encoding="utf-8"), re.DOTALL)
    async with connect(f"ws://127.0.0.1:{server.port}/ai", proxy=None) as socket:
        for line in block.strip().split("\n"):
            if line[0] == "C":
                await socket.send(line[2:])
            else:
                found = json.loads(await socket.recv())
                assert matches(json.loads(line[2:]), found), (line, found)


@pytest.mark.usefixtures("quick_stop")
async def test_the_application_in_an_application() -> None:
    """The documented application starts with its host, and its gate holds."""
    (source,) = re.findall(r"```python\n(.*?)```", (DOCS / "asgi.md").read_text(encoding="utf-8"), re.DOTALL)
    made: dict[str, Any] = {}
    exec(source, made)
    async with hosted(made["app"], lifespan="on") as server:
        assert (await get(server, "/chat/healthz")).status == 401
        assert (await get(server, "/chat/healthz", headers="X-User: ann\r\n")).status == 200
        assert (await get(server, "/chat/static/js/index.js", headers="X-User: ann\r\n")).status == 200
