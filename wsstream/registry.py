"""The live connections: who is here, how many may be, and how all are told to go."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

from wsstream.errors import CloseCode
from wsstream.rejections import Reason, Rejections

logger = logging.getLogger(__name__)


PRESSED_RETRY = 5
"""Seconds after which somebody may come again who was refused for want of memory."""


class ConnectionInfo(NamedTuple):
    """What is known of one connection. ``user_id`` is what the client claims: nothing is granted for it."""

    connection_id: str
    session_id: str | None
    user_id: str | None
    remote: str
    connected_at: float
    """Seconds since 1970."""
    streams: int
    messages_received: int
    bytes_sent: int
    round_trip: float | None
    close_code: int | None = None
    """With which the WebSocket was closed, when it is."""


class Member(Protocol):
    """A connection as the registry sees it."""

    connection_id: str

    def statistics(self) -> ConnectionInfo: ...

    @property
    def session_id(self) -> str | None: ...

    def go_away(self, deadline_ms: int, reconnect_after_ms: int) -> None: ...

    def tell_session_changed(self, change: Any) -> None: ...

    def close(self, code: int, reason: str) -> None: ...


class RegistryStatistics(NamedTuple):
    """Counts since the start."""

    connections: int
    peak: int
    total: int
    refused: int
    messages_received: int
    """From those who have left."""
    bytes_sent: int
    """To those who have left."""


class Registry:
    """Admits connections up to a limit and holds them until they are gone."""

    def __init__(self, limit: int, rejections: Rejections | None = None) -> None:
        self._limit = limit
        self._rejections = rejections or Rejections()
        self._messages_received = 0
        self._bytes_sent = 0
        self._members: dict[str, Member] = {}
        self._sessions: dict[str, list[Member]] = {}
        self._peak = 0
        self._total = 0
        self._refused = 0
        self._empty = asyncio.Event()
        self._empty.set()
        self.draining = False
        self.pressed = False
        """Whether memory is too short to let anybody in."""

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Member]:
        return iter(list(self._members.values()))

    def get(self, connection_id: str) -> Member | None:
        """The connection of that id, if it is still there."""
        return self._members.get(connection_id)

    def admit(self, member: Member) -> bool:
        """Take ``member`` in; False where the server is full, leaving or short of memory."""
        reason = self._objection()
        if reason is not None:
            self._refused += 1
            self._rejections.count(reason)
            return False
        self._members[member.connection_id] = member
        self._empty.clear()
        self._total += 1
        self._peak = max(self._peak, len(self._members))
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("connection opened", extra={"connection_id": member.connection_id})
        return True

    def _objection(self) -> Reason | None:
        if self.draining:
            return Reason.DRAINING
        if self.pressed:
            return Reason.MEMORY
        return Reason.CONNECTIONS if len(self._members) >= self._limit else None

    @property
    def retry_after(self) -> int:
        """Seconds after which somebody who was refused may try again."""
        return PRESSED_RETRY if self.pressed else 1

    def join(self, member: Member) -> None:
        """``member`` has a session now."""
        assert member.session_id is not None
        self._sessions.setdefault(member.session_id, []).append(member)

    def remove(self, member: Member) -> None:
        """``member`` is gone."""
        if self._members.pop(member.connection_id, None) is not None:
            self._take_leave(member)
        if not self._members:
            self._empty.set()

    def _take_leave(self, member: Member) -> None:
        if member.session_id is not None:
            self._leave(member, member.session_id)
        info = member.statistics()
        self._messages_received += info.messages_received
        self._bytes_sent += info.bytes_sent
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("connection closed", extra=_fields(info))

    def _leave(self, member: Member, session_id: str) -> None:
        present = self._sessions[session_id]
        present.remove(member)
        if not present:
            del self._sessions[session_id]

    async def wait_empty(self) -> None:
        """Wait until nobody is left."""
        await self._empty.wait()

    def tell_session_changed(self, session_id: str, change: Any, besides: str) -> None:
        """Tell every connection of a session, ``besides`` the one of that id, what was done to it."""
        for member in list(self._sessions.get(session_id, ())):
            if member.connection_id != besides:
                member.tell_session_changed(change)

    def announce_drain(self, deadline: float, spread: float = 5.0) -> None:
        """Tell everybody to finish within ``deadline`` seconds; they are to come back spread over ``spread``."""
        self.draining = True
        for member in self:
            member.go_away(int(deadline * 1000), int(random.uniform(0.1, spread) * 1000))

    def close_all(self, code: int = CloseCode.SERVICE_RESTART, reason: str = "service restart") -> None:
        """Close every connection."""
        for member in self:
            member.close(code, reason)

    def shed(self, count: int) -> None:
        """Close ``count`` connections: first those that follow nothing, of these the oldest. They may come back."""
        infos = sorted((info.streams, info.connected_at, info.connection_id) for info in map(_statistics, self))
        for _, _, connection_id in infos[:count]:
            self._members[connection_id].close(CloseCode.TRY_AGAIN_LATER, "memory is short, come back later")

    def statistics(self) -> RegistryStatistics:
        """Counts, for health and metrics."""
        return RegistryStatistics(
            len(self._members), self._peak, self._total, self._refused, self._messages_received, self._bytes_sent
        )


def _statistics(member: Member) -> ConnectionInfo:
    return member.statistics()


def _fields(info: ConnectionInfo) -> dict[str, Any]:
    """What the log says of a connection that is gone."""
    return {
        "connection_id": info.connection_id,
        "session_id": info.session_id,
        "remote": info.remote,
        "seconds": round(time.time() - info.connected_at, 3),
        "messages_received": info.messages_received,
        "bytes_sent": info.bytes_sent,
        "close_code": info.close_code,
    }
