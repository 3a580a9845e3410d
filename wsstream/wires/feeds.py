"""Feeds under the Durable Streams protocol: logs that clients write (docs/http.md, "Durable Streams of clients").

An offset is a chunk's id and a zero, each of fixed width; the protocol's own suite names the beginning that way.
"""

from __future__ import annotations

import base64
import codecs
import contextlib
import re
from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple
from urllib.parse import quote, unquote

from starlette.responses import Response

from wsstream.chunks import Outcome, StreamState
from wsstream.config import Config
from wsstream.content import NOTHING, Form, from_chunks, to_chunks
from wsstream.errors import LogTrimmed, MalformedMessage, RequestError, UnknownStream
from wsstream.messages import encode
from wsstream.rejections import Clamp, Rejections
from wsstream.wires.base import FeedLike, FeedsLike
from wsstream.wires.durable import asked_for, cursor
from wsstream.wires.http import (
    DATA_HEADERS,
    STREAM_HEADERS,
    Call,
    Endpoint,
    LogResponse,
    TooLong,
    json_response,
    read_body,
    refuse,
    watched,
    welcome,
)
from wsstream.wires.reader import LogReader, Span
from wsstream.writers import Claim, FeedConfig, Fork, Ruling, Verdict, media_type

PREFIX = "/v1/stream/"
MAX_INTEGER = 2**53 - 1

SAFE = {
    "X-Content-Type-Options": "nosniff",
    # What somebody has written is nobody's page: it gets no origin, runs nothing and loads nothing.
    "Content-Security-Policy": "default-src 'none'; sandbox",
}
_OFFSET = re.compile(r"([0-9]{16})_0{16}")
_INTEGER = re.compile(r"0|[1-9][0-9]{0,15}")
_DIGITS = re.compile(r"[0-9]{1,16}")
_TYPE = re.compile(r"[\w!#$&^.+-]+/[\w!#$&^.+-]+(\s*;[\x20-\x7e]*)?", re.ASCII)
_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,6})?([Zz]|[+-]\d\d:\d\d)")
_LINE = re.compile(rb"\r\n|\r|\n")


def offset_of(chunk_id: int) -> str:
    """Behind a chunk, as the protocol writes it."""
    return f"{chunk_id:016d}_{0:016d}"


def parse_offset(text: str | None, tail: int) -> int:
    """The chunk behind which an offset is.

    Raises:
        MalformedMessage: it is none.
    """
    if text is None or text == "-1":
        return 0
    if text == "now":
        return tail
    found = _OFFSET.fullmatch(text)
    if found is None:
        raise MalformedMessage("offset must be -1, now or a Stream-Next-Offset of this stream")
    return int(found[1])


# -- what a request says ---------------------------------------------------------------------------------------------


class Lengths(NamedTuple):
    """How long what a request says may be, in characters."""

    name: int = 512
    """Of a feed's name."""
    writer: int = 128
    """Of a writer's name, and of a ``Stream-Seq``."""
    content_type: int = 512
    """Of a ``Content-Type``."""


USUAL = Lengths()


def name_of(call: Call, lengths: Lengths = USUAL) -> str:
    """The feed's name.

    Raises:
        MalformedMessage: it is none.
    """
    return _checked_name(call.request.path_params["name"], lengths.name)


def _checked_name(name: str, longest: int) -> str:
    if not 0 < len(name) <= longest or not name.isprintable():
        raise TooLong(f"A stream's name has 1 to {longest} printable characters")
    return name


def _integer(text: str, header: str, pattern: re.Pattern[str] = _INTEGER) -> int:
    if pattern.fullmatch(text) is None or int(text) > MAX_INTEGER:
        raise MalformedMessage(f"{header} must be a whole number")
    return int(text)


def _content_type(headers: Mapping[str, str], longest: int) -> str | None:
    given = headers.get("content-type", "").strip()
    if len(given) > longest:
        raise TooLong(f"Content-Type has at most {longest} characters")
    if given and _TYPE.fullmatch(given) is None:
        raise MalformedMessage("Content-Type must be a media type")
    return given or None


def wish_of(headers: Mapping[str, str], lengths: Lengths = USUAL) -> FeedConfig:
    """What a PUT asks for.

    Raises:
        MalformedMessage: it cannot be meant.
    """
    ttl, expires_at = headers.get("stream-ttl"), headers.get("stream-expires-at")
    if ttl is not None and expires_at is not None:
        raise MalformedMessage("Give Stream-TTL or Stream-Expires-At, not both")
    if expires_at is not None and not _is_time(expires_at):
        raise MalformedMessage("Stream-Expires-At must be a time as in RFC 3339")
    return FeedConfig(
        content_type=_content_type(headers, lengths.content_type),
        ttl=None if ttl is None else _integer(ttl, "Stream-TTL"),
        expires_at=expires_at,
        fork=_fork_of(headers, lengths.name),
    )


