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
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

from wsstream.chunklog import Attachment, ChunkLog
from wsstream.chunks import Outcome, Receipt, StreamInfo, StreamState, session_key
from wsstream.config import Config
from wsstream.errors import BadRequest, Capacity, Draining, InternalFailure, Interrupted, RequestError, StoreError
from wsstream.feeds import Feeds
from wsstream.flow import SendWindow
from wsstream.limits import NO_QUOTAS, Quotas
from wsstream.messages import ChatConfig, ChatRequested, ChunkWriter, HistoryMessage, digest_of
from wsstream.orphans import Continue, OrphanPolicy, parse_policy
from wsstream.producer import Limits, Plan, Prepare, Producer, Target
from wsstream.providers.base import Provider
from wsstream.recovery import NO_CALLBACKS, OnFailure
from wsstream.rejections import Reason, Rejections
from wsstream.restarts import Again, Survival, settled, switched, tried_again, unpack
from wsstream.said import Keep
from wsstream.sessions import RESTARTED, HistoryPage, Sessions, end_of_interrupted
from wsstream.stores.base import Store, StoredLog, StreamRecord, untold
from wsstream.streams.directory import Directory
from wsstream.streams.orphanage import Orphanage, unbegun
from wsstream.streams.places import Places
from wsstream.streams.prompts import check_length, check_shapes, preparing
from wsstream.streams.retention import Retention
from wsstream.streams.stream import Stream, Watcher
from wsstream.streams.targets import Course, Targets, survives

logger = logging.getLogger(__name__)

T = TypeVar("T")

