"""Views that are cancelled, or dropped."""

from __future__ import annotations

from tests.client_protocol.end import NOW, ask, chunk, complete, greet, hear, make, resumed, said, start, take_all
from tests.pair import QUESTION
from wsstream.client_protocol import Received
from wsstream.states import ViewState


def test_a_cancel_is_said_at_once() -> None:
    """Cancelling an answer under way tells the server, also one that is going away."""
    end = make()
    view = ask(end)
    end.cancel(view)
    assert said(end) == [{"type": "cancel_stream", "stream_id": "s"}]
    hear(end, type="going_away", deadline_ms=1, reconnect_after_ms=1)
    end.cancel(view)
    assert said(end) == [{"type": "cancel_stream", "stream_id": "s"}]
    assert view.state is ViewState.STREAMING


def test_a_cancel_before_the_start_is_said_with_it() -> None:
    """An answer that was cancelled before the server named its stream is stopped as soon as it does."""
    end = make()
    view = end.chat("r", QUESTION)
    end.messages_to_send()
    end.cancel(view)
    assert said(end) == []
    start(end)
    assert said(end) == [{"type": "cancel_stream", "stream_id": "s"}]


def test_a_cancel_without_a_connection_is_said_on_the_next() -> None:
    """An answer that was cancelled while disconnected is stopped after the resume."""
    end = make()
    view = ask(end)
    end.connection_lost()
    end.cancel(view)
    assert said(end) == []
    greet(end)
    assert [message["type"] for message in said(end)] == ["hello", "resume_stream", "cancel_stream"]


def test_an_ended_view_is_not_cancelled() -> None:
    """There is nothing to stop about an answer that has ended."""
    end = make()
    view = ask(end)
    complete(end, 0)
    end.cancel(view)
    assert said(end) == []


def test_a_dropped_view_is_left_alone() -> None:
    """A view nobody wants is neither fed nor acknowledged nor resumed."""
    end = make()
    view = ask(end)
    chunk(end, 1, 2)
    end.drop(view)
    assert chunk(end, 3) == []
    take_all(end, view)
    end.handle_timer(NOW + 1)
    end.connection_lost()
    greet(end)
    assert [message["type"] for message in said(end)] == ["hello"]


def test_dropping_a_replaced_view_leaves_the_new_one() -> None:
    """Following a stream again makes the old view's end no concern of the new one."""
    end = make()
    old = end.follow("s")
    new = end.follow("s")
    end.drop(old)
    end.messages_to_send()
    resumed(end, 0)
    assert chunk(end, 1) == [Received(new)]
