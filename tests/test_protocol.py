"""The server end, message by message."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pair import read, wire
from wsstream import messages as m
from wsstream.chunks import StreamInfo, StreamState
from wsstream.errors import Capacity, CloseCode, QueueFull, TooManyStreams, UnknownStream
from wsstream.flow import SendWindow
from wsstream.protocol import LATE, Close, ServerProtocol, ServerSettings
from wsstream.states import ConnectionState

NOW = 100.0


def make(**settings: Any) -> ServerProtocol:
    """A server end whose socket has just opened."""
    return ServerProtocol(ServerSettings(**settings), NOW)


def make_open(**settings: Any) -> ServerProtocol:
    """A server end that has been greeted and has answered."""
    end = make(**settings)
    end.receive_message(b'{"type":"hello"}', NOW)
    end.events_received()
    end.establish("con", "ses", [])
    end.messages_to_send()
    return end


def start(end: ServerProtocol, stream_id: str = "s", sent: int = 0) -> SendWindow:
    """A stream on that end, of which some chunks were sent."""
    window = end.start_stream("r-" + stream_id, stream_id, session_id="ses", epoch="e", model=None, timestamp=0.0)
    window.sent = sent
    end.messages_to_send()
    return window


def say(end: ServerProtocol, now: float = NOW, **fields: Any) -> list[dict[str, Any]]:
    """Hand the end a message; what it answers."""
    end.receive_message(wire(**fields), now)
    return read(end.messages_to_send())


def seen(end: ServerProtocol) -> tuple[Any, ...]:
    """Everything of an end that a bad message must not change."""
    windows = {name: (w.sent, w.acked, w.limit, w.limit_bytes) for name, w in end._windows.items()}
    return end.state, windows, end.limit, end.limit_bytes, end.batch, end.round_trip


# -- the greeting


def test_a_new_end_waits_for_a_hello() -> None:
    """A connection begins in silence."""
    end = make()
    assert (end.state, end.close) == (ConnectionState.GREETING, None)
    assert (end.messages_to_send(), end.events_received()) == ([], [])


def test_a_hello_opens_the_connection() -> None:
    """The hello is handed to the owner, who answers it with what it knows of the session."""
    end = make(window=7, heartbeat_interval=2.0, heartbeat_timeout=5.0, max_streams=3)
    assert say(end, type="hello", session_id="ses", token="t") == []
    assert end.state is ConnectionState.OPEN
    assert end.events_received() == [m.Hello(session_id="ses", token="t")]
    end.establish("con", "ses", [StreamInfo("s", 4, StreamState.RUNNING)])
    assert read(end.messages_to_send()) == [
        {
            "type": "connection_established",
            "connection_id": "con",
            "session_id": "ses",
            "heartbeat_interval": 2.0,
            "heartbeat_timeout": 5.0,
            "window": 7,
            "window_bytes": 262144,
            "limits": {"max_message_bytes": 65536, "max_streams": 3, "max_window": 1000},
            "active_streams": [{"stream_id": "s", "last_chunk_id": 4, "state": "running"}],
        }
    ]


def test_a_first_message_without_a_type_is_a_hello() -> None:
    """A client may leave the type out of its first message."""
    end = make()
    end.receive_message(b'{"window":9}', NOW)
    assert end.events_received() == [m.Hello(window=9)]
    assert end.limit == 9


def test_any_other_first_message_counts_as_an_empty_hello_too() -> None:
    """A client that does not greet is greeted for, and its message is then served."""
    end = make()
    say(end, type="list_streams")
    assert end.events_received() == [m.Hello(), m.ListStreams()]
    assert end.state is ConnectionState.OPEN


def test_a_first_ack_is_greeted_for_and_then_refused() -> None:
    """An ack as the first message opens the connection, and acknowledges nothing that is known."""
    end = make()
    answers = say(end, type="chunk_ack", stream_id="s", chunk_id=1)
    assert [answer["error_type"] for answer in answers] == ["unknown_stream"]
    assert end.events_received() == [m.Hello()]
    assert (end.state, end.close) == (ConnectionState.OPEN, None)


@pytest.mark.parametrize(
    ("asked", "limit", "limit_bytes"),
    [
        ({}, 50, 1000),
        ({"window": 5}, 5, 1000),
        ({"window": 10**6}, 60, 1000),
        ({"window_bytes": 5}, 50, 5),
        ({"window_bytes": 10**9}, 50, 2000),
        ({"window": 60, "window_bytes": 2000}, 60, 2000),
    ],
)
def test_the_hello_moves_the_window(asked: dict[str, int], limit: int, limit_bytes: int) -> None:
    """A client's hello sets the window of its streams, up to what the server allows."""
    end = make(window=50, max_window=60, window_bytes=1000, max_window_bytes=2000)
    say(end, type="hello", **asked)
    assert (end.limit, end.limit_bytes) == (limit, limit_bytes)
    window = start(end)
    assert (window.limit, window.limit_bytes) == (limit, limit_bytes)


@pytest.mark.parametrize("offered", [False, True])
@pytest.mark.parametrize("said", [None, False, True])
def test_who_gets_batches(offered: bool, said: bool | None) -> None:
    """The subprotocol offered decides about batches, unless the hello does."""
    end = ServerProtocol(ServerSettings(), NOW, batch=offered)
    say(end, type="hello", batch=said)
    assert end.batch is (offered if said is None else said)


# -- bad input

DEEP = b"[" * 30_000 + b"]" * 30_000


def _ack(value: bytes) -> bytes:
    return b'{"type":"chunk_ack","stream_id":"s","chunk_id":' + value + b"}"


