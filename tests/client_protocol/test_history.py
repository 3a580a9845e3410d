"""Histories are asked for, and answered."""

from __future__ import annotations

from typing import Any

from tests.client_protocol.end import ask, greet, hear, make, said
from wsstream.client_protocol import Answered, ClientProtocol, Told


def history(session_id: str = "ses") -> dict[str, Any]:
    """An answer to a get_history."""
    message = {"id": "m", "role": "user", "content": "hi", "created": 0.0, "is_complete": True}
    return {"type": "history", "session_id": session_id, "messages": [message], "title": "t"}


def test_histories_are_asked_for_one_by_one() -> None:
    """A question waits until the one before it is answered, and each has its own answer."""
    end = make()
    end.get_history()
    end.get_history("other")
    assert said(end) == [{"type": "get_history"}]
    (answered,) = hear(end, **history())
    assert (answered.message.session_id, answered.message.title) == ("ses", "t")
    assert said(end) == [{"type": "get_history", "session_id": "other"}]
    hear(end, **history("other"))
    assert (said(end), hear(end, **history("unasked"))) == ([], [])


def test_a_history_is_asked_for_again() -> None:
    """A question that has no answer yet goes with every new connection."""
    end = ClientProtocol()
    end.get_history()
    greet(end)
    assert said(end)[1:] == [{"type": "get_history"}]
    end.connection_lost()
    greet(end)
    assert said(end)[1:] == [{"type": "get_history"}]
    hear(end, **history())
    end.connection_lost()
    greet(end)
    assert said(end)[1:] == []


def test_a_history_that_is_refused() -> None:
    """An error that names no stream or request answers the question that waits, and no other error does."""
    end = make()
    ask(end)
    end.get_history()
    error = {"type": "error", "error_type": "rate_limit", "message": "Later", "recoverable": True}
    assert not [event for event in hear(end, **error, stream_id="s") if isinstance(event, Answered)]
    (answered,) = hear(end, **error)
    assert isinstance(answered, Answered)
    end.get_history()
    end.forget_questions()
    assert [type(event) for event in hear(end, **error)] == [Told]
