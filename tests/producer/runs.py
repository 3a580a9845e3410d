"""Producers that run on logs of their own, and providers made of functions."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from wsstream.chunklog import Attachment, ChunkLog
from wsstream.chunks import ChatMessage, ChatRequest, Delta, Finish, Kind, Outcome
from wsstream.errors import ProviderError, StreamFailure
from wsstream.flow import SendWindow
from wsstream.messages import StreamStatus
from wsstream.producer import Limits, Plan, Producer, Target
from wsstream.providers.base import Sink
from wsstream.recovery import OnInterrupt, RetryPolicy
from wsstream.stores.memory import MemoryStore

Answer = Callable[[Sink], Awaitable[Finish]]
REQUEST = ChatRequest([ChatMessage("user", "hi")])
FIRST = 30.0
BETWEEN = 10.0


class Provided:
    """A function as a provider."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.runs = 0

    async def answer(self, request: ChatRequest, sink: Sink) -> Finish:
        """Call it."""
        self.runs += 1
        return await self._answer(sink)

    async def close(self) -> None:
        """Nothing is shared."""


class GoesOn(Provided):
    """The same, of one that can be told the answer so far."""

    continues = True


class CountingLog(ChunkLog):
    """Counts how often it is ended."""

    __slots__ = ("finished",)

    def finish(self, outcome: Outcome) -> None:
        self.finished = getattr(self, "finished", 0) + 1
        super().finish(outcome)


class Run:
    """A producer on a log of its own."""

    def __init__(
        self,
        answer: Answer,
        *,
        first: float = FIRST,
        between: float = BETWEEN,
        chunks: int = 1_000_000,
        weight: int = 1 << 30,
        high: int = 1000,
        low: int = 500,
    ) -> None:
        self.log = CountingLog("s", "e", MemoryStore(), high=high, low=low)
        self.provider = Provided(answer)
        self.producer = Producer(self.provider, REQUEST, self.log, Limits(first, between, chunks, weight))
        self.task = self.producer.start()

    async def end(self) -> Outcome:
        """How it ended: with exactly one outcome, that counts exactly the chunks there are."""
        await asyncio.wait([self.task])
        outcome = self.log.outcome
        assert outcome is not None
        assert self.log.finished == 1
        assert outcome.final_chunk_id == len(self.log) == self.log.tail
        return outcome

    @property
    def texts(self) -> list[str]:
        return [chunk.content for chunk in self.log.chunks(1, len(self.log))]

    def view(self, limit: int = 1000) -> Attachment:
        """Somebody follows."""
        return self.log.attach(SendWindow(limit, 1 << 30), lambda _: None)


def ack(attachment: Attachment, chunk_id: int) -> None:
    """Acknowledge as a connection does."""
    attachment.take(1 << 30)
    attachment.window.on_ack(chunk_id)
    attachment.on_acked()


def put(sink: Sink, *texts: str, kind: Kind = Kind.TEXT) -> None:
    """Put these together."""
    sink.put([Delta(text, kind) for text in texts])


async def forever() -> Finish:
    """Never end."""
    await asyncio.get_running_loop().create_future()
    raise AssertionError


class Scripted:
    """A provider that has an answer for every try."""

    def __init__(self, *answers: Answer, continues: bool = False) -> None:
        self._answers = list(answers)
        self.continues = continues
        self.requests: list[ChatRequest] = []
        self.sinks: list[Sink] = []

    async def answer(self, request: ChatRequest, sink: Sink) -> Finish:
        """The next one."""
        self.requests.append(request)
        self.sinks.append(sink)
        return await self._answers.pop(0)(sink)

    async def close(self) -> None:
        """Nothing is shared."""


def saying(*texts: str, failure: StreamFailure | None = None, kind: Kind = Kind.TEXT) -> Answer:
    """A try that says this, and then fails or ends."""

    async def answer(sink: Sink) -> Finish:
        for text in texts:
            put(sink, text, kind=kind)
        if failure is not None:
            raise failure
        return Finish()

    return answer


BROKEN = ProviderError("It broke off.", recoverable=True)
REFUSED = ProviderError("It said no.")


class Tries(Run):
    """A producer with a plan, and a viewer that keeps what it is told."""

    def __init__(
        self, *providers: Scripted, model: str | None = "first", limits: Limits | None = None, **plan: object
    ) -> None:
        self.log = CountingLog("s", "e", MemoryStore())
        self.told: list[StreamStatus] = []
        self.view().tell_statuses(self.told.append)
        targets = [Target(provider, f"p{n}", model if n == 1 else None) for n, provider in enumerate(providers, 1)]
        wanted: dict[str, Any] = {"retry": RetryPolicy(), "on_interrupt": OnInterrupt.CONTINUE, **plan}
        request = ChatRequest([ChatMessage("user", "hi")], model=model)
        self.producer = Producer(
            targets[0],
            request,
            self.log,
            limits or Limits(FIRST, BETWEEN, 10_000, 1 << 30),
            Plan(targets[1:], **wanted),
        )
        self.task = self.producer.start()

    @property
    def statuses(self) -> list[str]:
        """The words of it."""
        return [status.status for status in self.told]
