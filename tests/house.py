"""Streams with a provider and a store that can be watched, for tests of what is done with them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from tests.virtual import turns
from wsstream.chunklog import Attachment
from wsstream.chunks import ChatRequest, Delta, Finish, Outcome, StreamState
from wsstream.config import Config
from wsstream.errors import (
    BadRequest,
)
from wsstream.flow import SendWindow
from wsstream.messages import ChatRequested
from wsstream.providers.base import Provider, Sink
from wsstream.providers.demo import DemoProvider
from wsstream.stores.base import End, StoredLog, StreamRecord, StreamSummary, untold
from wsstream.stores.memory import MemoryStore
from wsstream.streams import Stream, Streams


class Waiting:
    """A provider that says one thing and waits to be told that it has ended."""

    def __init__(self) -> None:
        self.requests: list[ChatRequest] = []
        self.stopped = 0
        self.text = "x"
        self.close_delay = 0.0
        self._ends: list[asyncio.Future[Finish]] = []

    async def answer(self, request: ChatRequest, sink: Sink) -> Finish:
        """Wait for `end`."""
        self.requests.append(request)
        end = asyncio.get_running_loop().create_future()
        self._ends.append(end)
        sink.put([Delta(self.text)])
        try:
            return await end
        except asyncio.CancelledError:
            self.stopped += 1
            await asyncio.sleep(self.close_delay)
            raise

    async def end(self, index: int = -1) -> None:
        """End that answer well."""
        self._ends[index].set_result(Finish())
        await turns()

    async def close(self) -> None:
        """Nothing is shared."""


class RecordingStore(MemoryStore):
    """Remembers which logs it was told to begin and to forget."""

    def __init__(self) -> None:
        super().__init__()
        self.created: list[StreamRecord] = []
        self.deleted: list[str] = []

    def create(self, record: StreamRecord, committed: Callable[[], None]) -> None:
        self.created.append(record)
        committed()

    def delete(self, stream_id: str, committed: Callable[[], None] = untold) -> None:
        self.deleted.append(stream_id)
        committed()


class DurableStore(RecordingStore):
    """Keeps ended logs, and reads them back when the test says so."""

    durable = True

    def __init__(self) -> None:
        super().__init__()
        self.logs: dict[str, StoredLog] = {}
        self.loads: list[tuple[str, asyncio.Future[StoredLog | None]]] = []
        self.cancelled: list[str] = []
        self.summaries: list[StreamSummary] = []

    async def open(self, end: End) -> list[StreamSummary]:
        return self.summaries

    def cancel(self, stream_id: str) -> None:
        self.cancelled.append(stream_id)

    def finish(
        self, stream_id: str, outcome: Outcome, bodies: Sequence[bytes], kinds: bytes, committed: Callable[[], None]
    ) -> None:
        record = next(record for record in self.created if record.stream_id == stream_id)
        self.logs[stream_id] = StoredLog(record, list(bodies), kinds, outcome)
        committed()

    def load(self, stream_id: str) -> asyncio.Future[StoredLog | None]:
        future: asyncio.Future[StoredLog | None] = asyncio.get_running_loop().create_future()
        self.loads.append((stream_id, future))
        return future

    async def answer(self) -> None:
        """Read what was asked for."""
        loads, self.loads = self.loads, []
        for stream_id, future in loads:
            future.set_result(self.logs.get(stream_id))
        await turns()


class House:
    """Streams with a provider and a store that can be watched."""

    def __init__(self, store: RecordingStore | None = None, **settings: Any) -> None:
        self.provider = Waiting()
        self.demo = False
        """Whether the demo provider answers instead."""
        self.store = store or RecordingStore()
        self.streams = Streams(
            Config(**{"store": "memory:", "chunk_timeout": 80_000, "max_stream_seconds": 80_000, **settings}),
            self.store,
            self._provided,
        )

    def _provided(self, name: str | None) -> Provider:
        if name is not None:
            raise BadRequest("There is no such provider")
        return DemoProvider() if self.demo else self.provider

    async def start(self, request_id: str = "r", session: str = "ses", **fields: Any) -> Stream:
        """Begin an answer and let it run."""
        stream = self.streams.start(session, asked(request_id, **fields))
        await turns()
        return stream

    async def ended(self, request_id: str = "r", session: str = "ses") -> Stream:
        """An answer that has ended already."""
        stream = await self.start(request_id, session)
        await self.provider.end()
        return stream

    def view(self, stream: Stream) -> Attachment:
        """Somebody follows it."""
        return self.streams.attach(stream, SendWindow(50, 1 << 20), lambda _: None)


@asynccontextmanager
async def house(**settings: Any) -> AsyncIterator[House]:
    """A house that is closed at the end, and then holds no timer."""
    it = House(**settings)
    yield it
    await it.streams.close()
    await turns()
    loop = asyncio.get_running_loop()
    live = [handle for handle in loop._scheduled if not handle.cancelled()]  # type: ignore[attr-defined]
    assert live == []


def asked(request_id: str = "r", **fields: Any) -> ChatRequested:
    """A chat_request."""
    return ChatRequested(request_id=request_id, **{"message": "hi", **fields})


def state(stream: Stream) -> StreamState:
    return stream.log.state
