"""The server: everything wired together, and its end. The only module that names concrete things."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import uvicorn

from wsstream import __version__
from wsstream.config import Config
from wsstream.connection import NativeConnection
from wsstream.errors import BadRequest, ConfigError, WsstreamError
from wsstream.http import GuardedHttp
from wsstream.providers import PROVIDERS, open_provider
from wsstream.providers.base import Provider
from wsstream.recovery import NO_CALLBACKS, OnFailure
from wsstream.registry import Registry
from wsstream.stores import open_store
from wsstream.streams import Streams
from wsstream.web import make_app
from wsstream.wires import durable, native_http, openai_api, sse
from wsstream.wires.base import OpenGate
from wsstream.wires.http import Endpoint
from wsstream.wires.native import Hub

logger = logging.getLogger(__name__)

BACKLOG = 4096
CLOSE_GRACE = 2.5
"""Seconds that connections get to close after they were told to."""
LAST_WORDS = 0.05
"""Seconds that viewers get at least to be told how their answers have ended."""


class PortTaken(WsstreamError):
    """The port is taken."""


class Server:
    """One server in the running event loop.

    >>> server = Server(Config(port=0, provider="demo"))          # doctest: +SKIP
    >>> async with server.running():                              # doctest: +SKIP
    ...     print(server.url)
    """

    def __init__(self, config: Config, on_failure: OnFailure = NO_CALLBACKS) -> None:
        """A server to be started.

        Args:
            on_failure: asked what is to become of an answer when a provider fails, by the type of the failure; what is
                not answered is decided by the settings. See `wsstream.recovery`.
        """
        self.config = config
        self._on_failure = on_failure
        self.port = config.port
        self.streams: Streams
        self.registry = Registry(config.max_connections)
        self._store = open_store(config.store, config.durability)
        self._default_provider = config.provider or default_provider(os.environ)
        self._providers: dict[str, Provider] = {}
        self._http: _HttpServer | None = None
        self._serving: asyncio.Task[None] | None = None
        self._drained = False

    @property
    def url(self) -> str:
        """Where the page is."""
        host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
        return f"http://{host}:{self.port}/"

    async def start(self) -> None:
        """Listen. Returns when connections are accepted.

        Raises:
            ConfigError: the provider or store cannot be made.
            PortTaken: somebody else listens there.
        """
        self._provider(None)
        sockets = listen(self.config.host, self.config.port, self.config.listeners)
        self.port = sockets[0].getsockname()[1]
        loop = asyncio.get_running_loop()
        self.streams = Streams(self.config, self._store, self._provider, self._on_failure)
        try:
            self._check_fallback()
            await self.streams.open()
        except BaseException:
            for sock in sockets:
                sock.close()
            await self._store.close()
            raise
        hub = Hub(loop, self.config.protocol(), self.streams, self.registry)

        def native(**_: Any) -> NativeConnection:
            return NativeConnection(hub)

        self._hub = hub
        self._http = _HttpServer(
            uvicorn.Config(
                make_app(self.health, OpenGate(self.streams), self._wires(hub), self.config.max_connections),
                http=GuardedHttp,
                ws=native,  # type: ignore[arg-type]
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                backlog=BACKLOG,
                timeout_graceful_shutdown=1,
            )
        )
        self._serving = loop.create_task(self._http.serve(sockets))
        await self._http.wait_started()
        logger.info("listening on %s, provider %s, store %s", self.url, self._default_provider, self.config.store)

    def _check_fallback(self) -> None:
        for entry in (self.config.fallback or "").split():
            try:
                self.streams.find_target(entry)
            except BadRequest as error:
                raise ConfigError(str(error)) from None

    def _wires(self, hub: Hub) -> list[list[Endpoint]]:
        """The HTTP ways to read the logs, beside the WebSocket."""
        return [
            sse.endpoints(self.config),
            native_http.endpoints(hub, self.config),
            openai_api.endpoints(self.config, self._models),
            durable.endpoints(self.config),
        ]

    def _models(self) -> list[str]:
        """What can be asked for by name; a provider may know others."""
        own = ["demo", "demo:rate=0,tokens=200"] if self._default_provider == "demo" else []
        return [*dict.fromkeys([self.config.model, *own])] if self.config.model else own

    def _provider(self, name: str | None) -> Provider:
        """The provider of a name; only those of the table and the configured one: a client must not import things."""
        name = name or self._default_provider
        if name not in self._providers:
            if name not in PROVIDERS and name != self._default_provider:
                raise BadRequest("config.provider: there is no such provider")
            self._providers[name] = self._open_provider(name)
        return self._providers[name]

    def _open_provider(self, name: str) -> Provider:
        try:
            return open_provider(name, self.config, later=name != self._default_provider)
        except ConfigError:
            if name == self._default_provider:
                raise
            raise BadRequest("config.provider: this server is not set up for it") from None

    def health(self) -> dict[str, Any]:
        """How the server is, as `/healthz` says it."""
        connections = self.registry.statistics()
        streams = self.streams.statistics()
        return {
            "status": self._status(),
            "version": __version__,
            "connections": connections.connections,
            "running_streams": streams.running,
            "retained_streams": streams.retained,
        }

    def _status(self) -> str:
        if self.registry.draining:
            return "draining"
        return "degraded" if self._store.trouble() else "ok"

    async def drain(self) -> None:
        """Announce the end, let answers finish and be read within the drain time-out, close everybody with 1012."""
        if self._drained:
            return
        self._drained = True
        self.streams.draining = True
        self.registry.announce_drain(self.config.drain_timeout)
        deadline = time.monotonic() + self.config.drain_timeout
        finished = await self.streams.wait_idle(self.config.drain_timeout)
        if not finished:
            logger.warning("drain: %d answers did not end in time", self.streams.statistics().running)
        await self.streams.close()
        await self.streams.wait_read(max(LAST_WORDS, deadline - time.monotonic()))
        self.registry.close_all()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_GRACE):
                await self.registry.wait_empty()

    async def stop(self) -> None:
        """End now: what still runs is interrupted. After `drain`, nothing does."""
        await self.streams.close()
        self.registry.draining = True
        self.registry.close_all()
        if self._http is not None and self._serving is not None:
            self._http.should_exit = True
            await asyncio.wait([self._serving], timeout=CLOSE_GRACE)
        self._hub.wheel.close()
        for provider in self._providers.values():
            await provider.close()
        await self._store.close()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Server]:
        """Serve while the block runs."""
        await self.start()
        try:
            yield self
        finally:
            await self.stop()


class _HttpServer(uvicorn.Server):
    """uvicorn without its own ideas about signals."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._is_up = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._is_up.set()

    async def wait_started(self) -> None:
        await self._is_up.wait()


