"""Two tenants, alice and bob, of a server: one of its own, or one that is mounted in somebody else's application."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, NamedTuple

import httpx2
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import Scope

from tests.conftest import SCRIPTED
from tests.data.scripted import Scripted
from tests.hosted import hosted
from tests.native import Message, Native, connected
from wsstream.asgi import WsstreamApp
from wsstream.assembly import Assembly
from wsstream.config import Config
from wsstream.limits import Buckets
from wsstream.server import Server
from wsstream.wires.http import Endpoint

ALICE, BOB, SHOP = "alice-token-0123456789", "bob-token-0123456789", "shop-token-0123456789"
TOKENS = f'[users]\nalice = "{ALICE}"\nbob = "{BOB}"\n[applications]\nshop = "{SHOP}"\n'
_TOKEN_OF = {"alice": ALICE, "bob": BOB}

UNKNOWN = "s_" + "x" * 22
"""A stream that never was."""

STATES = ("running", "ended", "forgotten")
"""What a stream may have come to; a server forgets one with `settings_of`, and `answer_in` makes one."""

BY_STREAM: dict[str, dict[str, Any]] = {
    "resume_stream": {"last_chunk_id": 0},
    "resume_stream ahead": {"last_chunk_id": 10_000},
    "resume_stream with epoch": {"last_chunk_id": 0, "epoch": "forged"},
    "resume_stream snapshot": {"last_chunk_id": 0, "snapshot": True},
    "chunk_ack": {"chunk_id": 1},
    "chunk_ack of nothing": {"chunk_id": 0},
    "request_chunks": {"from_chunk_id": 1, "to_chunk_id": 1},
    "cancel_stream": {},
}
"""Every message that takes a stream's id, with what else it needs."""


class House(NamedTuple):
    """A server with tenants, and how each of them comes in; nobody is ""."""

    port: int
    prefix: str
    assembly: Assembly
    headers_of: Callable[[str], dict[str, str]]
    hello_of: Callable[[str], dict[str, str]]

    def tenant(self, user: str) -> AbstractAsyncContextManager[Native]:
        """A native connection of one of them, in the session `ses`."""
        return connected(
            self, path=f"{self.prefix}/ws", headers=self.headers_of(user), session_id="ses", **self.hello_of(user)
        )

    def browser(self, user: str) -> httpx2.AsyncClient:
        """An HTTP client of one of them."""
        url = f"http://127.0.0.1:{self.port}{self.prefix}"
        return httpx2.AsyncClient(base_url=url, headers=self.headers_of(user), trust_env=False)

    def socket_url(self, path: str) -> str:
        """Where another wire's WebSocket is."""
        return f"ws://127.0.0.1:{self.port}{self.prefix}{path}"

    def endpoints(self) -> list[Endpoint]:
        """Every address of every wire. Looking things up costs nothing from here on: that is tested elsewhere."""
        self.assembly.guard.lookups = Buckets(None, 1)
        return [endpoint for wire in self.assembly.wires() for endpoint in wire]


OpenHouse = Callable[..., Awaitable[House]]
"""Opens one with these settings."""


def alone(server: Server) -> House:
    """A server of its own, which knows tenants by their tokens."""
    return House(server.port, "", server.assembly, bearer, lambda user: {"token": _TOKEN_OF[user]} if user else {})


def bearer(user: str) -> dict[str, str]:
    """What shows a server who somebody is."""
    return {"Authorization": f"Bearer {_TOKEN_OF[user]}"} if user else {}


@asynccontextmanager
async def mounted(**settings: Any) -> AsyncIterator[House]:
    """An application with a gate, mounted at /chat: its host says who somebody is."""
    app = WsstreamApp(Config(**{"store": "memory:", **settings}), gate=_named)
    async with app.running(), hosted(Starlette(routes=[Mount("/chat", app)])) as server:
        assert app.assembly is not None
        yield House(server.port, "/chat", app.assembly, _header, lambda _: {})


async def _named(scope: Scope) -> str | None:
    """The host's word: in truth a session cookie, here a header."""
    return dict(scope["headers"]).get(b"x-user", b"").decode() or None


def _header(user: str) -> dict[str, str]:
    return {"X-User": user} if user else {}


def settings_of(state: str) -> dict[str, Any]:
    """Those of a server whose streams are to come to that."""
    return {"provider": SCRIPTED, **({"max_retained": 1} if state == "forgotten" else {})}


async def answer_in(state: str, alice: Native, scripted: Scripted) -> str:
    """A stream of alice's in that state, of two chunks, `a` and `b`."""
    stream_id = await alice.ask()
    scripted.last.put("a", "b")
    await alice.read(stream_id, to=2)
    if state != "running":
        scripted.last.finish()
        await alice.read(stream_id)
    if state == "forgotten":
        other = await alice.ask()
        scripted.last.finish()
        await alice.read(other)
        await alice.send("cancel_stream", stream_id=stream_id)
        assert (await alice.until("error"))["error_type"] == "log_trimmed"
    return stream_id


def told(message: Message, unknown: str) -> Message:
    """A message with the id that was asked for made the same for all."""
    text = json.dumps({**message, "message": message.get("message", "")})
    return json.loads(text.replace(message.get("stream_id") or unknown, "ID"))  # type: ignore[no-any-return]


def masked(answer: httpx2.Response, *names: str) -> tuple[int, str]:
    """What was said, with the names that were asked for made the same."""
    text = answer.text
    for name in names:
        text = text.replace(name, "ID")
    return answer.status_code, text


def named(endpoint: Endpoint, name: str) -> str:
    """An endpoint's path with ``name`` in its place."""
    return re.sub(r"\{\w+(:\w+)?\}", name, endpoint.path)