# All that a broken or hostile client may say, what it is told, and with which code it is closed; nothing else changes.
BAD: list[tuple[str, bytes, str, int | None]] = [
    ("empty", b"", "bad_request", None),
    ("half", b'{"type":', "bad_request", None),
    ("not json", b"hello", "bad_request", None),
    ("two objects", b"{}{}", "bad_request", None),
    ("not utf-8", b'{"type":"heartbeat","timestamp":"\xff"}', "bad_request", None),
    ("lone surrogate", b'{"type":"heartbeat","timestamp":"\\ud800"}', "bad_request", None),
    ("lone surrogate in utf-8", b'{"type":"heartbeat","timestamp":"\xed\xa0\x80"}', "bad_request", None),
    ("array", b"[]", "bad_request", None),
    ("array of messages", b'[{"type":"heartbeat"}]', "bad_request", None),
    ("null", b"null", "bad_request", None),
    ("string", b'"heartbeat"', "bad_request", None),
    ("deep array", DEEP, "bad_request", None),
    ("deep object", b'{"a":' * 30_000, "bad_request", None),
    ("deep known field", b'{"type":"hello","client":' + DEEP + b"}", "bad_request", None),
    ("deep unknown field", b'{"type":"heartbeat","x":' + DEEP + b"}", "bad_request", None),
    ("no type", b"{}", "bad_request", None),
    ("type null", b'{"type":null}', "bad_request", None),
    ("type number", b'{"type":1}', "bad_request", None),
    ("type twice", b'{"type":"heartbeat","type":"hello"}', "bad_request", None),
    ("unknown type", b'{"type":"nope"}', "unknown_message", None),
    ("empty type", b'{"type":""}', "unknown_message", None),
    ("a server's type", b'{"type":"content_chunk"}', "unknown_message", None),
    ("second hello", b'{"type":"hello","window":3,"batch":true}', "bad_request", None),
    ("id missing", b'{"type":"chunk_ack","stream_id":"s"}', "bad_request", None),
    ("id bool", _ack(b"true"), "bad_request", None),
    ("id float", _ack(b"1.0"), "bad_request", None),
    ("id fraction", _ack(b"1.5"), "bad_request", None),
    ("id negative", _ack(b"-1"), "bad_request", None),
    ("id text", _ack(b'"1"'), "bad_request", None),
    ("id null", _ack(b"null"), "bad_request", None),
    ("id 2^53", _ack(b"9007199254740992"), "bad_request", None),
    ("id 1e400", _ack(b"1e400"), "bad_request", None),
    ("id NaN", _ack(b"NaN"), "bad_request", None),
    ("id of 5000 digits", _ack(b"9" * 5000), "bad_request", None),
    ("window 0", b'{"type":"chunk_ack","stream_id":"s","chunk_id":3,"window":0}', "bad_request", None),
    ("resume before the start", b'{"type":"resume_stream","stream_id":"s","last_chunk_id":-1}', "bad_request", None),
    ("stream id number", b'{"type":"cancel_stream","stream_id":5}', "bad_request", None),
    ("session id with a space", b'{"type":"get_history","session_id":"a b"}', "bad_request", None),
    ("session id too long", b'{"type":"get_history","session_id":"' + b"x" * 129 + b'"}', "bad_request", None),
    ("request without id", b'{"type":"chat_request","message":"hi"}', "bad_request", None),
    ("request id empty", b'{"type":"chat_request","request_id":"","message":"hi"}', "bad_request", None),
    (
        "request id too long",
        b'{"type":"chat_request","request_id":"' + b"x" * 129 + b'","message":"hi"}',
        "bad_request",
        None,
    ),
    ("nothing asked", b'{"type":"chat_request","request_id":"r"}', "bad_request", None),
    ("no turns", b'{"type":"chat_request","request_id":"r","messages":[]}', "bad_request", None),
    (
        "asked in two ways",
        b'{"type":"chat_request","request_id":"r","message":"hi","messages":[{"role":"user","content":"hi"}]}',
        "bad_request",
        None,
    ),
    (
        "turn without content",
        b'{"type":"chat_request","request_id":"r","messages":[{"role":"user"}]}',
        "bad_request",
        None,
    ),
    ("unknown stream", b'{"type":"chunk_ack","stream_id":"other","chunk_id":1}', "unknown_stream", None),
    ("forged ack", _ack(b"6"), "ack_out_of_range", 4400),
    ("ack of the largest id", _ack(b"9007199254740991"), "ack_out_of_range", 4400),
    (
        "forged ack with a window",
        b'{"type":"chunk_ack","stream_id":"s","chunk_id":6,"window":9}',
        "ack_out_of_range",
        4400,
    ),
    ("forged ack without a stream", b'{"type":"chunk_ack","chunk_id":6}', "ack_out_of_range", 4400),
]


