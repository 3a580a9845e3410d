"""Whom an answer is asked of: the provider and model that a request names, and who is turned to where they fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from wsstream.config import Config
from wsstream.errors import BadRequest
from wsstream.messages import ChatConfig, ChatRequested
from wsstream.producer import Plan, Target
from wsstream.providers.base import Provider
from wsstream.recovery import OnFailure, OnInterrupt, RetryPolicy
from wsstream.restarts import Again
from wsstream.stores.base import StreamRecord


class Course(NamedTuple):
    """How an answer goes on that a crash cut off."""

    target: Target
    """Whom the request names."""
    plan: Plan
    """Its fallbacks are those that are left."""
    begins_at: Target
    """Who is asked first."""


class Targets:
    """Finds who a request means."""

    def __init__(self, config: Config, provider: Callable[[str | None], Provider], on_failure: OnFailure) -> None:
        """As for `wsstream.streams.Streams`."""
        self._config = config
        self._provider = provider
        self._on_failure = on_failure
        self._retry = RetryPolicy(config.retries, config.retry_base, config.retry_cap, config.retry_budget)

    def asked(self, asked: ChatRequested, config: ChatConfig) -> Target:
        """Whom a request names, or else the configuration.

        Raises:
            BadRequest: there is no such provider.
        """
        return self._target(config.model or asked.model or self._config.model, config)

    def name(self, config: ChatConfig) -> str:
        """The provider's name, as the request or else the server has it."""
        return config.provider or self._config.provider or ""

    def _target(self, model: str | None, config: ChatConfig) -> Target:
        return Target(self._provider(config.provider), config.provider or "default", model)

    def find(self, entry: str) -> Target:
        """Whom ``provider`` or ``provider:model`` means; both may hold colons, the longest provider counts.

        Raises:
            BadRequest: there is no such provider.
        """
        name, model = entry, ""
        while True:
            try:
                return Target(self._provider(name), name, model or None)
            except BadRequest:
                name, colon, rest = name.rpartition(":")
                if not colon:
                    raise BadRequest(f"fallback: there is no provider for {entry[:80]!r}") from None
                model = f"{rest}:{model}" if model else rest

    def plan(self, config: ChatConfig, target: Target) -> Plan:
        """Who else is asked, and when, where ``target`` fails.

        Raises:
            BadRequest: there is no provider for a fallback.
        """
        fallbacks = config.fallback if config.fallback is not None else (self._config.fallback or "").split()
        return Plan(
            [other for other in map(self.find, fallbacks) if not other.is_same(target)],
            self._retry,
            OnInterrupt(config.on_interrupt or self._config.on_interrupt),
            self._on_failure,
            config.buffer_size,
            config.boundary == "word",
        )

    def course(self, record: StreamRecord, again: Again) -> Course | None:
        """Who goes on with an answer after a crash: whoever was giving it, else the next who can; None: nobody.

        Raises:
            BadRequest: there is no such provider any more.
        """
        target = self._target(record.model, again.config)
        plan = self.plan(again.config, target)
        order = [target, *plan.fallbacks]
        if again.answering is not None:
            order = order[_place(order, again.answering.provider, again.answering.model) :]
        while order and not survives(order[0], plan):
            order.pop(0)
        return Course(target, plan._replace(fallbacks=order[1:]), order[0]) if order else None


def _place(order: list[Target], provider: str, model: str | None) -> int:
    """Where somebody stands in a list; its start, where this server knows them no more."""
    places = [n for n, target in enumerate(order) if (target.name, target.model) == (provider, model)]
    return places[0] if places else 0


def survives(target: Target, plan: Plan) -> bool:
    """Whether an answer of ``target`` can go on after a crash."""
    return plan.on_interrupt is OnInterrupt.CONTINUE and target.continues
