"""What every wire is handed: a gate, and behind it the streams as whoever came in may see them."""

from __future__ import annotations

import ipaddress
from asyncio import Future
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol

from wsstream import messages as m
from wsstream.chunklog import Attachment, ChunkLog
from wsstream.chunks import StreamInfo
from wsstream.content import Content, Form
from wsstream.errors import RequestError
from wsstream.flow import SendWindow
from wsstream.writers import Claim, FeedConfig, FeedState, Ruling

TRACEPARENT: ContextVar[str | None] = ContextVar("traceparent", default=None)
"""The trace that the request at hand belongs to, as its header or hello has it (W3C Trace Context); not checked yet."""


class LoggedLike(Protocol):
    """Whatever has a log that can be followed."""

    @property
    def stream_id(self) -> str: ...

    @property
    def info(self) -> StreamInfo: ...

    log: ChunkLog
    record: Any

    def when_stored(self, tell: Callable[[], None]) -> None: ...


class StreamLike(LoggedLike, Protocol):
    """A stream as a wire sees it: `wsstream.streams.Stream`."""

    digest: bytes | None

    @property
    def is_stored(self) -> bool: ...

    def while_queued(self, tell: Callable[[int], None]) -> None: ...

    def forget_queue(self, tell: Callable[[int], None]) -> None: ...


class LogsLike(Protocol):
    """Whatever has logs that can be followed."""

    def attach(self, stream: Any, window: SendWindow, wake: Any) -> Attachment: ...

    def cancel(self, stream: Any) -> None: ...

    def load(self, stream: Any) -> Future[Any] | None: ...


class FeedLike(LoggedLike, Protocol):
    """A feed as a wire sees it: `wsstream.feeds.Feed`."""

    state: FeedState

    @property
    def form(self) -> Form: ...

    @property
    def is_closed(self) -> bool: ...

    async def settled(self) -> None: ...


class FeedsLike(LogsLike, Protocol):
    """All feeds, as a wire sees them: `wsstream.feeds.Feeds`."""

    async def find(self, user: str, name: str) -> FeedLike: ...

    def touch(self, feed: Any) -> None: ...

    def create(self, user: str, name: str, wish: FeedConfig, data: bytes, *, close: bool) -> tuple[FeedLike, bool]: ...

    def append(self, feed: Any, content: Content, claim: Claim | None, order: str | None, *, close: bool) -> Ruling: ...

    async def delete(self, user: str, name: str) -> None: ...


class PageLike(Protocol):
    """Some messages of a session: `wsstream.sessions.HistoryPage`."""

    @property
    def messages(self) -> list[m.HistoryMessage]: ...

    @property
    def title(self) -> str | None: ...

    @property
    def more(self) -> bool: ...


class StreamsLike(LogsLike, Protocol):
    """All streams, as one caller sees them; those of others look as if there were none."""

    user: str
    """Who asks; empty for nobody in particular."""
    valid_until: float | None
    """When that must have been proved anew, in the clock of `time.monotonic`."""

    def while_welcome(self, end: Callable[[RequestError], None]) -> Callable[[], None]:
        """Have ``end`` called, once at most, when this caller is not welcome any more; the answer takes that back.

        It is told `Unauthorized` where the token has run out, and `Forbidden` where it was revoked.
        """

    def session_key(self, session_id: str) -> str:
        """A name of this caller's session that no other caller's session has."""

    def resume(self, stream_id: str) -> StreamLike:
        """As `get`, for somebody who is going to read what was there before.

        Raises:
            UnknownStream, LogTrimmed: as `get`.
            RateLimited: they have read too much again.
            Forbidden: they are not welcome any more.
        """

    def start(self, session_id: str, asked: m.ChatRequested, *, client_id: str | None = None) -> StreamLike: ...

    def is_known(self, session_id: str, request_id: str) -> bool: ...

    def get(self, stream_id: str) -> StreamLike: ...

    def of_session(self, session_id: str) -> Sequence[StreamLike]: ...

    def delete(self, stream: Any, deleted: Callable[[], None]) -> None:
        """Forget an answer's log, and stop it where it runs; ``deleted`` is called when that is stored."""

    def running_in(self, session_id: str) -> list[StreamInfo]: ...

    async def history(self, session_id: str) -> tuple[list[m.HistoryMessage], str | None]: ...

    async def page(self, session_id: str, before: str | None, limit: int | None) -> PageLike: ...

    def rename_session(self, session_id: str, title: str, told: Callable[[bool], None]) -> None:
        """Give a session a title; ``told`` is called when that is stored, with whether there is such a session."""

    def delete_session(self, session_id: str, deleted: Callable[[], None]) -> None:
        """Forget a session; ``deleted`` is called when no crash can bring anything of it back."""


_KEPT = ("origin", "host", "cookie", "user-agent")


class Visitor(NamedTuple):
    """Somebody who wants to come in: what is known of them before they are."""

    headers: Mapping[str, str]
    """Of the HTTP request; names in lower case."""
    remote: str
    """The address of the peer, or of whom a trusted proxy names."""
    token: str | None = None
    """From a hello. Credentials are never read from a URL."""

    def settled(self) -> Visitor:
        """What is kept of somebody who is in: where a page has sent them, enough to ask again with another token."""
        if "origin" not in self.headers:
            return Visitor({}, self.remote)
        return Visitor({name: self.headers[name] for name in _KEPT if name in self.headers}, self.remote)


class Gate(Protocol):
    """Decides who may come in. What is handed out shows a visitor their own streams only."""

    def look_at(self, visitor: Visitor) -> None:
        """Before a WebSocket is opened: see that no foreign page has sent ``visitor``.

        Raises:
            Forbidden: one has.
        """

    async def enter(self, visitor: Visitor) -> StreamsLike:
        """The streams of ``visitor``.

        Raises:
            Unauthorized: valid credentials are needed.
            Forbidden: this visitor, or the page that sent them, is not wanted here.
            RateLimited: they have come too often.
        """


class OpenGate:
    """Lets everybody in, and shows everything to who knows its id: for tests, and behind a gate of somebody else's."""

    def __init__(self, streams: StreamsLike) -> None:
        self._streams = streams

    def look_at(self, visitor: Visitor) -> None:
        """Fine."""

    async def enter(self, visitor: Visitor) -> StreamsLike:
        """Come in."""
        return self._streams


def counted_address(remote: str) -> str:
    """The address as limits count it.

    Nothing for this machine's own, behind which a proxy may hide everybody; else as `charged_address` has it.
    """
    address = _parsed(remote)
    return "" if address is None or address.is_loopback else charged_address(remote)


def charged_address(remote: str) -> str:
    """Whose account an address is: of IPv6 the network, as one household has that many addresses.

    One of IPv4 is the same where a socket of IPv6 has it (``::ffff:192.0.2.1``): else all of them were one network.
    """
    address = _parsed(remote)
    if isinstance(address, ipaddress.IPv6Address) and not address.is_loopback:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return remote if address is None else str(address)


def _parsed(remote: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(remote)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
