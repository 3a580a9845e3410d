"""Providers that do what a test says, when it says it; a server in its own process loads them too."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

from wsstream.chunks import ChatRequest, Delta, Finish, Kind
from wsstream.errors import ContentFiltered, ProviderError
from wsstream.providers.base import Sink


class Run:
    """One answer under way. `closed` is set when the provider has been made to stop, or has ended."""

    def __init__(self, request: ChatRequest, sink: Sink) -> None:
        self.request = request
        self.sink = sink
        self.closed = asyncio.Event()
        self.close_delay = 0.0
        """Seconds that the upstream takes to close after a cancel."""
        self._end: asyncio.Future[Finish] = asyncio.get_running_loop().create_future()

    def put(self, *texts: str, kind: Kind = Kind.TEXT) -> None:
        """Let these arrive together."""
        self.sink.put([Delta(text, kind) for text in texts])

    def finish(self, finish: Finish | None = None) -> None:
        """End well."""
        if not self._end.done():
            self._end.set_result(finish or Finish())

    def fail(self, error: Exception) -> None:
        """End badly."""
        self._end.set_exception(error)

    async def play(self) -> Finish:
        """The provider's part."""
        try:
            return await self._end
        except asyncio.CancelledError:
            if self.close_delay:
                await asyncio.sleep(self.close_delay)
            raise
        finally:
            self.closed.set()


class Scripted:
    """A provider whose answers stand in `runs`, in the order they were asked for."""

    def __init__(self) -> None:
        self.runs: list[Run] = []

    async def answer(self, request: ChatRequest, sink: Sink) -> Finish:
        """Put what the test puts."""
        run = Run(request, sink)
        self.runs.append(run)
        return await run.play()

    async def close(self) -> None:
        """Nothing is shared."""

    @property
    def last(self) -> Run:
        """The newest answer."""
        return self.runs[-1]


current = Scripted()
"""What ``--provider tests.data.scripted:current`` means; the fixture `scripted` renews it."""


async def echo(request: ChatRequest) -> AsyncIterator[str]:
    """The conversation, word by word."""
    for word in str(request.messages[-1].content).split():
        yield word + " "


async def large(request: ChatRequest) -> AsyncIterator[str]:
    """Chunks of 8 KiB, as many as are read."""
    while True:
        yield "x" * 8192


async def failing(request: ChatRequest) -> AsyncIterator[str]:
    """Half an answer."""
    yield "half "
    raise ContentFiltered


async def buggy(request: ChatRequest) -> AsyncIterator[str]:
    """A provider with a mistake in it."""
    yield "before "
    raise ZeroDivisionError("secret of the upstream")


async def long(request: ChatRequest) -> AsyncIterator[str]:
    """Eight megabytes in pieces of eight kilobytes."""
    for _ in range(1000):
        yield "x" * 8192


async def steady(request: ChatRequest) -> AsyncIterator[str]:
    """The same, in twenty seconds."""
    for _ in range(1000):
        yield "x" * 8192
        await asyncio.sleep(0.02)


class Counting:
    """Counts from one, and goes on behind what it has said; one message is the number to count to.

    In front of that it quotes the conversation that it was asked with, so that an answer shows what it is an answer to.
    """

    continues = True

    def __init__(self, pause: float = 0.01, *, quotes: bool = True) -> None:
        self._pause = pause
        self._quotes = quotes

    async def answer(self, request: ChatRequest, sink: Sink) -> Finish:
        """Say the rest."""
        said = " | ".join(f"{message.role}: {message.content}" for message in request.messages)
        words = [
            *([f"[{said}]"] if self._quotes else []),
            *map(str, range(1, int(str(request.messages[-1].content)) + 1)),
        ]
        whole = "".join(f"{word} " for word in words)
        assert whole.startswith(request.prefix), "the answer so far is another's"
        for word in re.findall(r"\S+\s*", whole[len(request.prefix) :]):
            sink.put([Delta(word)])
            await asyncio.sleep(self._pause)
        return Finish()

    async def close(self) -> None:
        """Nothing is shared."""


class Fickle:
    """Names its model, word by word, behind what was said before; the model "first" says nothing at first."""

    continues = True

    async def answer(self, request: ChatRequest, sink: Sink) -> Finish:
        """Say who is asked, to the number in the message."""
        if request.model == "first" and not request.prefix:
            raise ProviderError("not yet", recoverable=False)
        for number in range(len(request.prefix.split()), int(str(request.messages[-1].content))):
            sink.put([Delta(f"{request.model}-{number} ")])
            await asyncio.sleep(0.01)
        return Finish()

    async def close(self) -> None:
        """Nothing is shared."""


fickle = Fickle()
counting = Counting()
quick_counting = Counting(0.003, quotes=False)