STORE_FAILED = "The answer could not be stored"
PRESSED_RETRY = 5.0
"""Seconds after which a request may come again that was refused for want of memory."""


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
        note: Callable[[], None] | None = None,
    ) -> None:
        """All streams on ``store``.

        Args:
            provider: gives the provider of a name, or the default one for None; it raises BadRequest for others.
            on_failure: asked what is to become of an answer when a provider fails, by the type of the failure.
            rejections: counts what is turned away.
            quotas: what one user may have of feeds; of answers, `start` is told.
            note: called whenever a provider puts something.
        """
        self._config = config
        self._store = store
        self._loop = asyncio.get_running_loop()
        self._rejections = rejections or Rejections()
        self._directory = Directory()
        self._places = Places(config, self._rejections)
        self._orphanage = Orphanage(self._places, config.max_pause_seconds)
        self._retention = Retention(config, store, self._directory)
        self._targets = Targets(config, provider, on_failure)
        keep = Keep(config.max_kept_reasoning, config.max_kept_calls, config.max_kept_arguments)
        self._messages = Sessions(store, config.max_history_bytes, keep, self._rejections.clamp)
        self._survival = Survival(config.durability, config.max_stream_seconds, keep)
        self._limits = Limits(
            config.first_token_timeout,
            config.chunk_timeout,
            config.max_stream_chunks,
            config.max_stream_bytes,
            config.max_stream_seconds,
            config.max_line_chars,
            self._rejections.clamp,
            config.max_delta_chars,
            note,
        )
        self._all_read: asyncio.Event | None = None
        self._started = 0
        self._retries = 0
        self._dropped = 0
        self.watchers: Sequence[Watcher] = ()
        self.feeds = Feeds(config, store, self._rejections, quotas)
        """The logs that no provider writes."""
        self.draining = False
        """Whether nothing new is begun any more."""
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
            stream = Stream(record, log, Continue(), self)
            self._directory.enter(stream)
            self._retention.take_over(stream, summary.size, max(0.0, time.time() - summary.ended))
        for stored in sorted(self._store.take_running(), key=lambda stored: stored.record.created):
            self._go_on(stored)

    def _go_on(self, stored: StoredLog) -> None:
        """Continue an answer that a crash cut off; or end it, where its provider cannot do that any more."""
        record = stored.record
        again = unpack(record)
        stream = self._make(record, Continue())
        stream.log.go_on_from(stored.bodies, stored.kinds)
        self._directory.enter(stream)
        course: Course | None = None
        try:
            stream.policy = parse_policy(again.config.on_orphan, self._config)
            if again.provider == self._targets.name(again.config):
                course = self._targets.course(record, again)
        except BadRequest:  # this server has other providers
            pass
        if course is None:
            stream.log.when_finished(partial(self._retention.keep, stream))
            # This process has not tried, though it was counted when the store was opened.
            stream.log.finish(end_of_interrupted(record, False, stored, again.retries - 1)[0])
            return
        logger.info("an answer that was cut off goes on", extra={"stream_id": stream.stream_id, "tries": again.times})
        for watcher in self.watchers:
            watcher.on_started(stream, ChatRequested(record.request_id, config=again.config))
        prepare = preparing(record, again.config, self._messages.again(record, again.messages, again.unheard))
        self._run(stream, course.target, prepare, course.plan, again, course.begins_at)
        self.on_deserted(stream)

    # -- starting

    def start(
        self,
        session_id: str,
        asked: ChatRequested,
        owner: str = "",
        per_user: int | None = None,
        client_id: str | None = None,
    ) -> Stream:
        """The stream that answers ``asked``: a new one, or the one that the same request began before.

        Where there is no place for it, it waits for one: its log's state is `queued` until then.

        Args:
            owner: whose it is.
            per_user: how many of one owner's may run at once.
            client_id: what the client calls what the user says.

        Raises:
            BadRequest: the request names a provider or setting that there is not.
            Capacity: too many answers are running, and none may wait.
            Draining: the server is going away.
            QueueFull: too many are waiting.
            RateLimited: too many of this owner are running, and none may wait.
        """
        known = self._directory.of_request(session_key(owner, session_id), asked.request_id)
        if known is not None:
            return known
        if self.draining:
            raise Draining(retry_after=1.0)
        if self._places.pressed:
            self._rejections.count(Reason.MEMORY)
            raise Capacity(retry_after=PRESSED_RETRY)
        waits = self._places.must_wait(owner, per_user)
        return self._begin(session_id, asked, owner, client_id, waits=waits)

    def _begin(
        self, session_id: str, asked: ChatRequested, owner: str, client_id: str | None, *, waits: bool
    ) -> Stream:
        config = asked.config or ChatConfig()
        check_length(asked, config, self._config.max_prompt_chars)
        check_shapes(asked, config)
        policy = parse_policy(config.on_orphan, self._config)
        target = self._targets.asked(asked, config)
        plan = self._targets.plan(config, target)
        again = b""
        if self._store.durable and any(survives(one, plan) for one in (target, *plan.fallbacks)):
            unheard = [other.stream_id for other in self.of_session(session_id, owner) if not other.log.ending]
            again = self._survival.pack(asked, self._targets.name(config), unheard)
        # Before anything of this request: that is written as one.
        earlier = self._messages.earlier(session_key(owner, session_id))
        stream = self._create(session_id, owner, asked, target.model, policy, again)
        told = self._messages.begin(stream.record, asked, earlier, client_id)
        prepare = preparing(stream.record, config, told)
        for watcher in self.watchers:
            watcher.on_started(stream, asked)
        run = partial(self._run, stream, target, prepare, plan)
        if waits:
            self._places.enqueue(stream, config.priority or 0, run)
        else:
            run()
        return stream

    def is_known(self, session_id: str, request_id: str, owner: str = "") -> bool:
        """Whether `start` would attach to a stream that there is, rather than begin one."""
        return self._directory.of_request(session_key(owner, session_id), request_id) is not None

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
        stream.digest = digest_of(asked)
        stream.begin(self._store)
        self._directory.enter(stream)
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

    def on_retry(self, stream: Stream, retries: int, switched_to: Target | None) -> None:
        """Somebody is asked for ``stream`` once more: keep who, where it is somebody else, and how often it was tried,
        in the commit with what they say or before it."""
        record = tried_again(stream.record, retries)
        if switched_to is not None:
            record = switched(record, switched_to.name, switched_to.model)
        stream.record = record
        self._store.update(record, stream.on_stored)

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
        self._places.take(stream)
        age, tries = (0.0, 0) if again is None else (max(0.0, time.time() - stream.record.created), again.retries)
        stream.producer = Producer(
            target,
            request,
            stream.log,
            self._limits,
            plan,
            age=age,
            tries=tries,
            begins_at=begins_at,
            on_retry=stream.on_retry if stream.record.again else None,
        )
        stream.task = stream.producer.start()
        stream.task.add_done_callback(stream.on_task_over)
        stream.log.when_finished(stream.on_finished)

    def find_target(self, entry: str) -> Target:
        """Whom ``provider`` or ``provider:model`` means.

        Raises:
            BadRequest: there is no such provider.
        """
        return self._targets.find(entry)

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
        return self._directory.get(stream_id, owner)

    def resume(self, stream_id: str) -> Stream:
        """As `get`."""
        return self.get(stream_id)

    def load(self, stream: Stream) -> Future[StoredLog | None] | None:
        """See that the stream's chunks are in memory; None where they are, else a future of when they will be.

        Raises (by the future):
            StoreError: they cannot be read.
        """
        return self._retention.load(stream)

    @property
    def running(self) -> Iterable[Stream]:
        """The streams that have not ended."""
        return self._places.running

    def of_session(self, session_id: str, owner: str = "") -> list[Stream]:
        """The session's streams, oldest first."""
        return self._directory.of_session(session_key(owner, session_id))

    def running_in(self, session_id: str, owner: str = "") -> list[StreamInfo]:
        """The session's running streams, as `connection_established` lists them; not those that a crash could undo."""
        found = self.of_session(session_id, owner)
        return [stream.info for stream in found if stream.is_stored and not stream.log.state.final]

    # -- sessions

    async def history(self, session_id: str, owner: str = "") -> tuple[list[HistoryMessage], str | None]:
        """All of the session's messages, and its title."""
        key = session_key(owner, session_id)
        return await self._read_settled(session_id, owner, lambda: self._messages.history(key, self._running_log))

    async def page(
        self, session_id: str, before: str | None = None, limit: int | None = None, owner: str = ""
    ) -> HistoryPage:
        """The newest of them that are older than ``before``, at most ``limit``, and as many as fit.

        Raises:
            BadRequest: there is no message of that id.
        """
        asked = (session_key(owner, session_id), before, limit, self._running_log)
        return await self._read_settled(session_id, owner, lambda: self._messages.page(*asked))

    async def _read_settled(self, session_id: str, owner: str, read: Callable[[], Awaitable[T]]) -> T:
        """What ``read`` gives, while no answer of the session ends: it would be read too early to have its text."""
        while True:
            running = [stream.log for stream in self.of_session(session_id, owner) if stream.log.outcome is None]
            found = await read()
            if all(log.outcome is None for log in running):
                return found

    def _running_log(self, stream_id: str) -> ChunkLog | None:
        stream = self._directory.find(stream_id)
        return stream.log if stream is not None and stream.log.outcome is None else None

    def rename_session(
        self, session_id: str, title: str, told: Callable[[bool], None] = untold, owner: str = ""
    ) -> None:
        """Give a session a title; ``told`` is called when that is stored, with whether there is such a session."""
        self._messages.rename(session_key(owner, session_id), title, told)

    def delete_session(self, session_id: str, deleted: Callable[[], None] = untold, owner: str = "") -> None:
        """Forget a session: stop what runs in it, delete its logs and messages.

        ``deleted`` is called when all of that is stored: no crash can bring back what somebody was told is gone.
        """
        countdown = _Countdown(deleted)
        self._messages.delete(session_key(owner, session_id), countdown.one_more())
        for stream in self.of_session(session_id, owner):
            stream.log.on_ending = None  # what it said has no place any more
            self.delete(stream, countdown.one_more())
        countdown.one_less()

    def delete(self, stream: Stream, deleted: Callable[[], None]) -> None:
        """Forget one answer's log, and stop it where it runs; its message stays. ``deleted``: when that is stored."""
        self.cancel(stream)
        if stream.log.outcome is None:
            stream.log.when_finished(lambda log: self._discard_soon(log.stream_id, deleted))
        else:
            self._retention.discard(stream.stream_id, deleted)

    def _discard_soon(self, stream_id: str, deleted: Callable[[], None]) -> None:
        self._loop.call_soon(self._retention.discard, stream_id, deleted)

    # -- following

    def attach(self, stream: Stream, window: SendWindow, wake: Callable[[Attachment], None]) -> Attachment:
        """A new viewer of ``stream``, from behind ``window.sent``."""
        stream.stop_orphan_timer()
        return stream.log.attach(window, wake)

    def cancel(self, stream: Stream) -> None:
        """Stop the answer for everybody. Idempotent; how it ended is in its log."""
        if stream.producer is not None:
            self._store.cancel(stream.stream_id)  # first of all: no crash from here on may bring it back
            stream.producer.cancel()
        elif self._places.is_waiting(stream):
            self._store.cancel(stream.stream_id)
            receipt = Receipt(generated_chunks=0, delivered_chunk_id=0)
            self._places.dismiss(stream, Outcome(StreamState.CANCELLED, 0, finish_reason="cancelled", receipt=receipt))

    def on_deserted(self, stream: Stream) -> None:
        """Nobody follows ``stream`` any more: its policy says what becomes of it."""
        if self._all_read is not None and not self._followed():
            self._all_read.set()
        if stream.log.outcome is not None:
            self._retention.on_deserted(stream)
        self._orphanage.on_deserted(stream)

    # -- ending

    def on_ended(self, stream: Stream) -> None:
        """The producer's task is over; the outcome may still wait for its commit."""
        if stream.producer is not None:
            self._retries += stream.producer.retries
            self._dropped += stream.producer.dropped
        stream.producer = stream.task = None
        stream.stop_orphan_timer()
        self._places.give_back(stream)

    def on_finished(self, stream: Stream, log: ChunkLog) -> None:
        """The outcome of ``stream`` is stored."""
        for watcher in self.watchers:
            watcher.on_ended(stream)
        self._retention.keep(stream, log)

    def _on_store_failure(self, error: StoreError, stream_ids: set[str]) -> None:
        """What the store has lost, its viewers have not seen. Their streams end; the server goes on."""
        for stream_id in stream_ids:
            stream = self._directory.find(stream_id)
            if stream is None:
                self.feeds.on_store_failure(stream_id)
                continue
            stream.on_stored()
            stream.log.on_store_failed(_lost)
            if stream.producer is not None:
                stream.producer.cancel(InternalFailure(STORE_FAILED))
            else:
                self._places.dismiss(stream, _lost(0))

    # -- short of memory

    def press(self, pressed: bool) -> None:
        """Memory is short, or no longer: begin nothing, and read providers no further than viewers need."""
        self._places.pressed = self.feeds.pressed = pressed
        for stream in self._places.running:
            stream.log.squeeze(pressed)
            if pressed and not stream.log.attachments:
                self._orphanage.hold(stream)
        if not pressed:
            self._places.admit()

    def drop_retained(self) -> int:
        """Leave the ended logs that nobody follows to a durable store; how many bytes of memory that gives back."""
        return self._retention.drop_from_memory()

    def let_one_go_on(self) -> None:
        """One of the answers that wait because memory was short. All at once would make it short again."""
        self._orphanage.let_one_go_on()

    def stop_one_held(self) -> None:
        """End the one that has waited longest because memory was short, and with it what it holds."""
        self._orphanage.stop_one_held()

    # -- the end of the process

    def dismiss_all(self) -> None:
        """Nothing new is begun any more: whoever waits is told so, to ask elsewhere."""
        for stream in self._places.waiting:
            self._places.dismiss(stream, unbegun(RESTARTED))

    async def wait_idle(self, patience: float) -> bool:
        """Wait until nothing runs; False where something still does after ``patience`` seconds."""
        try:
            async with asyncio.timeout(patience):
                await self._places.idle.wait()
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
        return any(stream.log.attachments for stream in self._directory)

    async def close(self) -> None:
        """Stop what still runs, as interrupted, and wait for it."""
        self.dismiss_all()
        tasks = [stream.task for stream in self._places.running if stream.task is not None]
        for stream in list(self._places.running):
            if stream.producer is not None:
                stream.producer.cancel(Interrupted(RESTARTED))
        if tasks:
            await asyncio.wait(tasks, timeout=2.0)
        self._orphanage.close()
        self.feeds.close()
        self._retention.close()

    def statistics(self) -> StreamsStatistics:
        """Counts, for health and metrics."""
        return StreamsStatistics(
            running=len(self._places.running),
            retained=len(self._retention),
            retained_bytes=self._retention.size,
            started=self._started,
            retries=self._retries,
            wasted=self._dropped + self._retention.unsent,
            memory_bytes=self._retention.memory_size,
            queued=self._places.queued,
        )


def _lost(tail: int) -> Outcome:
    return Outcome(StreamState.FAILED, tail, error_type="internal_error", message=STORE_FAILED, recoverable=True)


class _Countdown:
    """Calls ``done`` when all that it counts is over, and its maker has said that there is no more."""

    def __init__(self, done: Callable[[], None]) -> None:
        self._done = done
        self._left = 1

    def one_more(self) -> Callable[[], None]:
        self._left += 1
        return self.one_less

    def one_less(self) -> None:
        self._left -= 1
        if not self._left:
            self._done()
