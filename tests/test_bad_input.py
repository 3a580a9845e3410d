"""Whatever a client sends: an error or close code as documented, a line in the log at most, nobody else disturbed."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from tests.conftest import Serve, Spawn
from tests.native import HasPort, Native, connected, frame

TEXT, BINARY = 1, 2
BYSTANDER = "demo:rate=4000,tokens=100"


def wire(type: str, **fields: Any) -> bytes:
    """A message."""
    return json.dumps({"type": type, **fields}).encode()


def ask(**fields: Any) -> bytes:
    """A chat_request."""
    return wire("chat_request", **{"request_id": "r", "message": "hi", **fields})


def nested(depth: int) -> bytes:
    """A hello's ``client`` that is mostly brackets."""
    return b'{"type":"list_streams","x":' + b"[" * depth + b"]" * depth + b"}"


BAD_REQUESTS = {
    "nothing": b"",
    "a space": b" ",
    "not JSON": b"hello",
    "half of JSON": b'{"type":"heartbeat"',
    "two of JSON": b'{"type":"heartbeat"}{"type":"heartbeat"}',
    "single quotes": b"{'type':'heartbeat'}",
    "a comment": b'{"type":"heartbeat"} // hi',
    "NaN": b'{"type":"heartbeat","timestamp":NaN}',
    "a byte order mark": b'\xef\xbb\xbf{"type":"heartbeat"}',
    "a control character": b'{"type":"heartbeat","timestamp":"\x01"}',
    "null": b"null",
    "a number": b"1",
    "a text": b'"heartbeat"',
    "a list": b"[]",
    "a list of messages": b'[{"type":"heartbeat"}]',
    "an empty object": b"{}",
    "a numeric type": b'{"type":1}',
    "a null type": b'{"type":null}',
    "a list as type": b'{"type":["heartbeat"]}',
    "a second hello": wire("hello"),
    "half a surrogate pair as id": ask(request_id="x").replace(b'"x"', b'"\\ud800"'),
    "half a surrogate pair as text": ask().replace(b'"hi"', b'"\\udc00"'),
    "half a surrogate pair as type": b'{"type":"\\ud800"}',
    # Python 3.11 reads a thousand levels, later ones ten thousand.
    "deep nesting": nested(12_000),
    "deeper nesting": nested(30_000),
    "a request without id": wire("chat_request", message="hi"),
    "an empty id": ask(request_id=""),
    "a long id": ask(request_id="x" * 129),
    "a numeric id": ask(request_id=1),
    "no question": wire("chat_request", request_id="r"),
    "two questions": ask(messages=[{"role": "user", "content": "hi"}]),
    "no messages": wire("chat_request", request_id="r", messages=[]),
    "a text as messages": wire("chat_request", request_id="r", messages="hi"),
    "a message without content": wire("chat_request", request_id="r", messages=[{"role": "user"}]),
    "a number as content": wire("chat_request", request_id="r", messages=[{"role": "user", "content": 1}]),
    "a list as config": ask(config=[]),
    "a text as temperature": ask(config={"temperature": "hot"}),
    "no tokens": ask(config={"max_tokens": 0}),
    "tools that are no list": ask(config={"options": {"tools": 5}}),
    "a tool that is a list": ask(config={"options": {"tools": [[]]}}),
    "a tool without a name for its type": ask(config={"options": {"tools": [{"type": {}}]}}),
    "a choice of tools that is a list": ask(config={"options": {"tool_choice": []}}),
    "an effort that is an object": ask(config={"options": {"reasoning_effort": {}}}),
    "a format without a name for its type": ask(config={"response_format": {"type": []}}),
    "a call of a text": wire(
        "chat_request",
        request_id="r",
        messages=[
            {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "function": "f"}]},
            {"role": "tool", "tool_call_id": "c", "content": "r"},
        ],
    ),
    "a provider that is a module": ask(config={"provider": "os:system"}),
    "a provider that is a path": ask(config={"provider": "../../etc/passwd"}),
    "a wild session id": ask(session_id="../x"),
    "a session id with a line break": ask(session_id="x\n"),
    "ack without number": wire("chunk_ack"),
    "ack of a text": wire("chunk_ack", chunk_id="1"),
    "ack of a fraction": wire("chunk_ack", chunk_id=1.5),
    "ack of a truth": wire("chunk_ack", chunk_id=True),
    "ack of null": wire("chunk_ack", chunk_id=None),
    "ack of less than nothing": wire("chunk_ack", chunk_id=-1),
    "ack of too much": wire("chunk_ack", chunk_id=2**53),
    "ack of far too much": wire("chunk_ack", chunk_id=10**400),
    "ack of infinity": b'{"type":"chunk_ack","chunk_id":1e400}',
    "ack with no window": wire("chunk_ack", chunk_id=0, window=0),
    "ack with a negative window": wire("chunk_ack", chunk_id=0, window=-5),
    "resume without number": wire("resume_stream", stream_id="s"),
    "resume from before the start": wire("resume_stream", stream_id="s", last_chunk_id=-1),
    "resume from too far": wire("resume_stream", stream_id="s", last_chunk_id=2**63),
    "resume of a number": wire("resume_stream", stream_id=7, last_chunk_id=0),
    "chunks from nought": wire("request_chunks", stream_id="s", from_chunk_id=0, to_chunk_id=1),
    "chunks the wrong way": wire("request_chunks", stream_id="s", from_chunk_id=2, to_chunk_id=1),
    "cancel of nothing": wire("cancel_stream"),
    "cancel of a list": wire("cancel_stream", stream_id=[]),
    "history of a number": wire("get_history", session_id=1),
    "heartbeat of an object": wire("heartbeat", timestamp={}),
}

