"""An event loop whose clock jumps: whoever sleeps an hour is woken at once, an hour later.

``@in_virtual_time`` runs an asynchronous test on it. ``time.monotonic`` is the loop's clock meanwhile, so code that
reads either sees the same time. A test in which everybody waits for ever fails at once instead of hanging.
"""

from __future__ import annotations

import asyncio
import functools
import selectors
import time
from collections.abc import Callable, Coroutine
from typing import Any
from unittest import mock

START = 1000.0


class Clock:
    """The time."""

    def __init__(self) -> None:
        self.now = START

    def monotonic(self) -> float:
        """In place of `time.monotonic`."""
        return self.now

    def monotonic_ns(self) -> int:
        """In place of `time.monotonic_ns`."""
        return round(self.now * 1e9)


class _JumpingSelector(selectors.DefaultSelector):
    """Where the loop would wait for its next timer, it is that time already."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise AssertionError("everybody waits, and nothing will ever happen")
        if not ready and timeout is not None and timeout > 0:
            self._clock.now += timeout
        return ready


def run(main: Coroutine[Any, Any, Any]) -> Any:
    """What ``main`` returns, however long it takes there."""
    clock = Clock()
    with (
        mock.patch.object(time, "monotonic", clock.monotonic),
        mock.patch.object(time, "monotonic_ns", clock.monotonic_ns),
        asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(_JumpingSelector(clock))) as runner,
    ):
        return runner.run(main)


def in_virtual_time(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run the asynchronous ``test`` on a loop whose clock jumps."""

    @functools.wraps(test)
    def synchronous(*args: Any, **kwargs: Any) -> None:
        run(test(*args, **kwargs))

    return synchronous


async def turns(count: int = 10) -> None:
    """Let everybody else have a few turns; no time passes."""
    for _ in range(count):
        await asyncio.sleep(0)
