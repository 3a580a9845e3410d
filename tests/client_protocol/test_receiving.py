"""Chunks come in order, once, and without holes."""

from __future__ import annotations

import pytest

from tests.client_protocol.end import NOW, ask, chunk, complete, hear, make, resumed, said, take_all
from wsstream.chunks import StreamState
from wsstream.client_protocol import MAX_GAPS, Ended, Gap, Piece, Received, Resumed
from wsstream.states import ViewState


def test_chunks_wait_to_be_taken_in_order() -> None:
    """Each chunk becomes one piece, and pieces come out in the order of their ids."""
    end = make()
    view = ask(end)
    assert chunk(end, 1, 2) == [Received(view), Received(view)]
    assert (view.received, view.processed, view.waiting) == (2, 0, 2)
    assert end.take(view, NOW) == Piece(1, 1, "1")
    assert end.take(view, NOW) == Piece(2, 2, "2")
    assert end.take(view, NOW) is None
    assert (view.received, view.processed, view.waiting) == (2, 2, 0)


def test_a_batch_is_one_piece() -> None:
    """A batch counts as all of its chunks."""
    end = make()
    view = ask(end)
    batch = {"type": "chunk_batch", "stream_id": "s", "first_chunk_id": 1, "last_chunk_id": 3}
    assert hear(end, content="abc", kind="reasoning", **batch) == [Received(view)]
    assert end.take(view, NOW) == Piece(1, 3, "abc", "reasoning")
    assert chunk(end, 4) == [Received(view)]


def test_a_rewind_is_a_piece_of_its_own() -> None:
    """A rewind keeps its place among the chunks and says how far back it goes."""
    end = make()
    view = ask(end)
    chunk(end, 1, 2)
    hear(end, type="stream_rewind", stream_id="s", chunk_id=3, to_chunk_id=1, reason="retry")
    pieces = [end.take(view, NOW) for _ in range(3)]
    assert pieces[2] == Piece(3, 3, "", "rewind", to=1)
    assert view.processed == 3


@pytest.mark.parametrize("again", [1, 2, 3])
def test_duplicates_are_ignored(again: int) -> None:
    """A chunk that was received before, taken or not, changes nothing."""
    end = make()
    view = ask(end)
    chunk(end, 1, 2, 3)
    end.take(view, NOW)
    assert chunk(end, again) == []
    assert (view.received, view.waiting, view.state) == (3, 2, ViewState.STREAMING)
    assert said(end) == []


def test_a_batch_of_known_chunks_is_ignored() -> None:
    """A batch that ends within what was received changes nothing."""
    end = make()
    view = ask(end)
    chunk(end, 1, 2, 3)
    assert hear(end, type="chunk_batch", stream_id="s", first_chunk_id=1, last_chunk_id=3, content="123") == []
    assert view.waiting == 3


def test_a_gap_is_a_reason_to_resume() -> None:
    """A chunk that comes too early is not taken in; the view resumes behind what its reader has processed."""
    end = make()
    view = ask(end)
    chunk(end, 1, 2, 3)
    end.take(view, NOW)
    assert chunk(end, 5) == [Gap(view, 4, 5)]
    assert said(end) == [{"type": "resume_stream", "stream_id": "s", "last_chunk_id": 1, "epoch": "e"}]
    assert (view.state, view.received, view.waiting) == (ViewState.LOST, 1, 0)


def test_a_batch_that_overlaps_is_a_gap() -> None:
    """A batch cannot be cut, so one that begins within what was received is asked for again."""
    end = make()
    view = ask(end)
    chunk(end, 1, 2)
    events = hear(end, type="chunk_batch", stream_id="s", first_chunk_id=2, last_chunk_id=4, content="234")
    assert events == [Gap(view, 3, 2)]
    assert view.state is ViewState.LOST


def test_a_hole_that_stays_ends_the_view() -> None:
    """A server that leaves the same gap again and again is not asked for ever; what was processed stands."""
    end = make()
    view = ask(end)
    chunk(end, 1)
    end.take(view, NOW)
    for _ in range(MAX_GAPS):
        assert chunk(end, 3) == [Gap(view, 2, 3)]
        assert [message["type"] for message in said(end)] == ["resume_stream"]
        resumed(end, 1)
    assert chunk(end, 3) == [Gap(view, 2, 3), Ended(view)]
    assert said(end) == []
    assert view.outcome is not None
    assert (view.outcome.state, view.outcome.final_chunk_id) == (StreamState.FAILED, 1)
    assert view.outcome.error_type == "internal_error"


def test_a_chunk_between_gaps_forgives_them() -> None:
    """Gaps with progress between them never end a view."""
    end = make()
    view = ask(end)
    for n in range(1, 3 * MAX_GAPS):
        chunk(end, n)
        end.take(view, NOW)
        chunk(end, n + 2)
        resumed(end, n)
    assert view.state is ViewState.STREAMING


def test_nothing_is_taken_in_while_a_resume_is_unanswered() -> None:
    """Chunks that were under way before the resume are ignored until its answer comes."""
    end = make()
    view = ask(end)
    chunk(end, 1, 3)
    assert chunk(end, 1, 2, 3, 4) == []
    assert complete(end, 0) == []
    (event,) = resumed(end, 0)
    assert isinstance(event, Resumed)
    assert event.view is view
    chunk(end, 1, 2)
    assert take_all(end, view) == "12"


def test_a_resumed_view_goes_on() -> None:
    """The answer to a resume says from where and under which epoch the view goes on."""
    end = make()
    view = ask(end)
    chunk(end, 1, 3)
    resumed(end, 0)
    assert (view.state, view.epoch, view.resumes) == (ViewState.STREAMING, "e2", 1)


def test_the_answer_to_another_resume_is_ignored() -> None:
    """An answer that does not echo the position asked for does not count."""
    end = make()
    view = ask(end)
    chunk(end, 1, 3)
    assert resumed(end, 7) == []
    assert view.state is ViewState.LOST


def test_messages_of_streams_that_are_not_followed_are_ignored() -> None:
    """Chunks, resumes and ends of a stream without a view change nothing."""
    end = make()
    assert chunk(end, 1) == []
    assert resumed(end, 0) == []
    assert complete(end, 0) == []
    assert said(end) == []


def test_repr_tells_where_a_view_stands() -> None:
    """A view in a log line tells its stream, state and positions."""
    end = make()
    view = ask(end)
    chunk(end, 1, 2)
    end.take(view, NOW)
    assert repr(view) == "<View s STREAMING received=2 processed=1>"
