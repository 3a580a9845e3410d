"""Heartbeats and deadlines: one timer for all."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.client_protocol.end import ESTABLISHED, NOW, ask, chunk, hear, make, said
from wsstream.client_protocol import ClientProtocol, ClientSettings, Dead


def test_a_client_s_heartbeats() -> None:
    """After the greeting a heartbeat goes out every interval that the server names."""
    end = make()
    for at in (NOW + 10, NOW + 20):
        assert end.get_timer() == at
        end.handle_timer(at - 0.001)
        assert said(end) == []
        end.handle_timer(at)
        assert said(end) == [{"type": "heartbeat", "timestamp": at}]
        assert hear(end, at, type="heartbeat_ack", timestamp=at) == []


def test_no_heartbeat_before_the_greeting() -> None:
    """A new connection keeps silent until the server has greeted, whatever the last one was about to say."""
    end = make()
    end.connection_lost()
    end.connect(NOW + 9)
    end.messages_to_send()
    end.handle_timer(NOW + 11)
    assert said(end) == []


def test_a_server_s_heartbeat_is_answered() -> None:
    """A heartbeat goes back with its own timestamp and is nobody else's business."""
    end = make()
    assert hear(end, type="heartbeat", timestamp=7.5) == []
    assert said(end) == [{"type": "heartbeat_ack", "timestamp": 7.5}]


def test_a_silent_server_is_dead() -> None:
    """When nothing came for the timeout the owner is told to give the connection up, once."""
    end = make()
    end.handle_timer(NOW + 24.999)
    assert end.events_received() == []
    end.handle_timer(NOW + 25)
    assert end.events_received() == [Dead()]
    end.handle_timer(NOW + 60)
    assert end.events_received() == []


def test_a_server_that_does_not_greet_is_dead() -> None:
    """A hello that is not answered in time means a dead connection too, also on the second connection."""
    end = ClientProtocol(ClientSettings(greeting_timeout=5.0))
    for _ in range(2):
        end.connect(NOW)
        assert end.get_timer() == NOW + 5
        end.handle_timer(NOW + 4.999)
        assert end.events_received() == []
        end.handle_timer(NOW + 5)
        assert end.events_received() == [Dead()]
        assert end.get_timer() is None
        end.connection_lost()


def test_an_ack_within_the_protocol_s_delay() -> None:
    """Without other settings an ack waits no longer than the 250 ms that rule 4 allows."""
    assert ClientSettings().ack_delay <= 0.25


def test_the_soonest_deadline_counts() -> None:
    """One timer serves heartbeats, silence and acks."""
    end = make(ack_delay=20.0)
    view = ask(end)
    chunk(end, 1)
    end.take(view, NOW)
    assert end.get_timer() == NOW + 10
    end.handle_timer(NOW + 10)
    end.handle_timer(NOW + 19)
    assert end.get_timer() == NOW + 20
    end.messages_to_send()
    end.handle_timer(NOW + 20)
    assert [message["type"] for message in said(end)] == ["chunk_ack", "heartbeat"]
    assert end.get_timer() == NOW + 25


@given(st.floats(0, 1e9), st.floats(0.01, 100), st.floats(2, 4), st.floats(0.01, 0.25))
def test_a_timer_that_has_fired_asks_for_a_later_time(now: float, beat: float, factor: float, delay: float) -> None:
    """An owner with an exact clock never spins: each timer does something and the next one is later."""
    end = ClientProtocol(ClientSettings(ack_delay=delay))
    end.connect(now)
    hear(end, now, **{**ESTABLISHED, "heartbeat_interval": beat, "heartbeat_timeout": beat * factor})
    view = ask(end)
    chunk(end, 1)
    end._last_heard = now
    end.take(view, now)
    for _ in range(20):
        due = end.get_timer()
        assert due is not None
        end.handle_timer(due)
        if Dead() in end.events_received():
            return
        after = end.get_timer()
        assert after is not None
        assert after > due
    raise AssertionError("a silent server lives for ever")


def test_a_slow_greeting_counts_as_a_second_at_most() -> None:
    """Who waited long for the greeting is not therefore far away."""
    end = ClientProtocol(ClientSettings())
    end.connect(NOW)
    hear(end, NOW + 5, **{**ESTABLISHED, "limits": {"max_message_bytes": 1000, "max_streams": 1, "max_window": 100}})
    assert end._round_trip == 1.0
    hear(end, NOW + 9, **ESTABLISHED)
    assert end._round_trip == 1.0


def test_an_expiry_is_told_twice_and_asked_for_once() -> None:
    """A second connection's expiry takes the place of the first one's."""
    end = ClientProtocol(ClientSettings(renews=True))
    for expires_in, due in ((8.0, 6.0), (4.0, 3.0)):
        end.connect(NOW)
        hear(end, NOW, **{**ESTABLISHED, "expires_in": expires_in})
        assert end.get_timer() == NOW + due
        end.connection_lost()
        assert end.get_timer() is None
