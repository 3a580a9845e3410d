"""``POST /v1/tickets``: a ticket for a browser, in exchange for a credential that a browser must not have."""

from __future__ import annotations

from typing import Protocol

import msgspec
from starlette.responses import Response

from wsstream.errors import MalformedMessage
from wsstream.wires.base import StreamsLike
from wsstream.wires.http import Call, Endpoint, json_response, read_body, refuse

MAX_BODY = 4096
"""Bytes, where nothing else is set."""


class TicketOffice(Protocol):
    """Who issues tickets: the gate."""

    def issue_ticket(self, streams: StreamsLike, user: str | None) -> tuple[str, float]: ...


class _Wish(msgspec.Struct):
    user: str | None = None


class Tickets:
    """The endpoint."""

    def __init__(self, office: TicketOffice, max_body: int = MAX_BODY) -> None:
        self._office = office
        self._max_body = max_body

    async def issue(self, call: Call) -> Response:
        """A ticket for the user in the body, or for who asks."""
        body = await read_body(call.request, self._max_body)
        ticket, lifetime = self._office.issue_ticket(call.streams, _user(body))
        return json_response({"ticket": ticket, "expires_in": lifetime})


def _user(body: bytes) -> str | None:
    if not body.strip():
        return None
    try:
        return msgspec.json.decode(body, type=_Wish).user
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise MalformedMessage('The body is {"user": name}, or empty') from None


def endpoints(office: TicketOffice, max_body: int = MAX_BODY) -> list[Endpoint]:
    """The wire's address. ``max_body``: bytes of a request's."""
    return [Endpoint("POST", "/v1/tickets", Tickets(office, max_body).issue, refuse)]