def _is_time(text: str) -> bool:
    try:
        return _TIME.fullmatch(text) is not None and datetime.fromisoformat(text.upper()).year > 0
    except ValueError:
        return False


def _fork_of(headers: Mapping[str, str], longest: int) -> Fork | None:
    source, at = headers.get("stream-forked-from"), headers.get("stream-fork-offset")
    more = headers.get("stream-fork-sub-offset")
    if source is None:
        if at is not None or more is not None:
            raise MalformedMessage("Stream-Forked-From is needed")
        return None
    if PREFIX not in source:
        raise UnknownStream("There is no stream to fork")
    return Fork(
        source=_checked_name(unquote(source.partition(PREFIX)[2]), longest),
        at=None if at is None else parse_offset(at, 0),
        more=0 if more is None else _integer(more, "Stream-Fork-Sub-Offset"),
    )


def claim_of(headers: Mapping[str, str], lengths: Lengths = USUAL) -> Claim | None:
    """What the writer of an append says that it is.

    Raises:
        MalformedMessage: not all of it is said, or not right.
    """
    names = ("producer-id", "producer-epoch", "producer-seq")
    given = [headers[name] for name in names if name in headers]
    if not given:
        return None
    if len(given) < len(names):
        raise MalformedMessage("Give Producer-Id, Producer-Epoch and Producer-Seq together")
    writer, epoch, seq = given
    if not 0 < len(writer) <= lengths.writer:
        raise TooLong(f"Producer-Id has 1 to {lengths.writer} characters")
    return Claim(writer, _integer(epoch, "Producer-Epoch", _DIGITS), _integer(seq, "Producer-Seq", _DIGITS))


def _order_of(headers: Mapping[str, str], longest: int) -> str | None:
    order = headers.get("stream-seq")
    if order is not None and not 0 < len(order) <= longest:
        raise TooLong(f"Stream-Seq has 1 to {longest} characters")
    return order


def _closes(headers: Mapping[str, str]) -> bool:
    return headers.get("stream-closed", "").lower() == "true"


# -- what it is answered ---------------------------------------------------------------------------------------------


def _place(feed: FeedLike, at: int) -> dict[str, str]:
    """Where an answer ends."""
    told = {**DATA_HEADERS, **SAFE, "Stream-Next-Offset": offset_of(at)}
    return {**told, "Stream-Closed": "true"} if at == feed.log.tail and feed.is_closed else told


def _described(feed: FeedLike, at: int) -> dict[str, str]:
    return {**_place(feed, at), "Content-Type": feed.state.config.content_type or ""}


def _refused(verdict: Verdict, feed: FeedLike, claim: Claim | None, ruling: Ruling) -> Response:
    """Why an append was not taken."""
    headers = {**SAFE}
    if verdict is Verdict.STALE and ruling.writer is not None:
        headers["Producer-Epoch"] = str(ruling.writer.epoch)
    if verdict is Verdict.GAP and claim is not None:
        headers |= {"Producer-Expected-Seq": str(ruling.expected), "Producer-Received-Seq": str(claim.seq)}
    if verdict is Verdict.CLOSED:
        headers |= {"Stream-Closed": "true", "Stream-Next-Offset": offset_of(feed.log.tail)}
    status, message = _REFUSALS[verdict]
    return _refusal(status, message, headers)


_REFUSALS = {
    Verdict.STALE: (403, "This producer has begun a later epoch"),
    Verdict.LATE: (400, "A new epoch begins with Producer-Seq 0"),
    Verdict.GAP: (409, "An append of this producer is missing before this one"),
    Verdict.DISORDERED: (409, "Stream-Seq must be greater than the last"),
    Verdict.CLOSED: (409, "The stream is closed"),
}


def _refusal(status: int, message: str, headers: Mapping[str, str]) -> Response:
    body = {"type": "error", "error_type": "bad_request", "message": message, "recoverable": False}
    return json_response(body, status, headers)


def data_event(form: Form, data: bytes) -> bytes:
    """An event with what was appended: line by line, as a line cannot hold its own end."""
    lines = [data] if form is Form.BYTES else _LINE.split(data)
    spaced = [b" " + line if line.startswith(b" ") else line for line in lines]  # one space is not part of the data
    return b"event: data\n%b\n" % b"".join([b"data:%b\n" % line for line in spaced])


