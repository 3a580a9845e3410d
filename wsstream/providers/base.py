"""What a provider is: it turns a chat request into deltas. It knows no log, no viewer and no wire."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from wsstream.chunks import ChatRequest, Delta, Finish

Piece = Delta | Finish


class Provider(Protocol):
    """A source of answers."""

    def stream(self, request: ChatRequest) -> AsyncGenerator[Sequence[Piece], None]:
        """The answer to ``request``. What arrives together is yielded together; a `Finish` comes last.

        Closing the generator (``aclose``, or cancelling the task that waits in it) must close the upstream connection
        before it returns: that is what stops the billing. Waiting is the provider's only chance to be cancelled, so a
        provider that never waits must not yield more than a few hundred deltas at once.

        Raises:
            StreamFailure: the answer ends here; everything the upstream does wrong is translated to one of these.
        """
        ...

    async def close(self) -> None:
        """Release what all answers share. No answer is running any more."""
        ...
