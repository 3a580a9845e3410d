"""A sink that keeps what a provider puts, for tests of providers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from wsstream.chunks import ChatMessage, ChatRequest, Delta, Kind


class ListSink:
    """Keeps what is put, and has room until the test says otherwise."""

    def __init__(self, room: int = 1 << 60) -> None:
        self.deltas: list[Delta] = []
        self.puts: list[int] = []
        """How many came with each put."""
        self.times: list[float] = []
        """When each came."""
        self.room = room
        """Deltas in all that there is room for."""
        self.waits = 0
        self.ways = 0
        self._more = asyncio.Event()

    def put(self, deltas: Sequence[Delta]) -> bool:
        """Keep them."""
        assert deltas
        assert all(delta.content for delta in deltas)
        self.deltas += deltas
        self.puts.append(len(deltas))
        self.times += [time.monotonic()] * len(deltas)
        return self.has_room()

    def has_room(self) -> bool:
        """As the test says."""
        return len(self.deltas) < self.room

    async def wait_room(self) -> None:
        """Wait for `give`."""
        self.waits += 1
        while not self.has_room():
            self._more.clear()
            await self._more.wait()

    async def give_way(self) -> None:
        """One turn for the others, or a wait."""
        self.ways += 1
        if self.has_room():
            await asyncio.sleep(0)
        else:
            await self.wait_room()

    def give(self, count: int = 1 << 60) -> None:
        """Have room for so many more."""
        self.room = len(self.deltas) + count
        self._more.set()

    @property
    def text(self) -> str:
        """All text."""
        return "".join(delta.content for delta in self.deltas if delta.kind is Kind.TEXT)

    @property
    def reasoning(self) -> str:
        """All thoughts."""
        return "".join(delta.content for delta in self.deltas if delta.kind is Kind.REASONING)


def ask(question: str = "hi", model: str | None = None) -> ChatRequest:
    """A request."""
    return ChatRequest([ChatMessage("user", question)], model)
