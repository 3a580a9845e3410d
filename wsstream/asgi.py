"""wsstream inside an application of somebody else's: Starlette, FastAPI, Django, or any server that speaks ASGI 3.

    app = WsstreamApp(Config(provider="demo"), gate=who)
    fastapi_app.mount("/chat", app)

The same dialogues speak here as on sockets of our own, with the server's WebSocket implementation between: it frames
and pings. One message is sent per turn for what goes to a viewer in that turn, and what a viewer does not read waits in
its log.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextvars import ContextVar
from typing import Any

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from wsstream.assembly import CLOSE_GRACE, Assembly
from wsstream.config import Config
from wsstream.errors import CloseCode, Forbidden, Unauthorized
from wsstream.frames import payloads
from wsstream.identity import Identity
from wsstream.protocol import SUBPROTOCOL
from wsstream.registry import TryLater
from wsstream.rejections import Reason
from wsstream.wires import aisdk
from wsstream.wires.aisdk import AiDialogue
from wsstream.wires.base import Visitor, counted_address
from wsstream.wires.hub import Hub
from wsstream.wires.line import DialogueLine
from wsstream.wires.native import Dialogue

logger = logging.getLogger(__name__)

HostGate = Callable[[Scope], Awaitable[str | None]]
"""The host application's say: the user that a request comes from, by any name that is theirs alone; None for nobody."""

WRITE_HIGH = 32 * 1024
"""Bytes that the server has not taken before chunks wait in their log instead."""
CLOSE_TIMEOUT = 2.0
"""Seconds between our close and the end of patience."""
NATIVE_PATHS = ("/ws", "/", "")