def default_provider(environ: Any) -> str:
    """The provider where none is configured: a key says which one is wanted."""
    return "openai" if environ.get("OPENAI_API_KEY") else "demo"


def listen(host: str, port: int, count: int) -> list[socket.socket]:
    """Open ``count`` listening sockets on one port.

    An event loop accepts one connection per socket and turn; several sockets get through a storm that much faster.

    Raises:
        PortTaken: somebody listens there already, or the address is not ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sockets: list[socket.socket] = []
    try:
        # SO_REUSEPORT would share the port with another server of the same user, silently. So ask without it first.
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            probe.listen(1)
            port = probe.getsockname()[1]
        for _ in range(count if hasattr(socket, "SO_REUSEPORT") else 1):
            # asyncio turns Nagle's algorithm off only where the protocol is named; it would hold small messages back.
            sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
            sockets.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if hasattr(socket, "SO_REUSEPORT"):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.setblocking(False)
            sock.bind((host, port))
    except OSError as error:
        for sock in sockets:
            sock.close()
        raise PortTaken(f"cannot listen on {host} port {port}: {error.strerror}") from error
    return sockets


async def serve(config: Config, announce: Callable[[Server], None]) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal ends it now."""
    server = Server(config)
    await server.start()
    announce(server)
    _tune_collector()
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()
    again = asyncio.Event()

    def on_signal() -> None:
        (again if asked.is_set() else asked).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    await asked.wait()
    draining = loop.create_task(server.drain())
    impatient = loop.create_task(again.wait())
    await asyncio.wait([draining, impatient], return_when=asyncio.FIRST_COMPLETED)
    for task in (draining, impatient):
        task.cancel()
    await server.stop()


def _tune_collector() -> None:
    """What lives now lives for ever, and connections form no cycles: look for garbage seldom."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def run(config: Config, announce: Callable[[Server], None]) -> None:
    """`serve`, on uvloop where there is one."""
    if sys.platform == "win32":
        asyncio.run(serve(config, announce))
        return
    import uvloop

    uvloop.run(serve(config, announce))
