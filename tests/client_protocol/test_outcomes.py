"""The end of a view is what the server knows about it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.client_protocol.end import NOW, ask, chunk, complete, greet, hear, make, resumed, said, take_all
from wsstream import messages as m
from wsstream.chunks import Outcome, Receipt, StreamState, Usage
from wsstream.client_protocol import Ended, Gap, Piece
from wsstream.states import ViewState


def test_a_good_end() -> None:
    """The outcome holds what the server says about the whole answer."""
    end = make()
    view = ask(end)
    chunk(end, 1)
    take_all(end, view)
    usage = {"input_tokens": 3, "output_tokens": 4}
    assert complete(end, 1, usage=usage, ttft_ms=12.5, elapsed_seconds=2.0, tokens_per_second=0.5) == [Ended(view)]
    assert view.state is ViewState.ENDED
    assert view.outcome == Outcome(
        StreamState.COMPLETE, 1, "stop", Usage(3, 4), ttft_ms=12.5, elapsed_seconds=2.0, tokens_per_second=0.5
    )


def test_a_cancelled_end() -> None:
    """A cancelled answer ends in a state of its own, with its receipt."""
    end = make()
    view = ask(end)
    receipt = {"generated_chunks": 0, "delivered_chunk_id": 0}
    fields = {"stream_id": "s", "final_chunk_id": 0, "finish_reason": "cancelled", "receipt": receipt}
    hear(end, type="stream_complete", **fields)
    assert view.outcome is not None
    assert (view.outcome.state, view.outcome.receipt) == (StreamState.CANCELLED, Receipt(0, 0))


def test_a_bad_end() -> None:
    """A failed answer ends with its error."""
    end = make()
    view = ask(end)
    fields = {"error_type": "chunk_timeout", "message": "m", "recoverable": True, "retry_after": 2.0}
    assert hear(end, type="stream_error", stream_id="s", last_chunk_id=0, **fields) == [Ended(view)]
    assert view.outcome == Outcome(
        StreamState.FAILED, 0, error_type="chunk_timeout", message="m", recoverable=True, retry_after=2.0
    )


@given(
    st.sampled_from([StreamState.COMPLETE, StreamState.CANCELLED, StreamState.FAILED]),
    st.none() | st.floats(0, 1e6),
    st.none() | st.builds(Usage, st.integers(0, 1000), st.integers(0, 1000)),
)
def test_an_outcome_survives_the_wire(state: StreamState, number: float | None, usage: Usage | None) -> None:
    """What the server knows about an end is what the client's view knows about it."""
    if state is StreamState.FAILED:
        outcome = Outcome(state, 0, error_type="interrupted", message="m", recoverable=True, retry_after=number)
    else:
        reason = "cancelled" if state is StreamState.CANCELLED else "length"
        outcome = Outcome(state, 0, reason, usage, ttft_ms=number, elapsed_seconds=number or 0.0)
    end = make()
    view = ask(end)
    end.receive_message(m.encode(m.outcome_message("s", outcome)), NOW)
    assert view.outcome == outcome


def test_the_last_ack_does_not_wait() -> None:
    """An answer that has been read whole is acknowledged as soon as it ends."""
    end = make()
    view = ask(end)
    chunk(end, 1, 2)
    take_all(end, view)
    assert said(end) == []
    complete(end, 2)
    assert said(end) == [{"type": "chunk_ack", "chunk_id": 2, "stream_id": "s"}]


def test_an_ended_view_can_be_read_out() -> None:
    """Pieces that waited when the end came can still be taken, and the last one is acknowledged at once."""
    end = make()
    view = ask(end)
    chunk(end, 1, 2)
    assert complete(end, 2) == [Ended(view)]
    assert end.take(view, NOW) == Piece(1, 1, "1")
    assert said(end) == []
    assert end.take(view, NOW) == Piece(2, 2, "2")
    assert said(end) == [{"type": "chunk_ack", "chunk_id": 2, "stream_id": "s"}]
    assert end._streams == {}


def test_a_slow_reader_of_an_ended_view_acknowledges_on_time() -> None:
    """The end of a stream does not stop the acks of what is still being read."""
    end = make()
    view = ask(end)
    chunk(end, 1, 2)
    complete(end, 2)
    end.take(view, NOW)
    end.handle_timer(NOW + 1)
    assert [message["chunk_id"] for message in said(end)] == [1]
    assert take_all(end, view) == "2"


def test_an_ended_view_outlives_its_connection() -> None:
    """What waits in an ended view can be read after a loss, and is acknowledged to nobody."""
    end = make()
    view = ask(end)
    chunk(end, 1, 2)
    complete(end, 2)
    end.take(view, NOW)
    end.connection_lost()
    greet(end)
    assert take_all(end, view) == "2"
    end.handle_timer(NOW + 1)
    assert [message["type"] for message in said(end)] == ["hello"]
    assert view.outcome is not None


@pytest.mark.parametrize("final", [3, 1])
def test_an_end_with_missing_chunks_is_a_gap(final: int) -> None:
    """A terminal message that does not follow the last chunk received does not end the view; it resumes."""
    end = make()
    view = ask(end)
    chunk(end, 1, 2)
    end.take(view, NOW)
    assert complete(end, final) == [Gap(view, 3, final + 1)]
    assert (view.state, view.outcome) == (ViewState.LOST, None)
    assert [(message["type"], message["last_chunk_id"]) for message in said(end)] == [("resume_stream", 1)]


def test_a_second_end_is_ignored() -> None:
    """A terminal message that comes again, or another one, does not change the outcome."""
    end = make()
    view = ask(end)
    chunk(end, 1)
    complete(end, 1)
    first = view.outcome
    fields = {"error_type": "interrupted", "message": "m", "recoverable": True, "last_chunk_id": 1}
    assert complete(end, 1) == []
    assert hear(end, type="stream_error", stream_id="s", **fields) == []
    assert resumed(end, 0) == []
    assert chunk(end, 2) == []
    assert view.outcome is first
