"""Any async generator function as a provider: ``--provider package.module:attribute``.

The function is called with the `ChatRequest` and yields strings, `Delta`s, or sequences of them, and a `Finish` at the
end if it has something to say there. An object with an ``answer`` method is taken as a provider as it is; a class or
function without parameters that returns one is called first.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Iterable
from contextlib import aclosing
from typing import Any, cast

from wsstream.chunks import ChatRequest, Delta, Finish
from wsstream.errors import ConfigError
from wsstream.providers.base import Provider, Sink

logger = logging.getLogger(__name__)


def adapt(target: Any) -> Provider:
    """``target`` as a provider.

    Raises:
        ConfigError: it is none of the things this module takes.
    """
    if inspect.isasyncgenfunction(target):
        return CallableProvider(_taking_one(target))
    if inspect.isclass(target) or (inspect.isfunction(target) and not inspect.signature(target).parameters):
        target = _made(target)
    if hasattr(target, "answer"):
        return cast(Provider, target)
    if callable(target) and inspect.isasyncgenfunction(type(target).__call__):
        return CallableProvider(target)
    raise ConfigError(f"provider: {target!r} is neither an async generator function nor has it an answer method")


def _taking_one(function: Callable[..., Any]) -> Callable[..., Any]:
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        raise ConfigError(f"provider: {function!r} must take one argument, the request") from None
    return function


def _made(maker: Callable[[], Any]) -> Any:
    try:
        return maker()
    except Exception as error:
        raise ConfigError(f"provider: {maker!r} cannot be made: {type(error).__name__}: {error}") from error


class CallableProvider:
    """Wraps one async generator function."""

    def __init__(self, function: Callable[[ChatRequest], Any]) -> None:
        self._function = function

    async def answer(self, request: ChatRequest, sink: Sink) -> Finish:
        """Put what the function yields."""
        async with aclosing(self._function(request)) as items:
            async for item in items:
                if isinstance(item, Finish):
                    return item
                deltas = _deltas(item)
                if deltas:
                    sink.put(deltas)
                    await sink.give_way()
                else:
                    await asyncio.sleep(0)  # one that yields nothing for ever must not hold the loop
        return Finish()

    async def close(self) -> None:
        """Nothing is shared."""


def _deltas(item: object) -> list[Delta]:
    if isinstance(item, str):
        return [Delta(str.__str__(item))] if item else []  # templates' own kinds of strings are no JSON
    if isinstance(item, Delta):
        return [item] if item.content else []
    if isinstance(item, Iterable):
        return [delta for part in item for delta in _deltas(part)]
    problem = f"a provider yields strings, deltas or sequences of them, not {type(item).__name__}"
    logger.error(problem)  # of the exception the log shows the type alone
    raise TypeError(problem)
