"""Logs under the Durable Streams protocol, to be read (docs/http.md, "Durable Streams").

A stream is JSON messages: one for each chunk, as the events of `wsstream.wires.sse` have them, and one for the end,
behind which it is closed. An offset is a chunk's id, of fixed width so that offsets sort as texts do.
"""

from __future__ import annotations

import time
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from wsstream.chunks import Outcome
from wsstream.config import Config
from wsstream.errors import MalformedMessage, RequestError
from wsstream.messages import encode
from wsstream.rejections import Clamp, Rejections
from wsstream.wires.base import StreamLike
from wsstream.wires.http import STREAM_HEADERS, Call, Endpoint, LogResponse, loaded, refuse, watched, welcome
from wsstream.wires.reader import LogReader, Span
from wsstream.wires.sse import chunk_fields, end_message

CURSOR_EPOCH = 1_728_432_000  # 9 October 2024, as the protocol proposes
CURSOR_INTERVAL = 20
WIDTH = 16
END = "-end"


class Position(NamedTuple):
    """Behind a chunk, or behind the end."""

    chunk_id: int
    ended: bool = False

    @property
    def offset(self) -> str:
        """As the protocol writes it."""
        return f"{self.chunk_id:0{WIDTH}d}{END if self.ended else ''}"


def parse_offset(text: str, stream: StreamLike) -> Position:
    """What an offset means.

    Raises:
        MalformedMessage: it is none.
        ResumeAhead: there is no such chunk yet.
    """
    if text == "-1":
        return Position(0)
    if text == "now":
        return tail_of(stream)
    digits = text.removesuffix(END)
    if len(digits) != WIDTH or not (digits.isascii() and digits.isdigit()):
        raise MalformedMessage("offset must be -1, now or a Stream-Next-Offset of this stream")
    stream.log.check_position(int(digits))
    return Position(int(digits), digits != text)


def tail_of(stream: StreamLike) -> Position:
    """Where a stream ends now."""
    return Position(stream.log.tail, stream.log.outcome is not None)


def cursor(given: str | None) -> str:
    """The cursor of a live answer: ever growing, so that no cache answers the same question for ever."""
    now = int(time.time() - CURSOR_EPOCH) // CURSOR_INTERVAL
    known = int(given) if given and given.isascii() and given.isdigit() and len(given) < 17 else -1
    return str(now if known < now else known + 1)


def _message(entry_id: int, fields: bytes) -> bytes:
    return b'{"id":%d,%b}' % (entry_id, fields)


def messages(span: Span) -> list[bytes]:
    """The messages of some chunks."""
    return [_message(entry.chunk_id, chunk_fields(entry)) for entry in span.entries()]


def last_message(outcome: Outcome, chunks: int) -> bytes:
    """The message of the end."""
    return end_message(outcome, chunks)


class Live:
    """A stream as events: data, and behind each where that ended."""

    def __init__(self, stream: StreamLike, after: Position, given_cursor: str | None) -> None:
        self._stream = stream
        self._at = after
        self._cursor = given_cursor

    def begin(self) -> bytes:
        """Where the reader is, if there is nothing to tell yet."""
        return self._control() if self._at == tail_of(self._stream) else b""

    def span(self, span: Span) -> bytes:
        """One event for the chunks."""
        self._at = Position(span.last)
        return _data(messages(span)) + self._control()

    def end(self, outcome: Outcome) -> bytes:
        """The last message, and that nothing follows."""
        if self._at.ended:
            return b""
        self._at = Position(self._at.chunk_id, ended=True)
        return _data([last_message(outcome, self._stream.log.tail)]) + self._control()

    def beat(self) -> bytes:
        """A comment, which clients do not see."""
        return b": waiting\n\n"

    def refuse(self, error: RequestError) -> bytes:
        """A comment: the protocol has no word for it, but that a client whose events end asks again."""
        return b": %b\n\n" % str(error).encode()

    def _control(self) -> bytes:
        told: dict[str, object] = {"streamNextOffset": self._at.offset}
        if self._at == tail_of(self._stream):
            told["upToDate"] = True
        if self._at.ended:
            told["streamClosed"] = True
        else:
            self._cursor = cursor(self._cursor)
            told["streamCursor"] = self._cursor
        return b"event: control\ndata: %b\n\n" % encode(told)


def _data(found: list[bytes]) -> bytes:
    return b"event: data\ndata: [%b]\n\n" % b",".join(found)


