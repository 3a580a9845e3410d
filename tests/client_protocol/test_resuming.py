"""A connection is lost, and its views come back on the next one."""

from __future__ import annotations

from tests.client_protocol.end import ESTABLISHED, NOW, ask, chunk, greet, hear, make, resumed, said, take_all
from wsstream.client_protocol import ClientProtocol
from wsstream.states import ViewState


def test_what_was_not_taken_is_rolled_back() -> None:
    """A loss drops what was received but not processed; the resume asks for it again."""
    end = make()
    view = ask(end)
    chunk(end, 1, 2, 3)
    end.take(view, NOW)
    end.connection_lost()
    assert (view.state, view.received, view.processed, view.waiting) == (ViewState.LOST, 1, 1, 0)
    assert end.take(view, NOW) is None
    greet(end)
    assert said(end)[1] == {"type": "resume_stream", "stream_id": "s", "last_chunk_id": 1, "epoch": "e"}
    resumed(end, 1)
    chunk(end, 2, 3)
    assert take_all(end, view) == "23"


def test_a_disconnected_client_wants_no_timer() -> None:
    """Without a connection nothing is due, whatever was waiting to be acknowledged."""
    end = make()
    view = ask(end)
    chunk(end, 1)
    end.take(view, NOW)
    end.connection_lost()
    assert end.get_timer() is None


def test_following_a_known_stream() -> None:
    """A stream that exists is followed from where its reader stands."""
    end = make()
    view = end.follow("s", 4, snapshot=True)
    assert said(end) == [{"type": "resume_stream", "stream_id": "s", "last_chunk_id": 4, "snapshot": True}]
    assert (view.state, view.processed, view.request) == (ViewState.LOST, 4, None)
    resumed(end, 4)
    chunk(end, 5)
    assert take_all(end, view) == "5"


def test_a_snapshot_is_asked_for_again() -> None:
    """Whoever wants what was missed at once wants it after a lost connection too."""
    end = make()
    end.follow("s", 4, snapshot=True)
    said(end)
    end.connection_lost()
    greet(end)
    assert said(end)[1] == {"type": "resume_stream", "stream_id": "s", "last_chunk_id": 4, "snapshot": True}


def test_following_while_the_server_goes_away() -> None:
    """A leaving server still serves streams, so it is asked."""
    end = make()
    hear(end, type="going_away", deadline_ms=1, reconnect_after_ms=1)
    end.follow("s")
    assert [message["type"] for message in said(end)] == ["resume_stream"]


def test_a_second_greeting_resumes_nothing_twice() -> None:
    """A greeting that comes again leaves views alone that are streaming."""
    end = make()
    view = ask(end)
    hear(end, **ESTABLISHED)
    assert said(end) == []
    assert view.state is ViewState.STREAMING


def test_following_waits_for_a_connection() -> None:
    """A stream followed while disconnected is resumed once there is a connection."""
    end = ClientProtocol()
    end.follow("s", 4)
    greet(end)
    assert [message["type"] for message in said(end)] == ["hello", "resume_stream"]