class WsstreamApp:
    """An ASGI application: all wires of one configuration.

    It starts with its server where that tells it (as the root application), within `running`, or else at the first
    request; it ends likewise, or with `aclose`. One instance belongs to one event loop at a time.

    Args:
        config: as for the server; ``host``, ``port`` and ``listeners`` mean nothing here.
        gate: asked for every request and every WebSocket before anything else; without it everybody may come in.
        page: whether the page to try things is served too, where the mount is, with a slash.
        origins: other sites whose pages may come in, as ``https://example.org``. A browser sends cookies along from
            every page, so that whoever is logged in could be made to speak by any other. Those of the configuration's
            ``allowed_origins`` may too.

    Raises:
        ConfigError: the configuration cannot work.
    """

    def __init__(
        self,
        config: Config | None = None,
        *,
        gate: HostGate | None = None,
        page: bool = False,
        origins: Collection[str] = (),
    ) -> None:
        self.config = Config() if config is None else config
        self.assembly: Assembly | None = None
        self._gate = gate
        self._page = page
        listed = (self.config.allowed_origins or "").split(",")
        self._origins = frozenset(filter(None, (*origins, *map(str.strip, listed))))
        self._http: ASGIApp
        self._starting = asyncio.Lock()

    # -- its life

    async def start(self) -> None:
        """Open the store and be ready. Idempotent.

        Raises:
            ConfigError: the provider or store cannot be made.
            StoreError: the store cannot be used.
        """
        async with self._starting:
            if self.assembly is not None:
                return
            assembly = Assembly(_mounted(self.config, self._origins), host=_Host())
            await assembly.open()
            self._http = assembly.http(page=self._page)
            self.assembly = assembly

    async def aclose(self) -> None:
        """End: what still runs is interrupted, viewers are told to come back. Idempotent; `start` begins anew."""
        async with self._starting:
            assembly, self.assembly = self.assembly, None
            if assembly is None:
                return
            await assembly.interrupt()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_GRACE):
                    await assembly.registry.wait_empty()
            await assembly.close()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Started while the block runs: the host's lifespan, as in ``Starlette(lifespan=lambda _: app.running())``."""
        await self.start()
        try:
            yield
        finally:
            await self.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, one WebSocket, or the server's lifespan."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        await self.start()
        assert self.assembly is not None
        if not self._is_welcome(scope):
            await _refuse(scope, receive, send, Forbidden("Pages of this origin may not come in"))
            return
        user = None
        if self._gate is not None and not _is_preflight(scope):
            user = await self._gate(scope)
            if user is None:
                await _refuse(scope, receive, send, Unauthorized(), self._friend(scope))
                return
        _user.set(user)
        if scope["type"] == "websocket":
            await self._serve_socket(self.assembly.hub, scope, receive, send)
        else:
            await self._http(scope, receive, send)

    def _is_welcome(self, scope: Scope) -> bool:
        """Whether the page that sends this, if one does, is of this site or a friend's (RFC 6455, section 10.2)."""
        headers = dict(scope["headers"])
        origin = str(headers.get(b"origin", b""), "latin-1")
        if not origin or origin in self._origins:
            return True
        host = str(headers.get(b"host", b""), "latin-1")
        return bool(host) and origin.partition("://")[2] == host

    def _friend(self, scope: Scope) -> bytes:
        """The other origin whose page, which may come in, sends this; nothing where it is no such page's."""
        origin: bytes = dict(scope["headers"]).get(b"origin", b"")
        return origin if str(origin, "latin-1") in self._origins else b""

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    await self.start()
                except Exception as error:
                    await send({"type": "lifespan.startup.failed", "message": str(error)})
                    raise
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.aclose()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _serve_socket(self, hub: Hub, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if path != aisdk.PATH and path not in NATIVE_PATHS:
            await send({"type": "websocket.close", "code": CloseCode.POLICY_VIOLATION})
            return
        await AsgiConnection(hub, scope, receive, send).run(is_ai=path == aisdk.PATH)


def _mounted(config: Config, origins: Collection[str]) -> Config:
    """Somebody else listens: who can connect is not known, so what is only for this machine is off."""
    writes = "off" if config.durable_writes == "auto" else config.durable_writes
    return msgspec.structs.replace(config, durable_writes=writes, allowed_origins=",".join(sorted(origins)) or None)


_user: ContextVar[str | None] = ContextVar("wsstream.user", default=None)


def _is_preflight(scope: Scope) -> bool:
    """Whether a browser asks what a page of another origin may send; it does so without credentials (Fetch, CORS)."""
    return scope.get("method") == "OPTIONS" and b"access-control-request-method" in dict(scope["headers"])


class _Host:
    """The host application's word on who somebody is."""

    async def identify(self, _visitor: Visitor) -> Identity | None:
        """Whom it has named for this request."""
        user = _user.get()
        return None if user is None else Identity(user)

    def is_revoked(self, _identity: Identity) -> bool:
        """It is asked once for each connection."""
        return False

    def refresh(self) -> None:
        """It looks after itself."""


def app(config: Config | None = None, **options: Any) -> WsstreamApp:
    """The same as `WsstreamApp`."""
    return WsstreamApp(config, **options)


async def _refuse(
    scope: Scope, receive: Receive, send: Send, error: Unauthorized | Forbidden, friend: bytes = b""
) -> None:
    """``friend``: the origin whose pages may read why; a browser tells others only that the network has failed."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": error.close_code or CloseCode.FORBIDDEN, "reason": str(error)})
        return
    status = 401 if isinstance(error, Unauthorized) else 403
    headers = [(b"content-type", b"text/plain"), (b"vary", b"Origin")]
    if friend:
        headers.append((b"access-control-allow-origin", friend))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": str(error).encode()})


class AsgiConnection(DialogueLine):
    """One WebSocket of somebody else's server: a `wsstream.wires.line.Line`."""

    def __init__(self, hub: Hub, scope: Scope, receive: Receive, send: Send) -> None:
        super().__init__()
        self._dialogue: Dialogue | AiDialogue | None
        self._hub = hub
        self._scope = scope
        self._receive = receive
        self._send = send
        self._pending: list[bytes] = []
        self._size = 0
        self._held = 0
        self._something = asyncio.Event()
        self._close: tuple[int, str] | None = None
        self._giving_up: asyncio.TimerHandle | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.paused = False

    async def run(self, *, is_ai: bool) -> None:
        """Accept, and speak until either side has closed."""
        await self._receive()  # websocket.connect
        later = self._hub.registry.turn_away(self, counted_address(visitor(self._scope).remote))
        if later is not None:
            await self._turn_away(later, is_ai)
            return
        try:
            await self._accept(is_ai)
            await self._speak()
        finally:
            self._hub.registry.remove(self)
            dialogue, self._dialogue = self._dialogue, None  # it refers to this, and so do the tasks
            self._tasks = []
            if self._giving_up is not None:
                self._giving_up.cancel()
            if dialogue is not None:
                dialogue.end()

    async def _turn_away(self, later: TryLater, is_ai: bool) -> None:
        """Answer the handshake with a status, where the server can; else open the socket to close it with a code.

        A close before that would be a 403 (ASGI, "Close"), which says that it is of no use to come again.
        """
        if "websocket.http.response" in self._scope.get("extensions", {}):
            headers = [(b"content-type", b"text/plain"), (b"retry-after", b"%d" % later.seconds)]
            await self._send({"type": "websocket.http.response.start", "status": later.status, "headers": headers})
            await self._send({"type": "websocket.http.response.body", "body": later.text.encode() + b"\n"})
            return
        await self._send({"type": "websocket.accept", "subprotocol": self._subprotocol(is_ai)})
        code = CloseCode.TOO_SLOW if later.status == 429 else CloseCode.TRY_AGAIN_LATER
        reason = f"{later.text} Retry after {later.seconds} s"
        await self._send({"type": "websocket.close", "code": code, "reason": reason})

    def _subprotocol(self, is_ai: bool) -> str | None:
        offered: list[str] = self._scope.get("subprotocols", [])
        if is_ai and offered:
            return offered[0]
        return SUBPROTOCOL if SUBPROTOCOL in offered else None

    async def _accept(self, is_ai: bool) -> None:
        taken = self._subprotocol(is_ai)
        await self._send({"type": "websocket.accept", "subprotocol": taken})
        if is_ai:
            self._dialogue = AiDialogue(self._hub, self, self._hub.gate, visitor(self._scope), pings=False)
            return
        self._dialogue = Dialogue(self._hub, self, batch=taken is not None, visitor=visitor(self._scope))
        if self._scope.get("subprotocols") and taken is None:
            self.close(CloseCode.UNKNOWN_VERSION, f"this server speaks {SUBPROTOCOL}")

    async def _speak(self) -> None:
        loop = self._hub.loop
        self._tasks = [loop.create_task(self._read()), loop.create_task(self._write_all())]
        try:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in self._tasks:
                task.cancel()
            for result in await asyncio.gather(*self._tasks, return_exceptions=True):
                if isinstance(result, Exception):
                    logger.info("connection %s: the server's socket failed: %r", self.connection_id, result)

    # -- messages in

    async def _read(self) -> None:
        dialogue = self._dialogue
        assert dialogue is not None
        while True:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                return
            text = message.get("text")
            try:
                self._take(dialogue, text)
            except Exception:
                logger.exception("connection %s: failed unexpectedly", self.connection_id)
                dialogue.on_broken()
            dialogue.carry_out()

    def _take(self, dialogue: Dialogue | AiDialogue, text: str | None) -> None:
        if text is None:
            dialogue.close(CloseCode.UNSUPPORTED_DATA, "messages are text")
            return
        data = text.encode("utf-8", "replace")
        settings = self._hub.settings
        limit = settings.max_message_bytes if isinstance(dialogue, Dialogue) else settings.max_ui_message_bytes
        if len(data) > limit:
            self._hub.registry.rejections.count(Reason.SIZE)
            dialogue.close(CloseCode.MESSAGE_TOO_BIG, "")
        else:
            dialogue.receive(data)

    # -- messages out

    def write(self, data: bytes) -> None:
        """Send frames."""
        self._pending.append(data)
        self._size += len(data)
        self.paused = self._size >= WRITE_HIGH
        self._something.set()

    def keep_short(self, short: bool) -> None:
        """What is under way is the application's server's to know."""

    def write_anyway(self, data: bytes) -> None:
        """Send frames that do not wait for a client that does not read; one that provokes too many is cut off."""
        if self.paused:
            self._held += len(data)
        if self._held > self._hub.settings.max_control_bytes:
            self._hub.registry.rejections.count(Reason.SLOW)
            self._abort()
            return
        self._pending.append(data)
        self._size += len(data)
        self._something.set()

    async def _write_all(self) -> None:
        while True:
            await self._something.wait()
            self._something.clear()
            while self._pending:
                pending, self._pending = self._pending, []
                for payload in payloads(b"".join(pending)):
                    await self._send({"type": "websocket.send", "text": payload.decode()})
                self._size = sum(map(len, self._pending))
            self._held = 0
            if self._close is not None:
                await self._send({"type": "websocket.close", "code": self._close[0], "reason": self._close[1]})
                return
            if self.paused:
                self.paused = False
                if self._dialogue is not None:
                    self._dialogue.on_unpaused()

    # -- the end

    def say_close(self, code: int, reason: str) -> None:
        """Send the close frame behind what is pending."""
        if self._close is None:
            self._close = (code, reason)
            self._something.set()
            self._giving_up = self._hub.loop.call_later(CLOSE_TIMEOUT, self._abort)

    def _abort(self) -> None:
        """It would not read a close frame either."""
        for task in self._tasks:
            task.cancel()

    def _where(self) -> str:
        return visitor(self._scope).remote


def visitor(scope: Scope) -> Visitor:
    """Who is there, before anything is known of them."""
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
    client: Any = scope.get("client")
    return Visitor(headers, str(client[0]) if client else "local")
