"""The connection: how it begins, and what dies with it."""

from __future__ import annotations

from tests.client_protocol.end import ESTABLISHED, NOW, ask, hear, make, said
from wsstream.client_protocol import ClientProtocol, ClientSettings, Established
from wsstream.states import ConnectionState, ViewState


def test_a_new_client_is_not_connected() -> None:
    """Before its first connection a client says nothing and wants no timer."""
    end = ClientProtocol()
    assert (end.state, end.session_id, end.get_timer()) == (ConnectionState.CLOSED, None, None)
    assert (end.messages_to_send(), end.events_received()) == ([], [])
    end.handle_timer(NOW)
    assert end.messages_to_send() == []


def test_connecting_greets() -> None:
    """The first message on every connection is a hello with the client's wishes."""
    settings = ClientSettings(window=5, window_bytes=6, batch=False, client="c")
    end = ClientProtocol(settings, session_id="ses")
    end.connect(NOW, token="t")
    assert end.state is ConnectionState.GREETING
    assert said(end) == [
        {
            "type": "hello",
            "token": "t",
            "session_id": "ses",
            "window": 5,
            "window_bytes": 6,
            "batch": False,
            "client": "c",
        }
    ]


def test_an_answered_hello_opens() -> None:
    """The server's greeting opens the connection and names the session, which the next hello asks for."""
    end = ClientProtocol()
    end.connect(NOW)
    (event,) = hear(end, **ESTABLISHED)
    assert isinstance(event, Established)
    assert event.message.connection_id == "con"
    assert (end.state, end.session_id) == (ConnectionState.OPEN, "ses")
    end.connection_lost()
    end.connect(NOW)
    assert said(end)[0]["session_id"] == "ses"


def test_what_was_not_sent_dies_with_its_connection() -> None:
    """Messages of a lost connection are not sent on the next one; only the hello is."""
    end = make()
    end.list_streams()
    end.connection_lost()
    assert end.messages_to_send() == []
    end.connect(NOW)
    assert [message["type"] for message in said(end)] == ["hello"]


def test_nothing_goes_ahead_of_the_hello() -> None:
    """What was said without a connection is not sent on the next one."""
    end = ClientProtocol()
    end.list_streams()
    end.connect(NOW)
    assert [message["type"] for message in said(end)] == ["hello"]


def test_losing_a_connection_twice_is_harmless() -> None:
    """A loss that is reported again changes nothing more."""
    end = make()
    view = ask(end)
    end.connection_lost()
    end.connection_lost()
    assert (view.state, end.state) == (ViewState.LOST, ConnectionState.CLOSED)