class Live:
    """A feed as events: data, and behind each where that ended."""

    def __init__(self, feed: FeedLike, after: int, given_cursor: str | None) -> None:
        self._feed = feed
        self._at = after
        self._cursor = given_cursor
        self._told_end = False
        self._letters = codecs.getincrementaldecoder("utf-8")("replace")

    def begin(self) -> bytes:
        """Where the reader is, if there is nothing to tell yet."""
        return self._control() if self._at == self._feed.log.tail else b""

    def span(self, span: Span) -> bytes:
        """One event for the chunks."""
        self._at = span.last
        return data_event(self._feed.form, self._data(span)) + self._control()

    def _data(self, span: Span) -> bytes:
        form = self._feed.form
        data = from_chunks(form, span.bodies, span.kinds)
        if form is Form.BYTES:
            return base64.b64encode(data)
        return data if form is Form.JSON else self._letters.decode(data).encode()

    def end(self, outcome: Outcome) -> bytes:
        """That nothing follows; nothing where the feed only goes on elsewhere."""
        return b"" if self._told_end or outcome.state is not StreamState.COMPLETE else self._control()

    def beat(self) -> bytes:
        """A comment, which clients do not see."""
        return b": waiting\n\n"

    def refuse(self, error: RequestError) -> bytes:
        """A comment: the protocol has no word for it, but that a client whose events end asks again."""
        return b": %b\n\n" % str(error).encode()

    def _control(self) -> bytes:
        told: dict[str, object] = {"streamNextOffset": offset_of(self._at)}
        is_there = self._at == self._feed.log.tail
        self._told_end = is_there and self._feed.is_closed
        if self._told_end:
            told["streamClosed"] = True
        else:
            self._cursor = cursor(self._cursor)
            told["streamCursor"] = self._cursor
        if is_there:
            told["upToDate"] = True
        return b"event: control\ndata:%b\n\n" % encode(told)


