"""All feeds: logs that clients write, each by a name of its user's.

A feed's log is like an answer's: in the same store, written before it is shown, read by the same cursors. What is
beside its chunks, a `FeedState`, is committed together with them.

A process that ends, in whatever way, leaves the logs of its feeds cut off, as those of answers. The next one gives a
feed a new log with the same chunks when somebody first comes for it, and only then forgets the old one.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from asyncio import Future
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from typing import NoReturn

import msgspec

from wsstream.chunklog import Attachment, ChunkLog
from wsstream.chunks import Outcome, StreamInfo, StreamState
from wsstream.config import Config
from wsstream.content import NOTHING, Content, Form, form_of, from_chunk, to_chunks
from wsstream.errors import (
    BadRequest,
    Capacity,
    Conflict,
    Draining,
    LogTrimmed,
    MessageTooLarge,
    RateLimited,
    RequestError,
    ResumeAhead,
    StoreError,
    UnknownStream,
)
from wsstream.flow import SendWindow
from wsstream.limits import NO_QUOTAS, Buckets, Quotas
from wsstream.rejections import Clamp, Reason, Rejections
from wsstream.stores.base import Store, StreamRecord, StreamSummary
from wsstream.writers import Claim, FeedConfig, FeedState, Fork, Ruling, Verdict, judge

logger = logging.getLogger(__name__)

OVERHEAD = 64
"""Bytes that a chunk counts for beyond its content, so that a limit in bytes is one in chunks too."""
LONGEST_TIMER = 86_400.0
"""Seconds after which a feed's expiry is looked at again, at the latest."""
DEFAULT_TYPE = "application/octet-stream"
NO_ROOM_RETRY = 60.0
"""Seconds after which somebody may try again for whom there is no room: room is made by deleting and expiring."""

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(FeedState).decode


class Feed:
    """One feed."""

    __slots__ = (
        "_stored_turn",
        "_turn",
        "_waiting",
        "accessed",
        "broken",
        "digest",
        "log",
        "opening",
        "record",
        "size",
        "state",
        "stored",
        "timer",
    )

    def __init__(self, state: FeedState, record: StreamRecord, log: ChunkLog, now: float) -> None:
        self.state = state
        """As of the last append that was taken."""
        self.stored: FeedState | None = None
        """As of the last that was committed."""
        self.record = record
        self.log = log
        self.size = 0
        self.accessed = now
        self.timer: asyncio.TimerHandle | None = None
        self.opening: asyncio.Task[None] | None = None
        self.broken = False
        """Whether the store takes no more for its log."""
        self.digest: bytes | None = None
        self._turn = 0
        self._stored_turn = 0
        self._waiting: list[tuple[int, Future[None]]] = []

    @property
    def stream_id(self) -> str:
        """Of its log."""
        return self.record.stream_id

    @property
    def info(self) -> StreamInfo:
        """As lists of streams show it."""
        return StreamInfo(self.stream_id, self.log.tail, self.log.state)

    @property
    def key(self) -> tuple[str, str]:
        """Its user and name."""
        return self.state.user, self.state.name

    @property
    def form(self) -> Form:
        """What it holds."""
        return form_of(self.state.config.content_type)

    @property
    def is_closed(self) -> bool:
        """Whether it has its last chunk, for all to see."""
        return self.log.state is StreamState.COMPLETE

    @property
    def is_ready(self) -> bool:
        """Whether it can be read, and appended to where it is not closed."""
        return self.log.loaded and not self.broken and (self.log.outcome is None or self.is_closed)

    def when_stored(self, tell: Callable[[], None]) -> None:
        """Feeds are handed out when they are stored."""
        tell()

    def remaining(self, now: float) -> float | None:
        """Seconds until it expires; None where it does not."""
        config = self.state.config
        if config.ttl is not None:
            return self.accessed + config.ttl - now
        if config.expires_at is not None:
            return datetime.fromisoformat(config.expires_at).timestamp() - time.time()
        return None

    # -- waiting for the store

    def begin_turn(self) -> Callable[[], None]:
        """Something was written: gives what is to be called when it is committed."""
        self._turn += 1
        turn, state = self._turn, self.state

        def on_stored() -> None:
            self._stored_turn = max(turn, self._stored_turn)
            self.stored = state
            self._wake(None)

        return on_stored

    async def settled(self) -> None:
        """Wait until everything that was taken is committed.

        Raises:
            StoreError: it was lost.
        """
        if self._stored_turn < self._turn:
            waiter: Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((self._turn, waiter))
            await waiter

    def on_lost(self) -> None:
        """What was not committed is as if it had never been."""
        self.broken = True
        self._stored_turn = self._turn
        if self.stored is not None:
            self.state = self.stored
        self._wake(StoreError("The append could not be stored"))

    def _wake(self, error: StoreError | None) -> None:
        due = [waiter for turn, waiter in self._waiting if turn <= self._stored_turn]
        self._waiting = [entry for entry in self._waiting if entry[0] > self._stored_turn]
        for waiter in due:
            if waiter.done():
                continue
            if error is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(error)


