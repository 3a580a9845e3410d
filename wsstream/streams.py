"""All answers: started once each, attached to, cancelled, deserted, kept for a while, forgotten.

The only maker of producers. A stream's life: RUNNING while its producer drains a provider, then one final state; its
log is kept for the retention time so that viewers can still read it to its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from asyncio import Future
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

from wsstream.chunklog import Attachment, ChunkLog
from wsstream.chunks import ChatMessage, ChatRequest, Outcome, Receipt, StreamInfo, StreamState, session_key
from wsstream.config import Config
from wsstream.errors import (
    BadRequest,
    Capacity,
    Draining,
    InternalFailure,
    Interrupted,
    LogTrimmed,
    PromptTooLong,
    QueueFull,
    RateLimited,
    RequestError,
    StoreError,
    UnknownStream,
)
from wsstream.feeds import Feeds
from wsstream.flow import SendWindow
from wsstream.limits import NO_QUOTAS, Quotas
from wsstream.messages import ChatConfig, ChatRequested, ChunkWriter, HistoryMessage, digest_of
from wsstream.orphans import Continue, OrphanPolicy, Pause, StopAfter, StopAfterChunks, parse_policy
from wsstream.producer import Limits, Plan, Prepare, Producer, Target
from wsstream.providers.base import Provider
from wsstream.recovery import NO_CALLBACKS, OnFailure, OnInterrupt, RetryPolicy
from wsstream.rejections import Reason, Rejections
from wsstream.restarts import Again, Survival, settled, switched, unpack
from wsstream.sessions import RESTARTED, Conversation, Sessions, end_of_interrupted
from wsstream.shelf import Shelf
from wsstream.stores.base import Store, StoredLog, StreamRecord
from wsstream.waiting import WaitingRoom

logger = logging.getLogger(__name__)

TOMBSTONES = 10_000
"""Forgotten streams whose ids are remembered, to say "no longer kept" instead of "never was"."""

PAUSE_LIMIT = 3600.0
"""Seconds an answer may be paused: it holds a place among the running ones, and a connection to its provider."""

STORE_FAILED = "The answer could not be stored"
DESERTED = "Nobody was following the answer any more"

RETRY_AFTER = 5.0
"""Seconds after which there may be a place."""

STOP_EVERY = 0.01
"""Seconds between two orphans that are stopped."""

PRESSED_RETRY = 5.0
"""Seconds after which a request may come again that was refused for want of memory."""


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

    def __init__(self, record: StreamRecord, log: ChunkLog, policy: OrphanPolicy, keeper: Streams) -> None:
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

    def on_switch(self, target: Target) -> None:
        """Another provider is asked from now on."""
        self._keeper.on_switch(self, target)

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


class StreamsStatistics(NamedTuple):
    """Counts, for health and metrics."""

    running: int
    retained: int
    retained_bytes: int
    started: int
    retries: int
    """Tries of providers after the first of each answer."""
    wasted: int
    """Tokens that were generated and that nobody was sent: of tries that repeated others, after a cancel, and of ended
    answers that nobody follows. Somebody who reads such an answer later makes it smaller again."""
    memory_bytes: int
    """Bytes of ended logs in memory."""
    queued: int


class Streams:
    """Every stream of this process, and of those before it that the store has kept."""

    user = ""
    valid_until: float | None = None

    def while_welcome(self, end: Callable[[RequestError], None]) -> Callable[[], None]:
        """Whoever sees all streams is always welcome."""
        return lambda: None

    def __init__(
        self,
        config: Config,
        store: Store,
        provider: Callable[[str | None], Provider],
        on_failure: OnFailure = NO_CALLBACKS,
        rejections: Rejections | None = None,
        quotas: Quotas = NO_QUOTAS,
    ) -> None:
        """All streams on ``store``.

        Args:
            provider: gives the provider of a name, or the default one for None; it raises BadRequest for others.
            on_failure: asked what is to become of an answer when a provider fails, by the type of the failure.
            rejections: counts what is turned away.
            quotas: what one user may have of feeds; of answers, `start` is told.
        """
        self.watchers: Sequence[Watcher] = ()
        self.pressed = False
        """Whether memory is too short to begin anything."""
        self._held: list[Stream] = []
        self._to_stop: deque[Stream] = deque()
        self._stopping: asyncio.TimerHandle | None = None
        self._rejections = rejections or Rejections()
        self._queue_limit = queue_limit(config)
        self._queue: WaitingRoom[Stream] = WaitingRoom(self._queue_limit)
        self._telling = False
        self._per_user: int | None = None
        self._running_of: dict[str, int] = {}
        self._config = config
        self._store = store
        self._provider = provider
        self._loop = asyncio.get_running_loop()
        self._messages = Sessions(store)
        self.feeds = Feeds(config, store, self._rejections, quotas)
        """The logs that no provider writes."""
        self._streams: dict[str, Stream] = {}
        self._requests: dict[tuple[str, str], str] = {}
        self._sessions: dict[str, list[str]] = {}
        self._running: set[Stream] = set()
        self._forgotten: OrderedDict[str, str] = OrderedDict()
        self._idle = asyncio.Event()
        self._idle.set()
        self._all_read: asyncio.Event | None = None
        self.draining = False
        """Whether nothing new is begun any more."""
        self._started = 0
        self._retries = 0
        self._dropped = 0
        self._unsent = 0
        self._on_failure = on_failure
        self._retry = RetryPolicy(config.retries, config.retry_base, config.retry_cap, config.retry_budget)
        self._limits = Limits(
            config.first_token_timeout,
            config.chunk_timeout,
            config.max_stream_chunks,
            config.max_stream_bytes,
            config.max_stream_seconds,
            config.max_line_chars,
        )
        limit = config.max_retained_bytes if store.durable else config.max_memory_bytes
        self._kept = Shelf(config.retention, config.max_retained, limit, self._forget)
        self._in_memory = Shelf(None, config.max_retained, config.max_memory_bytes, self._unload)
        self._survival = Survival(config.durability, config.max_stream_seconds)
        store.on_failure = self._on_store_failure

    async def open(self) -> None:
        """Take over what the store has kept. Streams that were running when their process died have an end now, or run.

        Raises:
            StoreError: the store cannot be used.
        """
        summaries = await self._store.open(self._survival.decide)
        self.feeds.take_over([summary for summary in summaries if summary.record.note])
        answers = [summary for summary in summaries if not summary.record.note]
        for summary in sorted(answers, key=lambda summary: summary.ended):
            record = summary.record
            overhead = ChunkWriter(record.stream_id).overhead
            log = ChunkLog.ended(record.stream_id, record.epoch, self._store, summary.outcome, overhead=overhead)
            self._enter(Stream(record, log, Continue(), self))
            self._kept.put(record.stream_id, summary.size, age=max(0.0, time.time() - summary.ended))
        for stored in sorted(self._store.take_running(), key=lambda stored: stored.record.created):
            self._go_on(stored)

    def _go_on(self, stored: StoredLog) -> None:
        """Continue an answer that a crash cut off; or end it, where its provider cannot do that any more."""
        record = stored.record
        again = unpack(record)
        stream = self._make(record, Continue())
        stream.log.go_on_from(stored.bodies, stored.kinds)
        self._enter(stream)
        course: Course | None = None
        try:
            stream.policy = parse_policy(again.config.on_orphan, self._config)
            if again.provider == self._provider_name(again.config):
                course = self._course(record, again)
        except BadRequest:  # this server has other providers
            pass
        if course is None:
            stream.log.when_finished(lambda log: self._keep(stream, log))
            stream.log.finish(end_of_interrupted(record, False, stored)[0])
            return
        logger.info("an answer that was cut off goes on", extra={"stream_id": stream.stream_id, "tries": again.times})
        for watcher in self.watchers:
            watcher.on_started(stream, ChatRequested(record.request_id, config=again.config))
        prepare = _preparing(record, again.config, self._messages.again(record, again.messages, again.unheard))
        self._run(stream, course.target, prepare, course.plan, again, course.begins_at)
        self.on_deserted(stream)

    def _course(self, record: StreamRecord, again: Again) -> Course | None:
        """Who goes on with an answer after a crash: whoever was giving it, else the next who can; None: nobody.

        Raises:
            BadRequest: there is no such provider any more.
        """
        target = self._target(record.model, again.config)
        plan = self._plan(again.config, target)
        order = [target, *plan.fallbacks]
        if again.answering is not None:
            order = order[_place(order, again.answering.provider, again.answering.model) :]
        while order and not _survives(order[0], plan):
            order.pop(0)
        return Course(target, plan._replace(fallbacks=order[1:]), order[0]) if order else None

    def _provider_name(self, config: ChatConfig) -> str:
        return config.provider or self._config.provider or ""

    def _target(self, model: str | None, config: ChatConfig) -> Target:
        return Target(self._provider(config.provider), config.provider or "default", model)

    # -- starting

    def start(self, session_id: str, asked: ChatRequested, owner: str = "", per_user: int | None = None) -> Stream:
        """The stream that answers ``asked``: a new one, or the one that the same request began before.

        Where there is no place for it, it waits for one: its log's state is `queued` until then.

        Args:
            owner: whose it is.
            per_user: how many of one owner's may run at once.

        Raises:
            BadRequest: the request names a provider or setting that there is not.
            Capacity: too many answers are running, and none may wait.
            Draining: the server is going away.
            QueueFull: too many are waiting.
            RateLimited: too many of this owner are running, and none may wait.
        """
        key = session_key(owner, session_id)
        known = self._requests.get((key, asked.request_id))
        if known is not None:
            return self._streams[known]
        if self.draining:
            raise Draining(retry_after=1.0)
        if self.pressed:
            self._rejections.count(Reason.MEMORY)
            raise Capacity(retry_after=PRESSED_RETRY)
        self._per_user = per_user
        waits = self._must_wait(owner)
        config = asked.config or ChatConfig()
        _check_length(asked, config, self._config.max_prompt_chars)
        policy = parse_policy(config.on_orphan, self._config)
        target = self._target(self._model(asked, config), config)
        plan = self._plan(config, target)
        again = b""
        if self._store.durable and any(_survives(one, plan) for one in (target, *plan.fallbacks)):
            unheard = [other.stream_id for other in self.of_session(session_id, owner) if not other.log.ending]
            again = self._survival.pack(asked, self._provider_name(config), unheard)
        earlier = self._messages.earlier(key)  # before anything of this request: that is written as one
        stream = self._create(session_id, owner, asked, target.model, policy, again)
        stream.digest = digest_of(asked)
        prepare = _preparing(stream.record, config, self._messages.begin(stream.record, asked, earlier))
        for watcher in self.watchers:
            watcher.on_started(stream, asked)
        if waits:
            self._enqueue(stream, config.priority or 0, lambda: self._run(stream, target, prepare, plan))
        else:
            self._run(stream, target, prepare, plan)
        return stream

    def _plan(self, config: ChatConfig, target: Target) -> Plan:
        fallbacks = config.fallback if config.fallback is not None else (self._config.fallback or "").split()
        return Plan(
            [other for other in map(self.find_target, fallbacks) if not other.is_same(target)],
            self._retry,
            OnInterrupt(config.on_interrupt or self._config.on_interrupt),
            self._on_failure,
            config.buffer_size,
            config.boundary == "word",
        )

    def find_target(self, entry: str) -> Target:
        """Whom ``provider`` or ``provider:model`` means; both may hold colons, the longest provider counts.

        Raises:
            BadRequest: there is no such provider.
        """
        name, model = entry, ""
        while True:
            try:
                return Target(self._provider(name), name, model or None)
            except BadRequest:
                name, colon, rest = name.rpartition(":")
                if not colon:
                    raise BadRequest(f"fallback: there is no provider for {entry[:80]!r}") from None
                model = f"{rest}:{model}" if model else rest

    def is_known(self, session_id: str, request_id: str, owner: str = "") -> bool:
        """Whether `start` would attach to a stream that there is, rather than begin one."""
        return (session_key(owner, session_id), request_id) in self._requests

    def _model(self, asked: ChatRequested, config: ChatConfig) -> str | None:
        return config.model or asked.model or self._config.model

    def _create(
        self,
        session_id: str,
        owner: str,
        asked: ChatRequested,
        model: str | None,
        policy: OrphanPolicy,
        again: bytes,
    ) -> Stream:
        record = StreamRecord(
            stream_id="s_" + secrets.token_urlsafe(16),
            session_id=session_id,
            request_id=asked.request_id,
            epoch=secrets.token_urlsafe(8),
            model=model,
            created=time.time(),
            owner=owner,
            again=again,
        )
        stream = self._make(record, policy)
        stream.begin(self._store)
        self._enter(stream)
        return stream

    def _make(self, record: StreamRecord, policy: OrphanPolicy) -> Stream:
        log = ChunkLog(
            record.stream_id,
            record.epoch,
            self._store,
            overhead=ChunkWriter(record.stream_id).overhead,
            high=self._config.high_water,
            low=self._config.low_water,
        )
        stream = Stream(record, log, policy, self)
        log.on_deserted = stream.on_deserted
        log.on_ending = stream.on_ending
        return stream

    def on_ending(self, stream: Stream, outcome: Outcome) -> None:
        """The outcome of ``stream`` is known: write what is written with it."""
        if stream.record.again:
            stream.record = settled(stream.record)
            self._store.update(stream.record, stream.on_stored)  # it may not even have begun for the store
        self._messages.end(stream.record, stream.log.whole_said(), outcome)

    def _enter(self, stream: Stream) -> None:
        record = stream.record
        self._streams[record.stream_id] = stream
        self._sessions.setdefault(record.session_key, []).append(record.stream_id)
        self._requests[record.session_key, record.request_id] = record.stream_id

    def on_switch(self, stream: Stream, target: Target) -> None:
        """Somebody else is asked for ``stream``: keep who, in the commit with what they say or before it."""
        stream.record = switched(stream.record, target.name, target.model)
        self._store.update(stream.record, stream.on_stored)

    def _run(
        self,
        stream: Stream,
        target: Target,
        request: Prepare,
        plan: Plan,
        again: Again | None = None,
        begins_at: Target | None = None,
    ) -> None:
        self._started += 1
        self._running.add(stream)
        self._running_of[stream.owner] = self._running_of.get(stream.owner, 0) + 1
        self._idle.clear()
        age, tries = (0.0, 0) if again is None else (max(0.0, time.time() - stream.record.created), again.times)
        stream.producer = Producer(
            target,
            request,
            stream.log,
            self._limits,
            plan,
            age=age,
            tries=tries,
            begins_at=begins_at,
            on_switch=stream.on_switch if stream.record.again else None,
        )
        stream.task = stream.producer.start()
        stream.task.add_done_callback(stream.on_task_over)
        stream.log.when_finished(stream.on_finished)

    # -- waiting for a place

    def _must_wait(self, owner: str) -> bool:
        """Whether there is no place for one more answer of ``owner``.

        Raises:
            Capacity, QueueFull, RateLimited: and nowhere to wait for one.
        """
        crowded = len(self._running) >= self._config.max_running_streams
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
        return not owner or self._per_user is None or self._running_of.get(owner, 0) < self._per_user

    def _enqueue(self, stream: Stream, priority: int, begin: Callable[[], None]) -> None:
        stream.log.state = StreamState.QUEUED
        stream.begin_running = begin
        self._queue.add(stream.owner, priority, stream)
        stream.place = self._queue.order().index(stream) + 1
        self._tell_places_soon()

    def _admit(self) -> None:
        """Places are free: whose turn is it?"""
        while len(self._queue) and len(self._running) < self._config.max_running_streams and not self.pressed:
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

    def _dismiss(self, stream: Stream, outcome: Outcome) -> None:
        """It waits no longer, and never ran."""
        if self._queue.remove(stream):
            stream.begin_running = None
            self._stop_orphan_timer(stream)
            stream.log.when_finished(stream.on_finished)
            stream.log.finish(outcome)
            stream.tell_place(0)
            self._tell_places_soon()

    def dismiss_all(self) -> None:
        """Nothing new is begun any more: whoever waits is told so, to ask elsewhere."""
        for stream in self._queue.order():
            self._dismiss(stream, _unbegun(RESTARTED))

    # -- finding

    def session_key(self, session_id: str) -> str:
        """The name of nobody's session among everybody's."""
        return session_key("", session_id)

    def get(self, stream_id: str, owner: str = "") -> Stream:
        """The stream of that id, as ``owner`` may see it: theirs, or one that is nobody's.

        Raises:
            UnknownStream: there never was one; and as if there never was, where it is somebody else's.
            LogTrimmed: there was, but it is no longer kept.
        """
        stream = self._streams.get(stream_id)
        whose = self._forgotten.get(stream_id) if stream is None else stream.record.owner
        if whose is None or (whose and whose != owner):
            raise UnknownStream
        if stream is None:
            raise LogTrimmed
        return stream

    def resume(self, stream_id: str) -> Stream:
        """As `get`."""
        return self.get(stream_id)

    def load(self, stream: Stream) -> Future[StoredLog | None] | None:
        """See that the stream's chunks are in memory; None where they are, else a future of when they will be.

        Raises (by the future):
            StoreError: they cannot be read.
        """
        if stream.log.loaded:
            self._in_memory.touch(stream.stream_id)
            return None
        if stream.loading is None:
            stream.loading = self._store.load(stream.stream_id)
            stream.loading.add_done_callback(lambda loaded: self._on_loaded(stream, loaded))
        return stream.loading

    def _on_loaded(self, stream: Stream, loaded: Future[StoredLog | None]) -> None:
        stream.loading = None
        if loaded.cancelled() or loaded.exception() is not None:
            return
        stored = loaded.result()
        if stored is not None:
            stream.log.fill(stored.bodies, stored.kinds)
            self._loop.call_soon(self._keep_in_memory, stream)  # not before those who waited for it have attached

    def _keep_in_memory(self, stream: Stream) -> None:
        if stream.stream_id in self._streams:
            self._in_memory.put(stream.stream_id, stream.log.weight)

    def _unload(self, stream_id: str) -> None:
        stream = self._streams.get(stream_id)
        if stream is None or not self._store.durable:
            return
        if stream.log.attachments:
            self._in_memory.put(stream_id, stream.log.weight)  # its turn comes again
        else:
            stream.log.empty()

    def drop_retained(self) -> int:
        """Leave the ended logs that nobody follows to a durable store; how many bytes of memory that gives back."""
        before = self._in_memory.size
        if self._store.durable:
            self._in_memory.clear()
        return before - self._in_memory.size

    def press(self, pressed: bool) -> None:
        """Memory is short, or no longer: begin nothing, and read providers no further than viewers need."""
        self.pressed = self.feeds.pressed = pressed
        for stream in self._running:
            stream.log.squeeze(pressed)
            if pressed and not stream.log.attachments:
                self._hold(stream)
        if not pressed:
            self._admit()

    def _hold(self, stream: Stream) -> None:
        """Read an orphan's provider no further: without a viewer nothing else would hold it back."""
        if not isinstance(stream.policy, Pause):
            self._held.append(stream)
            stream.log.pause()

    def let_one_go_on(self) -> None:
        """One of the answers that wait because memory was short. All at once would make it short again."""
        while self._held:
            stream = self._held.pop()
            if stream in self._running and stream.log.paused:
                stream.log.go_on()
                return

    def stop_one_held(self) -> None:
        """End the one that has waited longest because memory was short, and with it what it holds."""
        while self._held:
            stream = self._held.pop(0)
            if stream.producer is not None and stream.log.paused and not stream.log.attachments:
                logger.info("an orphan is stopped, as memory is short", extra={"stream_id": stream.stream_id})
                stream.producer.cancel(Interrupted("Memory was short, and nobody was following the answer"))
                return

    @property
    def running(self) -> Iterable[Stream]:
        """The streams that have not ended."""
        return self._running

    def of_session(self, session_id: str, owner: str = "") -> list[Stream]:
        """The session's streams, oldest first."""
        key = session_key(owner, session_id)
        return [self._streams[stream_id] for stream_id in self._sessions.get(key, ())]

    def running_in(self, session_id: str, owner: str = "") -> list[StreamInfo]:
        """The session's running streams, as `connection_established` lists them."""
        return [stream.info for stream in self.of_session(session_id, owner) if not stream.log.state.final]

    # -- sessions

    async def history(self, session_id: str, owner: str = "") -> tuple[list[HistoryMessage], str | None]:
        """The session's messages and its title."""
        key = session_key(owner, session_id)
        while True:
            running = [stream.log for stream in self.of_session(session_id, owner) if stream.log.outcome is None]
            found = await self._messages.history(key, self._running_log)
            if all(log.outcome is None for log in running):
                return found  # else an answer has ended in between, and was read too early to have its text

    def _running_log(self, stream_id: str) -> ChunkLog | None:
        stream = self._streams.get(stream_id)
        return stream.log if stream is not None and stream.log.outcome is None else None

    def rename_session(self, session_id: str, title: str, owner: str = "") -> None:
        """Give a session a title."""
        self._messages.rename(session_key(owner, session_id), title)

    def delete_session(self, session_id: str, owner: str = "") -> None:
        """Forget a session: stop what runs in it, delete its logs and messages."""
        self._messages.delete(session_key(owner, session_id))
        for stream in self.of_session(session_id, owner):
            if stream.producer is not None or stream in self._queue:
                stream.log.on_ending = None
                self.cancel(stream)
                stream.log.when_finished(self._discard_soon)
            else:
                self._discard(stream.stream_id)

    def _discard_soon(self, log: ChunkLog) -> None:
        self._loop.call_soon(self._discard, log.stream_id)

    def _discard(self, stream_id: str) -> None:
        if stream_id in self._streams:
            self._kept.drop(stream_id)
            self._forget(stream_id)

    # -- following

    def attach(self, stream: Stream, window: SendWindow, wake: Callable[[Attachment], None]) -> Attachment:
        """A new viewer of ``stream``, from behind ``window.sent``."""
        self._stop_orphan_timer(stream)
        return stream.log.attach(window, wake)

    def _stop_orphan_timer(self, stream: Stream) -> None:
        if stream.orphan_timer is not None:
            stream.orphan_timer.cancel()
            stream.orphan_timer = None

    def cancel(self, stream: Stream) -> None:
        """Stop the answer for everybody. Idempotent; how it ended is in its log."""
        if stream.producer is not None:
            self._store.cancel(stream.stream_id)  # first of all: no crash from here on may bring it back
            stream.producer.cancel()
        elif stream in self._queue:
            self._store.cancel(stream.stream_id)
            receipt = Receipt(generated_chunks=0, delivered_chunk_id=0)
            self._dismiss(stream, Outcome(StreamState.CANCELLED, 0, finish_reason="cancelled", receipt=receipt))

    def on_deserted(self, stream: Stream) -> None:
        """Nobody follows ``stream`` any more: its policy says what becomes of it."""
        if self._all_read is not None and not self._followed():
            self._all_read.set()
        if stream.log.outcome is not None:
            self._count_unsent(stream)
        if stream.orphan_timer is not None or (stream not in self._running and stream not in self._queue):
            return
        if self.pressed:
            self._hold(stream)
        policy = stream.policy
        if isinstance(policy, StopAfter):
            stream.orphan_timer = self._loop.call_later(policy.seconds, self._stop_orphan, stream)
        elif isinstance(policy, StopAfterChunks):
            stream.log.stop_after(policy.chunks, lambda: self._stop_orphan(stream))
        elif isinstance(policy, Pause):
            stream.log.pause()
            stream.orphan_timer = self._loop.call_later(PAUSE_LIMIT, self._stop_orphan, stream)

    def _stop_orphan(self, stream: Stream) -> None:
        stream.orphan_timer = None
        if stream in self._queue and not stream.log.attachments:
            self._dismiss(stream, _unbegun(DESERTED))
            return
        self._to_stop.append(stream)
        if self._stopping is None:
            self._stop_next()

    def _stop_next(self) -> None:
        """Stop one orphan. A crowd that has left at once is stopped one by one: each end takes memory to be stored."""
        self._stopping = None
        while self._to_stop:
            stream = self._to_stop.popleft()
            if stream.producer is not None and not stream.log.attachments and stream.orphan_timer is None:
                logger.info("an orphan is stopped, as its policy says", extra={"stream_id": stream.stream_id})
                stream.producer.cancel(Interrupted(DESERTED))
                self._stopping = self._loop.call_later(STOP_EVERY, self._stop_next)
                return

    # -- ending

    def on_ended(self, stream: Stream) -> None:
        """The producer's task is over; the outcome may still wait for its commit."""
        self._running.discard(stream)
        if stream.producer is not None:
            self._retries += stream.producer.retries
            self._dropped += stream.producer.dropped
        self._running_of[stream.owner] -= 1
        if not self._running_of[stream.owner]:
            del self._running_of[stream.owner]
        stream.producer = stream.task = None
        self._stop_orphan_timer(stream)
        if len(self._queue):
            self._admit()
        if not self._running:
            self._idle.set()

    def on_finished(self, stream: Stream, log: ChunkLog) -> None:
        """The outcome of ``stream`` is stored."""
        for watcher in self.watchers:
            watcher.on_ended(stream)
        self._keep(stream, log)

    def _keep(self, stream: Stream, log: ChunkLog) -> None:
        """It has ended: let it be read for a while."""
        if log.outcome is not None and stream.stream_id in self._streams:
            self._kept.put(stream.stream_id, log.weight)
            self._in_memory.put(stream.stream_id, log.weight)
            if not log.attachments:
                self._count_unsent(stream)

    def _count_unsent(self, stream: Stream) -> None:
        unsent = stream.log.unsent
        self._unsent += unsent - stream.unsent
        stream.unsent = unsent

    def _forget(self, stream_id: str) -> None:
        stream = self._streams.pop(stream_id)
        self._in_memory.drop(stream_id)
        self._store.delete(stream_id)
        record = stream.record
        self._requests.pop((record.session_key, record.request_id), None)
        siblings = self._sessions[record.session_key]
        siblings.remove(stream_id)
        if not siblings:
            del self._sessions[record.session_key]
        self._forgotten[stream_id] = record.owner
        if len(self._forgotten) > TOMBSTONES:
            self._forgotten.popitem(last=False)

    def _on_store_failure(self, error: StoreError, stream_ids: set[str]) -> None:
        """What the store has lost, its viewers have not seen. Their streams end; the server goes on."""
        for stream_id in stream_ids:
            stream = self._streams.get(stream_id)
            if stream is None:
                self.feeds.on_store_failure(stream_id)
                continue
            stream.on_stored()
            stream.log.on_store_failed(_lost)
            if stream.producer is not None:
                stream.producer.cancel(InternalFailure(STORE_FAILED))
            else:
                self._dismiss(stream, _lost(0))

    # -- the end of the process

    async def wait_idle(self, patience: float) -> bool:
        """Wait until nothing runs; False where something still does after ``patience`` seconds."""
        try:
            async with asyncio.timeout(patience):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def wait_read(self, patience: float) -> None:
        """Wait until every viewer has been told the end of what it follows, for at most ``patience`` seconds."""
        self._all_read = asyncio.Event()
        if self._followed():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self._all_read.wait()

    def _followed(self) -> bool:
        return any(stream.log.attachments for stream in self._streams.values())

    async def close(self) -> None:
        """Stop what still runs, as interrupted, and wait for it."""
        self.dismiss_all()
        tasks = [stream.task for stream in self._running if stream.task is not None]
        for stream in list(self._running):
            if stream.producer is not None:
                stream.producer.cancel(Interrupted(RESTARTED))
        if tasks:
            await asyncio.wait(tasks, timeout=2.0)
        if self._stopping is not None:
            self._stopping.cancel()
        self.feeds.close()
        self._kept.close()
        self._in_memory.close()

    def statistics(self) -> StreamsStatistics:
        """Counts, for health and metrics."""
        return StreamsStatistics(
            len(self._running),
            len(self._kept),
            self._kept.size,
            self._started,
            self._retries,
            self._dropped + self._unsent,
            self._in_memory.size,
            len(self._queue),
        )


