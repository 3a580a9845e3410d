"""What a provider is: it turns a chat request into deltas. It knows no log, no viewer and no wire."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from wsstream.chunks import ChatRequest, Delta, Finish


class Sink(Protocol):
    """Where a provider puts an answer's deltas. The producer is one."""

    def put(self, deltas: Sequence[Delta]) -> bool:
        """Take deltas; what arrived together is put together. Never blocks, never raises. Empty ones are left out, and
        are no sign of life.

        The answer is that of `has_room`. May be called from any callback of the event loop, not only from the
        provider's own task.
        """

    def has_room(self) -> bool:
        """Whether to read on. A provider that puts more without asking is only bounded by the answer's limits."""

    async def wait_room(self) -> None:
        """Wait until there is room. The provider reads nothing from its upstream meanwhile."""

    async def give_way(self) -> None:
        """Let others have their turn: waits for room, and now and then for one turn of the loop.

        For providers that put in a loop which may never wait otherwise.
        """


class Provider(Protocol):
    """A source of answers.

    One that sets ``continues = True`` goes on behind ``request.prefix`` where there is one (it may repeat some of it);
    any other is never given a prefix. Where not all its models can, it may say which by a method ``suits(model)``; the
    model None is its own.
    """

    async def answer(self, request: ChatRequest, sink: Sink) -> Finish:
        """Put the answer to ``request`` into ``sink``, and return its end.

        When the task that runs this is cancelled, the upstream connection must be closed before it returns: that is
        what stops the billing.

        Raises:
            StreamFailure: the answer ends here; everything the upstream does wrong is translated to one of these.
        """

    async def close(self) -> None:
        """Release what all answers share. No answer is running any more."""