class _Held:
    """What one user has."""

    __slots__ = ("feeds", "size")

    def __init__(self) -> None:
        self.feeds = 0
        self.size = 0


class Feeds:
    """Every feed of this server."""

    def __init__(
        self, config: Config, store: Store, rejections: Rejections | None = None, quotas: Quotas = NO_QUOTAS
    ) -> None:
        """``quotas``: what one user may have; all who are nobody in particular are one, as are their feeds' names."""
        self._rejections = rejections or Rejections()
        self._quotas = quotas
        self._creates = Buckets(quotas.feed_creates, max(1.0, (quotas.feed_creates or 0.0) / 2))
        self._held: dict[str, _Held] = {}
        self._config = config
        self._store = store
        self._loop = asyncio.get_running_loop()
        self._feeds: dict[tuple[str, str], Feed] = {}
        self._by_stream: dict[str, Feed] = {}
        self._forks: Counter[str] = Counter()
        self._forgetting: set[asyncio.Task[None]] = set()
        self._size = 0
        self._over = False
        self.pressed = False
        """Whether memory is too short for more."""

    def __len__(self) -> int:
        return len(self._feeds)

    @property
    def size(self) -> int:
        """Bytes of all."""
        return self._size

    def take_over(self, summaries: list[StreamSummary]) -> None:
        """The feeds that the store has kept; of two logs of one feed the newer counts."""
        for summary in sorted(summaries, key=lambda summary: summary.number):
            feed = self._kept(summary)
            known = self._feeds.get(feed.key)
            if known is not None:
                self._drop(known)
                del self._by_stream[known.stream_id]
                self._store.delete(known.stream_id)
            self._enter(feed)
            self._resize(feed, summary.size)
        for feed in list(self._feeds.values()):
            self._collect(feed)

    def _kept(self, summary: StreamSummary) -> Feed:
        record = summary.record
        log = ChunkLog.ended(record.stream_id, record.epoch, self._store, summary.outcome, overhead=OVERHEAD)
        feed = Feed(_unpack(record.note), record, log, self._loop.time())
        feed.stored = feed.state
        return feed

    # -- finding

    async def find(self, user: str, name: str) -> Feed:
        """The feed of that name, as it can be used.

        Raises:
            UnknownStream: there is none.
            LogTrimmed: there was one, and there are forks of it.
            Draining: it would have to be read from a store that is being closed.
            StoreError: it cannot be read.
        """
        while True:
            feed = self._get(user, name)
            if feed.stored is None:
                await feed.settled()
            elif self._over and not feed.log.loaded:
                raise Draining(retry_after=1.0)
            elif not feed.is_ready and not self._over:
                await self._open(feed)
            else:
                return feed

    def _get(self, user: str, name: str) -> Feed:
        feed = self._current(user, name)
        if feed is None:
            raise UnknownStream
        if feed.state.deleted:
            raise LogTrimmed
        return feed

    def _current(self, user: str, name: str) -> Feed | None:
        feed = self._feeds.get((user, name))
        if feed is not None and not feed.state.deleted and self._is_over(feed):
            self._delete(feed)
            return self._feeds.get((user, name))
        return feed

    def touch(self, feed: Feed) -> None:
        """Somebody has read it or appended to it."""
        feed.accessed = self._loop.time()

    async def _open(self, feed: Feed) -> None:
        if feed.opening is None:
            feed.opening = self._loop.create_task(self._open_anew(feed))
            feed.opening.add_done_callback(lambda _: setattr(feed, "opening", None))
        await asyncio.shield(feed.opening)

    async def _open_anew(self, feed: Feed) -> None:
        """Have the chunks in memory, and where the feed goes on, in a log that does."""
        old, record = feed.log, feed.record
        if not old.loaded:
            stored = await self._store.load(feed.stream_id)
            if stored is None:
                logger.error("the store has lost the feed %s", feed.state.feed_id)
                self._drop(feed)
                return
            old.fill(stored.bodies, stored.kinds)
        if feed.broken or not feed.is_closed:
            await self._begin_anew(feed, old, record)
        if self._feeds.get(feed.key) is feed:  # and has not expired meanwhile
            self._resize(feed, feed.log.weight)

    async def _begin_anew(self, feed: Feed, old: ChunkLog, record: StreamRecord) -> None:
        self._begin(feed, Content(old.bodies(1, old.tail), bytes(old.kinds(1, old.tail))))
        if feed.state.closed:
            feed.log.finish(_closed(old.tail))
        try:
            await feed.settled()
        except StoreError:
            self._by_stream.pop(feed.stream_id, None)
            feed.log, feed.record = old, record
            raise
        self._store.delete(record.stream_id)
        self._by_stream.pop(record.stream_id, None)

    # -- writing

    def create(self, user: str, name: str, wish: FeedConfig, data: bytes, *, close: bool) -> tuple[Feed, bool]:
        """The feed of that name, and whether it is new; it counts when it has `settled`.

        A fork's source must have been found before, in the same turn of the loop.

        Raises:
            Conflict: there is another, or its source was deleted.
            UnknownStream: there is no such source.
            BadRequest: it has no such place to fork at, or ``data`` is not of the content type.
            Capacity, MessageTooLarge, Draining, RateLimited: there is no room for it.
        """
        known = self._current(user, name)
        if known is not None:
            if known.state.deleted or not known.state.config.meets(wish) or known.state.closed is not close:
                raise Conflict("There is another stream of that name")
            return known, False
        source = None if wish.fork is None else self._source(user, wish.fork)
        config = self._configured(wish, source)
        form = form_of(config.content_type)
        content = NOTHING if source is None or wish.fork is None else _inherited(source, wish.fork)
        content = _joined(content, to_chunks(form, data) if data else NOTHING)
        self._check_room(user, 0, content, new=True)
        self._creates.take(user)
        feed = self._make(user, name, config, source)
        feed.state = feed.state.after(None, None, close=close)
        self._begin(feed, content)
        self._enter(feed)
        self._resize(feed, feed.log.weight)
        if close:
            feed.log.finish(_closed(len(feed.log)))
        return feed, True

    def _source(self, user: str, fork: Fork) -> Feed:
        source = self._current(user, fork.source)
        if source is None:
            raise UnknownStream("There is no stream to fork")
        if source.state.deleted:
            raise Conflict("The stream to fork was deleted")
        return source

    def _configured(self, wish: FeedConfig, source: Feed | None) -> FeedConfig:
        if source is not None:
            config = source.state.config.inherited(wish)
            if config.media_type != source.state.config.media_type:
                raise Conflict("A fork is of its source's content type")
            return config
        return msgspec.structs.replace(wish, content_type=wish.content_type or DEFAULT_TYPE)

    def _make(self, user: str, name: str, config: FeedConfig, source: Feed | None) -> Feed:
        source_id = None if source is None else source.state.feed_id
        state = FeedState("f_" + secrets.token_urlsafe(16), user, name, config, source_id)
        record = StreamRecord("", "", "", "", None, 0.0)
        return Feed(state, record, ChunkLog("", "", self._store), self._loop.time())

    def _begin(self, feed: Feed, content: Content) -> None:
        """Give it a log, with what is in it from the start, in one commit."""
        feed.record = StreamRecord(
            stream_id="s_" + secrets.token_urlsafe(16),
            session_id="",
            request_id="",
            epoch=secrets.token_urlsafe(8),
            model=None,
            created=time.time(),
            owner=feed.state.user,
            note=_pack(feed.state),
        )
        feed.log = ChunkLog(feed.stream_id, feed.record.epoch, self._store, overhead=OVERHEAD)
        feed.broken = False
        self._by_stream[feed.stream_id] = feed
        self._store.create(feed.record, feed.begin_turn())
        if content.bodies:
            feed.log.append_bodies(*content)

    def append(self, feed: Feed, content: Content, claim: Claim | None, order: str | None, *, close: bool) -> Ruling:
        """Append, or say why not; it counts when the feed has `settled`. No content and ``close`` only closes.

        Raises:
            Capacity, MessageTooLarge, Draining, RateLimited: there is no room for it.
        """
        ruling = judge(feed.state, claim, order, has_content=bool(content.bodies), close=close)
        if ruling.verdict is not Verdict.TAKEN:
            return ruling
        self._check_room(feed.state.user, feed.size, content)
        remembered = self._config.max_writers
        before, feed.state = feed.state, feed.state.after(claim, order, close=close, remembered=remembered)
        if before.writers.keys() - feed.state.writers:
            self._rejections.clamp(Clamp.WRITERS)
        if content.bodies:
            feed.log.append_bodies(*content)
        self._resize(feed, feed.log.weight)
        self._record(feed)
        if close:
            feed.log.finish(_closed(len(feed.log)))
        return ruling

    def _record(self, feed: Feed) -> None:
        feed.record = msgspec.structs.replace(feed.record, note=_pack(feed.state))
        self._store.update(feed.record, feed.begin_turn())

    def _check_room(self, user: str, size: int, content: Content, *, new: bool = False) -> None:
        """See that there is room for ``content`` behind ``size`` bytes of a feed of ``user``."""
        more = content.size + OVERHEAD * len(content.bodies)
        objection = self._objection(size, more, new) or self._quota_objection(user, more, new)
        if objection is not None:
            reason, error = objection
            self._rejections.count(reason)
            raise error

    def _objection(self, size: int, more: int, new: bool) -> tuple[Reason, RequestError] | None:
        config = self._config
        if self._over:
            return Reason.DRAINING, Draining(retry_after=1.0)
        if self.pressed:
            return Reason.MEMORY, Capacity(retry_after=5.0)
        if size + more > config.max_feed_bytes:
            error = MessageTooLarge(f"The stream would be larger than {config.max_feed_bytes} bytes")
            return Reason.FEED_BYTES, error
        if self._size + more > config.max_feeds_bytes or (new and len(self._feeds) >= config.max_feeds):
            return Reason.FEEDS, Capacity(retry_after=NO_ROOM_RETRY)
        return None

    def _quota_objection(self, user: str, more: int, new: bool) -> tuple[Reason, RequestError] | None:
        wait = self._creates.wait(user) if new else 0.0
        if wait > 0:  # whoever deletes them again costs as much
            return Reason.FEED_CREATES_PER_USER, RateLimited("Too many streams were made", retry_after=round(wait, 3))
        held, quotas = self._held.get(user) or _Held(), self._quotas
        if new and quotas.feeds is not None and held.feeds >= quotas.feeds:
            error = RateLimited(f"You have {quotas.feeds} streams, which is as many as may be: delete some")
            reason = Reason.FEEDS_PER_USER
        elif quotas.feed_bytes is not None and held.size + more > quotas.feed_bytes:
            error = RateLimited(f"Your streams would be larger than {quotas.feed_bytes} bytes together: delete some")
            reason = Reason.FEED_BYTES_PER_USER
        else:
            return None
        error.retry_after = NO_ROOM_RETRY
        return reason, error

    def _resize(self, feed: Feed, size: int) -> None:
        more = size - feed.size
        self._size += more
        feed.size = size
        self._hold(feed.state.user, 0, more)

    def _hold(self, user: str, feeds: int, size: int) -> None:
        """``user`` has so much more, or less."""
        held = self._held.setdefault(user, _Held())
        held.feeds += feeds
        held.size += size
        if not held.feeds and not held.size:
            del self._held[user]

    def _enter(self, feed: Feed) -> None:
        self._feeds[feed.key] = feed
        self._hold(feed.state.user, 1, 0)
        self._by_stream[feed.stream_id] = feed
        if feed.state.source_id is not None:
            self._forks[feed.state.source_id] += 1
        self._watch(feed)

    # -- ending

    async def delete(self, user: str, name: str) -> None:
        """Delete the feed of that name; while there are forks of it, nobody can make another.

        Raises:
            UnknownStream, LogTrimmed: as `find`.
            StoreError: that could not be stored.
        """
        feed = await self.find(user, name)
        self._delete(feed)
        await feed.settled()

    def _delete(self, feed: Feed) -> None:
        """First note it, then forget it: the name is free at once, and no crash brings the feed back."""
        feed.state = msgspec.structs.replace(feed.state, deleted=True)
        if not feed.broken:
            self._record(feed)
        self._collect(feed)

    def _collect(self, feed: Feed) -> None:
        """Forget it where it is deleted and has no forks; then perhaps its source too."""
        if not feed.state.deleted or self._forks[feed.state.feed_id]:
            return
        self._drop(feed)
        task = self._loop.create_task(self._forget(feed))
        self._forgetting.add(task)
        task.add_done_callback(self._forgetting.discard)
        source_id = feed.state.source_id
        for other in list(self._feeds.values()) if source_id is not None else []:
            if other.state.feed_id == source_id:
                self._collect(other)

    async def _forget(self, feed: Feed) -> None:
        try:
            await feed.settled()
        except StoreError:
            logger.error("that the feed %s was deleted could not be stored", feed.state.feed_id)
        self._by_stream.pop(feed.stream_id, None)
        self._store.delete(feed.stream_id)
        _end(feed.log)

    def _drop(self, feed: Feed) -> None:
        """Know it no longer."""
        if self._feeds.get(feed.key) is feed:
            del self._feeds[feed.key]
            self._hold(feed.state.user, -1, 0)
        self._resize(feed, 0)
        if feed.timer is not None:
            feed.timer.cancel()
            feed.timer = None
        if feed.state.source_id is not None:
            self._forks[feed.state.source_id] -= 1

    def _is_over(self, feed: Feed) -> bool:
        remaining = feed.remaining(self._loop.time())
        return remaining is not None and remaining <= 0

    def _watch(self, feed: Feed) -> None:
        """Look at it again when it may expire."""
        remaining = feed.remaining(self._loop.time())
        if remaining is not None:
            feed.timer = self._loop.call_later(min(max(0.0, remaining), LONGEST_TIMER), self._on_due, feed)

    def _on_due(self, feed: Feed) -> None:
        feed.timer = None
        if feed.log.attachments and feed.state.config.ttl is not None:
            self.touch(feed)  # it is being read
        if self._is_over(feed):
            self._delete(feed)
        else:
            self._watch(feed)

    def on_store_failure(self, stream_id: str) -> None:
        """The store has lost what was not committed of this log. The next who comes finds the feed as it was before."""
        feed = self._by_stream.get(stream_id)
        if feed is None:
            return
        _end(feed.log)
        feed.on_lost()
        if feed.stored is None:
            self._drop(feed)
            del self._by_stream[stream_id]
        elif self._feeds.get(feed.key) is feed:
            self._resize(feed, feed.log.weight)

    def close(self) -> None:
        """Take no more, and let go of everybody who reads."""
        self._over = True
        for feed in self._feeds.values():
            if feed.timer is not None:
                feed.timer.cancel()
                feed.timer = None
            if feed.log.outcome is None:
                feed.log.finish(_cut_off(len(feed.log)))

    # -- following

    def attach(self, feed: Feed, window: SendWindow, wake: Callable[[Attachment], None]) -> Attachment:
        """A new reader."""
        return feed.log.attach(window, wake)

    def load(self, feed: Feed) -> None:
        """The chunks of a feed that was found are in memory."""

    def cancel(self, feed: Feed) -> NoReturn:
        """No reader may stop a feed."""
        raise BadRequest("A feed cannot be cancelled")


