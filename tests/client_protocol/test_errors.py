"""Errors are about a request, a stream or nothing known."""

from __future__ import annotations

import pytest

from tests.client_protocol.end import ask, chunk, complete, error, greet, hear, make, said, take_all
from tests.pair import QUESTION
from wsstream.chunks import Outcome, StreamState
from wsstream.client_protocol import ClientProtocol, ClientSettings, Ended, Told
from wsstream.states import ViewState


def test_an_error_about_a_request_ends_its_view() -> None:
    """A refused question ends the view that asked it, and is not asked again."""
    end = make()
    view, other = end.chat("r", QUESTION), end.chat("q", QUESTION)
    ended, told = error(end, request_id="r", retry_after=3.0)
    assert ended == Ended(view)
    assert isinstance(told, Told)
    assert view.outcome == Outcome(StreamState.FAILED, 0, error_type="bad_request", message="m", retry_after=3.0)
    assert other.state is ViewState.REQUESTED
    end.connection_lost()
    end.messages_to_send()
    greet(end)
    assert [message.get("request_id") for message in said(end)] == [None, "q"]


def test_an_error_about_a_stream_ends_its_view() -> None:
    """A refused resume ends the view of that stream."""
    end = make()
    view = end.follow("s", 4)
    assert error(end, "unknown_stream", stream_id="s")[0] == Ended(view)
    assert view.outcome == Outcome(StreamState.FAILED, 4, error_type="unknown_stream", message="m")
    assert end._streams == {}


def test_an_error_leaves_what_was_received() -> None:
    """A view that an error ended can still be read out."""
    end = make()
    view = ask(end)
    chunk(end, 1, 2)
    error(end, stream_id="s")
    assert view.outcome is not None
    assert view.outcome.final_chunk_id == 2
    assert take_all(end, view) == "12"


@pytest.mark.parametrize("about", [{}, {"request_id": "other"}, {"stream_id": "other"}])
def test_an_error_about_nothing_known_is_only_told(about: dict[str, str]) -> None:
    """An error about the connection, or about somebody else's stream, ends no view."""
    end = make()
    view = ask(end)
    (told,) = error(end, **about)
    assert isinstance(told, Told)
    assert view.state is ViewState.STREAMING


def test_an_error_about_an_ended_view_is_only_told() -> None:
    """An outcome that is known stays, whatever is said later."""
    end = make()
    view = ask(end)
    chunk(end, 1)
    complete(end, 1)
    first = view.outcome
    assert [type(event) for event in error(end, stream_id="s")] == [Told]
    assert view.outcome is first


def test_a_stream_s_refusal_is_none_of_the_token_s() -> None:
    """While a token is being renewed, an error that names a stream is about that stream."""
    end = ClientProtocol(ClientSettings(renews=True))
    greet(end)
    view = ask(end)
    end.renew("t2")
    hear(end, type="error", error_type="forbidden", message="No", recoverable=False, stream_id=view.stream_id)
    assert view.outcome is not None
    assert end._renewing
