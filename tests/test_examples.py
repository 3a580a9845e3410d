"""The examples run: each is started on a free port, and somebody chats through it."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx2 as httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from werkzeug.serving import make_server

from tests.conftest import ROOT, Spawn
from tests.hosted import hosted
from tests.native import PATIENCE

EXAMPLES = ROOT / "examples"

pytestmark = pytest.mark.usefixtures("quick_stop")


def load(name: str) -> Any:
    """An example's module, made anew; Django finds its routes by the module's name."""
    module = ModuleType(f"example_{name}")
    sys.modules[module.__name__] = module
    source = (EXAMPLES / name / "app.py").read_text(encoding="utf-8")
    exec(compile(source, f"examples/{name}/app.py", "exec"), module.__dict__)
    return module


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the examples read."""
    monkeypatch.setenv("WSSTREAM_STORE", "memory:")
    monkeypatch.setenv("SECRET", "s" * 32)
    monkeypatch.setenv("PASSWORD", "p" * 12)
    monkeypatch.setenv("DATABASE", str(tmp_path / "site.db"))


async def chat(port: int, cookie: str) -> str:
    """An answer over the mounted WebSocket."""
    text = ""
    headers = {"Cookie": cookie, "Origin": f"http://127.0.0.1:{port}"}
    async with (
        asyncio.timeout(PATIENCE * 2),
        connect(f"ws://127.0.0.1:{port}/chat/ws", additional_headers=headers, proxy=None) as socket,
    ):
        await socket.send('{"type":"hello","batch":true}')
        await socket.send('{"type":"chat_request","request_id":"r","message":"hi","model":"demo:rate=0,tokens=20"}')
        async for data in socket:
            message = json.loads(data)
            text += message.get("content", "")
            if message["type"] == "stream_complete":
                return text
    raise AssertionError(text)


async def refused(port: int, **headers: str) -> int:
    """The status with which a WebSocket is refused."""
    with pytest.raises(InvalidStatus) as error:
        await connect(f"ws://127.0.0.1:{port}/chat/ws", additional_headers=headers, proxy=None)
    return error.value.response.status_code


def browser(port: int) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=PATIENCE)


async def test_fastapi(environment: None) -> None:
    """Without its login nobody comes in, with it one chats, and a page of another origin does not."""
    async with hosted(load("fastapi").app, lifespan="on") as server, browser(server.port) as client:
        assert await refused(server.port) == 403
        assert "Come in" in (await client.get("/")).text
        assert (await client.get("/chat/healthz")).status_code == 401
        await client.post("/login", data={"name": "ann"})
        page = (await client.get("/")).text
        script = page.split('from "')[1].split('"')[0]
        assert (await client.get(script)).status_code == 200
        cookie = f"session={client.cookies['session']}"
        assert await chat(server.port, cookie)
        assert await refused(server.port, Cookie=cookie, Origin="https://elsewhere.example") == 403


async def test_django(environment: None) -> None:
    """Django's own login, with its protection against forged requests, opens the gate."""
    example = await asyncio.to_thread(load, "django")
    await asyncio.to_thread(example.prepare)
    async with hosted(example.app, lifespan="on") as server, browser(server.port) as client:
        assert await refused(server.port, Cookie="sessionid=forged") == 403
        token = (await client.get("/login")).text.split('value="')[1].split('"')[0]
        form = {"csrfmiddlewaretoken": token, "name": "ann", "password": "wrong"}
        assert (await client.post("/login", data=form)).status_code == 403
        assert (await client.post("/login", data={**form, "password": "p" * 12})).status_code == 200
        assert await chat(server.port, f"sessionid={client.cookies['sessionid']}")


async def test_flask(environment: None, spawn: Spawn, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a ticket one gets an answer through Flask and goes on behind an event; without, or with another's, not."""
    sidecar = await spawn("--provider", "demo")
    monkeypatch.setenv("SIDECAR", f"http://127.0.0.1:{sidecar.port}")
    server = make_server("127.0.0.1", 0, load("flask").app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        async with browser(server.server_port) as client:
            assert (await client.post("/chat", json={"message": "hi"})).status_code == 401
            ann, bob = [await ticket(client, name) for name in ("ann", "bob")]
            answer = await client.post("/chat", json={"message": "hi"}, headers=ann)
            assert answer.headers["content-type"].startswith("text/event-stream")
            ids = [line[4:] for line in answer.text.split("\n") if line.startswith("id: ")]
            address = f"/chat/{answer.headers['x-wsstream-stream-id']}"
            rest = await client.get(address, headers={**ann, "Last-Event-ID": ids[-3]})
            assert [line[4:] for line in rest.text.split("\n") if line.startswith("id: ")][1:] == ids[-2:]
            assert (await client.get(address, headers=bob)).status_code == 404
    finally:
        await asyncio.to_thread(server.shutdown)
        thread.join()
        server.server_close()


async def ticket(client: httpx.AsyncClient, name: str) -> dict[str, str]:
    """The headers of somebody who has one."""
    reply = await client.post("/ticket", json={"name": name})
    return {"Authorization": f"Bearer {reply.json()['ticket']}"}


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*/app.py")), ids=lambda path: path.parent.name)
def test_examples_are_short(path: Path) -> None:
    """An example is read in one go, and the list of examples names it."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 80
    assert f"`{path.parent.name}/app.py`" in (EXAMPLES / "README.md").read_text(encoding="utf-8")
