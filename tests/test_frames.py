"""Frames of chunks: the bytes a WebSocket library would make, and JSON that says what the log says."""

from __future__ import annotations

from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import CLIENT, Protocol

from wsstream import messages as m
from wsstream.chunklog import ChunkLog
from wsstream.chunks import Delta, Kind, Outcome, StreamState
from wsstream.flow import SendWindow
from wsstream.frames import MAX_BATCH_BYTES, FrameBook, text_frame
from wsstream.stores.memory import MemoryStore

CONTENT_KINDS = [kind for kind in Kind if kind is not Kind.REWIND]
NASTY = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cs"]),
        st.sampled_from('"\\/\x00\x1f\x7f\x80\u2028\ufeff\ufffd日本語한👋🏽👩\u200d\r\n\t'),
    ),
    min_size=1,
    max_size=12,
)
DELTAS = st.lists(st.builds(Delta, NASTY, st.sampled_from(CONTENT_KINDS)), min_size=1, max_size=12)


def log_of(*deltas: Delta) -> ChunkLog:
    """A log with these chunks."""
    log = ChunkLog("stream-1", "epoch", MemoryStore())
    log.append(deltas)
    return log


def payloads(data: bytes) -> list[bytes]:
    """What a WebSocket library reads from ``data``: whole text messages, and nothing left over."""
    protocol = Protocol(CLIENT, max_size=None)
    protocol.receive_data(data)
    frames = protocol.events_received()
    assert all(isinstance(frame, Frame) and frame.opcode is Opcode.TEXT and frame.fin for frame in frames)
    assert not protocol.reader.buffer
    return [bytes(frame.data) for frame in frames if isinstance(frame, Frame)]


def spans(data: bytes) -> list[tuple[int, int, str, str]]:
    """First id, last id, content and kind of every chunk message in ``data``."""
    found = []
    for payload in payloads(data):
        message = m.decode_server(payload)
        if isinstance(message, m.ContentChunk):
            found.append((message.chunk_id, message.chunk_id, message.content, message.kind))
        else:
            assert isinstance(message, m.ChunkBatch)
            found.append((message.first_chunk_id, message.last_chunk_id, message.content, message.kind))
    return found


@pytest.mark.parametrize("size", [0, 1, 124, 125, 126, 127, 128, 65535, 65536, 65537, 200_000])
def test_a_frame_is_what_websockets_would_write(size: int) -> None:
    """Every length form of RFC 6455 is written as the library writes it."""
    payload = b"x" * size
    assert text_frame(payload) == Frame(Opcode.TEXT, payload).serialize(mask=False, extensions=[])


@given(DELTAS)
def test_every_chunk_decodes_to_its_content(deltas: list[Delta]) -> None:
    """Whatever a text holds, its frames decode to the same content, kind and id."""
    data = FrameBook(log_of(*deltas)).span(1, len(deltas), batch=False)
    assert spans(data) == [(n, n, delta.content, delta.kind.wire) for n, delta in enumerate(deltas, 1)]


@given(DELTAS)
def test_every_batch_decodes_to_its_contents(deltas: list[Delta]) -> None:
    """Batches are the runs of one kind, merged in order, and say which chunks they hold."""
    expected = []
    first = 1
    for kind, run in groupby(deltas, lambda delta: delta.kind):
        texts = [delta.content for delta in run]
        expected.append((first, first + len(texts) - 1, "".join(texts), kind.wire))
        first += len(texts)
    assert spans(FrameBook(log_of(*deltas)).span(1, len(deltas), batch=True)) == expected


def test_text_needs_no_kind() -> None:
    """A chunk of text says nothing of its kind, which every client may leave unread."""
    assert b"kind" not in FrameBook(log_of(Delta("a"), Delta("b"))).span(1, 2, batch=True)


def test_a_batch_is_not_huge() -> None:
    """Where chunks together are too large, they are sent as several batches of at most the limit."""
    found = spans(FrameBook(log_of(*[Delta("x" * 10_000)] * 100)).span(1, 100, batch=True))
    assert len(found) > 1
    assert all(len(content) <= MAX_BATCH_BYTES for *_, content, _ in found)
    assert [first for first, *_ in found] == [1, *[last + 1 for _, last, *_ in found[:-1]]]
    assert found[-1][1] == 100