def _lost(tail: int) -> Outcome:
    return Outcome(StreamState.FAILED, tail, error_type="internal_error", message=STORE_FAILED, recoverable=True)


def _check_length(asked: ChatRequested, config: ChatConfig, limit: int) -> None:
    """Hold what is new to a length; what was said before has passed here already, or is bounded with its message.

    Raises:
        PromptTooLong: the newest message or the system prompt is longer.
    """
    newest = asked.message if asked.messages is None else _text(asked.messages[-1].content)
    for name, text in (("message", newest), ("system prompt", config.system_prompt)):
        if text is not None and len(text) > limit:
            raise PromptTooLong(f"The {name} has {len(text)} characters, {limit} are the limit")


def _text(content: str | list[dict[str, object]] | None) -> str:
    if not isinstance(content, list):
        return content or ""
    return "".join(str(part.get("text", "")) for part in content)


class Course(NamedTuple):
    """How an answer goes on that a crash cut off."""

    target: Target
    """Whom the request names."""
    plan: Plan
    """Its fallbacks are those that are left."""
    begins_at: Target
    """Who is asked first."""


def _place(order: list[Target], provider: str, model: str | None) -> int:
    """Where somebody stands in a list; its start, where this server knows them no more."""
    places = [n for n, target in enumerate(order) if (target.name, target.model) == (provider, model)]
    return places[0] if places else 0


def _survives(target: Target, plan: Plan) -> bool:
    """Whether an answer of ``target`` can go on after a crash."""
    return plan.on_interrupt is OnInterrupt.CONTINUE and target.continues


def _preparing(record: StreamRecord, config: ChatConfig, conversation: Conversation) -> Prepare:
    """What makes the request to a provider."""

    async def prepare() -> ChatRequest:
        return ChatRequest(
            messages=[*_system(config), *await conversation()],
            model=record.model,
            temperature=config.temperature,
            max_tokens=config.max_tokens,
            response_format=config.response_format,
            options=config.options or {},
        )

    return prepare


def _system(config: ChatConfig) -> list[ChatMessage]:
    return [] if config.system_prompt is None else [ChatMessage("system", config.system_prompt)]


def _unbegun(message: str) -> Outcome:
    return Outcome(StreamState.INTERRUPTED, 0, error_type="interrupted", message=message, recoverable=True)


def queue_limit(config: Config) -> int:
    """How many requests may wait."""
    return config.max_running_streams // 10 if config.max_queued is None else config.max_queued