@pytest.mark.parametrize(("data", "error_type", "code"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_bad_input(data: bytes, error_type: str, code: int | None) -> None:
    """Each bad message gets one error of the right type, closes only where the table says so, and changes nothing."""
    end = make_open()
    start(end, "s", sent=5).on_ack(2)
    before = seen(end)
    end.receive_message(data, NOW)
    (answer,) = read(end.messages_to_send())
    assert (answer["type"], answer["error_type"], answer["recoverable"]) == ("error", error_type, False)
    assert end.events_received() == []
    if code is None:
        assert end.close is None
        assert seen(end) == before
        say(end, type="heartbeat")
    else:
        assert end.close is not None
        assert end.close.code == code
        assert seen(end) == (ConnectionState.CLOSED, *before[1:])


MALFORMED_FIRST = [row for row in BAD if row[2] == "bad_request" and row[0] not in {"no type", "second hello"}]
UNSERVED = {"nothing asked", "no turns", "asked in two ways"}


@pytest.mark.parametrize(
    "data", [row[1] for row in MALFORMED_FIRST if row[0] not in UNSERVED], ids=lambda data: repr(data[:40])
)
def test_a_malformed_first_message_closes(data: bytes) -> None:
    """A connection that begins with something unreadable is told so and closed with 4400."""
    end = make()
    end.receive_message(data, NOW)
    assert [answer["error_type"] for answer in read(end.messages_to_send())] == ["bad_request"]
    assert end.close == Close(4400, "malformed hello")
    assert end.events_received() == []


NAMED = [
    ("chat_request", "request_id", {"message": "hi"}),
    ("chat_request", "session_id", {"message": "hi", "request_id": "r"}),
    ("get_history", "session_id", {}),
    ("rename_session", "session_id", {"title": "t"}),
    ("delete_session", "session_id", {}),
]


@pytest.mark.parametrize(("type", "field", "others"), NAMED, ids=[f"{row[0]} {row[1]}" for row in NAMED])
def test_names_may_be_held_shorter(type: str, field: str, others: dict[str, Any]) -> None:
    """A name longer than the server is set to take is malformed as one is that the protocol forbids, three in a row too
    many; one that is not is served, and forgives."""
    end, strict = make_open(max_name_chars=64), make_open()
    for size in (65, 128):
        (answer,) = say(end, type=type, **{**others, field: "n" * size})
        (as_ever,) = say(strict, type=type, **{**others, field: "n" * 129})
        assert (answer["error_type"], answer.get("request_id")) == (as_ever["error_type"], as_ever.get("request_id"))
        assert f"at `$.{field}`" in answer["message"]
        assert end.events_received() == []
    assert say(end, type=type, **{**others, field: "n" * 64}) == []
    assert len(end.events_received()) == 1
    for size in (65, 129, 640):
        assert end.close is None
        say(end, type=type, **{**others, field: "n" * size})
    assert end.close == Close(1008, "repeated malformed messages")


def test_a_hello_with_a_name_that_is_too_long() -> None:
    """A hello is held to the same length, and closes as any malformed one."""
    end = make(max_name_chars=64)
    assert [answer["error_type"] for answer in say(end, type="hello", session_id="n" * 65)] == ["bad_request"]
    assert end.close == Close(4400, "malformed hello")
    end = make(max_name_chars=64)
    assert say(end, type="hello", session_id="n" * 64) == []
    assert end.close is None


def test_an_unknown_first_message_does_not_close() -> None:
    """A first message of an unknown type is answered, and the hello is waited for on."""
    end = make()
    assert [answer["error_type"] for answer in say(end, type="nope")] == ["unknown_message"]
    assert (end.state, end.close) == (ConnectionState.GREETING, None)
    say(end, type="hello")
    assert end.events_received() == [m.Hello()]


def test_three_malformed_messages_in_a_row_close() -> None:
    """The third unreadable message in a row is one too many."""
    end = make_open()
    for _ in range(2):
        end.receive_message(b"{", NOW)
        assert end.close is None
    end.receive_message(b"{", NOW)
    assert end.close == Close(1008, "repeated malformed messages")
    assert len(end.messages_to_send()) == 3


@pytest.mark.parametrize("between", [b'{"type":"heartbeat"}', b'{"type":"hello"}', b'{"type":"list_streams"}'])
def test_a_readable_message_forgives_the_malformed_ones(between: bytes) -> None:
    """Only malformed messages in a row count, whether or not the readable one could be served."""
    end = make_open()
    for _ in range(5):
        end.receive_message(b"{", NOW)
        end.receive_message(b"{", NOW)
        end.receive_message(between, NOW)
    assert end.close is None


def test_unknown_messages_never_close() -> None:
    """A newer client may say things this server does not know, as often as it likes."""
    end = make_open()
    for _ in range(10):
        say(end, type="nope")
    assert end.close is None


def test_nothing_is_read_after_the_close() -> None:
    """A closed end neither answers nor reports what still arrives."""
    end = make_open()
    end.fail(1000, "done")
    assert say(end, type="heartbeat") == []
    end.receive_message(b"{", NOW)
    assert (end.events_received(), end.messages_to_send()) == ([], [])


def test_the_sender_learns_which_request_failed() -> None:
    """An error about a chat_request that cannot be read names the request, where its id can be."""
    end = make_open()
    (answer,) = say(end, type="chat_request", request_id="r-7", messages=5)
    assert answer["request_id"] == "r-7"
    (answer,) = say(end, type="chat_request", request_id="x" * 129)
    assert "request_id" not in answer


def test_errors_repeat_nothing_of_the_message() -> None:
    """What a client sent wrongly is described, not echoed."""
    end = make_open()
    for fields in ({"type": "s3cret"}, {"type": "chunk_ack", "chunk_id": "s3cret"}):
        assert "s3cret" not in str(say(end, **fields))


@given(st.lists(st.binary(max_size=60) | st.sampled_from([row[1] for row in BAD]), max_size=6))
def test_receiving_never_raises(messages: list[bytes]) -> None:
    """Whatever a client sends, in whatever order, is answered on the wire."""
    end = make()
    for data in messages:
        end.receive_message(data, NOW)
    for answer in read(end.messages_to_send()):
        assert answer["type"] in {"error", "heartbeat_ack"}


# -- acks


def test_an_ack_moves_the_window_and_is_reported() -> None:
    """An ack makes room in its stream's window, and the owner hears of it."""
    end = make_open()
    window = start(end, sent=5)
    assert say(end, type="chunk_ack", stream_id="s", chunk_id=3) == []
    assert window.acked == 3
    assert end.events_received() == [m.ChunkAck(3, "s")]


@pytest.mark.parametrize("chunk_id", [0, 2, 3])
def test_an_old_ack_is_silent(chunk_id: int) -> None:
    """An ack that moves nothing is neither an event nor an error."""
    end = make_open()
    window = start(end, sent=5)
    window.on_ack(3)
    assert say(end, type="chunk_ack", stream_id="s", chunk_id=chunk_id) == []
    assert (window.acked, end.events_received(), end.close) == (3, [], None)


def test_an_ack_without_a_stream_means_the_only_one() -> None:
    """Where one stream is followed, an ack need not name it; the event does."""
    end = make_open()
    window = start(end, sent=5)
    say(end, type="chunk_ack", chunk_id=4)
    assert window.acked == 4
    assert end.events_received() == [m.ChunkAck(4, "s")]


def test_an_ack_without_a_stream_is_refused_where_there_are_two() -> None:
    """With several streams an ack that names none cannot be served, and moves none."""
    end = make_open()
    windows = [start(end, name, sent=5) for name in ("a", "b")]
    (answer,) = say(end, type="chunk_ack", chunk_id=4)
    assert answer["error_type"] == "bad_request"
    assert [window.acked for window in windows] == [0, 0]


@pytest.mark.parametrize(("asked", "limit"), [(1, 1), (60, 60), (61, 60), (10**9, 60)])
def test_an_ack_moves_the_client_s_window(asked: int, limit: int) -> None:
    """A client narrows or widens its window with an ack, up to the server's most, even where nothing new is acked."""
    end = make_open(window=50, max_window=60)
    window = start(end, sent=5)
    say(end, type="chunk_ack", stream_id="s", chunk_id=0, window=asked)
    assert window.limit == limit
    assert [type(event) for event in end.events_received()] == [m.ChunkAck]
    assert end.limit == 50


def test_an_older_ack_s_wish_is_out_of_date() -> None:
    """An ack that was overtaken by a newer one does not move the window back."""
    end = make_open()
    window = start(end, sent=5)
    say(end, type="chunk_ack", stream_id="s", chunk_id=4, window=20)
    end.events_received()
    assert say(end, type="chunk_ack", stream_id="s", chunk_id=3, window=10) == []
    assert (window.limit, window.acked, end.events_received()) == (20, 4, [])


def test_late_acks_after_the_end_are_fine() -> None:
    """A client that renders after the terminal message acknowledges in vain, but not wrongly."""
    end = make_open()
    start(end, sent=5)
    end.end_stream("s")
    assert say(end, type="chunk_ack", stream_id="s", chunk_id=3) == []
    assert say(end, type="chunk_ack", chunk_id=5) == []
    assert (end.events_received(), end.close) == ([], None)


def test_a_late_ack_may_be_forged_too() -> None:
    """An ack beyond the end of an ended stream closes like any other forged one."""
    end = make_open()
    start(end, sent=5)
    end.end_stream("s")
    (answer,) = say(end, type="chunk_ack", stream_id="s", chunk_id=6)
    assert answer["error_type"] == "ack_out_of_range"
    assert end.close is not None
    assert end.close.code == CloseCode.BROKEN_MESSAGE


def test_ended_streams_are_forgotten_in_their_order() -> None:
    """The newest ended streams are remembered for late acks, older ones are unknown."""
    end = make_open(max_streams=1)
    for n in range(ServerProtocol.ENDED_KEPT + 1):
        start(end, f"s{n}", sent=5)
        end.end_stream(f"s{n}")
    assert [a["error_type"] for a in say(end, type="chunk_ack", stream_id="s0", chunk_id=1)] == ["unknown_stream"]
    assert say(end, type="chunk_ack", stream_id="s1", chunk_id=1) == []
    assert end.close is None


def test_all_streams_of_a_connection_may_end_before_their_acks() -> None:
    """However many may run at once: that all have ended, and others in their places, make no late ack wrong."""
    end = make_open(max_streams=100)
    for n in range(200):
        start(end, f"s{n}", sent=5)
        end.end_stream(f"s{n}")
    assert say(end, type="chunk_ack", stream_id="s0", chunk_id=5) == []


def test_ending_twice_is_harmless() -> None:
    """A stream that is not followed has nothing to end."""
    end = make_open()
    start(end)
    end.end_stream("s")
    end.end_stream("s")
    end.end_stream("other")
    assert end.close is None


# -- windows


def test_a_stream_starts_with_an_empty_window() -> None:
    """Starting answers the request and opens a window from chunk 1 on."""
    end = make_open(window=7)
    window = end.start_stream("r", "s", session_id="ses", epoch="e", model="demo", timestamp=1.5)
    assert (window.sent, window.acked, window.limit) == (0, 0, 7)
    assert read(end.messages_to_send()) == [
        {
            "type": "stream_start",
            "request_id": "r",
            "stream_id": "s",
            "session_id": "ses",
            "epoch": "e",
            "model": "demo",
            "window": 7,
            "timestamp": 1.5,
        }
    ]


def test_a_repeated_request_keeps_its_window() -> None:
    """The same request again is answered again and sends nothing twice."""
    end = make_open()
    window = start(end, sent=5)
    again = end.start_stream("r-s", "s", session_id="ses", epoch="e", model=None, timestamp=0.0)
    assert again is window
    assert again.sent == 5
    assert [message["type"] for message in read(end.messages_to_send())] == ["stream_start"]


def test_a_window_may_open_before_the_start_is_told() -> None:
    """A stream is followed from the opening of its window to its end; when its start is told is the owner's affair."""
    end = make_open()
    assert not end.follows("s")
    window = end.open_stream("s")
    assert end.follows("s")
    assert end.messages_to_send() == []
    end.tell_start("r", "s", session_id="ses", epoch="e", model=None, timestamp=0.0, window=window)
    assert [message["type"] for message in read(end.messages_to_send())] == ["stream_start"]
    end.end_stream("s")
    assert not end.follows("s")


def test_a_resume_is_an_ack() -> None:
    """Resuming opens a new window behind the chunk that the client has."""
    end = make_open(window=7)
    asked = m.ResumeStream(4, "s")
    window = end.resume_stream(asked, "s", tail=9, epoch="e", state=StreamState.RUNNING)
    assert (window.sent, window.acked, window.limit) == (4, 4, 7)
    assert read(end.messages_to_send()) == [
        {
            "type": "stream_resumed",
            "stream_id": "s",
            "last_chunk_id": 4,
            "tail_chunk_id": 9,
            "epoch": "e",
            "state": "running",
            "window": 7,
        }
    ]


def test_a_resume_replaces_the_window() -> None:
    """A stream resumed on its own connection starts over with what is in flight."""
    end = make_open()
    old = start(end, sent=9)
    new = end.resume_stream(m.ResumeStream(4, "s"), "s", tail=9, epoch="e", state=StreamState.RUNNING)
    assert new is not old
    assert end.window_of("s") is new
    assert (new.sent, old.sent) == (4, 9)


def test_an_ended_stream_can_be_followed_again() -> None:
    """Resuming an ended stream makes acks count for its new window."""
    end = make_open()
    start(end, sent=9)
    end.end_stream("s")
    window = end.resume_stream(m.ResumeStream(0, "s"), "s", tail=9, epoch="e", state=StreamState.COMPLETE)
    end.messages_to_send()
    window.sent = 2
    say(end, type="chunk_ack", stream_id="s", chunk_id=3)  # the old window had sent 9
    assert (window.acked, end.close) == (3, None)
    (answer,) = say(end, type="chunk_ack", stream_id="s", chunk_id=10)
    assert answer["error_type"] == "ack_out_of_range"


@pytest.mark.parametrize(("asked", "limit"), [(None, 50), (5, 5), (60, 60), (10**9, 60)])
def test_a_resume_moves_the_window(asked: int | None, limit: int) -> None:
    """A client may ask for another window when it resumes, up to the server's most."""
    end = make_open(window=50, max_window=60)
    resume = m.ResumeStream(0, "s", window=asked)
    assert end.resume_stream(resume, "s", tail=0, epoch="e", state=StreamState.RUNNING).limit == limit
    assert read(end.messages_to_send())[0]["window"] == limit


def test_too_many_streams() -> None:
    """A connection follows only so many running streams; those it follows already and ended ones do not count."""
    end = make_open(max_streams=2)
    start(end, "a")
    start(end, "b")
    assert end.full
    with pytest.raises(TooManyStreams):
        start(end, "c")
    with pytest.raises(TooManyStreams):
        end.resume_stream(m.ResumeStream(0, "c"), "c", tail=0, epoch="e", state=StreamState.RUNNING)
    assert (end.messages_to_send(), end.close) == ([], None)
    start(end, "a")
    end.resume_stream(m.ResumeStream(0, "b"), "b", tail=0, epoch="e", state=StreamState.RUNNING)
    end.end_stream("a")
    assert not end.full
    start(end, "c")


def test_window_of() -> None:
    """The window of a followed or just ended stream is found, any other is unknown."""
    end = make_open()
    with pytest.raises(UnknownStream):
        end.window_of("s")
    window = start(end)
    assert end.window_of("s") is window
    end.end_stream("s")
    assert end.window_of("s") is window


def test_repr_names_state_and_windows() -> None:
    """A server end in a log line tells its state and its streams' windows."""
    end = make_open()
    start(end, sent=2)
    assert repr(end) == "<ServerProtocol OPEN windows={'s': <SendWindow sent=2 acked=0 limit=50/262144B>}>"


# -- adaptive windows


def _adapt(end: ServerProtocol, window: SendWindow) -> int:
    for n in range(1, 8):
        window.sent = window.acked + window.limit
        window.limited = True
        say(end, NOW + n * 0.1, type="chunk_ack", stream_id="s", chunk_id=window.sent)
    return window.limit


def _with_round_trip(end: ServerProtocol) -> ServerProtocol:
    end.handle_timer(NOW + 1)
    say(end, NOW + 1.2, type="heartbeat_ack", timestamp=NOW + 1)
    end.messages_to_send()
    return end


def test_an_adaptive_window_moves_up_to_the_most() -> None:
    """With adaption on, a fast viewer's window grows with its acks, no wider than the server allows."""
    end = _with_round_trip(make_open(adaptive_window=True, window=50, max_window=300))
    assert _adapt(end, start(end)) == 300


def test_an_adaptive_window_is_never_wider_than_the_client_asked() -> None:
    """Whether in its hello, a resume or an ack, the client's own wish is the most that adaption gives."""
    end = make(adaptive_window=True, window=50, max_window=300)
    say(end, type="hello", window=70)
    _with_round_trip(end)
    assert _adapt(end, start(end)) == 70
    asked = m.ResumeStream(0, "s", window=90)
    window = end.resume_stream(asked, "s", tail=10**6, epoch="e", state=StreamState.RUNNING)
    assert _adapt(end, window) == 90
    say(end, type="chunk_ack", stream_id="s", chunk_id=window.acked, window=110)
    assert _adapt(end, window) == 110
    say(end, type="chunk_ack", stream_id="s", chunk_id=window.acked, window=2)
    assert _adapt(end, window) == 2


def test_a_fixed_window_does_not_move() -> None:
    """With adaption off, the same acks leave the window as negotiated."""
    end = _with_round_trip(make_open(window=50, max_window=300))
    assert _adapt(end, start(end)) == 50


def test_an_ended_stream_s_policy_ends_with_it() -> None:
    """A stream followed again is measured anew, and late acks move nothing."""
    end = _with_round_trip(make_open(adaptive_window=True))
    window = start(end, sent=5)
    end.end_stream("s")
    say(end, type="chunk_ack", stream_id="s", chunk_id=5)
    assert window.limit == 50
    assert end._policies == {}


# -- requests


def test_a_request_is_handed_on() -> None:
    """A chat_request that can be read is the owner's to serve."""
    end = make_open()
    assert say(end, type="chat_request", request_id="r", message="hi") == []
    say(end, type="chat_request", request_id="q", messages=[{"role": "user", "content": "hi"}])
    first, second = end.events_received()
    assert isinstance(first, m.ChatRequested)
    assert isinstance(second, m.ChatRequested)
    assert (first.message, second.request_id) == ("hi", "q")


def test_events_are_returned_once() -> None:
    """What the owner has been told is not told again."""
    end = make_open()
    say(end, type="list_streams")
    assert end.events_received() == [m.ListStreams()]
    assert end.events_received() == []


def test_questions_are_handed_on_in_order() -> None:
    """Lists, histories, cancels and ranges reach the owner in the order they came."""
    end = make_open()
    say(end, type="list_streams")
    say(end, type="get_history", session_id="ses")
    say(end, type="cancel_stream", stream_id="s")
    say(end, type="request_chunks", stream_id="s", from_chunk_id=2, to_chunk_id=3)
    say(end, type="resume_stream", stream_id="s", last_chunk_id=1)
    assert end.events_received() == [
        m.ListStreams(),
        m.GetHistory("ses"),
        m.CancelStream("s"),
        m.RequestChunks(2, 3, "s"),
        m.ResumeStream(1, "s"),
    ]


LEFT_OUT = [
    ({"type": "cancel_stream"}, m.CancelStream("s")),
    ({"type": "request_chunks", "from_chunk_id": 1, "to_chunk_id": 2}, m.RequestChunks(1, 2, "s")),
    ({"type": "resume_stream", "last_chunk_id": 1}, m.ResumeStream(1, "s")),
]


@pytest.mark.parametrize(("fields", "event"), LEFT_OUT, ids=["cancel", "range", "resume"])
def test_the_only_stream_is_filled_in(fields: dict[str, Any], event: m.ClientMessage) -> None:
    """A message that names no stream means the one that is followed."""
    end = make_open()
    start(end)
    assert say(end, **fields) == []
    assert end.events_received() == [event]


@pytest.mark.parametrize("streams", [[], ["a", "b"]])
@pytest.mark.parametrize("fields", [LEFT_OUT[0][0], LEFT_OUT[1][0]], ids=lambda fields: fields["type"])
def test_no_stream_is_guessed(fields: dict[str, Any], streams: list[str]) -> None:
    """Without exactly one stream a message that names none is refused."""
    end = make_open()
    for name in streams:
        start(end, name)
    assert [answer["error_type"] for answer in say(end, **fields)] == ["bad_request"]
    assert end.events_received() == []


def test_a_cancel_right_after_the_end_means_the_ended_stream() -> None:
    """A cancel that crosses the end of the only stream is about that stream."""
    end = make_open()
    for name in ("a", "b"):
        start(end, name)
        end.end_stream(name)
    say(end, type="cancel_stream")
    assert end.events_received() == [m.CancelStream("b")]


def test_the_ended_stream_meant_is_the_last_to_end() -> None:
    """A stream that was followed again counts as ended when it ended last."""
    end = make_open()
    for name in ("a", "b", "a"):
        start(end, name)
        end.end_stream(name)
    say(end, type="cancel_stream")
    assert end.events_received() == [m.CancelStream("a")]


@pytest.mark.parametrize("streams", [[], ["a", "b"]])
def test_a_resume_without_a_stream_is_the_owner_s_to_guess(streams: list[str]) -> None:
    """Which stream a new connection resumes depends on its session, so the owner is asked."""
    end = make_open()
    for name in streams:
        start(end, name)
    assert say(end, type="resume_stream", last_chunk_id=3) == []
    assert end.events_received() == [m.ResumeStream(3)]


def test_a_list_is_answered() -> None:
    """The owner's list goes out as it is."""
    end = make_open()
    end.list_streams([StreamInfo("s", 4, StreamState.COMPLETE)])
    assert read(end.messages_to_send()) == [
        {"type": "stream_list", "streams": [{"stream_id": "s", "last_chunk_id": 4, "state": "complete"}]}
    ]


# -- refusing and closing


def test_a_refusal_is_an_error_message() -> None:
    """An error that ends nothing is told, with whom it is about."""
    end = make_open()
    end.refuse(QueueFull(retry_after=2.0), request_id="r", stream_id="s")
    (answer,) = read(end.messages_to_send())
    assert answer == {
        "type": "error",
        "error_type": "queue_full",
        "message": "Too many requests are waiting already.",
        "recoverable": True,
        "retry_after": 2.0,
        "request_id": "r",
        "stream_id": "s",
    }
    assert end.close is None


def test_a_refusal_may_close() -> None:
    """An error that ends a connection closes it with its code, after it was told."""
    end = make_open()
    end.refuse(Capacity(), request_id="r")
    assert [answer["error_type"] for answer in read(end.messages_to_send())] == ["capacity"]
    assert end.close == Close(1013, "Server at capacity")
    assert end.state is ConnectionState.CLOSED


def test_a_refusal_may_spare_the_connection() -> None:
    """The owner can keep a connection open that other streams still need."""
    end = make_open()
    end.refuse(Capacity(), close=False)
    assert len(end.messages_to_send()) == 1
    assert (end.close, end.state) == (None, ConnectionState.OPEN)


def test_the_first_reason_to_close_stands() -> None:
    """Closing again changes neither code nor reason."""
    end = make_open()
    end.fail(1011, "first")
    end.fail(1000, "second")
    assert end.close == Close(1011, "first")


def test_messages_are_returned_once_and_in_order() -> None:
    """What the owner has taken is not sent again."""
    end = make_open()
    say_twice = [m.encode(m.HeartbeatAck(n)) for n in (1, 2)]
    for n in (1, 2):
        end.receive_message(wire(type="heartbeat", timestamp=n), NOW)
    assert end.messages_to_send() == say_twice
    assert end.messages_to_send() == []


# -- going away


def test_a_status_is_told_while_there_is_somebody_to_tell() -> None:
    """Why a viewer waits is said at once, and to nobody who has been told to go."""
    end = make_open()
    status = m.StreamStatus("s", "retrying", "It is asked again.", 1, 0.5)
    end.tell_status(status)
    assert read(end.messages_to_send()) == [
        {
            "type": "stream_status",
            "stream_id": "s",
            "status": "retrying",
            "message": "It is asked again.",
            "retry_count": 1,
            "retry_after": 0.5,
        }
    ]
    end.fail(1000, "done")
    end.tell_status(status)
    assert end.messages_to_send() == []


def test_going_away_is_announced_once() -> None:
    """The announcement goes out once, however often the server makes up its mind."""
    end = make_open()
    end.go_away(5000, 250)
    end.go_away(9000, 100)
    assert read(end.messages_to_send()) == [{"type": "going_away", "deadline_ms": 5000, "reconnect_after_ms": 250}]
    assert end.state is ConnectionState.DRAINING


def test_a_drain_before_the_hello_is_answered_closes_the_connection() -> None:
    """Who was not let in yet is told to come back; `connection_established` is the first message, or none is."""
    end = make()
    end.receive_message(b'{"type":"hello"}', NOW)
    end.go_away(5000, 250)
    assert end.messages_to_send() == []
    assert end.close is not None
    assert end.close.code == CloseCode.SERVICE_RESTART


def test_no_heartbeat_comes_before_the_answer_to_the_hello() -> None:
    """While the gate makes up its mind nothing is sent; the heartbeats begin behind the answer."""
    end = make(heartbeat_interval=10.0)
    end.receive_message(b'{"type":"hello"}', NOW)
    end.handle_timer(NOW + 1.0)
    assert end.messages_to_send() == []
    end.establish("con", "ses", [])
    end.messages_to_send()
    end.handle_timer(NOW + 11.0)
    assert [message["type"] for message in read(end.messages_to_send())] == ["heartbeat"]


def test_a_draining_end_refuses_new_requests() -> None:
    """While going away a request is told to try elsewhere, and the connection goes on."""
    end = make_open()
    end.go_away(5000, 250)
    end.messages_to_send()
    (answer,) = say(end, type="chat_request", request_id="r", message="hi")
    assert (answer["error_type"], answer["recoverable"], answer["request_id"]) == ("capacity", True, "r")
    assert (end.events_received(), end.close) == ([], None)


def test_a_draining_end_still_serves_its_streams() -> None:
    """While going away acks, cancels, resumes and heartbeats go on."""
    end = make_open()
    window = start(end, sent=5)
    end.go_away(5000, 250)
    end.messages_to_send()
    say(end, type="chunk_ack", chunk_id=4)
    say(end, type="cancel_stream")
    say(end, type="resume_stream", last_chunk_id=4)
    assert window.acked == 4
    assert end.events_received() == [m.ChunkAck(4, "s"), m.CancelStream("s"), m.ResumeStream(4, "s")]
    assert say(end, type="heartbeat", timestamp=7) == [{"type": "heartbeat_ack", "timestamp": 7}]


def test_nothing_to_announce() -> None:
    """After the close there is nobody to tell."""
    end = make_open()
    end.fail(1000, "done")
    end.go_away(5000, 250)
    assert (end.messages_to_send(), end.state) == ([], ConnectionState.CLOSED)


def test_a_drain_before_the_greeting_closes() -> None:
    """Who has not greeted yet has begun nothing: it is sent away for good, to come back elsewhere."""
    end = make()
    end.go_away(5000, 250)
    assert (end.messages_to_send(), end.close) == ([], (1012, "service restart"))


# -- time


def test_heartbeats() -> None:
    """The first heartbeat comes within a second, the next ones an interval apart, whatever else is silent."""
    end = make_open(heartbeat_interval=10.0, heartbeat_timeout=25.0)
    beats = []
    for _ in range(4):
        beats.append(end.get_timer())
        end.handle_timer(beats[-1])
        assert read(end.messages_to_send()) == [{"type": "heartbeat", "timestamp": beats[-1]}]
        end.receive_life(beats[-1])
    assert beats == [NOW + 1, NOW + 11, NOW + 21, NOW + 31]


def test_heartbeats_of_those_who_came_together_do_not_stay_together() -> None:
    """A phase brings the second heartbeat forward by its share of an interval, and all later ones with it."""
    end = ServerProtocol(ServerSettings(heartbeat_interval=10.0), NOW, phase=0.7)
    say(end, type="hello")
    end.establish("con", "ses", [])
    end.messages_to_send()
    beats = []
    for _ in range(4):
        now = end.get_timer()
        end.handle_timer(now)
        end.receive_life(now)
        assert [message["type"] for message in read(end.messages_to_send())] == ["heartbeat"]
        beats.append(now - NOW)
    assert beats == pytest.approx([1.0, 4.0, 14.0, 24.0])


def test_a_short_interval_counts_from_the_start() -> None:
    """An interval below a second is kept by the first heartbeat too."""
    end = make_open(heartbeat_interval=0.25, heartbeat_timeout=1.0)
    assert end.get_timer() == NOW + 0.25


def test_an_early_timer_does_nothing() -> None:
    """A timer that fires before its time changes nothing."""
    end = make_open()
    before = end.get_timer()
    end.handle_timer(before - 0.001)
    assert (end.get_timer(), end.messages_to_send(), end.close) == (before, [], None)


def test_heartbeats_are_answered() -> None:
    """A client's heartbeat comes back with its own timestamp, whatever that is."""
    end = make_open()
    for timestamp in (5, 5.5, "2024-01-01", None):
        (answer,) = say(end, type="heartbeat", timestamp=timestamp)
        assert answer["type"] == "heartbeat_ack"
        assert answer.get("timestamp") == timestamp


def test_silence_closes() -> None:
    """A peer from which nothing came for the timeout is dead, and not a moment earlier."""
    end = make_open(heartbeat_interval=10.0, heartbeat_timeout=25.0)
    for at in (1, 11, 21):
        end.handle_timer(NOW + at)
    assert end.get_timer() == NOW + 25
    end.handle_timer(NOW + 24.999)
    assert end.close is None
    end.handle_timer(NOW + 25)
    assert end.close == Close(3008, "nothing heard in time")


@pytest.mark.parametrize("life", [b'{"type":"heartbeat_ack"}', b'{"type":"nope"}', b"{", None])
def test_any_sign_of_life_counts(life: bytes | None) -> None:
    """Any message and any WebSocket frame puts the peer's end off, even one that cannot be read."""
    end = make_open(heartbeat_interval=100.0, heartbeat_timeout=200.0)
    end.handle_timer(NOW + 1)
    if life is None:
        end.receive_life(NOW + 30)
    else:
        end.receive_message(life, NOW + 30)
    assert end.last_heard == NOW + 30
    assert end.get_timer() == NOW + 101
    end.handle_timer(NOW + 101)
    assert end.get_timer() == NOW + 201
    end.handle_timer(NOW + 201)
    assert end.close is None
    assert end.get_timer() == NOW + 230
    end.handle_timer(NOW + 230)
    assert end.close is not None


def test_no_hello_in_time() -> None:
    """A client that never greets is closed when the time for it is over."""
    end = make(hello_timeout=10.0)
    assert end.get_timer() == NOW + 10
    end.handle_timer(NOW + 9.999)
    assert end.close is None
    end.handle_timer(NOW + 10)
    assert end.close == Close(3008, "no hello in time")


def test_other_signs_of_life_are_no_hello() -> None:
    """Pings and unknown messages do not put the greeting's deadline off."""
    end = make(hello_timeout=10.0)
    say(end, NOW + 9, type="nope")
    end.receive_life(NOW + 9.5)
    end.handle_timer(NOW + 10)
    assert end.close == Close(3008, "no hello in time")


def test_a_process_that_slept_kills_nobody_at_once() -> None:
    """A timer that fires far too late leaves the peer a moment for what it said meanwhile."""
    end = make_open(heartbeat_interval=10.0, heartbeat_timeout=25.0)
    end.handle_timer(NOW + 1)
    end.handle_timer(NOW + 500)
    assert end.close is None
    say(end, NOW + 500.1, type="heartbeat")
    assert end.last_heard == NOW + 500.1


@pytest.mark.parametrize("until", [NOW + 28, NOW + 60])
def test_a_sleep_across_the_deadline_kills_nobody_at_once(until: float) -> None:
    """A peer that was about to be given up when the process fell asleep is heard before it is judged."""
    end = make_open(heartbeat_interval=10.0, heartbeat_timeout=25.0)
    for at in (1, 11, 21):
        end.handle_timer(NOW + at)
    assert end.get_timer() == NOW + 25
    end.handle_timer(until)
    assert end.close is None
    assert end.get_timer() > until


def test_a_sleep_across_the_greeting_kills_nobody_at_once() -> None:
    """A hello that came while the process slept is read before the connection is judged."""
    end = make(hello_timeout=10.0)
    end.handle_timer(NOW + 60)
    assert end.close is None
    assert end.get_timer() == NOW + 60 + LATE
    end.handle_timer(NOW + 60 + LATE)
    assert end.close == Close(3008, "no hello in time")


def test_a_dead_peer_is_found_after_a_sleep() -> None:
    """The moment after a sleep ends too: a peer that says nothing then is closed."""
    end = make_open(heartbeat_interval=10.0, heartbeat_timeout=25.0)
    end.handle_timer(NOW + 500)
    for _ in range(10):
        end.handle_timer(end.get_timer())
    assert end.close == Close(3008, "nothing heard in time")


def test_a_late_timer_hears_nothing_from_the_future() -> None:
    """However late a timer is, the peer counts as heard by then and no later."""
    end = make_open(heartbeat_interval=10.0, heartbeat_timeout=25.0)
    say(end, NOW + 400, type="heartbeat")
    end.handle_timer(NOW + 400)
    assert end.last_heard == NOW + 400


def test_a_closed_end_s_timer_does_nothing() -> None:
    """After the close no heartbeat goes out and the reason stays."""
    end = make_open()
    end.fail(1000, "done")
    end.handle_timer(NOW + 1000)
    assert (end.messages_to_send(), end.close) == ([], Close(1000, "done"))


@given(st.floats(0, 1e9), st.floats(0.01, 100), st.floats(2, 4), st.booleans())
def test_a_timer_that_has_fired_asks_for_a_later_time(
    now: float, interval: float, factor: float, greeted: bool
) -> None:
    """An owner with an exact clock never spins: each time, something has happened and the next timer is later."""
    settings = ServerSettings(heartbeat_interval=interval, heartbeat_timeout=interval * factor, hello_timeout=interval)
    end = ServerProtocol(settings, now)
    if greeted:
        end.receive_message(b"{}", now)
    for _ in range(20):
        due = end.get_timer()
        end.handle_timer(due)
        if end.close is not None:
            return
        assert end.get_timer() > due
    raise AssertionError("a silent peer lives for ever")


# -- round trips


def test_a_heartbeat_s_answer_measures_the_round_trip() -> None:
    """The time from a heartbeat to its answer is the connection's round trip."""
    end = make_open()
    assert end.round_trip is None
    _with_round_trip(end)
    assert end.round_trip == pytest.approx(0.2)


@pytest.mark.parametrize("timestamp", [None, 5, "x", NOW + 2])
def test_other_answers_measure_nothing(timestamp: Any) -> None:
    """An answer to no heartbeat, or to an older one, says nothing about the round trip."""
    end = make_open()
    end.handle_timer(NOW + 1)
    say(end, NOW + 3, type="heartbeat_ack", timestamp=timestamp)
    assert end.round_trip is None


def test_the_round_trip_drops_at_once_and_creeps_up() -> None:
    """A better sample counts at once, a worse one only by a quarter."""
    end = make_open(heartbeat_interval=10.0, heartbeat_timeout=25.0)
    measured = []
    for sample in (0.4, 0.1, 9.0, 9.0):
        beat = end.get_timer()
        end.handle_timer(beat)
        say(end, beat + sample, type="heartbeat_ack", timestamp=beat)
        measured.append(end.round_trip)
    assert measured == pytest.approx([0.4, 0.1, 0.125, 0.15625])


def test_a_request_repeated_behind_the_end_forgives_the_late_ack() -> None:
    """Who asks again for a stream that has ended here may still acknowledge what it was sent before."""
    end = make_open()
    window = end.open_stream("s")
    window.sent = 20
    end.end_stream("s")
    again = end.open_stream("s")
    say(end, type="chunk_ack", stream_id="s", chunk_id=20)
    assert (again.acked, end.close) == (20, None)


@pytest.mark.parametrize(
    ("fields", "named"),
    [(rb'"request_id":"r","message":"\ud800"', "r"), (rb'"message":"x","request_id":"\udfff"', None)],
)
def test_a_refused_surrogate_names_its_request(fields: bytes, named: str | None) -> None:
    """A request with a text that is none is refused by its name, if that can be read, and the connection goes on."""
    server = ServerProtocol(ServerSettings(), NOW)
    server.receive_message(b'{"type":"hello"}', NOW)
    server.establish("c", "ses", [])
    server.messages_to_send()
    for _ in range(5):
        server.receive_message(b'{"type":"chat_request",%b}' % fields, NOW)
        (told,) = map(m.decode_server, server.messages_to_send())
        assert isinstance(told, m.Error)
        assert (told.error_type, told.request_id, "surrogate" in told.message) == ("bad_request", named, True)
    assert server.close is None
