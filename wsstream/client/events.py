"""What a client tells of itself: where it stands, what happens to it, and its counts."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from wsstream import client_protocol as core
from wsstream.errors import ConnectionFailed


class ClientState(StrEnum):
    """Where a client stands."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    WAITING = "waiting"
    """For the next try."""
    STOPPED = "stopped"
    """It has given up. The next question makes it try anew, unless the server said to stay away."""
    CLOSED = "closed"


class Lost(NamedTuple):
    """The connection is gone, or could not be made; the next try, the ``attempt``-th in a row, begins in ``delay``
    seconds."""

    reason: str
    code: int | None
    attempt: int
    delay: float


class Stopped(NamedTuple):
    """There will be no further try by itself."""

    failure: ConnectionFailed


class TokenFailed(NamedTuple):
    """The function that gives tokens has failed; it is asked again."""

    error: Exception


ClientEvent = core.Event | Lost | Stopped | TokenFailed
"""What ``on_event`` is called with. `Received` is left out: it would come for every chunk."""


class ClientStatistics(NamedTuple):
    """Counts of one client, at one moment."""

    state: ClientState
    connections: int
    """Connections that the server has greeted."""
    failures: int
    """Losses in a row, without progress between them."""
    messages_received: int
    messages_ignored: int
    """Messages that could not be understood."""
    streams: int
    """Streams followed that have not ended."""
    unprocessed: int
    """Chunks received whose text nobody has taken. No stream has more than its window, and its snapshot."""
