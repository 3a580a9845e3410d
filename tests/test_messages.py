"""The native JSON: what is written, what is read, and what is refused."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsstream import messages as m
from wsstream.chunks import ChatMessage, Kind, Outcome, Receipt, StreamInfo, StreamState, Usage
from wsstream.errors import BadRequest, MalformedMessage, QueueFull, UnknownMessage, UnknownStream

LIMITS = m.Limits(max_message_bytes=1, max_streams=2)
INFO = StreamInfo("s", 3, StreamState.RUNNING)

# One of each message with everything that must be there, and its JSON to the letter.
WRITTEN: list[tuple[Any, str]] = [
    (m.Hello(), '{"type":"hello"}'),
    (m.ChatRequested("r", message="hi"), '{"type":"chat_request","request_id":"r","message":"hi"}'),
    (m.ChunkAck(5, "s"), '{"type":"chunk_ack","chunk_id":5,"stream_id":"s"}'),
    (m.RequestChunks(2, 4, "s"), '{"type":"request_chunks","from_chunk_id":2,"to_chunk_id":4,"stream_id":"s"}'),
    (m.ResumeStream(0, "s"), '{"type":"resume_stream","last_chunk_id":0,"stream_id":"s"}'),
    (m.CancelStream("s"), '{"type":"cancel_stream","stream_id":"s"}'),
    (m.ListStreams(), '{"type":"list_streams"}'),
    (m.GetHistory(), '{"type":"get_history"}'),
    (m.RenameSession("t", "ses"), '{"type":"rename_session","title":"t","session_id":"ses"}'),
    (m.DeleteSession(), '{"type":"delete_session"}'),
    (m.Heartbeat(1.5), '{"type":"heartbeat","timestamp":1.5}'),
    (m.HeartbeatAck("x"), '{"type":"heartbeat_ack","timestamp":"x"}'),
    (
        m.ConnectionEstablished("c", "s", 1.0, 2.0, 50, 100, LIMITS, [INFO]),
        '{"type":"connection_established","connection_id":"c","session_id":"s","heartbeat_interval":1.0,'
        '"heartbeat_timeout":2.0,"window":50,"window_bytes":100,"limits":{"max_message_bytes":1,"max_streams":2},'
        '"active_streams":[{"stream_id":"s","last_chunk_id":3,"state":"running"}]}',
    ),
    (m.StreamQueued("r", "s", 1), '{"type":"stream_queued","request_id":"r","stream_id":"s","position":1}'),
    (
        m.StreamStart("r", "s", "ses", "e", None, 50, 1.5),
        '{"type":"stream_start","request_id":"r","stream_id":"s","session_id":"ses","epoch":"e","model":null,'
        '"window":50,"timestamp":1.5}',
    ),
    (m.ContentChunk("s", 1, "hé"), '{"type":"content_chunk","stream_id":"s","chunk_id":1,"content":"hé"}'),
    (
        m.ChunkBatch("s", 1, 3, "abc", "data"),
        '{"type":"chunk_batch","stream_id":"s","first_chunk_id":1,"last_chunk_id":3,"content":"abc","kind":"data"}',
    ),
    (
        m.StreamRewind("s", 4, 2, "retry"),
        '{"type":"stream_rewind","stream_id":"s","chunk_id":4,"to_chunk_id":2,"reason":"retry"}',
    ),
    (
        m.StreamStatus("s", "retrying", "again"),
        '{"type":"stream_status","stream_id":"s","status":"retrying","message":"again"}',
    ),
    (
        m.StreamResumed("s", 2, 9, "e", StreamState.RUNNING, 50),
        '{"type":"stream_resumed","stream_id":"s","last_chunk_id":2,"tail_chunk_id":9,"epoch":"e","state":"running",'
        '"window":50}',
    ),
    (
        m.StreamComplete("s", 9, "stop"),
        '{"type":"stream_complete","stream_id":"s","final_chunk_id":9,"finish_reason":"stop"}',
    ),
    (
        m.StreamFailed("s", "interrupted", "cut", True, 4),
        '{"type":"stream_error","stream_id":"s","error_type":"interrupted","message":"cut","recoverable":true,'
        '"last_chunk_id":4}',
    ),
    (m.RenewToken("t"), '{"type":"renew_token","token":"t"}'),
    (m.TokenRenewed(60.0), '{"type":"token_renewed","expires_in":60.0}'),
    (m.StreamList([]), '{"type":"stream_list","streams":[]}'),
    (
        m.History("ses", [m.HistoryMessage("m", "user", "hi", 1.5, True)]),
        '{"type":"history","session_id":"ses",'
        '"messages":[{"id":"m","role":"user","content":"hi","created":1.5,"is_complete":true}]}',
    ),
    (
        m.History("ses", [m.HistoryMessage("m", "assistant", "so", 1.5, False, "s", Usage(1, 2), 7)], "t"),
        '{"type":"history","session_id":"ses",'
        '"messages":[{"id":"m","role":"assistant","content":"so","created":1.5,"is_complete":false,"stream_id":"s",'
        '"usage":{"input_tokens":1,"output_tokens":2},"last_chunk_id":7}],"title":"t"}',
    ),
    (m.SessionChanged("ses", "t"), '{"type":"session_changed","session_id":"ses","title":"t"}'),
    (m.SessionChanged("ses", deleted=True), '{"type":"session_changed","session_id":"ses","deleted":true}'),
    (m.GoingAway(1000, 250), '{"type":"going_away","deadline_ms":1000,"reconnect_after_ms":250}'),
    (
        m.Error("capacity", "full", True, retry_after=2.0),
        '{"type":"error","error_type":"capacity","message":"full","recoverable":true,"retry_after":2.0}',
    ),
]
CLIENT = get_args(m.ClientMessage)
SERVER = get_args(m.ServerMessage)

content = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def _by_type(pair: Any) -> str:
    return type(pair).__name__ if isinstance(pair, msgspec.Struct) else ""


@pytest.mark.parametrize(("message", "text"), WRITTEN, ids=_by_type)
def test_written_form(message: Any, text: str) -> None:
    """Each message is written with `type` first, in the documented order, without absent fields."""
    assert m.encode(message).decode() == text


@pytest.mark.parametrize(("message", "text"), WRITTEN, ids=_by_type)
def test_what_is_written_is_read_back(message: Any, text: str) -> None:
    """Each message is read by the end that receives it as what the other end wrote."""
    if type(message) in CLIENT:
        assert m.decode_client(text.encode()) == message
    if type(message) in SERVER:
        assert m.decode_server(text) == message
        assert m.decode_server(text.encode()) == message


def test_no_message_is_forgotten() -> None:
    """The table above holds every message of both directions."""
    assert {type(message) for message, _ in WRITTEN} == set(CLIENT) | set(SERVER)


@pytest.mark.parametrize("message", [pair[0] for pair in WRITTEN], ids=_by_type)
def test_messages_of_the_other_direction_are_unknown(message: Any) -> None:
    """An end that gets a message meant for the other end does not know its type."""
    if type(message) not in CLIENT:
        with pytest.raises(UnknownMessage):
            m.decode_client(m.encode(message))
    if type(message) not in SERVER:
        with pytest.raises(UnknownMessage):
            m.decode_server(m.encode(message))


def test_every_field_of_a_chat_request_is_read() -> None:
    """A full chat_request keeps its messages, its configuration and the bare model."""
    data = {
        "type": "chat_request",
        "request_id": "r-1",
        "session_id": "ses_1",
        "messages": [{"role": "user", "content": "hi"}, {"role": "user", "content": [{"type": "text"}]}],
        "config": {
            "provider": "demo",
            "model": "m",
            "temperature": 0.5,
            "max_tokens": 10,
            "buffer_size": 4,
            "boundary": "word",
            "response_format": {"type": "json_object"},
            "on_orphan": {"keep": 5},
            "priority": -1,
        },
        "model": "bare",
    }
    request = m.decode_client(json.dumps(data).encode())
    assert isinstance(request, m.ChatRequested)
    assert msgspec.to_builtins(request) == data
    assert request.messages == [ChatMessage("user", "hi"), ChatMessage("user", [{"type": "text"}])]


def test_unknown_fields_are_ignored() -> None:
    """A newer peer may say more than this one understands."""
    assert m.decode_client(b'{"type":"cancel_stream","stream_id":"s","why":{"a":[1]}}') == m.CancelStream("s")
    assert m.decode_server(b'{"why":1,"type":"going_away","deadline_ms":1,"reconnect_after_ms":2}') == m.GoingAway(1, 2)


def test_the_type_may_stand_anywhere() -> None:
    """A client whose JSON library sorts keys is understood."""
    assert m.decode_client(b'{"chunk_id":1,"type":"chunk_ack"}') == m.ChunkAck(1)


# -- what cannot be read

DEEP = b"[" * 30_000 + b"]" * 30_000
NOT_JSON = [
    b"",
    b"{",
    b"hello",
    b'{"type":"heartbeat"} x',
    b"\xff\xfe",
    b'\xef\xbb\xbf{"type":"heartbeat"}',
    b'{"type":"heartbeat","timestamp":"\xff"}',
    b'{"type":"heartbeat","timestamp":"\xed\xa0\x80"}',
    b'{"type":"chunk_ack","chunk_id":NaN}',
    b'{"type":"chunk_ack","chunk_id":01}',
    b'{"type":"hello","client":' + DEEP + b"}",
    b'{"type":"heartbeat","ignored":' + DEEP + b"}",
    b'{"a":' * 30_000,
]
NOT_OBJECTS = [b"null", b"true", b"1", b'"hello"', b"[]", b'["hello"]', DEEP]
WRONG_FIELDS = [
    b"{}",
    b'{"type":null}',
    b'{"type":5}',
    b'{"type":["hello"]}',
    b'{"type":"heartbeat","timestamp":true}',
    b'{"type":"heartbeat","timestamp":1e400}',
    b'{"type":"heartbeat","timestamp":' + b"9" * 5000 + b"}",
    b'{"type":"heartbeat","type":"hello"}',
    b'{"type":"chunk_ack"}',
    *[b'{"type":"chunk_ack","chunk_id":%b}' % value for value in (b"true", b"1.0", b"1e3", b"1.5", b"-1", b'"1"')],
    *[b'{"type":"chunk_ack","chunk_id":%b}' % value for value in (b"null", b"[1]", b"9007199254740992", b"1e400")],
    b'{"type":"chunk_ack","chunk_id":' + b"9" * 5000 + b"}",
    b'{"type":"chunk_ack","chunk_id":1,"window":0}',
    b'{"type":"chunk_ack","chunk_id":1,"stream_id":5}',
    b'{"type":"request_chunks","from_chunk_id":0,"to_chunk_id":1}',
    b'{"type":"resume_stream","last_chunk_id":1,"snapshot":1}',
    b'{"type":"chat_request","message":"no id"}',
    b'{"type":"chat_request","request_id":""}',
    b'{"type":"chat_request","request_id":"' + b"x" * 129 + b'"}',
    b'{"type":"chat_request","request_id":"r","session_id":"a b"}',
    b'{"type":"chat_request","request_id":"r","messages":[{"role":"user"}]}',
    b'{"type":"chat_request","request_id":"r","messages":"hi"}',
    b'{"type":"chat_request","request_id":"r","config":{"boundary":"line"}}',
    b'{"type":"chat_request","request_id":"r","config":{"buffer_size":0}}',
]


def _short(data: bytes) -> str:
    return repr(data[:50])


@pytest.mark.parametrize("data", NOT_JSON, ids=_short)
def test_not_json(data: bytes) -> None:
    """What is not JSON in UTF-8, or too deep to be read, is malformed, and the answer repeats nothing of it."""
    with pytest.raises(MalformedMessage) as caught:
        m.decode_client(data)
    assert str(caught.value) == "Malformed message: not a JSON object in UTF-8"


@pytest.mark.parametrize("data", NOT_OBJECTS, ids=_short)
def test_not_an_object(data: bytes) -> None:
    """JSON that is no object is malformed, and the answer says what it is."""
    with pytest.raises(MalformedMessage, match="Expected `object`, got"):
        m.decode_client(data)


@pytest.mark.parametrize("data", WRONG_FIELDS, ids=_short)
def test_wrong_fields(data: bytes) -> None:
    """A field that is missing, of the wrong type or out of range is malformed, never rounded or guessed."""
    with pytest.raises(MalformedMessage, match=r"^Malformed message: "):
        m.decode_client(data)


@pytest.mark.parametrize("data", [*NOT_JSON, *NOT_OBJECTS], ids=_short)
def test_the_client_end_reads_no_better(data: bytes) -> None:
    """The reader of server messages refuses the same bytes with the same error."""
    with pytest.raises(MalformedMessage):
        m.decode_server(data)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("name", ["nope", "", "Hello", "content_chunk", "x" * 10_000])
def test_an_unknown_type_is_not_malformed(name: str, first: bool) -> None:
    """A well-formed message of a type nobody knows is told apart, at any time, and its name is not repeated."""
    with pytest.raises(UnknownMessage) as caught:
        m.decode_client(json.dumps({"type": name}).encode(), first=first)
    assert str(caught.value) == "No message has this type."


def test_a_server_s_unknown_type_is_told_apart() -> None:
    """A client can ignore what only a newer server knows."""
    with pytest.raises(UnknownMessage):
        m.decode_server('{"type":"stream_poem"}')


@pytest.mark.parametrize("text", ['{"type":"heartbeat","timestamp":"\ud800"}', '{"type":"\udc00"}'])
def test_text_with_lone_surrogates_is_malformed(text: str) -> None:
    """Text that UTF-8 has no form for is refused like any other bad message."""
    with pytest.raises(MalformedMessage):
        m.decode_server(text)


@pytest.mark.parametrize(
    ("data", "hello"),
    [
        (b"{}", m.Hello()),
        (b'{"token":"t","window":5,"batch":false}', m.Hello(token="t", window=5, batch=False)),
        (b'{"client":{"any":["thing"]}}', m.Hello(client={"any": ["thing"]})),
        (b'{"who":"knows"}', m.Hello()),
    ],
)
def test_a_first_message_without_a_type_is_a_hello(data: bytes, hello: m.Hello) -> None:
    """The type may be left out of the first message, and of no other."""
    assert m.decode_client(data, first=True) == hello
    with pytest.raises(MalformedMessage):
        m.decode_client(data)


@pytest.mark.parametrize(
    "data",
    [
        b'{"window":0}',
        b'{"window":true}',
        b'{"batch":1}',
        b'{"type":"hello","window":0}',
        b'{"type":"chat_request"}',
        b'{"client":' + DEEP + b"}",
        *NOT_JSON,
        *NOT_OBJECTS,
    ],
    ids=_short,
)
def test_a_malformed_first_message(data: bytes) -> None:
    """A first message gets no other indulgence than its missing type."""
    with pytest.raises(MalformedMessage):
        m.decode_client(data, first=True)


@pytest.mark.parametrize("session_id", ["a", "ses_A-9.:~", "x" * 128])
def test_session_ids(session_id: str) -> None:
    """A session id is made of up to 128 characters that are safe everywhere."""
    data = json.dumps({"type": "hello", "session_id": session_id}).encode()
    assert m.decode_client(data) == m.Hello(session_id=session_id)


@pytest.mark.parametrize("session_id", ["", "x" * 129, "a b", "a/b", "é", "a\n", "\na", "a\x00"])
def test_session_ids_that_are_none(session_id: str) -> None:
    """Anything else is refused, a line feed at the end included."""
    with pytest.raises(MalformedMessage, match="session_id"):
        m.decode_client(json.dumps({"type": "hello", "session_id": session_id}).encode())


@pytest.mark.parametrize("value", [0, 1, m.MAX_ID])
def test_ids_up_to_the_largest_exact_integer(value: int) -> None:
    """Ids are read up to the largest integer that every JSON reader keeps exact."""
    assert m.decode_client(b'{"type":"chunk_ack","chunk_id":%d}' % value) == m.ChunkAck(value)
    assert m.MAX_ID == 2**53 - 1


@given(st.binary(max_size=80))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    """Reading raises one of the two documented errors or nothing."""
    for read in (m.decode_client, m.decode_server, lambda d: m.decode_client(d, first=True)):
        with suppress(MalformedMessage, UnknownMessage):
            read(data)


# -- errors and outcomes


def test_an_error_on_the_wire() -> None:
    """An error message says what its exception knows, and whom it is about."""
    error = m.error_message(QueueFull("Later", retry_after=3.0), request_id="r")
    assert error == m.Error("queue_full", "Later", True, retry_after=3.0, request_id="r")
    assert m.error_message(UnknownStream(), stream_id="s") == m.Error(
        "unknown_stream", "There is no such stream.", False, stream_id="s"
    )


def test_a_good_end() -> None:
    """A completed stream's message carries everything its outcome knows."""
    outcome = Outcome(
        StreamState.COMPLETE,
        9,
        finish_reason="length",
        usage=Usage(3, 4),
        ttft_ms=12.5,
        elapsed_seconds=2.0,
        tokens_per_second=4.5,
    )
    assert m.outcome_message("s", outcome) == m.StreamComplete("s", 9, "length", Usage(3, 4), 12.5, 2.0, 4.5)