class FeedWire:
    """The endpoints."""

    def __init__(self, config: Config, feeds: FeedsLike, rejections: Rejections) -> None:
        self._feeds = feeds
        self._rejections = rejections
        self._max_read = config.max_read_bytes
        self._long_poll = config.long_poll_timeout
        self._limit = config.max_body_bytes
        self._lengths = Lengths(config.max_feed_name_chars, config.max_writer_chars, config.max_feed_type_chars)
        self._heartbeat = min(15.0, config.heartbeat_interval)

    # -- writing

    async def create(self, call: Call) -> Response:
        """``PUT``: have a stream of that name."""
        request, user = call.request, call.streams.user
        name, wish = name_of(call, self._lengths), wish_of(request.headers, self._lengths)
        close = _closes(request.headers)
        data = await read_body(request, self._limit)
        if wish.fork is not None:
            await self._prepare(user, wish.fork)
        feed, is_new = self._feeds.create(user, name, wish, data, close=close)
        await feed.settled()
        headers = _described(feed, feed.log.tail)
        if is_new:
            headers["Location"] = str(request.url.replace(path=quote(request.scope["path"]), query=""))
        return Response(b"", 201 if is_new else 200, headers)

    async def _prepare(self, user: str, fork: Fork) -> None:
        """Have the source of a fork in memory, where there is one: what is wrong with it, `create` says."""
        with contextlib.suppress(UnknownStream, LogTrimmed):
            source = await self._feeds.find(user, fork.source)
            await source.settled()

    async def append(self, call: Call) -> Response:
        """``POST``: append, close, or both."""
        request = call.request
        headers = request.headers
        claim, order = claim_of(headers, self._lengths), _order_of(headers, self._lengths.writer)
        close = _closes(headers)
        content_type = _content_type(headers, self._lengths.content_type)
        name = name_of(call, self._lengths)
        data = await read_body(request, self._limit)
        feed = await self._feeds.find(call.streams.user, name)
        if not data and not close:
            raise MalformedMessage("The body is empty")
        if data and content_type is None:
            raise MalformedMessage("Content-Type is needed")
        if data and content_type is not None and media_type(content_type) != feed.state.config.media_type:
            return _refusal(409, f"The stream is {feed.state.config.content_type}", SAFE)
        content = to_chunks(feed.form, data) if data else NOTHING
        if data and not content.bodies:
            raise MalformedMessage("The list is empty")
        ruling = self._feeds.append(feed, content, claim, order, close=close)
        last = len(feed.log)
        self._feeds.touch(feed)
        await feed.settled()
        if ruling.verdict not in (Verdict.TAKEN, Verdict.DUPLICATE):
            return _refused(ruling.verdict, feed, claim, ruling)
        return _accepted(feed, last, claim, ruling, has_data=bool(data))

    async def delete(self, call: Call) -> Response:
        """``DELETE``: the stream is gone."""
        await self._feeds.delete(call.streams.user, name_of(call, self._lengths))
        return Response(status_code=204, headers=SAFE)

    # -- reading

    async def read(self, call: Call) -> Response:
        """``GET``: what is behind an offset, now or as it comes; ``HEAD``: where it ends."""
        feed = await self._feeds.find(call.streams.user, name_of(call, self._lengths))
        if call.request.method == "HEAD":
            return self._head(feed)
        text, live = asked_for(call.request)
        self._feeds.touch(feed)
        after = parse_offset(text, feed.log.tail)
        feed.log.check_position(after)
        if live == "sse":
            return self._follow(call, feed, after)
        if live == "long-poll" and after == feed.log.tail:
            return await self._poll(call, feed, after)
        if text == "now":
            empty = from_chunks(feed.form, [], b"")
            return Response(empty, 200, {**_described(feed, after), "Stream-Up-To-Date": "true"})
        return self._catch_up(call, feed, after)

    def _head(self, feed: FeedLike) -> Response:
        headers, config = _described(feed, feed.log.tail), feed.state.config
        if config.ttl is not None:
            headers["Stream-TTL"] = str(config.ttl)
        if config.expires_at is not None:
            headers["Stream-Expires-At"] = config.expires_at
        return Response(None, 200, headers)

    def _catch_up(self, call: Call, feed: FeedLike, after: int) -> Response:
        log = feed.log
        last = log.fitting(after + 1, log.tail, self._max_read) if after < log.tail else after
        headers = _described(feed, last)
        if last == log.tail:
            headers["Stream-Up-To-Date"] = "true"
        closed = ":c" if "Stream-Closed" in headers else ""
        tag = f'"{feed.state.feed_id}:{offset_of(after)}:{offset_of(last)}{closed}"'
        headers |= {"ETag": tag, "Cache-Control": "private, no-cache", **self._cursor(call, feed)}
        if call.request.headers.get("if-none-match") == tag:
            return Response(None, 304, headers)
        if last < log.tail:
            self._rejections.clamp(Clamp.READ)
        return Response(from_chunks(feed.form, log.bodies(after + 1, last), log.kinds(after + 1, last)), 200, headers)

    def _cursor(self, call: Call, feed: FeedLike) -> dict[str, str]:
        query = call.request.query_params
        return {"Stream-Cursor": cursor(query.get("cursor"))} if "live" in query and not feed.is_closed else {}

    async def _poll(self, call: Call, feed: FeedLike, after: int) -> Response:
        request = call.request
        if not feed.is_closed:
            reader = LogReader(self._feeds, feed, after)
            async with reader, watched(request.scope, request.receive, reader.close):
                try:
                    with welcome(call.streams, reader.end):
                        item = await reader.next(self._long_poll)
                except StopAsyncIteration:
                    return Response(status_code=204)  # nobody is there any more
            feed = await self._feeds.find(call.streams.user, name_of(call, self._lengths))
            self._feeds.touch(feed)
            if isinstance(item, Span):
                return self._catch_up(call, feed, after)
        told = {**_place(feed, after), "Stream-Up-To-Date": "true", **self._cursor(call, feed)}
        return Response(status_code=204, headers=told)

    def _follow(self, call: Call, feed: FeedLike, after: int) -> Response:
        script = Live(feed, after, call.request.query_params.get("cursor"))
        headers = {**SAFE, **STREAM_HEADERS, "Content-Type": "text/event-stream"}
        if feed.form is Form.BYTES:
            headers["Stream-SSE-Data-Encoding"] = "base64"
        return LogResponse(
            call.streams, feed, script, after, logs=self._feeds, heartbeat=self._heartbeat, headers=headers
        )


def _accepted(feed: FeedLike, last: int, claim: Claim | None, ruling: Ruling, *, has_data: bool) -> Response:
    headers = {**SAFE, "Stream-Next-Offset": offset_of(last)}
    if feed.is_closed:
        headers["Stream-Closed"] = "true"
    if claim is None or ruling.writer is None:
        return Response(status_code=204, headers=headers)
    headers |= {"Producer-Epoch": str(ruling.writer.epoch), "Producer-Seq": str(ruling.writer.seq)}
    if ruling.verdict is Verdict.DUPLICATE or not has_data:
        return Response(status_code=204, headers=headers)
    return Response(b"", 200, headers)


def endpoints(config: Config, feeds: FeedsLike, rejections: Rejections) -> list[Endpoint]:
    """The wire's addresses; those that write only where that is wanted. ``rejections`` counts reads that were cut."""
    wire = FeedWire(config, feeds, rejections)
    path = PREFIX + "{name:path}"
    handlers = {"GET": wire.read}
    if config.may_write_feeds:
        handlers |= {"PUT": wire.create, "POST": wire.append, "DELETE": wire.delete}
    return [Endpoint(method, path, handler, refuse) for method, handler in handlers.items()]
