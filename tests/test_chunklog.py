"""The log of one answer and its readers: numbering, commits, windows, the end, and the producer's room."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.virtual import in_virtual_time, turns
from wsstream.bodies import Bodies
from wsstream.chunklog import SNAPSHOT_BYTES, Attachment, ChunkLog
from wsstream.chunks import Chunk, Delta, Kind, Outcome, StreamState
from wsstream.errors import ResumeAhead
from wsstream.flow import SendWindow
from wsstream.messages import StreamStatus, rewind_body
from wsstream.stores.memory import MemoryStore

PLENTY = 1 << 40
OUTCOME = Outcome(StreamState.COMPLETE, 0, finish_reason="stop")


class SlowStore(MemoryStore):
    """Commits when the test says so."""

    durable = True

    def __init__(self) -> None:
        super().__init__()
        self.pending: list[Callable[[], None]] = []

    def append(
        self, stream_id: str, first: int, bodies: Sequence[bytes], kinds: bytes, committed: Callable[[int], None]
    ) -> None:
        last = first + len(bodies) - 1
        self.pending.append(lambda: committed(last))

    def finish(self, *arguments: Any) -> None:
        self.pending.append(arguments[-1])

    def commit(self, count: int = 1) -> None:
        """Let the oldest writes be safe."""
        for _ in range(count):
            self.pending.pop(0)()


class Viewer:
    """Follows a log and remembers how often it was woken."""

    def __init__(self, log: ChunkLog, limit: int = 50, limit_bytes: int = PLENTY, start: int = 0) -> None:
        self.woken = 0
        self.window = SendWindow(limit, limit_bytes, start)
        self.attachment = log.attach(self.window, self._wake)

    def _wake(self, attachment: Attachment) -> None:
        assert attachment is self.attachment
        self.woken += 1

    def take(self, max_bytes: int = PLENTY) -> tuple[int, int] | None:
        """One take."""
        return self.attachment.take(max_bytes)

    def ack(self, chunk_id: int) -> None:
        """Acknowledge as a connection does."""
        if self.window.on_ack(chunk_id):
            self.attachment.on_acked()

    def read_all(self) -> None:
        """Take and acknowledge whatever there is."""
        while (span := self.take()) is not None:
            self.ack(span[1])


def make(**options: object) -> ChunkLog:
    """A log in memory."""
    return ChunkLog("s", "e", MemoryStore(), **options)  # type: ignore[arg-type]


def filled(count: int, size: int = 1, **options: object) -> ChunkLog:
    """A log of ``count`` chunks of ``size`` bytes."""
    log = make(**options)
    if count:
        log.append([Delta("x" * size)] * count)
    return log


# -- writing


@given(st.lists(st.lists(st.text(min_size=1, max_size=5), max_size=4), max_size=8))
def test_ids_are_1_2_3_without_gaps(parts: list[list[str]]) -> None:
    """However chunks arrive, they are numbered from one, without gaps, in their order."""
    log = make()
    for part in parts:
        log.append([Delta(text) for text in part])
    texts = [text for part in parts for text in part]
    assert log.chunks(1, log.tail) == [Chunk(n, text) for n, text in enumerate(texts, 1)]
    assert len(log) == log.tail == len(texts)


def test_a_chunk_is_kept_as_it_came() -> None:
    """Content and kind of a chunk are read back unchanged, together or alone."""
    log = make()
    log.append([Delta('a"\\\n\x00', Kind.REASONING), Delta("日本👋")])
    assert log.chunks(1, 2) == [Chunk(1, 'a"\\\n\x00', Kind.REASONING), Chunk(2, "日本👋")]
    assert log.bodies(1, 2) == [log.entry(1)[0], log.entry(2)[0]]
    assert bytes(log.kinds(1, 2)) == bytes([log.entry(1)[1], log.entry(2)[1]]) == b"\x01\x00"


@given(
    texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8), min_size=1, max_size=12),
    alone=st.lists(st.booleans(), min_size=12, max_size=12),
)
def test_a_chunk_that_came_alone_is_like_any_other(texts: list[str], alone: list[bool]) -> None:
    """Whether chunks were appended one by one or together, each is read back as it came, the newest too."""
    log = make()
    for text, single in zip(texts, alone, strict=False):
        if single:
            log.append_one(Delta(text, Kind.REASONING))
        else:
            log.append([Delta(text, Kind.REASONING)])
        assert log.entry(log.tail) == (log.bodies(log.tail, log.tail)[0], Kind.REASONING)
    assert [chunk.content for chunk in log.chunks(1, log.tail)] == texts
    assert [log.entry(n)[0] for n in range(1, log.tail + 1)] == log.bodies(1, log.tail)


def test_weight_is_bodies_and_overhead() -> None:
    """A log weighs its escaped contents and the overhead of each chunk."""
    log = filled(3, size=5, overhead=10)
    assert log.weight == 45
    assert list(log.totals) == [0, 15, 30, 45]


@pytest.mark.parametrize("good", [0, 1, 5])
def test_append_is_atomic_on_a_lone_surrogate(good: int) -> None:
    """When one of several contents cannot be written, none is, and the log goes on as if it had not been asked."""
    log = filled(2)
    with pytest.raises(UnicodeEncodeError):
        log.append([*[Delta("fine")] * good, Delta("\ud83d"), Delta("fine")])
    assert (len(log), log.tail, log.weight, len(log.kinds(1, 9)), len(log.totals)) == (2, 2, 2, 2, 3)
    log.append([Delta("next")])
    assert log.chunks(3, 3) == [Chunk(3, "next")]


# -- written before sent


def test_nothing_is_seen_before_its_commit() -> None:
    """A viewer gets a chunk when the store has it, not before, and is woken then."""
    store = SlowStore()
    log = ChunkLog("s", "e", store)
    viewer = Viewer(log)
    log.append([Delta("a"), Delta("b")])
    log.append([Delta("c")])
    assert (len(log), log.tail, viewer.take(), viewer.woken) == (3, 0, None, 0)
    store.commit()
    assert (log.tail, viewer.woken, viewer.take(), viewer.take()) == (2, 1, (1, 2), None)
    store.commit()
    assert (log.tail, viewer.woken, viewer.take()) == (3, 2, (3, 3))


def test_the_outcome_is_seen_after_its_commit() -> None:
    """The end is told when the store has it, and not before the last chunk is sent."""
    store = SlowStore()
    log = ChunkLog("s", "e", store)
    viewer = Viewer(log)
    log.append([Delta("a")])
    log.finish(OUTCOME)
    store.commit()
    assert (viewer.take(), viewer.attachment.take_outcome(), log.state) == ((1, 1), None, StreamState.RUNNING)
    viewer.take()
    store.commit()
    assert (viewer.woken, viewer.attachment.take_outcome(), log.state) == (2, OUTCOME, StreamState.COMPLETE)


@given(st.data())
def test_a_viewer_never_sees_more_than_is_committed(data: st.DataObject) -> None:
    """Whatever the order of writes, commits and reads, what was read is a prefix of what is safe."""
    store = SlowStore()
    log = ChunkLog("s", "e", store)
    viewer = Viewer(log, limit=1000)
    safe = [0]
    seen = 0
    for action in data.draw(st.lists(st.sampled_from("acr"), max_size=30)):
        if action == "a":
            log.append([Delta("x")] * data.draw(st.integers(1, 3)))
            safe.append(len(log))
        elif action == "c" and store.pending:
            store.commit()
            safe.pop(0)
        elif action == "r" and (span := viewer.take()) is not None:
            assert span[0] == seen + 1
            seen = span[1]
        assert seen <= log.tail == safe[0]


# -- taking


def test_take_honours_the_chunk_window() -> None:
    """No more chunks go than the window holds, and an ack lets as many follow."""
    viewer = Viewer(filled(100), limit=10)
    assert (viewer.take(), viewer.take(), viewer.attachment.waiting) == ((1, 10), None, True)
    viewer.ack(4)
    assert viewer.take() == (11, 14)


def test_take_honours_the_byte_window() -> None:
    """No more bytes are in flight than the byte window holds."""
    viewer = Viewer(filled(100, size=10), limit_bytes=35)
    assert (viewer.take(), viewer.take()) == ((1, 3), None)
    viewer.ack(1)
    assert viewer.take() == (4, 4)


def test_a_chunk_larger_than_the_window_goes_alone() -> None:
    """A single chunk beyond the byte window is sent when nothing is in flight, and nothing beside it."""
    log = make()
    log.append([Delta("a"), Delta("b" * 500), Delta("c")])
    viewer = Viewer(log, limit_bytes=100)
    assert (viewer.take(), viewer.take()) == ((1, 1), None)
    viewer.ack(1)
    assert (viewer.take(), viewer.take()) == ((2, 2), None)
    viewer.ack(2)
    assert viewer.take() == (3, 3)


def test_take_comes_in_slices() -> None:
    """A take stops at max_bytes, but for one chunk, and is then not waiting: there is more to take at once."""
    viewer = Viewer(filled(10, size=10))
    assert (viewer.take(25), viewer.attachment.waiting) == ((1, 2), False)
    assert (viewer.take(5), viewer.attachment.waiting) == ((3, 3), False)
    assert (viewer.take(), viewer.attachment.waiting) == ((4, 10), True)


@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=40),
    limit=st.integers(1, 12),
    limit_bytes=st.integers(1, 150),
    max_bytes=st.integers(1, 100),
)
def test_takes_follow_each_other(sizes: list[int], limit: int, limit_bytes: int, max_bytes: int) -> None:
    """Whatever the windows, the spans taken are all chunks once, in order, and each kept the limits when it was."""
    log = make()
    log.append([Delta("x" * size) for size in sizes])
    viewer = Viewer(log, limit, limit_bytes)
    last = 0
    while last < len(sizes):
        span = viewer.take(max_bytes)
        if span is None:
            assert viewer.window.in_flight
            viewer.ack(viewer.window.acked + 1)
            continue
        assert span[0] == last + 1
        first, last = span
        in_flight = sizes[viewer.window.acked : last]
        assert len(in_flight) <= limit
        assert sum(in_flight) <= limit_bytes or len(in_flight) == 1
        assert sum(sizes[first - 1 : last]) <= max_bytes or first == last
    assert viewer.take() is None


def test_a_viewer_begins_behind_what_it_has() -> None:
    """Replay begins behind the last chunk the viewer had, and is the same read."""
    viewer = Viewer(filled(20), start=15)
    assert viewer.take() == (16, 20)


def test_a_position_beyond_the_tail_is_refused() -> None:
    """A viewer cannot go on behind a chunk that there is not yet."""
    log = filled(3)
    log.check_position(3)
    log.check_position(0)
    with pytest.raises(ResumeAhead):
        log.check_position(4)


# -- waking


def test_a_viewer_is_woken_once_until_it_takes() -> None:
    """However much arrives, its owner hears of it once before it looks."""
    log = make()
    viewer = Viewer(log)
    viewer.take()
    for _ in range(5):
        log.append([Delta("x")])
    assert viewer.woken == 1
    viewer.take()
    log.append([Delta("x")])
    assert viewer.woken == 2


def test_no_chunk_wakes_a_viewer_with_more_to_take() -> None:
    """After a slice the owner takes again by itself."""
    log = filled(10, size=10)
    viewer = Viewer(log)
    viewer.take(25)
    log.append([Delta("x")])
    assert viewer.woken == 0


def test_an_ack_wakes_only_where_there_is_something() -> None:
    """An ack that opens a full window wakes, and one behind the tail does not."""
    viewer = Viewer(filled(15), limit=10)
    viewer.take()
    assert viewer.take() is None
    viewer.ack(5)
    assert (viewer.woken, viewer.take(), viewer.take()) == (1, (11, 15), None)
    viewer.ack(15)
    assert viewer.woken == 1


# -- sending again


def test_a_range_is_sent_again_first() -> None:
    """Chunks asked for again come before new ones and move no window."""
    log = filled(10)
    viewer = Viewer(log, limit=6)
    viewer.take()
    viewer.take()
    viewer.attachment.send_again(2, 4)
    assert (viewer.woken, viewer.window.sent) == (1, 6)
    assert (viewer.take(), viewer.window.sent, viewer.attachment.waiting) == ((2, 4), 6, False)
    assert (viewer.take(), viewer.attachment.waiting) == (None, True)


def test_only_what_was_sent_is_sent_again() -> None:
    """A range ends at the last chunk sent, and holds no more than a window."""
    viewer = Viewer(filled(30), limit=10)
    viewer.take()
    viewer.ack(10)
    viewer.take()
    viewer.take()
    viewer.attachment.send_again(15, 99)
    assert viewer.take() == (15, 20)
    viewer.attachment.send_again(3, 19)
    assert viewer.take() == (3, 12)
    viewer.attachment.send_again(21, 25)
    assert viewer.take() is None


def test_a_range_comes_in_slices_too() -> None:
    """A range larger than max_bytes takes several takes."""
    viewer = Viewer(filled(10, size=10))
    viewer.take()
    viewer.attachment.send_again(1, 5)
    assert [viewer.take(25), viewer.take(25), viewer.take(25), viewer.take(25)] == [(1, 2), (3, 4), (5, 5), None]


def test_the_end_waits_for_a_range() -> None:
    """The outcome stands behind what was asked for again."""
    log = filled(3)
    viewer = Viewer(log)
    viewer.take()
    viewer.attachment.send_again(1, 2)
    log.finish(OUTCOME)
    assert viewer.attachment.take_outcome() is None
    viewer.take()
    assert viewer.attachment.take_outcome() == OUTCOME


# -- the end


def test_the_end_is_told_once_behind_the_last_chunk() -> None:
    """A viewer gets the outcome when it was sent everything, exactly once."""
    log = filled(20)
    log.finish(OUTCOME)
    viewer = Viewer(log, limit=10)
    outcomes = []
    while (span := viewer.take()) is not None:
        outcomes.append((span[1], viewer.attachment.take_outcome()))
        viewer.ack(span[1])
    assert outcomes == [(10, None), (20, OUTCOME)]
    assert viewer.attachment.take_outcome() is None


def test_the_first_outcome_stands() -> None:
    """A log ends once, whatever follows."""
    log = make()
    log.finish(OUTCOME)
    log.finish(Outcome(StreamState.FAILED, 0, error_type="internal_error"))
    assert (log.outcome, log.state) == (OUTCOME, StreamState.COMPLETE)


def test_the_end_wakes_every_viewer() -> None:
    """Everybody who waits hears of the end, with and without chunks before it."""
    log = make()
    viewers = [Viewer(log), Viewer(log)]
    log.finish(OUTCOME)
    assert [viewer.woken for viewer in viewers] == [1, 1]
    assert [viewer.take() for viewer in viewers] == [None, None]
    assert [viewer.attachment.take_outcome() for viewer in viewers] == [OUTCOME, OUTCOME]


def test_an_ack_behind_the_end_wakes_who_was_not_told() -> None:
    """When only the outcome is left, an ack still has the owner look."""
    log = filled(1)
    viewer = Viewer(log)
    viewer.take()
    assert viewer.take() is None
    log.finish(OUTCOME)
    viewer.take()
    viewer.ack(1)
    assert viewer.woken == 2


def test_watchers_hear_of_the_end_once() -> None:
    """Whoever asked is told of the end once, and whoever asks later at once."""
    log = make()
    heard: list[ChunkLog] = []
    log.when_finished(heard.append)
    assert heard == []
    log.finish(OUTCOME)
    assert heard == [log]
    log.when_finished(heard.append)
    assert heard == [log, log]


# -- viewers


def test_the_last_viewer_to_leave_is_noticed() -> None:
    """The log says when nobody follows it any more, and leaving twice is leaving once."""
    left: list[int] = []
    log = make(on_deserted=lambda: left.append(1))
    first, second = Viewer(log), Viewer(log)
    log.detach(first.attachment)
    log.detach(first.attachment)
    assert left == []
    log.detach(second.attachment)
    log.detach(second.attachment)
    assert left == [1]


def test_the_floor_is_the_slowest_ack() -> None:
    """The floor is the ack of whoever is furthest behind, and the tail where nobody is."""
    log = filled(50)
    fast, slow = Viewer(log), Viewer(log)
    fast.take()
    slow.take()
    fast.ack(40)
    slow.ack(7)
    assert log.floor == 7
    log.detach(slow.attachment)
    assert log.floor == 40
    log.detach(fast.attachment)
    assert log.floor == 50


def test_a_log_describes_itself() -> None:
    """What a debugger shows names the stream, its state, its tail and its viewers."""
    log = filled(3)
    Viewer(log)
    assert repr(log) == "<ChunkLog s running tail=3 viewers=1>"


# -- room


async def _waiting(log: ChunkLog) -> asyncio.Task[None]:
    task = asyncio.create_task(log.wait_room())
    await turns(2)
    return task


def test_there_is_room_up_to_the_high_mark() -> None:
    """A producer may be a thousand chunks ahead of the slowest ack, and no more."""
    log = make()
    viewer = Viewer(log)
    log.append([Delta("x")] * 999)
    assert log.has_room()
    log.append([Delta("x")])
    assert not log.has_room()
    viewer.take()
    viewer.ack(1)
    assert log.has_room()
    log.append([Delta("x")])
    assert not log.has_room()


@in_virtual_time
async def test_room_returns_at_the_low_mark() -> None:
    """A producer that waits goes on when the slowest viewer is five hundred chunks behind, not earlier."""
    log = filled(1000)
    viewer = Viewer(log, limit=1000)
    viewer.take()
    waiting = await _waiting(log)
    viewer.ack(499)
    await turns()
    assert not waiting.done()
    viewer.ack(500)
    await turns(2)
    assert waiting.done()


@in_virtual_time
async def test_a_viewer_that_leaves_makes_room() -> None:
    """The producer does not wait for somebody who has gone."""
    log = filled(1000)
    slow, fast = Viewer(log), Viewer(log, limit=1000)
    fast.read_all()
    waiting = await _waiting(log)
    assert not waiting.done()
    log.detach(slow.attachment)
    await turns(2)
    assert waiting.done()


def test_a_slower_viewer_lowers_the_room() -> None:
    """A viewer that comes late and begins at the start counts at once."""
    log = filled(900)
    fast = Viewer(log, limit=1000)
    fast.read_all()
    log.append([Delta("x")] * 200)
    assert log.has_room()
    slow = Viewer(log)
    assert not log.has_room()
    log.detach(slow.attachment)
    assert log.has_room()


def test_without_viewers_there_is_room() -> None:
    """Nobody holds a producer back who is not there."""
    log = make()
    for _ in range(5):
        assert log.has_room()
        log.append([Delta("x")] * 1000)


@in_virtual_time
async def test_the_end_releases_the_producer() -> None:
    """Nobody waits for room in a log that has ended."""
    log = filled(1000)
    Viewer(log)
    waiting = await _waiting(log)
    log.finish(OUTCOME)
    await turns(2)
    assert waiting.done()
    await log.wait_room()


@in_virtual_time
async def test_an_ack_before_the_wait_is_not_missed() -> None:
    """Room that came back between the question and the wait ends the wait, even where no ack will follow."""
    log = filled(1000)
    viewer = Viewer(log, limit=1000)
    assert not log.has_room()
    viewer.take()
    viewer.ack(1000)
    await asyncio.wait_for(log.wait_room(), 60)


@in_virtual_time
async def test_a_leave_before_the_wait_is_not_missed() -> None:
    """When the last viewer leaves between the question and the wait, nobody is waited for."""
    log = filled(1000)
    viewer = Viewer(log)
    assert not log.has_room()
    log.detach(viewer.attachment)
    await asyncio.wait_for(log.wait_room(), 60)


@in_virtual_time
async def test_a_cancelled_wait_leaves_nothing_behind() -> None:
    """After a wait was cancelled the log can be waited for again."""
    log = filled(1000)
    viewer = Viewer(log, limit=1000)
    waiting = await _waiting(log)
    waiting.cancel()
    await turns(2)
    viewer.read_all()
    await asyncio.wait_for(log.wait_room(), 60)


@in_virtual_time
async def test_several_may_wait_for_room() -> None:
    """Room wakes every task that waits for it, and the cancel of one leaves the others waiting and woken."""
    log = filled(1000)
    viewer = Viewer(log, limit=1000)
    waiting = [await _waiting(log) for _ in range(3)]
    waiting[0].cancel()
    await turns(2)
    assert [task.done() for task in waiting] == [True, False, False]
    viewer.read_all()
    await turns(2)
    assert [task.done() for task in waiting] == [True, True, True]


@in_virtual_time
async def test_uncommitted_chunks_take_room() -> None:
    """What waits for its commit counts as unread: a slow store holds the producer back, and a commit frees it."""
    store = SlowStore()
    log = ChunkLog("s", "e", store, high=10, low=5)
    log.append([Delta("x")] * 9)
    assert log.has_room()
    log.append([Delta("x")])
    assert not log.has_room()
    waiting = await _waiting(log)
    assert not waiting.done()
    store.commit()
    await turns(2)
    assert waiting.done()


@in_virtual_time
async def test_a_paused_log_has_no_room() -> None:
    """A paused log takes nothing, viewers or not, until somebody attaches."""
    log = filled(3)
    log.pause()
    assert not log.has_room()
    waiting = await _waiting(log)
    log.on_floor_moved()
    await turns(2)
    assert not waiting.done()
    Viewer(log)
    await turns(2)
    assert waiting.done()
    assert log.has_room()


@in_virtual_time
async def test_a_log_may_stop_after_some_chunks() -> None:
    """After so many more chunks the log says so, and has no room: nobody goes round and round in it."""
    calls: list[int] = []
    log = filled(3)
    log.stop_after(2, lambda: calls.append(len(log)))
    log.append([Delta("x")])
    assert (log.has_room(), calls) == (True, [])
    log.append([Delta("x")])
    assert (log.has_room(), calls) == (False, [5])
    waiting = await _waiting(log)
    assert not waiting.done()
    Viewer(log)
    await turns(2)
    assert waiting.done()
    log.append([Delta("x")] * 100)
    assert (log.has_room(), calls) == (True, [5])


# -- snapshots


def test_a_snapshot_comes_at_once() -> None:
    """What was missed may come in one piece whatever the window, and nothing follows before it is acknowledged."""
    log = filled(100)
    viewer = Viewer(log, limit=10)
    viewer.attachment.snapshot_to = 100
    assert (viewer.take(5), viewer.attachment.waiting) == ((1, 100), False)
    log.append([Delta("x")])
    assert (viewer.take(), viewer.attachment.waiting) == (None, True)
    viewer.ack(50)
    assert viewer.take() is None
    viewer.ack(100)
    assert viewer.take() == (101, 101)


def test_a_large_snapshot_comes_in_pieces() -> None:
    """A snapshot is sent in messages of a bounded size."""
    log = filled(100, size=SNAPSHOT_BYTES // 10)
    viewer = Viewer(log, limit=10, start=5)
    viewer.attachment.snapshot_to = 90
    taken = []
    while (span := viewer.take()) is not None:
        taken.append(span)
    assert (taken[0], taken[-1]) == ((6, 15), (86, 90))
    assert [first for first, _ in taken[1:]] == [last + 1 for _, last in taken[:-1]]


# -- logs that a store has


def test_an_ended_log_is_filled_and_emptied() -> None:
    """A log that has ended may leave its chunks to the store, and is the same when they are back."""
    original = filled(3, overhead=7)
    log = ChunkLog.ended("s", "e", MemoryStore(), Outcome(StreamState.CANCELLED, 3), overhead=7)
    assert (log.tail, log.state, log.loaded, log.weight) == (3, StreamState.CANCELLED, False, 0)
    for _ in range(2):
        log.fill(original.bodies(1, 3), bytes(original.kinds(1, 3)))
        assert (log.loaded, log.weight, log.chunks(1, 3)) == (True, original.weight, original.chunks(1, 3))
        viewer = Viewer(log)
        assert viewer.take() == (1, 3)
        assert viewer.attachment.take_outcome() == log.outcome
        log.detach(viewer.attachment)
        log.empty()
        assert (log.loaded, log.tail, log.weight) == (False, 3, 0)


def test_the_text_of_a_log() -> None:
    """The text is what may be seen of it, without thoughts and without what was withdrawn."""
    log = make()
    log.append([Delta("a"), Delta("hm", Kind.REASONING), Delta("b")])
    assert log.text() == "ab"
    log.append_bodies([rewind_body(1, "again")], bytes([Kind.REWIND]))
    log.append([Delta("c")])
    assert log.text() == "ac"


# -- a store that fails


def _lost(tail: int) -> Outcome:
    return Outcome(StreamState.FAILED, tail, error_type="internal_error")


def test_what_a_store_loses_was_never_there() -> None:
    """Chunks whose write was lost are gone, nobody saw them, and the log still ends for its viewers."""
    store = SlowStore()
    log = ChunkLog("s", "e", store)
    viewer = Viewer(log)
    log.append([Delta("a")])
    store.commit()
    log.append([Delta("b"), Delta("c")])
    log.on_store_failed(_lost)
    assert (len(log), log.tail, log.outcome) == (1, 1, None)
    store.commit()
    assert log.tail == 1
    log.finish(_lost(1))
    assert viewer.take() == (1, 1)
    assert viewer.attachment.take_outcome() == _lost(1)
    store.commit()
    assert viewer.attachment.take_outcome() is None


def test_an_end_that_a_store_loses() -> None:
    """A log that only waited for its end to be stored ends as lost; one that has ended stays as it is."""
    store = SlowStore()
    log = ChunkLog("s", "e", store)
    heard: list[ChunkLog] = []
    log.when_finished(heard.append)
    log.append([Delta("a")])
    log.finish(OUTCOME)
    log.on_store_failed(_lost)
    assert (log.outcome, heard) == (_lost(0), [log])
    log.on_store_failed(_lost)
    assert heard == [log]


# -- cost


class _CountingBytes(bytearray):
    """Bytes that know how many of them were read."""

    copied = 0

    def __getitem__(self, index: object) -> object:  # type: ignore[override]
        found = super().__getitem__(index)  # type: ignore[call-overload]
        self.copied += len(found) if isinstance(index, slice) else 1
        return found

    def __iter__(self) -> object:  # type: ignore[override]
        raise AssertionError("somebody walks through the whole history")


@pytest.mark.parametrize("history", [100, 100_000])
def test_history_costs_nothing(history: int) -> None:
    """Appending, taking and asking for room touch no chunk but the new ones, however long the log is."""
    log = filled(history)
    viewer = Viewer(log, limit=1000, start=history)
    data = _CountingBytes(log._data)
    log._data = data
    for n in range(history + 1, history + 101):
        log.append([Delta("x")])
        assert viewer.take() == (n, n)
        assert log.bodies(n, n) == [b"x"]
        viewer.ack(n)
        assert log.has_room()
    assert data.copied == 100


# -- rewinds, statuses, waste


def test_a_rewind_says_how_much_it_withdraws() -> None:
    """It counts the code points of the text that still stood behind its target, and nothing else."""
    log = make()
    log.append([Delta("one"), Delta("hm", Kind.REASONING), Delta('"naïve"\n'), Delta("\U0001f642")])
    assert log.parts() == [(1, "one"), (3, '"naïve"\n'), (4, "\U0001f642")]
    log.rewind(3, "retry")
    log.append([Delta("!")])
    log.rewind(1, "retry")
    rewinds = [chunk.content for chunk in log.chunks(1, 7) if chunk.kind is Kind.REWIND]
    assert [msgspec.json.decode(content) for content in rewinds] == [
        {"to_chunk_id": 3, "reason": "retry", "withdrawn": 1},
        {"to_chunk_id": 1, "reason": "retry", "withdrawn": 9},
    ]
    assert (log.text(), log.parts()) == ("one", [(1, "one")])
    assert log.holds(Kind.REASONING, Kind.DATA)
    assert not log.holds(Kind.DATA)


def test_a_status_holds_until_the_next_chunk() -> None:
    """Viewers are told of it, late ones too; who does not care is left alone, and the next chunk or end is its end."""
    log = make()
    told: list[StreamStatus] = []
    log.attach(SendWindow(10, 1 << 20), lambda _: None)
    log.attach(SendWindow(10, 1 << 20), lambda _: None).tell_statuses(told.append)
    status = StreamStatus("s", "waiting", "Nothing comes.")
    log.tell_status(status)
    log.attach(SendWindow(10, 1 << 20), lambda _: None).tell_statuses(told.append)
    assert (told, log.status) == ([status, status], status)
    log.append([Delta("a")])
    assert log.status is None
    log.tell_status(status)
    log.finish(Outcome(StreamState.COMPLETE, 1, finish_reason="stop"))
    assert log.status is None


def test_what_nobody_was_sent() -> None:
    """The furthest viewer counts, also one who has left."""
    log = filled(5)
    assert log.unsent == 5
    viewer = Viewer(log, limit=3)
    viewer.take()
    assert log.unsent == 2
    log.detach(viewer.attachment)
    assert log.unsent == 2


@in_virtual_time
async def test_a_log_that_ends_is_not_copied() -> None:
    """The store is given the buffers that the log is in; what is summed up is gone over by stretches, not chunks."""
    given: list[Any] = []

    class Taking(MemoryStore):
        def finish(self, *arguments: Any) -> None:
            given.extend(arguments)

    log = ChunkLog("s", "e", Taking(), overhead=100)
    log.append([Delta("hm ", Kind.REASONING)] * 500 + [Delta("token ")] * 20_000)
    log.on_ending = lambda _: given.append(log.whole_said())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ChunkLog, "bodies", None)  # no object for each chunk
        patch.setattr(Bodies, "__iter__", None)
        log.finish(Outcome(StreamState.COMPLETE, 20_500))
    said, _, _, bodies, kinds, _ = given
    assert (said.text, said.reasoning) == ("token " * 20_000, "hm " * 500)
    assert bodies.data is log._data
    assert bodies.totals is log.totals
    assert (len(bodies), len(kinds)) == (20_500, 20_500)
