"""Which answers run, and which wait until there is a place for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from wsstream.chunks import Outcome, StreamState
from wsstream.config import Config
from wsstream.errors import Capacity, QueueFull, RateLimited
from wsstream.rejections import Reason, Rejections
from wsstream.streams.stream import Stream
from wsstream.waiting import WaitingRoom

RETRY_AFTER = 5.0
"""Seconds after which there may be a place."""


class Places:
    """So many answers run at once, of all users and of each; some more may wait."""

    def __init__(self, config: Config, rejections: Rejections) -> None:
        """``rejections`` counts who found no place."""
        self._loop = asyncio.get_running_loop()
        self._limit = config.max_running_streams
        self._rejections = rejections
        self._queue_limit = self._limit // 10 if config.max_queued is None else config.max_queued
        self._queue: WaitingRoom[Stream] = WaitingRoom(self._queue_limit)
        self._telling = False
        self._per_user: int | None = None
        self._of_owner: dict[str, int] = {}
        self.running: set[Stream] = set()
        self.idle = asyncio.Event()
        """Set while nothing runs."""
        self.idle.set()
        self.pressed = False
        """Whether memory is too short to begin anything."""

    # -- running

    def take(self, stream: Stream) -> None:
        """It runs."""
        self.running.add(stream)
        self._of_owner[stream.owner] = self._of_owner.get(stream.owner, 0) + 1
        self.idle.clear()

    def give_back(self, stream: Stream) -> None:
        """It runs no longer."""
        self.running.discard(stream)
        self._of_owner[stream.owner] -= 1
        if not self._of_owner[stream.owner]:
            del self._of_owner[stream.owner]
        if len(self._queue):
            self.admit()
        if not self.running:
            self.idle.set()

    # -- waiting

    @property
    def waiting(self) -> list[Stream]:
        """Those that wait, in the order in which their turns come."""
        return self._queue.order()

    @property
    def queued(self) -> int:
        """How many wait."""
        return len(self._queue)

    def is_waiting(self, stream: Stream) -> bool:
        """Whether it waits."""
        return stream in self._queue

    def must_wait(self, owner: str, per_user: int | None) -> bool:
        """Whether there is no place for one more answer of ``owner``, who may have ``per_user`` of them.

        Raises:
            Capacity, QueueFull, RateLimited: and nowhere to wait for one.
        """
        self._per_user = per_user
        crowded = len(self.running) >= self._limit
        if not crowded and self._may_run(owner):
            return False
        if not self._queue.full:
            return True
        if self._queue_limit:
            self._rejections.count(Reason.QUEUE_FULL)
            raise QueueFull(retry_after=RETRY_AFTER)
        self._rejections.count(Reason.RUNNING if crowded else Reason.RUNNING_PER_USER)
        if crowded:
            raise Capacity(retry_after=1.0)
        raise RateLimited("As many of your answers are running as may", retry_after=RETRY_AFTER)

    def _may_run(self, owner: str) -> bool:
        return not owner or self._per_user is None or self._of_owner.get(owner, 0) < self._per_user

    def enqueue(self, stream: Stream, priority: int, begin: Callable[[], None]) -> None:
        """It waits; ``begin`` is called when its turn has come."""
        stream.log.state = StreamState.QUEUED
        stream.begin_running = begin
        self._queue.add(stream.owner, priority, stream)
        stream.place = self._queue.order().index(stream) + 1
        self._tell_places_soon()

    def admit(self) -> None:
        """Places are free: whose turn is it?"""
        while len(self._queue) and len(self.running) < self._limit and not self.pressed:
            stream = self._queue.take(self._may_run)
            if stream is None:
                break
            self._begin_queued(stream)
        self._tell_places_soon()

    def _begin_queued(self, stream: Stream) -> None:
        begin, stream.begin_running = stream.begin_running, None
        stream.log.state = StreamState.RUNNING
        assert begin is not None
        begin()
        stream.tell_place(0)

    def _tell_places_soon(self) -> None:
        if not self._telling and len(self._queue):
            self._telling = True
            self._loop.call_soon(self._tell_places)

    def _tell_places(self) -> None:
        self._telling = False
        for place, stream in enumerate(self._queue.order(), 1):
            stream.tell_place(place)

    def dismiss(self, stream: Stream, outcome: Outcome) -> None:
        """It waits no longer, and never ran."""
        if self._queue.remove(stream):
            stream.begin_running = None
            stream.stop_orphan_timer()
            stream.log.when_finished(stream.on_finished)
            stream.log.finish(outcome)
            stream.tell_place(0)
            self._tell_places_soon()
