"""Answers as server-sent events, and as plain JSON (docs/http.md).

An event's id is the chunk's, so that ``Last-Event-ID`` is all a client needs to go on. The ``data`` has its own
``type``; no event is named, for `EventSource.onmessage` to see them all.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from wsstream import messages as m
from wsstream.chunks import MAX_NAME_CHARS, ChatMessage, Kind, Outcome, Receipt, Usage
from wsstream.config import Config
from wsstream.errors import BadRequest, MalformedMessage, RequestError
from wsstream.messages import encode, explain
from wsstream.wires.base import StreamLike, StreamsLike
from wsstream.wires.http import (
    STREAM_HEADERS,
    Call,
    Endpoint,
    KeyReused,
    LogResponse,
    error_fields,
    json_response,
    loaded,
    new_session,
    read_json,
    refuse,
    retry_after,
    status_of_failure,
    wait_outcome,
    watched,
)
from wsstream.wires.reader import Entry, Span

RECONNECT_MS = 1000
"""What an `EventSource` is told to wait before it comes back."""
END = "-end"
"""Behind the last chunk's id it makes the end's: whoever names it has heard everything."""
CANCEL_PATIENCE = 10.0
"""Seconds for a cancelled answer to be over."""
PROBE_TIMES = (0.0, 0.4, 0.8)
"""When the events of a probe are sent, in seconds."""


class ChatBody(msgspec.Struct):
    """What is asked for; unknown fields are ignored."""

    message: str | None = None
    messages: list[ChatMessage] | None = None
    system_prompt: str | None = None
    model: str | None = None
    provider: str | None = None
    max_tokens: m.Size | None = None
    temperature: float | None = None
    session_id: m.SessionId | None = None
    request_id: m.Name | None = None
    config: m.ChatConfig | None = None


class Done(msgspec.Struct, tag_field="type", tag="done", omit_defaults=True):
    """The end of an answer that ended well, or was cancelled."""

    finish_reason: str
    token_count: int
    input_tokens: int | None = None
    output_tokens: int | None = None
    elapsed_seconds: float | None = None
    tokens_per_second: float | None = None
    ttft_ms: float | None = None
    parsed: Any = None
    receipt: Receipt | None = None


class Answer(msgspec.Struct, omit_defaults=True):
    """A whole answer."""

    content: str
    finish_reason: str
    stream_id: str
    session_id: str
    usage: dict[str, int]
    model: str | None = None
    elapsed_seconds: float | None = None
    parsed: Any = None


class Events:
    """One stream as events."""

    def __init__(self, stream: StreamLike, after: int) -> None:
        self._stream = stream
        self._after = after

    def begin(self) -> bytes:
        """Which stream this is. Its id lets a client that has no chunk yet come back, too."""
        record = self._stream.record
        start = {
            "type": "start",
            "stream_id": record.stream_id,
            "session_id": record.session_id,
            "request_id": record.request_id,
            "epoch": record.epoch,
            "model": record.model,
            "timestamp": time.time(),
        }
        return b"retry: %d\n" % RECONNECT_MS + _event(b"%d" % self._after, encode(start))

    def span(self, span: Span) -> bytes:
        """One event per chunk."""
        return b"".join([_chunk(entry) for entry in span.entries()])

    def end(self, outcome: Outcome) -> bytes:
        """`done` or `error`."""
        log = self._stream.log
        return _event(b"%d%b" % (log.tail, END.encode()), end_message(outcome, log.tail))

    def beat(self) -> bytes:
        """A comment, which clients do not see."""
        return b": %d\n\n" % (time.time() * 1000)

    def refuse(self, error: RequestError) -> bytes:
        """An `error` without an id: whoever comes back goes on behind the last chunk."""
        return b"data: %b\n\n" % encode(error_fields(error))


_TYPES = [b'"type":"%b","content":"' % name for name in (b"token", b"reasoning", b"tool_call", b"data")]


def chunk_fields(entry: Entry) -> bytes:
    """The members of the JSON object that tells a chunk."""
    if entry.kind == Kind.REWIND:
        return b'"type":"rewind",%b' % entry.body
    return b'%b%b"' % (_TYPES[entry.kind], entry.body)


def _chunk(entry: Entry) -> bytes:
    return b"id: %d\ndata: {%b}\n\n" % (entry.chunk_id, chunk_fields(entry))


def _event(event_id: bytes, data: bytes) -> bytes:
    return b"id: %b\ndata: %b\n\n" % (event_id, data)


def _status(status: m.StreamStatus) -> bytes:
    """Why people wait: outside the log, so without an id."""
    told: dict[str, Any] = {"type": "status", "status": status.status, "message": status.message}
    for name in ("retry_count", "retry_after"):
        if (value := getattr(status, name)) is not None:
            told[name] = value
    return b"data: %b\n\n" % encode(told)


def end_message(outcome: Outcome, chunks: int) -> bytes:
    """`done` or `error`."""
    return _failure(outcome) if outcome.error_type is not None else encode(done(outcome, chunks))


def _failure(outcome: Outcome) -> bytes:
    told: dict[str, Any] = {
        "type": "error",
        "error_type": outcome.error_type,
        "message": outcome.message or "",
        "recoverable": outcome.recoverable,
    }
    if outcome.retry_after is not None:
        told["retry_after"] = outcome.retry_after
    return encode(told)


def done(outcome: Outcome, chunks: int) -> Done:
    """How an answer ended. ``token_count`` is the provider's, or where it counts none that of chunks."""
    usage = outcome.usage
    return Done(
        finish_reason=outcome.finish_reason or "stop",
        token_count=chunks if usage is None else usage.output_tokens,
        input_tokens=None if usage is None else usage.input_tokens,
        output_tokens=None if usage is None else usage.output_tokens,
        elapsed_seconds=outcome.elapsed_seconds,
        tokens_per_second=outcome.tokens_per_second,
        ttft_ms=outcome.ttft_ms,
        parsed=outcome.parsed,
        receipt=outcome.receipt,
    )


