"""The assembly room: everything that one configuration makes, wired together, but for whatever listens.

`wsstream.server` puts it behind sockets of its own, `wsstream.asgi` into somebody else's application. Only here, and in
the server, concrete things are named.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from starlette.types import ASGIApp

from wsstream import __version__
from wsstream.access import Guard, Patrol
from wsstream.config import Config
from wsstream.errors import BadRequest, ConfigError
from wsstream.identity import Identifier
from wsstream.ledger import Ledger
from wsstream.memory import MemoryReader
from wsstream.metrics import Metrics, Sources
from wsstream.moderation import DURABLE_INTERVAL, INTERVAL, Moderator
from wsstream.monitor import Monitor
from wsstream.pressure import Level, Pressure
from wsstream.providers import PROVIDERS, offered, open_provider
from wsstream.providers.base import Provider
from wsstream.recovery import NO_CALLBACKS, OnFailure
from wsstream.registry import Registry
from wsstream.rejections import Rejections
from wsstream.stores import open_store
from wsstream.streams import Streams
from wsstream.ticks import Flusher
from wsstream.tracing import Traced, make_tracer
from wsstream.web import make_app
from wsstream.wires import aisdk_http, durable, feeds, native_http, openai_api, sse, tickets
from wsstream.wires.http import Endpoint, Patience
from wsstream.wires.hub import Hub

logger = logging.getLogger(__name__)

CLOSE_GRACE = 2.5
"""Seconds that connections get to close after they were told to."""
LAST_WORDS = 0.05
"""Seconds that viewers get at least to be told how their answers have ended."""


class Assembly:
    """Streams, their store and providers, the connections and what they share."""

    def __init__(
        self,
        config: Config,
        on_failure: OnFailure = NO_CALLBACKS,
        *,
        host: Identifier | None = None,
        moderated: bool = False,
    ) -> None:
        """Make the gate and the store.

        Args:
            config: what to make.
            on_failure: the server's: see `wsstream.server.Server`.
            host: where all this is part of somebody else's application: that one's word on who somebody is.
            moderated: whether the event loop is ours, so that it may rest: see `wsstream.moderation`.

        Raises:
            ConfigError: something cannot be made.
        """
        self.config = config
        self._on_failure = on_failure
        self._moderated = moderated
        self.streams: Streams
        self.hub: Hub
        self.rejections = Rejections()
        self.guard = Guard(config, os.environ, self.rejections, host=host)
        quotas = self.guard.quotas
        self.registry = Registry(
            config.max_connections,
            per_user=quotas.connections,
            per_address=quotas.address_connections,
            greeting=quotas.greeting,
            rejections=self.rejections,
        )
        self._patrol = Patrol(self.guard, self.registry)
        self.ledger: Ledger
        self.monitor: Monitor
        self.store = open_store(config.store, config.durability)
        self.default_provider = config.provider or default_provider(os.environ)
        self.providers: dict[str, Provider] = {}
        self._drained = False

    async def open(self) -> None:
        """Take over what the store has kept; from now on answers can be started.

        Raises:
            ConfigError: the provider cannot be made, or one to fall back on.
            StoreError: the store cannot be used. It is closed.
        """
        self.provider(None)
        loop = asyncio.get_running_loop()
        moderator = Moderator(loop, Flusher(loop), self._wake_interval())
        note = moderator.note if moderator.interval else None
        self.streams = self.guard.streams = Streams(
            self.config, self.store, self.provider, self._on_failure, self.rejections, self.guard.quotas, note
        )
        self._appoint_watchers()  # before the first answer goes on
        try:
            self._check_fallback()
            await self.streams.open()
        except BaseException:
            await self.store.close()
            raise
        config = self.config
        self.hub = Hub(
            loop, config.protocol(), self.guard, self.registry, config.token_grace, config.viewer_stall, moderator
        )
        self._watch()
        self._patrol.begin()

    def _wake_interval(self) -> float:
        """Seconds between two looks at the sockets under load; 0 where the loop is not to rest."""
        if self.config.wake_interval is not None:
            return self.config.wake_interval
        if not self._moderated or sys.platform == "win32":  # there, a short sleep may take fifteen milliseconds
            return 0.0
        return DURABLE_INTERVAL if self.store.durable else INTERVAL

    def _appoint_watchers(self) -> None:
        self.ledger = Ledger(lambda: self.streams.running, self.default_provider)
        tracer = make_tracer(self.default_provider)
        self.streams.watchers = [self.ledger] if tracer is None else [self.ledger, tracer]

    def _watch(self) -> None:
        """Have somebody look at all this, who changes nothing but where memory is short."""
        config = self.config
        reader = MemoryReader(config.memory_limit, self.registry.__len__)
        pressure = Pressure(config.memory_refuse_at, config.memory_shed_at)
        self.monitor = Monitor(self.ledger, reader, pressure, _House(self.registry, self.streams))
        self.monitor.start()

    def metrics(self) -> Metrics:
        """What `/metrics` says."""
        return Metrics(
            Sources(
                streams=self.streams,
                registry=self.registry,
                store=self.store,
                wire=self.hub.tally,
                ledger=self.ledger,
                monitor=self.monitor,
                rejected=self.rejections.statistics,
                clamped=self.rejections.clamped,
                is_ready=lambda: not self.readiness(),
            )
        )

    def _check_fallback(self) -> None:
        for entry in (self.config.fallback or "").split():
            try:
                self.streams.find_target(entry)
            except BadRequest as error:
                raise ConfigError(str(error)) from None

    def http(self, *, page: bool = True) -> ASGIApp:
        """The HTTP side. ``page``: whether the page to try things is served too."""
        limit, pages = self.config.max_connections, self.guard.origins.listed
        app = make_app(
            self.health,
            self.readiness,
            self.hub.gate,
            self.wires(),
            limit,
            rejections=self.rejections,
            patience=Patience(self.config.body_timeout, self.config.response_stall),
            page=page,
            pages=pages,
            per_address=self.guard.quotas.address_connections,
        )
        return Traced(app)

    def wires(self) -> list[list[Endpoint]]:
        """The HTTP ways to read the logs, beside the WebSocket."""
        return [
            sse.endpoints(self.config),
            native_http.endpoints(self.hub, self.config),
            openai_api.endpoints(self.config, self._models, self._offered),
            durable.endpoints(self.config, self.rejections),
            feeds.endpoints(self.config, self.streams.feeds, self.rejections),
            aisdk_http.endpoints(self.config, self.registry),
            tickets.endpoints(self.guard, self.config.max_ticket_body_bytes),
        ]

    def _models(self) -> list[str]:
        """What can be asked for by name; a provider may know others."""
        own = ["demo", "demo:rate=0,tokens=200"] if self.default_provider == "demo" else []
        return [*dict.fromkeys([self.config.model, *own])] if self.config.model else own

    def _offered(self) -> list[dict[str, str]]:
        """The providers that a request may name, the default one first, and the models they take by themselves."""
        found = offered(self.config)
        first = {self.default_provider: self.config.model or found.get(self.default_provider)}
        named = {**first, **{name: model for name, model in found.items() if name not in first}}
        return [{"name": name, "model": model} if model else {"name": name} for name, model in named.items()]

    def provider(self, name: str | None) -> Provider:
        """The provider of a name; only those of the table and the configured one: a client must not import things.

        Raises:
            BadRequest: there is no such provider, or this server is not set up for it.
            ConfigError: the default provider cannot be made.
        """
        name = name or self.default_provider
        if name not in self.providers:
            if name not in PROVIDERS and name != self.default_provider:
                raise BadRequest("config.provider: there is no such provider")
            self.providers[name] = self._open_provider(name)
        return self.providers[name]

    def _open_provider(self, name: str) -> Provider:
        try:
            return open_provider(name, self.config, later=name != self.default_provider)
        except ConfigError:
            if name == self.default_provider:
                raise
            raise BadRequest("config.provider: this server is not set up for it") from None

    def health(self) -> dict[str, Any]:
        """How everything is, as `/healthz` says it."""
        connections = self.registry.statistics()
        streams = self.streams.statistics()
        return {
            "status": self._status(),
            "version": __version__,
            "connections": connections.connections,
            "running_streams": streams.running,
            "retained_streams": streams.retained,
        }

    def readiness(self) -> list[str]:
        """Why no new work is taken, as `/readyz` says it; nothing where it is."""
        reasons = {
            "draining": self.registry.draining,
            "store": self.store.trouble() is not None,
            "memory": self.monitor.level is not Level.FINE,
        }
        return [name for name, holds in reasons.items() if holds]

    def _status(self) -> str:
        if self.registry.draining:
            return "draining"
        return "degraded" if self.store.trouble() else "ok"

    def announce_drain(self) -> None:
        """Begin nothing new, and tell everybody; once. The rest is `drain`'s."""
        if not self.streams.draining:
            self.streams.draining = True
            self.registry.announce_drain(self.config.drain_timeout)
            self.streams.dismiss_all()

    async def drain(self) -> None:
        """Announce the end, let answers finish and be read within the drain time-out, close everybody with 1012."""
        if self._drained:
            return
        self._drained = True
        self.announce_drain()
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

    async def interrupt(self) -> None:
        """Stop what still runs, as interrupted, and close everybody."""
        await self.streams.close()
        self.registry.draining = True
        self.registry.close_all()

    async def close(self) -> None:
        """Release everything. No connection is left, or what is left does not matter."""
        self.monitor.close()
        self._patrol.close()
        self.hub.wheel.close()
        for provider in self.providers.values():
            await provider.close()
        await self.store.close()


class _House(NamedTuple):
    """What the monitor does about memory."""

    registry: Registry
    streams: Streams

    @property
    def connections(self) -> int:
        return len(self.registry)

    @property
    def gone(self) -> int:
        return self.registry.gone

    def refuse(self, refusing: bool) -> None:
        self.registry.pressed = refusing
        self.streams.press(refusing)

    def drop_retained(self) -> int:
        return self.streams.drop_retained()

    def shed(self, count: int) -> None:
        self.registry.shed(count)

    def let_one_go_on(self) -> None:
        self.streams.let_one_go_on()

    def stop_one(self) -> None:
        self.streams.stop_one_held()


def default_provider(environ: Mapping[str, str]) -> str:
    """The provider where none is configured: a key says which one is wanted."""
    return "openai" if environ.get("OPENAI_API_KEY") else "demo"