def test_a_cancelled_end() -> None:
    """A cancelled stream ends with its receipt."""
    receipt = Receipt(9, 4, 1.5)
    outcome = Outcome(StreamState.CANCELLED, 9, finish_reason="cancelled", receipt=receipt)
    message = m.outcome_message("s", outcome)
    assert isinstance(message, m.StreamComplete)
    assert (message.finish_reason, message.receipt) == ("cancelled", receipt)


def test_an_end_without_a_reason_is_a_stop() -> None:
    """The field is never empty on the wire."""
    message = m.outcome_message("s", Outcome(StreamState.COMPLETE, 0))
    assert isinstance(message, m.StreamComplete)
    assert message.finish_reason == "stop"


def test_a_bad_end() -> None:
    """A failed stream's message tells the error and the last chunk that stands."""
    outcome = Outcome(StreamState.FAILED, 4, error_type="chunk_timeout", message="m", recoverable=True, retry_after=2.0)
    assert m.outcome_message("s", outcome) == m.StreamFailed("s", "chunk_timeout", "m", True, 4, retry_after=2.0)
    silent = m.outcome_message("s", Outcome(StreamState.FAILED, 4, error_type="internal_error"))
    assert silent == m.StreamFailed("s", "internal_error", "", False, 4)


# -- chunks