# -- asking ------------------------------------------------------------------------------------------------------------


def asked_for(body: ChatBody, request_id: str) -> m.ChatRequested:
    """The request as every wire hands it on.

    Raises:
        BadRequest: there is nothing to answer.
    """
    if bool(body.messages) == (body.message is not None):
        raise BadRequest("either message or messages is needed")
    given = {name: value for name in _OWN if (value := getattr(body, name)) is not None}
    return m.ChatRequested(
        request_id=request_id,
        message=None if body.messages else body.message,
        messages=body.messages or None,
        config=msgspec.structs.replace(body.config or m.ChatConfig(), **given),
    )


_OWN = ("model", "provider", "max_tokens", "temperature", "system_prompt")


def start(call: Call, session_id: str, asked: m.ChatRequested) -> StreamLike:
    """The stream that answers; the one that the same request began before.

    Raises:
        KeyReused: the same name was given to another request.
    """
    known = call.streams.is_known(session_id, asked.request_id)
    stream = call.streams.start(session_id, asked)
    if known and stream.digest is not None and stream.digest != m.digest_of(asked):
        raise KeyReused
    return stream


def names(call: Call, body: ChatBody) -> tuple[str, str]:
    """The session and the name of a request: its key is the one from the header or the body.

    Without a session the key makes one, so that the request sent twice is one request all the same.

    Raises:
        MalformedMessage: the key in the header is not fit to be one.
    """
    key = call.request.headers.get("idempotency-key") or body.request_id
    if key is None:
        return body.session_id or new_session(), "r_" + secrets.token_urlsafe(16)
    if len(key) > MAX_NAME_CHARS:
        raise MalformedMessage(f"Idempotency-Key: at most {MAX_NAME_CHARS} characters")
    return body.session_id or "ses_" + m.short_name(key), key


def flag(call: Call, name: str) -> bool:
    """Whether a query parameter says yes."""
    return call.request.query_params.get(name, "").lower() in ("1", "true", "yes")


def _page_asked(call: Call) -> m.GetHistory:
    """Which page of a session's messages: ``before`` and ``limit``, as in a `get_history`.

    Raises:
        MalformedMessage: they are something else.
    """
    query = call.request.query_params
    try:
        return msgspec.convert(
            {name: query[name] for name in ("before", "limit") if name in query}, m.GetHistory, strict=False
        )
    except msgspec.ValidationError as error:
        raise MalformedMessage(explain(error)) from None


def position(call: Call) -> tuple[int, bool]:
    """The chunk behind which to go on, and whether even the end was heard.

    Raises:
        MalformedMessage: it is no position.
    """
    request = call.request
    text = request.headers.get("last-event-id") or request.query_params.get("last_chunk_id") or "0"
    number = text.removesuffix(END)
    if not (number.isascii() and number.isdigit() and len(number) < 17):
        raise MalformedMessage("Last-Event-ID must be the id of an event of this stream")
    return int(number), number != text


