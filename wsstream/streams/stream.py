"""One answer: its log, its producer while it runs, and what is told of it before it does."""

from __future__ import annotations

import asyncio
from asyncio import Future
from collections.abc import Callable
from typing import Protocol

from wsstream.chunklog import ChunkLog
from wsstream.chunks import Outcome, StreamInfo
from wsstream.messages import ChatRequested
from wsstream.orphans import OrphanPolicy
from wsstream.producer import Producer, Target
from wsstream.stores.base import Store, StoredLog, StreamRecord


class Keeper(Protocol):
    """Whoever is told what becomes of a stream: `wsstream.streams.Streams`."""

    def on_deserted(self, stream: Stream) -> None: ...

    def on_ending(self, stream: Stream, outcome: Outcome) -> None: ...

    def on_finished(self, stream: Stream, log: ChunkLog) -> None: ...

    def on_retry(self, stream: Stream, retries: int, switched_to: Target | None) -> None: ...

    def on_ended(self, stream: Stream) -> None: ...


class Stream:
    """One answer."""

    __slots__ = (
        "_keeper",
        "_unbegun",
        "_untold",
        "begin_running",
        "digest",
        "loading",
        "log",
        "orphan_timer",
        "place",
        "policy",
        "producer",
        "record",
        "task",
        "unsent",
    )

    def __init__(self, record: StreamRecord, log: ChunkLog, policy: OrphanPolicy, keeper: Keeper) -> None:
        self._keeper = keeper
        self.record = record
        self.log = log
        self.policy = policy
        self.producer: Producer | None = None
        self.task: asyncio.Task[None] | None = None
        self.orphan_timer: asyncio.TimerHandle | None = None
        self.loading: Future[StoredLog | None] | None = None
        self.unsent = 0
        """Its part in the count of chunks that nobody was sent."""
        self.digest: bytes | None = None
        """Of what was asked, for wires that must notice when one name is used for two requests; None where unknown."""
        self.begin_running: Callable[[], None] | None = None
        """Where the stream waits for its turn: what is done when that comes."""
        self.place = 0
        """The last place in the queue that viewers were told."""
        self._untold: list[Callable[[], None]] | None = None
        self._unbegun: list[Callable[[int], None]] | None = None

    # -- what its log and its task tell: bound methods, as a closure for each would take four times their memory

    def on_deserted(self) -> None:
        """Its last viewer has left."""
        self._keeper.on_deserted(self)

    def on_ending(self, outcome: Outcome) -> None:
        """Its outcome is known, and about to be stored."""
        self._keeper.on_ending(self, outcome)

    def on_finished(self, log: ChunkLog) -> None:
        """Its outcome is stored."""
        self._keeper.on_finished(self, log)

    def on_retry(self, retries: int, switched_to: Target | None) -> None:
        """A try begins, of this number behind the first; by another provider, if one is named."""
        self._keeper.on_retry(self, retries, switched_to)

    def on_task_over(self, _task: asyncio.Task[None]) -> None:
        """Its producer is done."""
        self._keeper.on_ended(self)

    # -- its life

    def begin(self, store: Store) -> None:
        """Have a store begin the log."""
        self._untold = []
        store.create(self.record, self.on_stored)

    def on_stored(self) -> None:
        """The store has begun the log, or has failed to: now viewers can be told of it."""
        untold, self._untold = self._untold or [], None
        for tell in untold:
            tell()

    def when_stored(self, tell: Callable[[], None]) -> None:
        """Call ``tell`` when a crash can no longer undo that this stream has begun; at once if that is so already."""
        if self._untold is None:
            tell()
        else:
            self._untold.append(tell)

    @property
    def is_stored(self) -> bool:
        """Whether `when_stored` would call at once: only then it may be shown to anybody."""
        return self._untold is None

    def while_queued(self, tell: Callable[[int], None]) -> None:
        """Call ``tell`` with the place in the queue, now and when it changes; 0 when it waits no longer."""
        if self.place:
            self._unbegun = [*(self._unbegun or ()), tell]
        tell(self.place)

    def forget_queue(self, tell: Callable[[int], None]) -> None:
        """Whoever wanted to know the place has left."""
        if self._unbegun is not None and tell in self._unbegun:
            self._unbegun.remove(tell)

    def tell_place(self, place: int) -> None:
        """Its place in the queue is ``place`` now; 0 is none."""
        if place != self.place:
            self.place = place
            waiting = list(self._unbegun or ())
            if not place:
                self._unbegun = None
            for tell in waiting:
                tell(place)

    def stop_orphan_timer(self) -> None:
        """Somebody follows it, or nobody needs to any more."""
        if self.orphan_timer is not None:
            self.orphan_timer.cancel()
            self.orphan_timer = None

    @property
    def stream_id(self) -> str:
        """Its id."""
        return self.record.stream_id

    @property
    def owner(self) -> str:
        """Whose it is; empty for whoever knows its id."""
        return self.record.owner

    @property
    def info(self) -> StreamInfo:
        """As lists of streams show it."""
        return StreamInfo(self.stream_id, self.log.tail, self.log.state)


class Watcher(Protocol):
    """Somebody who is told what becomes of streams, and changes nothing."""

    def on_started(self, stream: Stream, asked: ChatRequested) -> None:
        """An answer begins, in the context of whoever asked; or goes on, that another process has begun."""

    def on_ended(self, stream: Stream) -> None:
        """Its outcome is stored, and in its log."""