@given(content)
def test_a_body_is_the_inside_of_a_json_string(text: str) -> None:
    """Any text survives its way into a body and out again, and any JSON reader agrees."""
    body = m.encode_body(text)
    assert m.decode_body(body) == text
    assert json.loads(b'"' + body + b'"') == text


@given(st.lists(content))
def test_bodies_join(texts: list[str]) -> None:
    """Bodies put one after the other are the body of the joined text."""
    assert b"".join(m.encode_body(text) for text in texts) == m.encode_body("".join(texts))


@pytest.mark.parametrize("text", ["\ud800", "a\udc00b"])
def test_a_lone_surrogate_has_no_body(text: str) -> None:
    """Text that has no UTF-8 form is refused before it can enter a log."""
    with pytest.raises(UnicodeEncodeError):
        m.encode_body(text)


CONTENT_KINDS = [kind for kind in Kind if kind is not Kind.REWIND]


def _wire(kind: Kind) -> str:
    return sys.intern(kind.wire)  # the encoder leaves a default out where it is the very same object


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), st.integers(1, m.MAX_ID), content)
def test_the_writer_writes_what_the_encoder_would(stream_id: str, chunk_id: int, text: str) -> None:
    """The hand-written fast path and the slow one make the same bytes, for every kind of chunk."""
    writer = m.ChunkWriter(stream_id)
    for kind in CONTENT_KINDS:
        fast = writer.chunk(chunk_id, m.encode_body(text), kind)
        assert fast == m.encode(m.ContentChunk(stream_id, chunk_id, text, _wire(kind)))
        assert len(fast) <= writer.overhead + len(m.encode_body(text))


