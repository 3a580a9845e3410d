"""Logs and sessions in one SQLite file: the default store.

The file belongs to one thread (`wsstream.stores.database`). The event loop gathers what is to be written; the thread
commits it as a group, and what was committed is acknowledged back on the loop. While a commit is under way the next
group gathers, and under load commits start at least `WINDOW` apart, so that many tokens share one. A lone token is
committed at once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from asyncio import Future
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeGuard, TypeVar

from wsstream.chunks import Outcome
from wsstream.errors import ConfigError, StoreCorrupt, StoreError
from wsstream.stores.base import (
    End,
    SessionInfo,
    StoredLog,
    StoredMessage,
    StoredPage,
    StoreStatistics,
    StreamRecord,
    StreamSummary,
    untold,
)
from wsstream.stores.database import Database, Durability
from wsstream.stores.files import is_ours, set_aside
from wsstream.stores.operations import (
    Append,
    Cancelled,
    Create,
    Delete,
    DeleteSession,
    Finish,
    Operation,
    Rename,
    SaveMessage,
    Update,
)
from wsstream.tally import Histogram

logger = logging.getLogger(__name__)

WINDOW = 0.0035
"""Seconds between the starts of commits under load."""

RETRY = 0.5
"""Seconds after a commit that failed until the next is tried."""

SLOW = 5.0
"""Seconds after which a commit under way is trouble."""

T = TypeVar("T")


class _Group:
    """What is committed together, whom to tell, and what is asked for behind it."""

    __slots__ = ("appended", "finished", "operations", "questions", "recorded", "told")

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.recorded: dict[str, Callable[[], None]] = {}
        self.appended: dict[str, tuple[Callable[[int], None], int]] = {}
        self.finished: dict[str, Callable[[], None]] = {}
        self.told: list[Callable[[], None]] = []
        self.questions: list[Callable[[], None]] = []

    def forget(self, stream_ids: set[str]) -> None:
        """Tell nobody about these streams."""
        for stream_id in stream_ids:
            self.recorded.pop(stream_id, None)
            self.appended.pop(stream_id, None)
            self.finished.pop(stream_id, None)

    def tell(self) -> None:
        """Acknowledge everything. One who fails to take it keeps no other from it."""
        for recorded in self.recorded.values():
            _guarded(recorded)
        for committed, last in self.appended.values():
            _guarded(committed, last)
        for finished in self.finished.values():
            _guarded(finished)
        for told in self.told:
            _guarded(told)


class _Found(NamedTuple):
    """What is in a file that was opened."""

    summaries: list[StreamSummary]
    running: dict[int, StoredLog]
    highest: int


class SqliteStore:
    """The store ``sqlite:PATH``.

    When a commit fails, its chunks and the streams it would have begun are lost: `on_failure` is told, and whatever
    else comes of such a stream is ignored, but for its end where it had begun before. What is small and must not be
    forgotten (ends, cancels, deletions, messages of streams that there are) stays owed, and is tried again `RETRY`
    seconds later and with every write from then on.
    """

    durable = True

    def __init__(self, path: str, durability: Durability = "process", vfs: str | None = None) -> None:
        """``durability``: survive the end of the `process`, or also the loss of `power`.

        Raises:
            ConfigError: no path is given, or one that is none.
        """
        if not path:
            raise ConfigError("store: sqlite: needs a path, as in sqlite:wsstream.db")
        if path == ":memory:":
            raise ConfigError("store: sqlite:: memory: is a store of its own: --store memory:")
        self.on_failure: Callable[[StoreError, set[str]], None] = lambda _error, _streams: None
        self._path = path
        self._durability: Durability = durability
        self._vfs = vfs
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="wsstream-store", daemon=True)
        self._loop: asyncio.AbstractEventLoop
        self._database: Database | None = None
        self._numbers: dict[str, int] = {}
        self._running: list[StoredLog] = []
        self._next_number = 1
        self._cut: set[int] = set()
        self._groups = [_Group()]
        self._group = self._groups[0]  # the last of them: it gathers, the others wait
        self._committing = False
        self._timer: asyncio.Handle | None = None
        self._probe: asyncio.Handle | None = None
        self._last_commit = -WINDOW
        self._failing = False
        self._trouble: str | None = None
        self._closed = False
        self._seconds = Histogram()
        self._failures = 0

    # -- the life of the store

    async def open(self, end: End) -> list[StreamSummary]:
        """Open the file; one of ours that cannot be read is set aside under another name, loudly.

        Raises:
            ConfigError: it is none of ours, and left as it is.
        """
        self._loop = asyncio.get_running_loop()
        self._thread.start()
        try:
            summaries, running, highest = await self._ask(lambda: self._open(end))
        except BaseException:
            self._closed = True
            self._jobs.put(self._close)
            self._jobs.put(None)
            raise
        self._numbers = {summary.record.stream_id: summary.number for summary in summaries}
        self._numbers |= {log.record.stream_id: number for number, log in running.items()}
        self._running = list(running.values())
        self._next_number = highest + 1
        return summaries

    def take_running(self) -> list[StoredLog]:
        """What was left to go on."""
        running, self._running = self._running, []
        return running

    def _open(self, end: End) -> _Found:
        try:
            return self._begin(end)
        except StoreCorrupt as error:
            if not is_ours(self._path):
                raise ConfigError(f"store: {self._path} is not a database of wsstream; it is left as it is") from error
            self._set_aside(error)
        return self._begin(end)

    def _begin(self, end: End) -> _Found:
        database = self._database = Database(self._path, self._durability, self._vfs)
        running = database.recover(end)
        return _Found(database.summaries(), running, database.highest_number())

    def _set_aside(self, error: StoreCorrupt) -> None:
        database, self._database = self._database, None
        if database is not None:
            database.abandon()
        aside = set_aside(self._path)
        logger.critical("the store %s cannot be read (%s): kept as %s, beginning anew", self._path, error, aside)

    async def close(self) -> None:
        """Commit what is pending and close the file. What is written afterwards is ignored."""
        if self._closed or not self._thread.is_alive():
            return
        while self._committing or self._group.operations or len(self._groups) > 1:
            if not self._committing:
                self._commit()
            await self._ask(lambda: None)
            if self._failing:
                break
        self._closed = True
        for timer in (self._timer, self._probe):
            if timer is not None:
                timer.cancel()
        await self._ask(self._close)
        self._jobs.put(None)
        self._thread.join(timeout=5.0)

    def _close(self) -> None:
        if self._database is not None:
            self._database.close()

    # -- writing

    def create(self, record: StreamRecord, committed: Callable[[], None]) -> None:
        """Begin a log."""
        number = self._numbers[record.stream_id] = self._next_number
        self._next_number += 1
        self._group.recorded[record.stream_id] = committed
        self._write(Create(number, record))

    def update(self, record: StreamRecord, committed: Callable[[], None]) -> None:
        """Replace a stream's record."""
        number = self._numbers.get(record.stream_id)
        if number is not None and number not in self._cut:
            self._group.recorded[record.stream_id] = committed
            self._write(Update(number, record))

    def append(
        self, stream_id: str, first: int, bodies: Sequence[bytes], kinds: bytes, committed: Callable[[int], None]
    ) -> None:
        """Add chunks to the group."""
        number = self._numbers.get(stream_id)
        if number is None or number in self._cut:
            return
        group = self._group
        group.appended[stream_id] = (committed, first + len(bodies) - 1)
        group.operations.append(Append(number, first, kinds, list(bodies)))
        if self._timer is None and not self._committing:
            self._schedule()

    def cancel(self, stream_id: str) -> None:
        """Note it, before anything else of the stream that is not committed yet."""
        number = self._numbers.get(stream_id)
        if number is not None:
            self._write(Cancelled(number))

    def finish(
        self, stream_id: str, outcome: Outcome, bodies: Sequence[bytes], kinds: bytes, committed: Callable[[], None]
    ) -> None:
        """End a log: from now on it is one row."""
        number = self._numbers.get(stream_id)
        if number is not None:
            self._group.finished[stream_id] = committed
            self._write(Finish(number, outcome, time.time(), kinds, bodies))

    def delete(self, stream_id: str, committed: Callable[[], None] = untold) -> None:
        """Forget a log."""
        number = self._numbers.pop(stream_id, None)
        if number is not None:
            self._cut.discard(number)
        if number is not None or committed is not untold:
            self._write(Delete(number or 0), committed)

    def save_message(self, message: StoredMessage) -> None:
        """Keep a message; not that of a stream that was never stored."""
        if message.stream_id is None or message.stream_id in self._numbers:
            self._write(SaveMessage(message))

    def rename_session(self, session_id: str, title: str, committed: Callable[[bool], None] = untold) -> None:
        """Keep a title."""
        rename = Rename(session_id, title)
        self._write(rename, lambda: committed(rename.found))

    def delete_session(self, session_id: str, committed: Callable[[], None] = untold) -> None:
        """Forget a session's messages."""
        self._write(DeleteSession(session_id), committed)

    def _write(self, operation: Operation, committed: Callable[[], None] = untold) -> None:
        if committed is not untold:
            self._group.told.append(committed)
        self._group.operations.append(operation)
        if self._timer is None and not self._committing:
            self._schedule()

    # -- committing: one group at a time, while the next one gathers

    def _schedule(self) -> None:
        """Commit at the end of this tick, or when the last commit is long enough ago."""
        if self._closed:
            return
        window = RETRY if self._failing else WINDOW
        wait = self._last_commit + window - time.monotonic()
        if wait <= 0:
            self._timer = self._loop.call_soon(self._commit)
        else:
            self._timer = self._loop.call_later(wait, self._commit)

    def _commit(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if len(self._groups) == 1:
            self._gather_anew()
        group = self._groups.pop(0)
        self._committing = True
        self._last_commit = time.monotonic()
        self._jobs.put(lambda: self._commit_now(group))

    def _gather_anew(self) -> None:
        self._group = _Group()
        self._groups.append(self._group)

    def _commit_now(self, group: _Group) -> None:
        """In the thread: the commit, and what was asked for behind it."""
        error = self._try_commit(group.operations)
        trouble = self._database.trouble if self._database is not None else None
        self._call(self._on_commit, group, error, trouble)
        for question in group.questions:
            question()

    def _try_commit(self, operations: Sequence[Operation]) -> StoreError | None:
        try:
            self._opened().commit(operations)
        except StoreCorrupt as error:
            self._try_set_aside(error)
            return error
        except StoreError as error:
            return error
        except Exception as error:  # whatever it is, the thread goes on
            logger.exception("the store %s failed unexpectedly", self._path)
            return StoreError(f"{self._path}: {type(error).__name__}: {error}")
        return None

    def _try_set_aside(self, error: StoreCorrupt) -> None:
        try:
            self._set_aside(error)
        except OSError as failure:
            logger.critical("the store %s cannot be set aside either: %s", self._path, failure.strerror)

    def _on_commit(self, group: _Group, error: StoreError | None, trouble: str | None) -> None:
        self._committing = False
        self._seconds.observe(time.monotonic() - self._last_commit)
        if error is not None:
            self._failures += 1
            self._on_lost(group, error)
        else:
            if self._failing:
                logger.warning("the store %s works again", self._path)
            self._failing = False
            self._trouble = trouble
            self._cut.difference_update(self._numbers.get(stream_id, 0) for stream_id in group.finished)
            group.tell()
        if len(self._groups) > 1:
            self._commit()  # somebody waits for an answer
        elif self._timer is None and (self._failing or self._group.operations):
            self._schedule()
        elif self._trouble is not None and self._probe is None:
            self._probe = self._loop.call_later(RETRY, self._on_probe)

    def _on_probe(self) -> None:
        """Commit nothing, to see whether the trouble is over."""
        self._probe = None
        if self._timer is None and not self._committing:
            self._commit()

    def _on_lost(self, group: _Group, error: StoreError) -> None:
        """Forget what cannot be made good, owe the rest, and say whose writes are lost."""
        names = {number: stream_id for stream_id, number in self._numbers.items()}
        if isinstance(error, StoreCorrupt):  # the whole file is
            unborn, cut = set(names), set[int]()
        else:
            unborn = {operation.number for operation in group.operations if type(operation) is Create}
            cut = {
                operation.number for operation in group.operations if isinstance(operation, Append | Update | Finish)
            }
        cut = (cut & names.keys()) - self._cut - unborn
        lost = {names[number] for number in (unborn | cut) & names.keys()}
        sessions = {operation.record.session_key for operation in group.operations if type(operation) is Create}
        self._cut |= cut
        for number in unborn & names.keys():
            del self._numbers[names[number]]
        gathered = self._gather_all()
        gathered.forget(lost)
        owed = [
            operation
            for operation in group.operations
            if not (_is_said(operation) and operation.message.session_id in sessions)  # part of what was to begin
        ]
        gathered.operations[:0] = owed
        gathered.operations = [each for each in gathered.operations if _stands(each, unborn, cut, self._cut, lost)]
        gathered.finished = {**{i: f for i, f in group.finished.items() if i not in lost}, **gathered.finished}
        gathered.told[:0] = group.told  # what they wait for stands, whatever was lost
        if lost or not self._failing:
            logger.error("the store %s failed, %d streams are concerned: %s", self._path, len(lost), error)
        self._failing = True
        self._trouble = str(error)
        if lost:
            _guarded(self.on_failure, error, lost)

    def _gather_all(self) -> _Group:
        """Make one group of all, and have what was asked answered without waiting for them."""
        whole = _Group()
        for group in self._groups:
            whole.operations += group.operations
            whole.recorded |= group.recorded
            whole.appended |= group.appended
            whole.finished |= group.finished
            whole.told += group.told
            for question in group.questions:
                self._jobs.put(question)
        self._group = whole
        self._groups = [whole]
        return whole

    # -- reading: behind what was written before, and before what is written later

    def load(self, stream_id: str) -> Future[StoredLog | None]:
        """Read a log."""
        return self._read(lambda database: database.load(stream_id))

    def history(self, session_id: str) -> Future[list[StoredMessage]]:
        """Read a session's messages, those that are being written included."""
        return self._read(lambda database: database.history(session_id))

    def page(self, session_id: str, before: str | None, limit: int, max_bytes: int) -> Future[StoredPage | None]:
        """Read some of them."""
        return self._read(lambda database: database.page(session_id, before, limit, max_bytes))

    def session(self, session_id: str) -> Future[SessionInfo | None]:
        """Read what is known of a session."""
        return self._read(lambda database: database.session(session_id))

    def _read(self, question: Callable[[Database], T]) -> Future[T]:
        future: Future[T] = self._loop.create_future()
        answer = self._answer(future, lambda: question(self._opened()))
        if self._closed:
            future.set_exception(StoreError("The store is closed"))
        elif self._failing or (len(self._groups) == 1 and not self._group.operations):
            self._jobs.put(answer)
        elif not self._committing:
            self._commit()
            self._jobs.put(answer)
        else:
            if self._group.operations:
                self._gather_anew()
            self._groups[-2].questions.append(answer)
        return future

    def _opened(self) -> Database:
        """The file; a new one where the last was set aside."""
        if self._database is None:
            self._database = Database(self._path, self._durability, self._vfs)
        return self._database

    def trouble(self) -> str | None:
        """What the last commit failed of, or that it does not come to an end."""
        if self._committing and time.monotonic() - self._last_commit > SLOW:
            return "a commit does not come to its end"
        return self._trouble

    def statistics(self) -> StoreStatistics:
        """Its commits, and how much waits for the next."""
        pending = sum(len(group.operations) for group in self._groups)
        return StoreStatistics(self._seconds, self._failures, pending)

    # -- the thread

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
            del job  # what it holds, a whole group perhaps, is not to be kept until the next one

    def _ask(self, question: Callable[[], T]) -> Future[T]:
        """Have the thread answer; in the order of everything else it is given."""
        future: Future[T] = self._loop.create_future()
        self._jobs.put(self._answer(future, question))
        return future

    def _answer(self, future: Future[T], question: Callable[[], T]) -> Callable[[], None]:
        def answer() -> None:
            try:
                result = question()
            except Exception as error:  # noqa: BLE001 - it belongs to whoever asked
                self._call(_fail, future, error)
            else:
                self._call(_resolve, future, result)

        return answer

    def _call(self, function: Callable[..., None], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            logger.warning("the store answered after the event loop had ended")


def _is_said(operation: Operation) -> TypeGuard[SaveMessage]:
    """Whether it is somebody's message, and not an answer."""
    return type(operation) is SaveMessage and operation.message.stream_id is None


def _stands(operation: Operation, unborn: set[int], cut: set[int], was_cut: set[int], lost: set[str]) -> bool:
    """Whether an operation is still to be done after its group, or one before it, was lost.

    Args:
        unborn: streams that were not begun.
        cut: streams that have lost chunks, a new record or their end just now.
        was_cut: streams that have lost any of these, now or before: only a later end can stand.
        lost: the names of the first two.
    """
    if type(operation) is SaveMessage:
        return operation.message.stream_id not in lost
    number = getattr(operation, "number", 0)
    if number in unborn:
        return False
    if isinstance(operation, Append | Update):
        return number not in was_cut
    return type(operation) is not Finish or number not in cut


def _guarded(tell: Callable[..., None], *arguments: Any) -> None:
    try:
        tell(*arguments)
    except Exception:
        logger.exception("what the store said was not taken well")


def _resolve(future: Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


def make(path: str, durability: Durability) -> SqliteStore:
    """The store for the table in `wsstream.stores`."""
    return SqliteStore(os.fspath(path), durability)