def _inherited(source: Feed, fork: Fork) -> Content:
    """The chunks that a fork begins with.

    Raises:
        BadRequest: the source does not reach that far.
    """
    log, form = source.log, source.form
    at = log.tail if fork.at is None else fork.at
    last = at + fork.more if form is Form.JSON else at
    try:
        log.check_position(last)
    except ResumeAhead as error:
        raise BadRequest(str(error)) from None
    content = Content(log.bodies(1, last), bytes(log.kinds(1, last)))
    if form is Form.JSON or not fork.more:
        return content
    rest = b"" if at == log.tail else _chunk(source, at + 1)
    if len(rest) < fork.more:
        raise BadRequest(f"There are {len(rest)} bytes to take, {fork.more} were asked for")
    return _joined(content, to_chunks(form, rest[: fork.more]))


def _chunk(feed: Feed, chunk_id: int) -> bytes:
    body, kind = feed.log.entry(chunk_id)
    return from_chunk(feed.form, kind, body)


def _joined(first: Content, then: Content) -> Content:
    return Content(first.bodies + then.bodies, first.kinds + then.kinds)


def _closed(chunks: int) -> Outcome:
    return Outcome(StreamState.COMPLETE, chunks, finish_reason="stop")


def _cut_off(tail: int) -> Outcome:
    return Outcome(StreamState.INTERRUPTED, tail, error_type="interrupted", message="It goes on elsewhere")


def _end(log: ChunkLog) -> None:
    """Let go of who reads; what becomes of the log in the store is not its matter any more."""
    log.on_store_failed(_cut_off)
    log.finish(_cut_off(log.tail))