@given(st.lists(content, min_size=1), st.integers(1, 1000))
def test_a_batch_holds_its_chunks_in_order(texts: list[str], first: int) -> None:
    """A batch is the chunks' text joined, between its two ids, for every kind of chunk."""
    writer = m.ChunkWriter("s")
    last = first + len(texts) - 1
    bodies = [m.encode_body(text) for text in texts]
    for kind in CONTENT_KINDS:
        batch = writer.batch(first, last, b"".join(bodies), kind)
        assert batch == m.encode(m.ChunkBatch("s", first, last, "".join(texts), _wire(kind)))


@given(st.integers(1, m.MAX_ID), st.integers(0, m.MAX_ID), content)
def test_a_rewind_is_written_from_its_body(chunk_id: int, to: int, reason: str) -> None:
    """A rewind kept in a log like a chunk comes out as a stream_rewind, within the promised size."""
    writer = m.ChunkWriter("s")
    body = m.rewind_body(to, reason)
    data = writer.chunk(chunk_id, body, Kind.REWIND)
    assert m.decode_server(data) == m.StreamRewind("s", chunk_id, to, reason)
    assert len(data) <= writer.overhead + len(body)


@pytest.mark.parametrize(
    "text", [rb"\ud800", rb"\udc00", rb"a\ud800b", rb"\ud83d\ud83d", rb"\\\ud800", rb"\udE00\ud83d"]
)
def test_half_a_surrogate_pair_is_called_that(text: bytes) -> None:
    """JSON can write it, and no text can hold it: the refusal says so, and does not call the message no JSON."""
    data = b'{"type":"chat_request","request_id":"r","message":"%b"}' % text
    with pytest.raises(BadRequest, match="half of a surrogate pair") as caught:
        m.decode_client(data)
    assert not isinstance(caught.value, MalformedMessage)


@pytest.mark.parametrize("text", [rb"\ud83d\ude00", rb"\\ud800", rb"\uD83D\uDE00\n", rb"\"\u00e9"])
def test_no_text_is_mended_that_is_whole(text: bytes) -> None:
    """Pairs, other escapes, and what only looks like one behind a backslash are left alone."""
    assert m.mended(text) == text
