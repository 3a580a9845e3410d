"""Tickets: how a browser shows who its user is without ever holding a lasting secret.

The application, which knows its user, asks for a ticket with its own credential (``POST /v1/tickets``) and hands it to
its page; the page sends it in its hello. A ticket is good once, and for half a minute.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import OrderedDict
from typing import NamedTuple

from wsstream.errors import RateLimited, Unauthorized
from wsstream.identity import MAX_TOKEN, Identity, credential
from wsstream.wires.base import Visitor

PREFIX = "tkt_"
MAX_PER_USER = 16
"""Tickets of one user that are out at once, where nothing else is said."""
MAX_TICKETS = 100_000
"""And of all, likewise."""


class _Ticket(NamedTuple):
    identity: Identity
    until: float


class Tickets:
    """The tickets of this process that nobody has used yet; kept as digests, oldest first."""

    def __init__(
        self, lifetime: float, per_user: int = MAX_PER_USER, longest: int = MAX_TOKEN, at_once: int = MAX_TICKETS
    ) -> None:
        """``lifetime`` in seconds; ``per_user``, ``at_once``: may be out; ``longest``: of what is shown."""
        self._at_once = at_once
        self._longest = longest
        self._lifetime = lifetime
        self._per_user = per_user
        self._out: OrderedDict[bytes, _Ticket] = OrderedDict()
        self._held: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._out)

    def issue(self, identity: Identity) -> tuple[str, float]:
        """A ticket for ``identity``, and how many seconds it is good for.

        Raises:
            RateLimited: as many are out as may be.
        """
        self._forget_old()
        if self._held.get(identity.user, 0) >= self._per_user or len(self._out) >= self._at_once:
            raise RateLimited("Too many tickets are unused", retry_after=self._lifetime)
        ticket = PREFIX + secrets.token_urlsafe(32)
        self._out[_digest(ticket)] = _Ticket(identity, time.monotonic() + self._lifetime)
        self._held[identity.user] = self._held.get(identity.user, 0) + 1
        return ticket, self._lifetime

    async def identify(self, visitor: Visitor) -> Identity | None:
        """Use a ticket up. One in a header was not meant for a page, and is none."""
        token = credential(visitor, self._longest)
        if token is None or not token.startswith(PREFIX):
            return None
        self._forget_old()
        ticket = self._out.pop(_digest(token), None)  # by digest: no secret is compared letter by letter
        if ticket is None:
            raise Unauthorized
        self._let_go(ticket)
        if visitor.token is None:
            raise Unauthorized
        return ticket.identity

    def _forget_old(self) -> None:
        now = time.monotonic()
        while self._out:
            digest, ticket = next(iter(self._out.items()))
            if ticket.until > now:
                return
            del self._out[digest]
            self._let_go(ticket)

    def _let_go(self, ticket: _Ticket) -> None:
        user = ticket.identity.user
        self._held[user] -= 1
        if not self._held[user]:
            del self._held[user]

    def is_revoked(self, identity: Identity) -> bool:
        """What a ticket was good for is for others to say."""
        return False

    def refresh(self) -> None:
        """Tickets end by themselves."""
        self._forget_old()


def _digest(ticket: str) -> bytes:
    return hashlib.sha256(ticket.encode()).digest()