def test_a_large_chunk_is_a_frame_of_its_own() -> None:
    """A chunk beyond the batch limit is still one chunk, and its neighbours are batched without it."""
    huge = "x" * (MAX_BATCH_BYTES + 1)
    found = spans(FrameBook(log_of(Delta("a"), Delta("b"), Delta(huge), Delta("c"), Delta("d"))).span(1, 5, batch=True))
    assert [(first, last) for first, last, *_ in found] == [(1, 2), (3, 3), (4, 5)]


@pytest.mark.parametrize("rewinds", [{1}, {3}, {5}, {2, 3}, {1, 2, 3, 4, 5}])
def test_no_batch_crosses_a_rewind(rewinds: set[int]) -> None:
    """A rewind is a message of its own, in its place, and batches end before it."""
    log = log_of()
    for n in range(1, 6):
        if n in rewinds:
            log.append_bodies([m.rewind_body(0, "again")], bytes([Kind.REWIND]))
        else:
            log.append([Delta(str(n))])
    found: list[int] = []
    for payload in payloads(FrameBook(log).span(1, 5, batch=True)):
        message = m.decode_server(payload)
        if isinstance(message, m.StreamRewind):
            assert (message.to_chunk_id, message.reason, message.chunk_id in rewinds) == (0, "again", True)
            found.append(message.chunk_id)
        elif isinstance(message, m.ChunkBatch):
            assert not rewinds & set(range(message.first_chunk_id, message.last_chunk_id + 1))
            found += range(message.first_chunk_id, message.last_chunk_id + 1)
        else:
            assert isinstance(message, m.ContentChunk)
            found.append(message.chunk_id)
    assert found == [1, 2, 3, 4, 5]


def test_viewers_share_the_bytes() -> None:
    """Viewers in step are given the very same object, and one that takes no batches its own."""
    log = log_of(Delta("a"), Delta("b"))
    for _ in range(2):
        log.attach(SendWindow(50, 1000), lambda _: None)
    book = FrameBook.of(log)
    assert book is FrameBook.of(log)
    assert book.span(1, 2, batch=True) is book.span(1, 2, batch=True)
    assert len(payloads(book.span(1, 2, batch=False))) == 2
    assert len(payloads(book.span(1, 2, batch=True))) == 1


@pytest.mark.parametrize("viewers", [0, 1, 2])
@pytest.mark.parametrize("batch", [False, True])
def test_sharing_changes_no_byte(viewers: int, batch: bool) -> None:
    """The frames of a span are the same however many follow, and whatever was asked for before."""
    deltas = [Delta("a"), Delta("b", Kind.REASONING), Delta("c"), Delta("d")]
    expected = FrameBook(log_of(*deltas)).span(2, 4, batch=batch)
    log = log_of(*deltas)
    for _ in range(viewers):
        log.attach(SendWindow(50, 1000), lambda _: None)
    book = FrameBook.of(log)
    for first, last in [(1, 1), (2, 4), (2, 4), (1, 4)]:
        book.span(first, last, batch=batch)
    assert book.span(2, 4, batch=batch) == expected


def test_the_end_is_one_frame_for_all() -> None:
    """The terminal message is made once and says what the outcome says."""
    log = log_of(Delta("a"))
    log.finish(Outcome(StreamState.COMPLETE, 1, finish_reason="length", elapsed_seconds=2.0))
    book = FrameBook.of(log)
    (payload,) = payloads(book.outcome())
    message = m.decode_server(payload)
    assert isinstance(message, m.StreamComplete)
    assert (message.stream_id, message.final_chunk_id, message.finish_reason) == ("stream-1", 1, "length")
    assert book.outcome() is book.outcome()


def test_ready_frames_go_with_the_last_viewer_of_an_ended_log() -> None:
    """They can be as large as a snapshot, and nobody counts them; while it runs, the next viewer wants them."""
    log = log_of(Delta("a"))
    viewers = [log.attach(SendWindow(50, 1000), lambda _: None) for _ in range(3)]
    book = FrameBook.of(log)
    log.detach(viewers.pop())
    assert FrameBook.of(log) is book
    log.finish(Outcome(StreamState.COMPLETE, 1))
    log.detach(viewers.pop())
    assert FrameBook.of(log) is book
    log.detach(viewers.pop())
    assert log.wire_cache == {}
    assert FrameBook.of(log).outcome() == book.outcome()
