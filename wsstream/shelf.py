"""What is kept for a while: up to an age, a number and a size, the oldest goes first."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable


class Shelf:
    """Names of things with their sizes. One timer waits for the next to become too old."""

    __slots__ = ("_age", "_count", "_due", "_items", "_limit", "_loop", "_remove", "_tidying", "_timer", "size")

    def __init__(self, age: float | None, count: int, limit: int, remove: Callable[[str], None]) -> None:
        """Keep things for ``age`` seconds, at most ``count`` of them and ``limit`` bytes; ``remove`` what does not fit.

        A thing that ``remove`` puts back stays, as the newest.
        """
        self._age = age
        self._count = count
        self._limit = limit
        self._remove = remove
        self._loop = asyncio.get_running_loop()
        self._items: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._tidying = False
        self.size = 0

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, name: str) -> bool:
        return name in self._items

    @property
    def overfull(self) -> bool:
        """Whether there is more on it than it is for: ``remove`` has put things back."""
        return len(self._items) > self._count or self.size > self._limit

    def put(self, name: str, size: int, age: float = 0.0) -> None:
        """Keep ``name``, which is ``age`` seconds old already, as the newest."""
        self.drop(name)
        self._items[name] = (time.monotonic() - age, size)
        self.size += size
        if not self._tidying:
            self._tidy()

    def touch(self, name: str) -> None:
        """It was used: as far as number and size go, it is the newest again."""
        if name in self._items:
            self._items.move_to_end(name)

    def drop(self, name: str) -> None:
        """Keep it no longer, without a word."""
        item = self._items.pop(name, None)
        if item is not None:
            self.size -= item[1]

    def clear(self) -> None:
        """Remove everything; what is put back stays."""
        self._tidying = True
        try:
            for _ in range(len(self._items)):
                name, (_, size) = self._items.popitem(last=False)
                self.size -= size
                self._remove(name)
        finally:
            self._tidying = False
            self._arm()

    def _tidy(self) -> None:
        self._tidying = True
        try:
            for _ in range(len(self._items)):
                if not self._too_much():
                    break
                name, (_, size) = self._items.popitem(last=False)
                self.size -= size
                self._remove(name)
        finally:
            self._tidying = False
            self._arm()

    def _too_much(self) -> bool:
        if not self._items:
            return False
        if self.overfull:
            return True
        return self._age is not None and self._oldest() + self._age <= time.monotonic()

    def _oldest(self) -> float:
        return next(iter(self._items.values()))[0]

    def _arm(self) -> None:
        if self._age is None:
            return
        due = self._oldest() + self._age if self._items else None
        if self._timer is not None and self._due == due and not self._timer.cancelled():
            return
        self.close()
        if due is not None:
            self._due = due
            self._timer = self._loop.call_at(due, self._on_due)

    def _on_due(self) -> None:
        self._timer = None
        self._tidy()

    def close(self) -> None:
        """Remove nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