class Chat:
    """The endpoints."""

    def __init__(self, config: Config) -> None:
        self._max_body = config.max_body_bytes
        self._heartbeat = min(15.0, config.heartbeat_interval)

    async def stream(self, call: Call) -> Response:
        """``POST /api/chat/stream``: an answer as events."""
        body = await read_json(call.request, ChatBody, self._max_body)
        session_id, request_id = names(call, body)
        stream = start(call, session_id, asked_for(body, request_id))
        return self._follow(call, stream, 0)

    async def resume(self, call: Call) -> Response:
        """``GET /api/streams/{stream_id}``: the same, from behind the last event that came."""
        after, heard = position(call)
        stream = call.streams.resume(call.request.path_params["stream_id"])
        if heard and stream.log.outcome is not None and after >= stream.log.tail:
            return Response(status_code=204, headers=STREAM_HEADERS)  # an EventSource stops at this
        stream.log.check_position(after)
        return self._follow(call, stream, after)

    def _follow(self, call: Call, stream: StreamLike, after: int) -> Response:
        return LogResponse(
            call.streams,
            stream,
            Events(stream, after),
            after,
            cancel_on_close=flag(call, "cancel_on_close"),
            heartbeat=self._heartbeat,
            tell_status=_status,
            headers={"X-Wsstream-Stream-Id": stream.stream_id},
        )

    async def answer(self, call: Call) -> Response:
        """``POST /api/chat``: an answer as a whole."""
        body = await read_json(call.request, ChatBody, self._max_body)
        session_id, request_id = names(call, body)
        stream = start(call, session_id, asked_for(body, request_id))
        outcome = await wait_outcome(call, stream)
        headers = {"X-Wsstream-Stream-Id": stream.stream_id}
        if outcome is None:
            return Response(status_code=204)  # which nobody reads
        if outcome.error_type is not None:
            failure = msgspec.json.decode(_failure(outcome))
            partial = {"stream_id": stream.stream_id, "content": (await loaded(call.streams, stream)).text()}
            headers |= retry_after(outcome.retry_after)
            return json_response({**failure, **partial}, status_of_failure(outcome), headers)
        usage = outcome.usage or Usage(0, stream.log.tail)
        answer = Answer(
            content=(await loaded(call.streams, stream)).text(),
            finish_reason=outcome.finish_reason or "stop",
            stream_id=stream.stream_id,
            session_id=session_id,
            usage=usage_of(usage),
            model=stream.record.model,
            elapsed_seconds=outcome.elapsed_seconds,
            parsed=outcome.parsed,
        )
        return json_response(answer, headers=headers)

    async def cancel(self, call: Call) -> Response:
        """``DELETE /api/streams/{stream_id}``: stop it for everybody; how far it was."""
        stream = call.streams.get(call.request.path_params["stream_id"])
        outcome = await cancel(call.streams, stream)
        if outcome is None:
            return json_response({"stream_id": stream.stream_id, "state": stream.log.state}, 202)
        return json_response(m.outcome_message(stream.stream_id, outcome))

    async def messages(self, call: Call) -> Response:
        """``GET /api/sessions/{session_id}/messages``: what was said, page by page."""
        session_id = call.request.path_params["session_id"]
        asked = _page_asked(call)
        found = await call.streams.page(session_id, asked.before, asked.limit)
        told = {"session_id": session_id, "title": found.title, "messages": found.messages, "more": found.more}
        return json_response(told)

    async def streams(self, call: Call) -> Response:
        """``GET /api/sessions/{session_id}/streams``: the answers that can be followed."""
        session_id = call.request.path_params["session_id"]
        infos = [stream.info for stream in call.streams.of_session(session_id) if stream.is_stored]
        return json_response({"session_id": session_id, "streams": infos})

    async def probe(self, call: Call) -> Response:
        """``GET /api/probe``: events at known times, which show whether something on the way holds them back."""
        return Probe()


class Probe(Response):
    """A few events within a second, each with the moment it was sent: see docs/http.md, "Buffering proxies"."""

    def __init__(self) -> None:
        super().__init__(None, 200, STREAM_HEADERS, "text/event-stream")
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them, unless the client leaves."""
        begun = asyncio.get_running_loop().time()
        gone = asyncio.Event()
        async with watched(scope, receive, gone.set):
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            for due in PROBE_TIMES:
                try:
                    async with asyncio.timeout_at(begun + due):
                        await gone.wait()
                    return
                except TimeoutError:
                    told = {"type": "probe", "sent_ms": round(due * 1000), "of_ms": round(PROBE_TIMES[-1] * 1000)}
                    body = b"data: %b\n\n" % encode(told)
                    await send({"type": "http.response.body", "body": body, "more_body": due != PROBE_TIMES[-1]})


def usage_of(usage: Usage) -> dict[str, int]:
    """Tokens, by the names of OpenAI's chat completions."""
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }


async def cancel(streams: StreamsLike, stream: StreamLike) -> Outcome | None:
    """Stop an answer and wait for its end; None where that takes too long."""
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def on_end(_: Any) -> None:
        if not ended.done():
            ended.set_result(None)

    streams.cancel(stream)
    stream.log.when_finished(on_end)
    try:
        async with asyncio.timeout(CANCEL_PATIENCE):
            await ended
    except TimeoutError:
        return None
    return stream.log.outcome


def endpoints(config: Config) -> list[Endpoint]:
    """The wire's addresses."""
    chat = Chat(config)
    return [
        Endpoint("POST", "/api/chat/stream", chat.stream, refuse),
        Endpoint("POST", "/api/chat", chat.answer, refuse),
        Endpoint("GET", "/api/streams/{stream_id}", chat.resume, refuse),
        Endpoint("DELETE", "/api/streams/{stream_id}", chat.cancel, refuse),
        Endpoint("GET", "/api/sessions/{session_id}/messages", chat.messages, refuse),
        Endpoint("GET", "/api/sessions/{session_id}/streams", chat.streams, refuse),
        Endpoint("GET", "/api/probe", chat.probe, refuse),
    ]
