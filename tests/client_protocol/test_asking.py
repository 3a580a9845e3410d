"""Requests: asked, started, refused, and asked again."""

from __future__ import annotations

import pytest

from tests.client_protocol.end import ESTABLISHED, NOW, error, greet, hear, make, said, start
from tests.pair import QUESTION
from wsstream import messages as m
from wsstream.client_protocol import ClientProtocol, Ended, Started, Told
from wsstream.errors import BadRequest, MessageTooLarge
from wsstream.states import ViewState


def test_asking_sends_the_request() -> None:
    """A question goes out at once on an open connection."""
    end = make()
    view = end.chat("r", QUESTION, config=m.ChatConfig(model="m"), session_id="other")
    assert said(end) == [
        {
            "type": "chat_request",
            "request_id": "r",
            "session_id": "other",
            "messages": [{"role": "user", "content": "hi"}],
            "config": {"model": "m"},
        }
    ]
    assert (view.state, view.stream_id, view.processed, view.received) == (ViewState.REQUESTED, None, 0, 0)


def test_a_request_that_cannot_be_sent_is_refused_and_forgotten() -> None:
    """Half of a surrogate pair, or more than the server reads, harms neither this connection nor the next."""
    end = make()
    with pytest.raises(BadRequest, match="surrogate"):
        end.chat("r", "a\ud83d")
    with pytest.raises(MessageTooLarge, match="the server reads 1000"):
        end.chat("r", "x" * 1000)
    assert said(end) == []
    end.connection_lost()
    greet(end)
    assert [message["type"] for message in said(end)] == ["hello"]


def test_a_request_made_before_the_greeting_that_is_too_large_ends_alone() -> None:
    """How much the server reads is known with its greeting; who waited for that is told, and the rest is asked for."""
    end = ClientProtocol()
    large, small = end.chat("r1", "x" * 1000), end.chat("r2", QUESTION)
    end.connect(NOW)
    assert Ended(large) in hear(end, **ESTABLISHED)
    assert large.outcome is not None
    assert (large.outcome.error_type, large.outcome.recoverable) == ("message_too_large", False)
    assert "the server reads 1000" in (large.outcome.message or "")
    assert [message["request_id"] for message in said(end) if message["type"] == "chat_request"] == ["r2"]
    assert small.state is ViewState.REQUESTED


def test_a_start_names_the_stream() -> None:
    """The answer to a question tells the view what it follows."""
    end = make()
    view = end.chat("r", QUESTION)
    assert start(end) == [Started(view)]
    assert view.state is ViewState.STREAMING
    assert (view.stream_id, view.session_id, view.epoch, view.model) == ("s", "ses", "e", "demo")


def test_a_start_that_nobody_asked_for_is_ignored() -> None:
    """The answer to a question that was dropped, or answered before, changes nothing."""
    end = make()
    view = end.chat("r", QUESTION)
    end.drop(view)
    assert start(end) == []
    assert view.state is ViewState.REQUESTED


def test_a_question_waits_for_its_connection() -> None:
    """A question asked before the connection is open goes out when it is."""
    end = ClientProtocol()
    end.chat("r", QUESTION)
    end.connect(NOW)
    assert [message["type"] for message in said(end)] == ["hello"]
    hear(end, **ESTABLISHED)
    assert [message["type"] for message in said(end)] == ["chat_request"]


def test_a_question_is_asked_again_until_it_is_answered() -> None:
    """An unanswered request is sent on every new connection under the same id, and not once it has its stream."""
    end = make()
    end.chat("r", QUESTION)
    first = end.messages_to_send()
    for _ in range(2):
        end.connection_lost()
        greet(end)
        assert end.messages_to_send()[1:] == first
    start(end)
    end.connection_lost()
    greet(end)
    assert [message["type"] for message in said(end)] == ["hello", "resume_stream"]


def test_a_question_waits_while_the_server_goes_away() -> None:
    """A server that is about to leave is not asked; the next one is."""
    end = make()
    hear(end, type="going_away", deadline_ms=1, reconnect_after_ms=1)
    end.chat("r", QUESTION)
    assert said(end) == []
    end.connection_lost()
    greet(end)
    assert [message["type"] for message in said(end)] == ["hello", "chat_request"]


def test_a_prompt_continues_or_says_all() -> None:
    """A text is the next message of the session's conversation, a list is a conversation."""
    end = make()
    end.chat("a", "hi")
    end.chat("b", QUESTION)
    first, second = said(end)
    assert first == {"type": "chat_request", "request_id": "a", "message": "hi"}
    assert second == {"type": "chat_request", "request_id": "b", "messages": [{"role": "user", "content": "hi"}]}


# -- a server without capacity


@pytest.mark.parametrize(("retry_after", "wait"), [(None, 1.0), (0.25, 0.25)])
def test_a_server_without_capacity_is_asked_again(retry_after: float | None, wait: float) -> None:
    """A request that may be served later is repeated after the time the server names, or a second."""
    end = make()
    view = end.chat("r", QUESTION)
    first = end.messages_to_send()
    events = error(end, "capacity", recoverable=True, request_id="r", retry_after=retry_after)
    assert [type(event) for event in events] == [Told]
    assert view.state is ViewState.REQUESTED
    assert end.get_timer() == NOW + wait
    end.handle_timer(NOW + wait - 0.01)
    assert end.messages_to_send() == []
    end.handle_timer(NOW + wait)
    assert end.messages_to_send() == first
    end.handle_timer(NOW + wait + 5)
    assert end.messages_to_send() == []


def test_a_server_without_capacity_is_not_asked_for_ever() -> None:
    """After some refusals the view ends with what the server said."""
    end = make(refusals=2)
    view = end.chat("r", QUESTION)
    for n in range(1, 4):
        assert view.state is ViewState.REQUESTED
        error(end, "capacity", recoverable=True, request_id="r")
        end.handle_timer(NOW + 2 * n)
    assert view.outcome is not None
    assert view.outcome.error_type == "capacity"


def test_capacity_that_cannot_be_waited_for_ends() -> None:
    """A refusal that is not recoverable, such as too many streams of one connection, ends the view."""
    end = make()
    view = end.chat("r", QUESTION)
    error(end, "capacity", recoverable=False, request_id="r")
    assert view.state is ViewState.ENDED


def test_a_refused_request_goes_to_the_next_connection_at_once() -> None:
    """A new connection is asked without waiting for the old one's time to come, and once only."""
    end = make()
    end.chat("r", QUESTION)
    error(end, "capacity", recoverable=True, request_id="r", retry_after=5.0)
    end.connection_lost()
    end.messages_to_send()
    greet(end)
    assert [message["type"] for message in said(end)] == ["hello", "chat_request"]
    end.handle_timer(NOW + 6)
    assert said(end) == []


def test_a_refusing_server_that_leaves_is_not_asked_again() -> None:
    """While the server goes away the request waits for the next connection."""
    end = make()
    end.chat("r", QUESTION)
    end.messages_to_send()
    error(end, "capacity", recoverable=True, request_id="r")
    hear(end, type="going_away", deadline_ms=1, reconnect_after_ms=1)
    assert end.get_timer() == NOW + 10
    end.handle_timer(NOW + 5)
    assert said(end) == []