def asked_for(request: Request) -> tuple[str | None, str | None]:
    """The ``offset`` and the ``live`` mode that a read asks for.

    Raises:
        MalformedMessage: they cannot be meant.
    """
    live = request.query_params.get("live")
    offset = request.query_params.get("offset")
    if live not in (None, "long-poll", "sse"):
        raise MalformedMessage("live must be long-poll or sse")
    if not offset and (live is not None or offset == ""):
        raise MalformedMessage("offset is needed")
    if len(request.query_params.getlist("offset")) > 1:
        raise MalformedMessage("offset must be given once")
    return offset, live


class Durable:
    """The endpoint."""

    def __init__(self, config: Config, rejections: Rejections) -> None:
        self._max_read = config.max_read_bytes
        self._long_poll = config.long_poll_timeout
        self._rejections = rejections
        self._heartbeat = min(15.0, config.heartbeat_interval)

    async def read(self, call: Call) -> Response:
        """``GET /durable/{stream_id}``: what is behind an offset, now or as it comes; ``HEAD``: where it ends."""
        request = call.request
        stream = call.streams.resume(request.path_params["stream_id"])
        if request.method == "HEAD":
            return _answer(stream, b"", tail_of(stream), {"Cache-Control": "no-store"})
        text, live = asked_for(request)
        position = parse_offset(text or "-1", stream)
        if live == "sse":
            return self._follow(call, stream, position)
        if live == "long-poll" and position == tail_of(stream) and not position.ended:
            return await self._poll(call, stream, position)
        return await self._catch_up(call, stream, position, now=text == "now")

    async def _catch_up(self, call: Call, stream: StreamLike, position: Position, *, now: bool = False) -> Response:
        found, reached = await self._found(call, stream, position)
        given = call.request.query_params.get("cursor")
        live = {"Stream-Cursor": cursor(given)} if "live" in call.request.query_params and not reached.ended else {}
        if position.ended and live == {} and "live" in call.request.query_params:
            return _answer(stream, None, reached, live)
        if now:
            return _answer(stream, b"[]", reached, {**live, "Cache-Control": "no-store"})
        tag = f'"{stream.stream_id}:{position.offset}:{reached.offset}"'
        headers = {**live, "ETag": tag, "Cache-Control": "private, no-cache"}
        if call.request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        if reached.chunk_id < stream.log.tail:
            self._rejections.clamp(Clamp.READ)
        return _answer(stream, b"[%b]" % b",".join(found), reached, headers)

    async def _found(self, call: Call, stream: StreamLike, position: Position) -> tuple[list[bytes], Position]:
        """The messages behind a position, as many as one answer holds, and where they end."""
        if position.ended:
            return [], position
        log = await loaded(call.streams, stream)
        first, outcome = position.chunk_id + 1, log.outcome
        last = log.fitting(first, log.tail, self._max_read) if first <= log.tail else log.tail
        found = messages(Span(first, log.bodies(first, last), bytes(log.kinds(first, last))))
        if last < log.tail or outcome is None:
            return found, Position(last)
        return [*found, last_message(outcome, log.tail)], Position(last, ended=True)

    async def _poll(self, call: Call, stream: StreamLike, position: Position) -> Response:
        request = call.request
        async with LogReader(call.streams, stream, position.chunk_id) as reader:
            async with watched(request.scope, request.receive, reader.close):
                try:
                    with welcome(call.streams, reader.end):
                        item = await reader.next(self._long_poll)
                except StopAsyncIteration:
                    return Response(status_code=204)  # nobody is there any more
            if item is not None:
                return await self._catch_up(call, stream, position)
        given = request.query_params.get("cursor")
        return _answer(stream, None, position, {"Stream-Cursor": cursor(given), "Cache-Control": "no-store"})

    def _follow(self, call: Call, stream: StreamLike, position: Position) -> Response:
        script = Live(stream, position, call.request.query_params.get("cursor"))
        headers = {"X-Content-Type-Options": "nosniff", **STREAM_HEADERS}
        return LogResponse(call.streams, stream, script, position.chunk_id, heartbeat=self._heartbeat, headers=headers)


def _answer(stream: StreamLike, body: bytes | None, reached: Position, headers: dict[str, str]) -> Response:
    """Messages, or with ``body`` None that there are none; with where that is."""
    told = {"Stream-Next-Offset": reached.offset, "X-Content-Type-Options": "nosniff", **headers}
    if reached == tail_of(stream):
        told["Stream-Up-To-Date"] = "true"
    if reached.ended:
        told["Stream-Closed"] = "true"
    if body is None:
        return Response(status_code=204, headers=told)
    return Response(body, 200, told, "application/json")


def endpoints(config: Config, rejections: Rejections) -> list[Endpoint]:
    """The wire's address; ``rejections`` counts the reads that were cut."""
    return [Endpoint("GET", "/durable/{stream_id}", Durable(config, rejections).read, refuse)]
