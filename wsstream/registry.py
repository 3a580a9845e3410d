"""The live connections: who is here, how many may be, and how all are told to go."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

from wsstream.errors import CloseCode, RateLimited
from wsstream.rejections import Reason, Rejections

logger = logging.getLogger(__name__)

RETRY_AFTER = 5.0
"""Seconds after which somebody with too many connections may try again."""
PRESSED_RETRY = 5
"""Seconds after which somebody may come again who was refused for want of memory."""


class ConnectionInfo(NamedTuple):
    """What is known of one connection. ``user_id`` is the proved one, or else what the client claims."""

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
    def session_key(self) -> str | None: ...

    @property
    def access(self) -> object: ...

    def go_away(self, deadline_ms: int, reconnect_after_ms: int) -> None: ...

    def tell_session_changed(self, change: Any) -> None: ...

    def close(self, code: int, reason: str) -> None: ...


class TryLater(NamedTuple):
    """What somebody is told who cannot be let in now."""

    status: int
    """Of HTTP: 503 where nobody can, 429 where they have too much."""
    text: str
    seconds: int
    """After which they may come again."""


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


class Shares:
    """How many connections each of many has, up to a limit for each; None for no limit."""

    def __init__(self, limit: int | None, reason: Reason, rejections: Rejections) -> None:
        self._limit = limit
        self._reason = reason
        self._rejections = rejections
        self._held: dict[str, int] = {}
        self._whose: dict[str, str] = {}

    def check(self, who: str) -> None:
        """See that ``who`` may have one more; an empty name may have any number.

        Raises:
            RateLimited: they have as many as they may.
        """
        if who and self._limit is not None and self._held.get(who, 0) >= self._limit:
            self._rejections.count(self._reason)
            raise RateLimited("Too many connections", retry_after=RETRY_AFTER)

    def take(self, who: str, connection_id: str) -> None:
        """This connection is one of theirs."""
        if who:
            self._whose[connection_id] = who
            self._held[who] = self._held.get(who, 0) + 1

    def give_back(self, connection_id: str) -> None:
        """It is not any more."""
        who = self._whose.pop(connection_id, None)
        if who is not None:
            self._held[who] -= 1
            if not self._held[who]:
                del self._held[who]


class Registry:
    """Admits connections up to a limit, and to one for each user and address, and holds them until they are gone."""

    def __init__(
        self,
        limit: int,
        *,
        per_user: int | None = None,
        per_address: int | None = None,
        greeting: int | None = None,
        rejections: Rejections | None = None,
    ) -> None:
        """``greeting`` limits those connections of an address that have not said who they are."""
        self.rejections = rejections or Rejections()
        self._users = Shares(per_user, Reason.CONNECTIONS_PER_USER, self.rejections)
        self._addresses = Shares(per_address, Reason.CONNECTIONS_PER_ADDRESS, self.rejections)
        self._greeting = Shares(greeting, Reason.GREETING_PER_ADDRESS, self.rejections)
        self._limit = limit
        self._messages_received = 0
        self._bytes_sent = 0
        self._members: dict[str, Member] = {}
        self._sessions: dict[str, list[Member]] = {}
        self._peak = 0
        self._total = 0
        self._refused = 0
        self.gone = 0
        """Sockets closed since the start, whatever they spoke."""
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

    def admit(self, member: Member, address: str = "") -> bool:
        """Take ``member`` in; False where the server is full, leaving or short of memory.

        An empty address is not counted.

        Raises:
            RateLimited: that address has as many connections as it may.
        """
        reason = self._objection()
        if reason is not None:
            self._refused += 1
            self.rejections.count(reason)
            return False
        self._addresses.check(address)
        self._greeting.check(address)
        self._addresses.take(address, member.connection_id)
        self._greeting.take(address, member.connection_id)
        self._members[member.connection_id] = member
        self._empty.clear()
        self._total += 1
        self._peak = max(self._peak, len(self._members))
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("connection opened", extra={"connection_id": member.connection_id})
        return True

    def turn_away(self, member: Member, address: str = "") -> TryLater | None:
        """As `admit`, for a connection that is only being made: what to say instead; None where ``member`` is in."""
        try:
            if self.admit(member, address):
                return None
        except RateLimited as error:
            return TryLater(429, str(error), math.ceil(error.retry_after or 1.0))
        return TryLater(503, "Server at capacity, try again later.", self.retry_after)

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

    def join(self, member: Member, user: str = "") -> None:
        """``member`` has said who it is, and may have a session now.

        Raises:
            RateLimited: that user has as many connections as they may. Nothing has changed.
        """
        self._users.check(user)
        self._users.take(user, member.connection_id)
        self._greeting.give_back(member.connection_id)
        if member.session_key is not None:
            self._sessions.setdefault(member.session_key, []).append(member)

    def remove(self, member: Member) -> None:
        """``member`` is gone."""
        if self._members.pop(member.connection_id, None) is not None:
            self._take_leave(member)
        if not self._members:
            self._empty.set()

    def _take_leave(self, member: Member) -> None:
        self.gone += 1
        for shares in (self._users, self._addresses, self._greeting):
            shares.give_back(member.connection_id)
        self._leave(member, member.session_key)
        info = member.statistics()
        self._messages_received += info.messages_received
        self._bytes_sent += info.bytes_sent
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("connection closed", extra=_fields(info))

    def _leave(self, member: Member, session_key: str | None) -> None:
        present = self._sessions.get(session_key or "")
        if present is None or session_key is None or member not in present:
            return
        present.remove(member)
        if not present:
            del self._sessions[session_key]

    async def wait_empty(self) -> None:
        """Wait until nobody is left."""
        await self._empty.wait()

    def tell_session_changed(self, session_key: str, change: Any, besides: str) -> None:
        """Tell every connection of a session, ``besides`` the one of that id, what was done to it."""
        for member in list(self._sessions.get(session_key, ())):
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
