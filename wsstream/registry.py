"""The live connections: who is here, how many may be, and how all are told to go."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

from wsstream.errors import CloseCode


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


class Registry:
    """Admits connections up to a limit and holds them until they are gone."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._members: dict[str, Member] = {}
        self._sessions: dict[str, list[Member]] = {}
        self._peak = 0
        self._total = 0
        self._refused = 0
        self._empty = asyncio.Event()
        self._empty.set()
        self.draining = False

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Member]:
        return iter(list(self._members.values()))

    def get(self, connection_id: str) -> Member | None:
        """The connection of that id, if it is still there."""
        return self._members.get(connection_id)

    def admit(self, member: Member) -> bool:
        """Take ``member`` in; False where the server is full or leaving."""
        if self.draining or len(self._members) >= self._limit:
            self._refused += 1
            return False
        self._members[member.connection_id] = member
        self._empty.clear()
        self._total += 1
        self._peak = max(self._peak, len(self._members))
        return True

    def join(self, member: Member) -> None:
        """``member`` has a session now."""
        assert member.session_id is not None
        self._sessions.setdefault(member.session_id, []).append(member)

    def remove(self, member: Member) -> None:
        """``member`` is gone."""
        if self._members.pop(member.connection_id, None) is not None and member.session_id is not None:
            self._leave(member, member.session_id)
        if not self._members:
            self._empty.set()

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

    def statistics(self) -> RegistryStatistics:
        """Counts, for health and metrics."""
        return RegistryStatistics(len(self._members), self._peak, self._total, self._refused)