OTHERS = {
    "an unknown type": (wire("open_the_door"), "unknown_message"),
    "a server's type": (wire("content_chunk", stream_id="s", chunk_id=1, content="x"), "unknown_message"),
    "a type of 60,000 letters": (wire("x" * 60_000), "unknown_message"),
    "a stream that never was": (wire("resume_stream", stream_id="s", last_chunk_id=0), "unknown_stream"),
    "a stream id of 60,000 letters": (wire("cancel_stream", stream_id="s" * 60_000), "unknown_stream"),
    "an ack for a stream that never was": (wire("chunk_ack", stream_id="s", chunk_id=1), "unknown_stream"),
}

CLOSES = {
    "binary": (frame(BINARY, wire("heartbeat")), 1003),
    "not UTF-8": (frame(TEXT, b'{"type":"\xff"}'), 1007),
    "too large": (frame(TEXT, ask(message="x" * 65_536)), 1009),
    "three that are no messages": (frame(TEXT, b"{") * 3, 1008),
}

GREETINGS = {
    "nothing": b"",
    "not JSON": b"GET / HTTP/1.1",
    "a list": b"[]",
    "a numeric session": b'{"session_id":1}',
    "a wild session": b'{"session_id":"a b"}',
    "a negative window": b'{"type":"hello","window":-1}',
    "half a surrogate pair": b'{"user_id":"\\ud800"}',
    "deep nesting": b'{"client":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
}


class Bystander:
    """Somebody else's stream, under way while bad things happen."""

    def __init__(self, native: Native, stream_id: str) -> None:
        self._native = native
        self._stream_id = stream_id

    async def check(self) -> None:
        """The answer comes whole."""
        assert (await self._native.read(self._stream_id)).last == 100


async def bystander(native: Native) -> Bystander:
    """Begin somebody else's stream."""
    return Bystander(native, await native.ask(BYSTANDER))


async def expect_error(server: HasPort, data: bytes, error_type: str) -> None:
    """``data`` is answered by an error, on a connection that works before and after."""
    async with connected(server) as other, connected(server) as native:
        reading = await bystander(other)
        await native.send_text(data)
        error = await native.until("error")
        assert error["error_type"] == error_type
        assert error["recoverable"] is False
        assert len(error["message"]) < 300
        answer = await native.read(await native.ask("demo:rate=0,tokens=60"))
        assert answer.last == 60
        await reading.check()


@pytest.mark.parametrize("name", BAD_REQUESTS)
async def test_a_bad_request_is_answered(serve: Serve, caplog: pytest.LogCaptureFixture, name: str) -> None:
    """The sender is told bad_request, and goes on."""
    server = await serve()
    caplog.clear()
    await expect_error(server, BAD_REQUESTS[name], "bad_request")
    assert loud(caplog) <= 1


@pytest.mark.parametrize("name", OTHERS)
async def test_other_mistakes_have_their_own_names(serve: Serve, caplog: pytest.LogCaptureFixture, name: str) -> None:
    """What is well formed and cannot be served says why."""
    server = await serve()
    caplog.clear()
    await expect_error(server, *OTHERS[name])
    assert loud(caplog) <= 1


