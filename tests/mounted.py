"""A whole server without sockets, in virtual time: its ASGI application, and clients that speak to that."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from starlette.types import Scope

from tests.conftest import SCRIPTED
from tests.data.scripted import Run, Scripted
from wsstream.asgi import WsstreamApp
from wsstream.assembly import Assembly
from wsstream.config import Config

MOMENT = 0.02
"""Virtual seconds within which everything happens that waits for nothing."""


class Talk:
    """One WebSocket. What it was told is in `told`; `status` is that of a refused handshake.

    While `stalls`, its client takes nothing.
    """

    def __init__(self, app: WsstreamApp, path: str, user: str, remote: str) -> None:
        self.told: list[dict[str, Any]] = []
        self.code: int | None = None
        self.status = 101
        self.stalls = False
        self._incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._incoming.put_nowait({"type": "websocket.connect"})
        scope = {
            "type": "websocket",
            "path": path,
            "headers": [(b"x-user", user.encode())],
            "subprotocols": ["wsstream.v1"] if path == "/ws" else [],
            "client": (remote, 1),
            "extensions": {"websocket.http.response": {}},
        }
        self._task = asyncio.ensure_future(app(scope, self._incoming.get, self._send))

    async def _send(self, message: dict[str, Any]) -> None:
        while self.stalls:  # noqa: ASYNC110
            await asyncio.sleep(1)
        if message["type"] == "websocket.send":
            self.told.append(json.loads(message["text"]))
        elif message["type"] == "websocket.close":
            self.code = message["code"]
            self.leave()
        elif message["type"] == "websocket.http.response.start":
            self.status = message["status"]

    def say_text(self, text: str) -> None:
        """Send a message as it is."""
        self._incoming.put_nowait({"type": "websocket.receive", "text": text})

    def say(self, type: str, **fields: Any) -> None:
        """Send one message."""
        self.say_text(json.dumps({"type": type, **fields}))

    def leave(self) -> None:
        """Close."""
        self._incoming.put_nowait({"type": "websocket.disconnect", "code": 1000})

    async def gone(self) -> None:
        """Wait for the end of it."""
        self.leave()
        await self._task

    def of_type(self, type: str) -> list[dict[str, Any]]:
        """What was told of that type."""
        return [message for message in self.told if message["type"] == type]

    async def found(self) -> str:
        """How it stands: the close code, the refusal of the handshake, the last error, or that all is well."""
        await asyncio.sleep(MOMENT)
        if self.status != 101:
            return f"HTTP {self.status}"
        if self.code is not None:
            return f"close {self.code}"
        errors = self.of_type("error")
        return str(errors[-1]["error_type"]) if errors else "served"


class Reply:
    """One response, as it comes. While `stalls`, its client takes nothing; its request's body is ``late``."""

    def __init__(
        self,
        app: Any,
        method: str,
        target: str,
        body: Any,
        headers: dict[str, str],
        late: float = 0.0,
        remote: str = "127.0.0.1",
    ) -> None:
        path, _, query = target.partition("?")
        self.status = 0
        self.headers: dict[str, str] = {}
        self.parts: list[str] = []
        self.stalls = False
        self._late = late
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self._request = [{"type": "http.request", "body": data}]
        shown = {"host": "localhost", "content-type": "application/json", **headers}
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": query.encode(),
            "headers": [(name.lower().encode(), value.encode()) for name, value in shown.items()],
            "client": (remote, 1),
            "server": ("localhost", 80),
            "scheme": "http",
        }
        self.task = asyncio.ensure_future(app(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        if self._request:
            await asyncio.sleep(self._late)
            return self._request.pop()
        await asyncio.Event().wait()
        raise AssertionError

    async def _send(self, message: dict[str, Any]) -> None:
        while self.stalls:  # noqa: ASYNC110
            await asyncio.sleep(1)
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self.parts.append(message.get("body", b"").decode())

    @property
    def text(self) -> str:
        """What has come so far."""
        return "".join(self.parts)

    async def whole(self) -> str:
        """All of it."""
        await self.task
        return self.text


class Mount:
    """A mounted server with a scripted provider, whose host takes `X-User`'s word."""

    def __init__(self, app: WsstreamApp, scripted: Scripted, stack: AsyncExitStack) -> None:
        assert app.assembly is not None
        self.assembly: Assembly = app.assembly
        self.scripted = scripted
        self._app = app
        self._stack = stack

    async def talk(
        self, *, path: str = "/ws", user: str = "ann", remote: str = "127.0.0.1", greet: bool = True, **hello: Any
    ) -> Talk:
        """A WebSocket, which has said hello."""
        talk = Talk(self._app, path, user, remote)
        self._stack.push_async_callback(talk.gone)
        if greet:
            talk.say("hello", **{"session_id": "ses", **hello})
        await asyncio.sleep(MOMENT)
        return talk

    async def ask(
        self,
        method: str,
        target: str,
        body: Any = b"",
        late: float = 0.0,
        *,
        remote: str = "127.0.0.1",
        **headers: str,
    ) -> Reply:
        """A request over HTTP, of which something may have come already."""
        reply = Reply(self._app, method, target, body, {"x-user": "ann", **headers}, late, remote)
        self._stack.callback(reply.task.cancel)
        await asyncio.sleep(MOMENT)
        return reply

    async def answer(self, talk: Talk, **fields: Any) -> tuple[str, Run]:
        """An answer under way: its stream, and the provider's part."""
        talk.say("chat_request", **{"request_id": f"r{len(self.scripted.runs)}", "message": "hi", **fields})
        await asyncio.sleep(MOMENT)
        return talk.of_type("stream_start")[-1]["stream_id"], self.scripted.last


async def _named(scope: Scope) -> str | None:
    return dict(scope["headers"]).get(b"x-user", b"").decode()


@asynccontextmanager
async def mount(scripted: Scripted, **settings: Any) -> AsyncIterator[Mount]:
    """The server, while the block runs."""
    app = WsstreamApp(Config(**{"store": "memory:", "provider": SCRIPTED, **settings}), gate=_named)
    async with app.running(), AsyncExitStack() as stack:
        yield Mount(app, scripted, stack)
