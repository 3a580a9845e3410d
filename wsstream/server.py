"""The server: what `wsstream.assembly` has wired together behind sockets of its own, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp

from wsstream.access import Guard, look_at
from wsstream.assembly import CLOSE_GRACE, Assembly
from wsstream.config import Config
from wsstream.connection import NativeConnection
from wsstream.errors import WsstreamError
from wsstream.http import HeadLimits, Porches, Sockets
from wsstream.metrics import CONTENT_TYPE
from wsstream.origins import Origins
from wsstream.proxies import BehindProxies, TrustedProxies
from wsstream.recovery import NO_CALLBACKS, OnFailure
from wsstream.registry import Registry
from wsstream.rejections import Rejections
from wsstream.streams import Streams
from wsstream.tls import Certificate
from wsstream.web import make_metrics_app

logger = logging.getLogger(__name__)

BACKLOG = 4096
METRICS_BESIDE = 1000
"""The metrics' port is so much above the server's, where none is given."""


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
        self.port = config.port
        self.assembly = Assembly(config, on_failure, moderated=True)
        self.metrics_port = 0
        """Where `/metrics` is; 0 where there is none."""
        self.proxies = TrustedProxies(config.trusted_proxies or "", header=config.proxy_header)
        self.certificate = None if config.tls_cert is None else Certificate(config.tls_cert, config.tls_key)
        self._head_limits = HeadLimits(config.max_head_bytes, config.request_timeout, self.assembly.rejections)
        self._sockets: Sockets
        self._https: list[_HttpServer] = []
        self._serving: list[asyncio.Task[None]] = []

    @property
    def streams(self) -> Streams:
        """All answers."""
        return self.assembly.streams

    @property
    def rejections(self) -> Rejections:
        """What was turned away."""
        return self.assembly.rejections

    @property
    def guard(self) -> Guard:
        """Who may come in."""
        return self.assembly.guard

    @property
    def registry(self) -> Registry:
        """All connections."""
        return self.assembly.registry

    @property
    def url(self) -> str:
        """Where the page is."""
        host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
        return f"{'http' if self.certificate is None else 'https'}://{host}:{self.port}/"

    async def start(self) -> None:
        """Listen. Returns when connections are accepted.

        Raises:
            ConfigError: the provider or store cannot be made.
            PortTaken: somebody else listens there.
        """
        assembly = self.assembly
        assembly.provider(None)
        sockets = listen(self.config.host, self.config.port, self.config.listeners)
        self.port = sockets[0].getsockname()[1]
        operators: list[socket.socket] = []
        try:
            operators = self._listen_for_operators()
            await assembly.open()
            self._sockets = Sockets(self._head_limits, assembly.registry, assembly.hub.wheel)
        except BaseException:
            for sock in sockets + operators:
                sock.close()
            raise
        app = BehindProxies(assembly.http(), self.proxies)
        await self._serve(app, sockets, ws=self.connect, certificate=self.certificate)
        logger.info("listening on %s, provider %s, store %s", self.url, assembly.default_provider, self.config.store)
        if operators:
            await self._serve_metrics(operators)

    def connect(self, **_: Any) -> asyncio.Protocol:
        """Take over a socket that wants to become a WebSocket."""
        return NativeConnection(self.assembly.hub, self.proxies)

    def _listen_for_operators(self) -> list[socket.socket]:
        """The socket for metrics; none where there are to be none, or where nobody asked for a port that is taken."""
        wanted = self._metrics_port()
        if wanted is None:
            return []
        try:
            return listen(self.config.metrics_host, wanted, 1)
        except PortTaken as error:
            if self.config.metrics_port is not None:
                raise
            logger.warning("no metrics: %s", error)
            return []

    async def _serve_metrics(self, sockets: list[socket.socket]) -> None:
        assembly = self.assembly
        self.metrics_port = sockets[0].getsockname()[1]
        render = assembly.metrics().render
        config = self.config
        origins = Origins(
            config.allowed_origins, names_checked=True, names=config.metrics_names, setting="metrics_names"
        )
        looked_at = partial(look_at, origins=origins, rejections=assembly.rejections)
        app = make_metrics_app(assembly.health, assembly.readiness, render, CONTENT_TYPE, looked_at)
        await self._serve(app, sockets)
        logger.info("metrics on http://%s:%d/metrics", self.config.metrics_host, self.metrics_port)

    def _metrics_port(self) -> int | None:
        """The port to listen on, 0 for any; None for no metrics."""
        wanted = self.config.metrics_port
        if wanted is not None:
            return wanted or None
        if self.config.port == 0:
            return 0
        beside = self.port + METRICS_BESIDE
        if beside < 65536:
            return beside
        logger.warning(
            "no metrics: their port would be %d, and there is none such; --metrics-port names another", beside
        )
        return None

    async def _serve(
        self, app: ASGIApp, sockets: list[socket.socket], *, ws: Any = "none", certificate: Certificate | None = None
    ) -> None:
        config = uvicorn.Config(
            app,
            http=cast(Any, Porches(self._sockets)),
            ws=ws,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_graceful_shutdown=1,
        )
        config.load()
        config.ssl = None if certificate is None else certificate.context
        http = _HttpServer(config)
        self._https.append(http)
        self._serving.append(asyncio.get_running_loop().create_task(http.serve(sockets)))
        await http.wait_started()

    def reload(self) -> None:
        """Read again what may change while the server runs: the certificate."""
        if self.certificate is not None:
            self.certificate.reload()

    def health(self) -> dict[str, Any]:
        """How the server is, as `/healthz` says it."""
        return self.assembly.health()

    def announce_drain(self) -> None:
        """Tell everybody that the end is near, now; `drain` is to follow."""
        self.assembly.announce_drain()

    async def drain(self) -> None:
        """Announce the end, let answers finish and be read within the drain time-out, close everybody with 1012."""
        await self.assembly.drain()

    async def stop(self) -> None:
        """End now: what still runs is interrupted. After `drain`, nothing does."""
        await self.assembly.interrupt()
        for http in self._https:
            http.should_exit = True
        if self._serving:
            await asyncio.wait(self._serving, timeout=CLOSE_GRACE)
        await self.assembly.close()

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


async def serve(config: Config, announce: Callable[[Server], None], make: type[Server] = Server) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal ends it now."""
    server = make(config)
    await server.start()
    try:
        asked, again = _hear_signals(server)  # before anybody is told that there is a server to stop
        announce(server)
        _tune_collector()
        await _serve_until_told(server, asked, again)
    finally:
        await server.stop()


def _hear_signals(server: Server) -> tuple[asyncio.Event, asyncio.Event]:
    """What is set by the first signal to end, and by the second."""
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()
    again = asyncio.Event()

    def on_signal() -> None:
        if asked.is_set():
            again.set()
        else:
            asked.set()
            server.announce_drain()  # here: each turn of a busy loop that they wait for is felt

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    if hasattr(signal, "SIGHUP"):
        loop.add_signal_handler(signal.SIGHUP, server.reload)
    return asked, again


async def _serve_until_told(server: Server, asked: asyncio.Event, again: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    await asked.wait()
    draining = loop.create_task(server.drain())
    impatient = loop.create_task(again.wait())
    await asyncio.wait([draining, impatient], return_when=asyncio.FIRST_COMPLETED)
    for task in (draining, impatient):
        task.cancel()


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
