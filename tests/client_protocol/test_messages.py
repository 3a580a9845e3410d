"""All other messages, and what is none."""

from __future__ import annotations

from typing import Any

import pytest

from tests.client_protocol.end import NOW, ask, hear, make, said, take_all
from wsstream import messages as m
from wsstream.client_protocol import Dead, Told
from wsstream.states import ConnectionState, ViewState


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"type": "stream_status", "stream_id": "s", "status": "retrying", "message": "m"},
            m.StreamStatus("s", "retrying", "m"),
        ),
        ({"type": "stream_list", "streams": []}, m.StreamList([])),
        (
            {"type": "stream_queued", "request_id": "r", "stream_id": "s", "position": 1},
            m.StreamQueued("r", "s", 1),
        ),
        ({"type": "going_away", "deadline_ms": 1, "reconnect_after_ms": 2}, m.GoingAway(1, 2)),
    ],
    ids=["status", "list", "queued", "going away"],
)
def test_other_messages_are_told(fields: dict[str, Any], message: m.ServerMessage) -> None:
    """What only the application can make use of is handed to it as it is."""
    end = make()
    assert hear(end, **fields) == [Told(message)]


def test_going_away_is_noted() -> None:
    """A client knows when its server is about to leave, and hearing it twice is harmless."""
    end = make()
    for _ in range(2):
        hear(end, type="going_away", deadline_ms=1, reconnect_after_ms=2)
        assert end.state is ConnectionState.DRAINING


def test_asking_for_streams() -> None:
    """The session's streams are asked for in one message."""
    end = make()
    end.list_streams()
    assert said(end) == [{"type": "list_streams"}]


@pytest.mark.parametrize("data", [b"{", b"[]", b'{"type":"poem"}', b'{"type":"hello"}', '{"type":"\ud800"}'])
def test_what_cannot_be_understood_is_counted(data: bytes | str) -> None:
    """A message that makes no sense changes nothing but a count, and is a sign of life."""
    end = make()
    view = ask(end)
    end.receive_message(data, NOW + 20)
    assert (end.ignored, end.events_received(), said(end)) == (1, [], [])
    assert view.state is ViewState.STREAMING
    end.handle_timer(NOW + 44)
    assert Dead() not in end.events_received()


def test_text_is_read_like_bytes() -> None:
    """A socket that hands over text serves as well as one that hands over bytes."""
    end = make()
    view = ask(end)
    end.receive_message('{"type":"content_chunk","stream_id":"s","chunk_id":1,"content":"é"}', NOW)
    assert take_all(end, view) == "é"