@pytest.mark.parametrize("name", CLOSES)
async def test_what_ends_a_connection_ends_only_that(serve: Serve, caplog: pytest.LogCaptureFixture, name: str) -> None:
    """It is closed with the documented code."""
    server = await serve()
    caplog.clear()
    data, code = CLOSES[name]
    async with connected(server) as other, connected(server) as native:
        reading = await bystander(other)
        native.send_bytes(data)
        assert (await native.closed())[0] == code
        await reading.check()
    assert loud(caplog) <= 1


@pytest.mark.parametrize("name", GREETINGS)
async def test_a_broken_greeting_ends_the_connection(serve: Serve, name: str) -> None:
    """Who begins with something unreadable is told so and closed with 4400."""
    server = await serve()
    async with connected(server, greet=False) as native:
        await native.send_text(GREETINGS[name])
        assert (await native.until("error"))["error_type"] == "bad_request"
        assert (await native.closed())[0] == 4400


@pytest.mark.parametrize("chunk_id", [51, 1_000_000, 2**53 - 1])
@pytest.mark.parametrize("named", [True, False])
async def test_a_forged_ack_ends_the_connection(serve: Serve, chunk_id: int, named: bool) -> None:
    """An ack for what was never sent is ack_out_of_range and close 4400; the stream can still be followed."""
    server = await serve()
    async with connected(server) as native:
        stream_id = await native.ask("demo:rate=0,tokens=200")
        await native.read(stream_id, to=50, ack=False)
        await native.ack(stream_id if named else None, chunk_id)
        assert (await native.until("error"))["error_type"] == "ack_out_of_range"
        assert (await native.closed())[0] == 4400
    async with connected(server) as native:
        await native.resume(stream_id, 50)
        assert (await native.read(stream_id)).last == 200


async def test_odd_but_harmless(serve: Serve) -> None:
    """What the specification allows is served, however strange it looks."""
    server = await serve()
    async with connected(server) as native:
        for data in (
            b' \n{ "timestamp" : 1 , "type" : "heartbeat" , "more" : [ { } ] }\n ',
            b'{"type":"heartbeat","type":"heartbeat"}',
            b'{"\\u0074ype":"heartbeat","":null}',
            wire("heartbeat", timestamp=-(10**15)),
            wire("heartbeat", timestamp="\x00" * 100),
            wire("heartbeat", timestamp=1e300),
        ):
            await native.send_text(data)
            await native.until("heartbeat_ack")
        stream_id = await native.ask(
            "demo:rate=0,tokens=3",
            request_id="\x00\u202e🙂" * 10,
            messages=[{"role": "\x00", "content": [{"type": "text", "text": "hi"}], "name": "x"}],
            message=None,
        )
        assert (await native.read(stream_id)).last == 3


async def test_a_thousand_streams_that_never_were(serve: Serve) -> None:
    """Guessing ids gets errors and costs the server nothing that stays."""
    server = await serve(message_rate=0)
    async with connected(server) as native:
        for number in range(1000):
            await native.send("cancel_stream", stream_id=f"s_{number}")
        await native.round_trip()
        assert native.types().count("error") == 1000
    assert server.streams.statistics().retained == 0


async def test_a_process_logs_one_line_for_each_at_most(spawn: Spawn) -> None:
    """All of the above, one after the other, on one server: it stays up, and its log stays short."""
    server = await spawn("--provider", "demo")
    before = server.log.count("\n")
    tries = 0
    for data in BAD_REQUESTS.values():
        async with connected(server) as native:
            await native.send_text(data)
            await native.until("error")
            tries += 1
    for data in (*(data for data, _ in CLOSES.values()), *(frame(TEXT, data) for data in GREETINGS.values())):
        async with connected(server, greet=False) as native:
            native.send_bytes(data)
            await native.closed()
            tries += 1
    async with connected(server) as native:
        await (await bystander(native)).check()
    assert " error=" not in server.log  # as an exception is logged
    assert server.log.count("\n") - before <= tries


def loud(caplog: pytest.LogCaptureFixture) -> int:
    """Records that a server with default settings would write, but for the two of each answer."""
    return len([r for r in caplog.records if r.levelno >= logging.INFO and r.name != "wsstream.ledger"])
