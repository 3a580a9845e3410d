"""What every wire is handed: streams, as somebody who asks may see them."""

from __future__ import annotations

from asyncio import Future
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from wsstream import messages as m
from wsstream.chunklog import Attachment, ChunkLog
from wsstream.chunks import StreamInfo
from wsstream.flow import SendWindow


class StreamLike(Protocol):
    """A stream as a connection sees it."""

    @property
    def stream_id(self) -> str: ...

    @property
    def info(self) -> StreamInfo: ...

    log: ChunkLog
    record: Any

    def when_stored(self, tell: Callable[[], None]) -> None: ...


class StreamsLike(Protocol):
    """All streams, as a connection sees them: `wsstream.streams.Streams`."""

    def start(self, session_id: str, asked: m.ChatRequested) -> StreamLike: ...

    def is_known(self, session_id: str, request_id: str) -> bool: ...

    def get(self, stream_id: str) -> StreamLike: ...

    def of_session(self, session_id: str) -> Sequence[StreamLike]: ...

    def running_in(self, session_id: str) -> list[StreamInfo]: ...

    def attach(self, stream: Any, window: SendWindow, wake: Any) -> Attachment: ...

    def cancel(self, stream: Any) -> None: ...

    def load(self, stream: Any) -> Future[Any] | None: ...

    async def history(self, session_id: str) -> tuple[list[m.HistoryMessage], str | None]: ...

    def rename_session(self, session_id: str, title: str) -> None: ...

    def delete_session(self, session_id: str) -> None: ...
