"""A client end, and what a server says to it, message by message."""

from __future__ import annotations

from typing import Any

from tests.pair import QUESTION, read, wire
from wsstream.client_protocol import ClientProtocol, ClientSettings, View

NOW = 100.0
ESTABLISHED = {
    "type": "connection_established",
    "connection_id": "con",
    "session_id": "ses",
    "heartbeat_interval": 10.0,
    "heartbeat_timeout": 25.0,
    "window": 50,
    "window_bytes": 1000,
    "limits": {"max_message_bytes": 1000, "max_streams": 1},
    "active_streams": [],
}


def hear(end: ClientProtocol, now: float = NOW, **fields: Any) -> list[Any]:
    """Hand the client a message; what happened."""
    end.receive_message(wire(**fields), now)
    return end.events_received()


def said(end: ClientProtocol) -> list[dict[str, Any]]:
    """What the client has to say."""
    return read(end.messages_to_send())


def greet(end: ClientProtocol, now: float = NOW) -> ClientProtocol:
    """Open a connection and answer its hello."""
    end.connect(now)
    hear(end, now, **ESTABLISHED)
    return end


def make(**settings: Any) -> ClientProtocol:
    """A connected client that has nothing left to say."""
    end = greet(ClientProtocol(ClientSettings(**{"ack_delay": 0.1, **settings})))
    end.messages_to_send()
    return end


def ask(end: ClientProtocol, window: int = 50) -> View:
    """A view whose stream `s` has started."""
    view = end.chat("r", QUESTION)
    start(end, window=window)
    end.messages_to_send()
    return view


def start(end: ClientProtocol, window: int = 50) -> list[Any]:
    """The answer to the request `r`."""
    fields = {"request_id": "r", "stream_id": "s", "session_id": "ses", "epoch": "e", "model": "demo"}
    return hear(end, type="stream_start", window=window, timestamp=0.0, **fields)


def resumed(end: ClientProtocol, last: int, now: float = NOW, window: int = 50) -> list[Any]:
    """The answer to a resume of the stream `s`."""
    fields = {"stream_id": "s", "tail_chunk_id": 9, "epoch": "e2", "state": "running", "window": window}
    return hear(end, now, type="stream_resumed", last_chunk_id=last, **fields)


def chunk(end: ClientProtocol, *ids: int) -> list[Any]:
    """Chunks of the stream `s`, whose text is their number."""
    return [e for n in ids for e in hear(end, type="content_chunk", stream_id="s", chunk_id=n, content=str(n))]


def complete(end: ClientProtocol, final: int, **fields: Any) -> list[Any]:
    """The good end of the stream `s`."""
    return hear(end, type="stream_complete", stream_id="s", final_chunk_id=final, finish_reason="stop", **fields)


def error(end: ClientProtocol, error_type: str = "bad_request", **fields: Any) -> list[Any]:
    """An error, about the stream or request that ``fields`` name."""
    return hear(end, **{"type": "error", "error_type": error_type, "message": "m", "recoverable": False, **fields})


def take_all(end: ClientProtocol, view: View, now: float = NOW) -> str:
    """Read all that waits in a view."""
    text = ""
    while (piece := end.take(view, now)) is not None:
        text += piece.content
    return text
