"""A plain HTTP client for the tests of the HTTP wires: what a foreign one would do, without the server's own code."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import httpx2 as httpx

from tests.native import PATIENCE, HasPort

Message = dict[str, Any]


class Event(NamedTuple):
    """One server-sent event, its data decoded."""

    id: str | None
    data: Any
    name: str | None = None


class Events:
    """Reads events as the standard says; comments are counted."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.comments = 0
        self._lines = response.aiter_lines()

    def __aiter__(self) -> AsyncIterator[Event]:
        return self._events()

    async def _events(self) -> AsyncIterator[Event]:
        while (event := await self.next()) is not None:
            yield event

    async def next(self) -> Event | None:
        """The next event, or None where there is none."""
        fields: dict[str, str] = {}
        async for line in self._lines:
            if not line:
                if "data" in fields:
                    data = fields["data"]
                    return Event(fields.get("id"), data if data == "[DONE]" else json.loads(data), fields.get("event"))
                fields = {}
            elif line.startswith(":"):
                self.comments += 1
            else:
                name, _, value = line.partition(":")
                assert name not in fields
                fields[name] = value.removeprefix(" ")
        return None

    async def rest(self) -> list[Event]:
        """All that come."""
        return [event async for event in self]


@asynccontextmanager
async def browsing(server: HasPort, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of one server."""
    base = f"http://127.0.0.1:{server.port}"
    async with httpx.AsyncClient(base_url=base, timeout=PATIENCE, trust_env=False, **options) as client:
        yield client


@asynccontextmanager
async def events(client: httpx.AsyncClient, method: str, path: str, **request: Any) -> AsyncIterator[Events]:
    """Open an event stream."""
    async with client.stream(method, path, **request) as response:
        if response.status_code != 200:
            await response.aread()
        yield Events(response)


def text_of(events: list[Event]) -> str:
    """What the tokens say."""
    return "".join(event.data["content"] for event in events if event.data["type"] == "token")
