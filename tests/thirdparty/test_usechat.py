"""`useChat` of the AI SDK, as docs/aisdk.md has it in a page, in a real Chromium against a mounted server."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shutil
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from tests.conftest import ROOT
from tests.hosted import hosted
from tests.thirdparty.test_aisdk import HERE, run
from wsstream.asgi import WsstreamApp
from wsstream.config import Config

PACKAGES = HERE / "react.json"
PAGE = '<!doctype html><meta charset="utf-8"><div id="root"></div><script type="module" src="{}.js"></script>'
SOCKET = 'new WebSocketChatTransport({ url: "/chat/ai" })'
HTTP = 'new DefaultChatTransport({ api: "/chat/api/ai/chat" })'
STRICT = "<StrictMode><Conversation /></StrictMode>"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def find_chromium() -> str:
    """A Chromium, or a skip."""
    names = (os.environ.get("CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, filter(None, names))), None)
    if found is None or shutil.which("npm") is None:
        pytest.skip("no Chromium, or no npm, here")
    return found


async def install(folder: Path) -> None:
    """The pinned packages, from a folder that is kept, or a skip."""
    name = hashlib.sha256(PACKAGES.read_bytes()).hexdigest()[:12]
    kept = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / f"wsstream-usechat-{name}"
    if not (kept / "installed").exists():
        kept.mkdir(parents=True, exist_ok=True)
        shutil.copy(PACKAGES, kept / "package.json")
        options = ("--no-save", "--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error")
        status, output = await run("npm", "install", *options, cwd=kept)
        if status:
            pytest.skip(f"the packages cannot be installed here: {output[-300:]}")
        (kept / "installed").touch()
    shutil.copy(PACKAGES, folder / "package.json")
    (folder / "node_modules").symlink_to(kept / "node_modules")


async def bundle(folder: Path, wire: str, source: str) -> None:
    """A page of ``source``, as browsers take it."""
    (folder / f"{wire}.jsx").write_text(source)
    (folder / "site" / f"{wire}.html").write_text(PAGE.format(wire))
    options = ("--bundle", "--format=esm", "--jsx=automatic", "--log-level=error", f"--outfile=site/{wire}.js")
    mode = '--define:process.env.NODE_ENV="development"'
    status, output = await run("node_modules/.bin/esbuild", f"{wire}.jsx", *options, mode, cwd=folder)
    assert status == 0, output


async def build(folder: Path) -> None:
    """The documented page, and the same over HTTP and in React's strict mode, which mounts everything twice."""
    (source,) = re.findall(r"```jsx\n(.*?)```", (ROOT / "docs" / "aisdk.md").read_text(encoding="utf-8"), re.DOTALL)
    (folder / "site").mkdir()
    assert SOCKET in source
    await bundle(folder, "ws", source)
    other = source.replace(SOCKET, HTTP).replace("import { WebSocketChatTransport }", "import { DefaultChatTransport }")
    strict = other.replace("<Conversation />", STRICT).replace("import { useEffect,", "import { StrictMode, useEffect,")
    await bundle(folder, "http", strict)


@pytest.mark.usefixtures("quick_stop")
async def test_the_documented_chat(tmp_path: Path) -> None:
    """It answers, stops, comes back after a reload and a loss, and shows what went wrong; over both wires."""
    chromium = find_chromium()
    await install(tmp_path)
    await build(tmp_path)
    for name in ("react.mjs", "chat.js"):
        shutil.copy(HERE / name, tmp_path)
    chat = WsstreamApp(Config(provider="tests.data.chatty:answer", store="memory:"))
    routes = [Mount("/chat", chat), Mount("/", StaticFiles(directory=tmp_path / "site"))]
    async with hosted(Starlette(routes=routes, lifespan=lambda _: chat.running()), lifespan="on") as server:
        shots = os.environ.get("WSSTREAM_SHOTS", "")
        async with asyncio.timeout(240):
            status, output = await run("node", "react.mjs", str(server.port), shots, cwd=tmp_path, CHROMIUM=chromium)
    assert status == 0, output
    assert output.count("ok: ") == 14
