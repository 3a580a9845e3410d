"""OpenAI's HTTP interface over the same logs: chat completions, responses and models (docs/http.md).

The id of a completion and of a response is the stream's own, so that every other wire can follow or stop it. What is
told of a log is a function of the log alone: told again from the start it is the same, event for event, which is what
``starting_after`` counts in.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response

from wsstream import messages as m
from wsstream.chunks import MAX_NAME_CHARS, ChatMessage, Kind, Outcome, StreamState, Usage
from wsstream.config import Config
from wsstream.errors import BadRequest, ErrorType, MalformedMessage, RequestError, UnknownStream, WsstreamError
from wsstream.messages import encode
from wsstream.said import conversation
from wsstream.wires.base import StreamLike
from wsstream.wires.http import (
    Call,
    Endpoint,
    LogResponse,
    json_response,
    loaded,
    new_session,
    read_json,
    retry_after,
    status_of,
    status_of_failure,
    wait_outcome,
)
from wsstream.wires.openai_items import Items, items_of
from wsstream.wires.reader import Entry, Span
from wsstream.wires.sse import cancel, flag, position, start, usage_of

_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
_PASSED_ON = (
    *("tools", "tool_choice", "parallel_tool_calls", "top_p", "stop", "seed"),
    *("presence_penalty", "frequency_penalty", "logit_bias", "reasoning_effort", "verbosity"),
    *("user", "metadata", "service_tier", "prompt_cache_key", "safety_identifier"),
)
"""What a provider is told by the names it has here."""
DONE = b"data: [DONE]\n\n"


class StreamOptions(msgspec.Struct):
    """What a stream is to tell."""

    include_usage: bool = False


class CompletionBody(msgspec.Struct):
    """``POST /v1/chat/completions``; what a provider may be told is taken over, other fields are ignored."""

    messages: list[ChatMessage]
    model: str | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: m.Size | None = None
    max_completion_tokens: m.Size | None = None
    temperature: float | None = None
    response_format: dict[str, Any] | None = None
    n: int | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    top_p: float | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    reasoning_effort: str | None = None
    user: str | None = None
    metadata: dict[str, Any] | None = None
    verbosity: str | None = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None


class ResponseBody(msgspec.Struct):
    """``POST /v1/responses``."""

    input: str | list[dict[str, Any]]
    model: str | None = None
    instructions: str | None = None
    stream: bool | None = False
    background: bool | None = False
    store: bool | None = True
    previous_response_id: str | None = None
    conversation: str | dict[str, Any] | None = None
    max_output_tokens: m.Size | None = None
    temperature: float | None = None
    top_p: float | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    reasoning: dict[str, Any] | None = None
    text: dict[str, Any] | None = None


def _request_id() -> dict[str, str]:
    return {"X-Request-Id": "req_" + secrets.token_urlsafe(16)}


def _advice(recoverable: bool) -> dict[str, str]:
    """For OpenAI's clients, which try again at any 409 or 5xx unless they are told that it is of no use."""
    return {} if recoverable else {"X-Should-Retry": "false"}


def refuse(error: WsstreamError) -> Response:
    """An error in OpenAI's shape."""
    status = status_of(error)
    headers = {**_request_id(), **retry_after(error.retry_after), **_advice(error.recoverable)}
    return json_response(_error(str(error), error.error_type.value, status), status, headers)


def _error(message: str, code: str, status: int) -> dict[str, Any]:
    kind = _ERROR_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def _failure(outcome: Outcome) -> Response:
    """An answer that failed before anything of it was sent."""
    status = status_of_failure(outcome)
    headers = {**_request_id(), **retry_after(outcome.retry_after), **_advice(outcome.recoverable)}
    return json_response(_failed(outcome), status, headers)


def _failed(outcome: Outcome) -> dict[str, Any]:
    return _error(outcome.message or "", outcome.error_type or "", status_of_failure(outcome))


def _headers(stream: StreamLike) -> dict[str, str]:
    record = stream.record
    return {
        **_request_id(),
        "X-Wsstream-Stream-Id": stream.stream_id,
        "X-Wsstream-Session-Id": record.session_id,
    }


def _names(request: Request) -> tuple[str, str]:
    """The session and the name of a request, from headers: OpenAI's bodies have no place for them."""
    key = request.headers.get("idempotency-key")
    if key is not None and not 0 < len(key) <= MAX_NAME_CHARS:
        raise MalformedMessage(f"Idempotency-Key: at most {MAX_NAME_CHARS} characters")
    session = request.headers.get("x-wsstream-session-id")
    if session is not None:
        try:
            session = msgspec.convert(session, m.SessionId)
        except msgspec.ValidationError:
            raise MalformedMessage("X-Wsstream-Session-Id is no name of a session") from None
    if session is None and key is not None:
        session = "ses_" + m.short_name(key)
    return session or new_session(), key or "r_" + secrets.token_urlsafe(16)


# -- chat completions -------------------------------------------------------------------------------------------------


class Chunks:
    """One stream as ``chat.completion.chunk`` events. Each event's id is the chunk's."""

    def __init__(self, stream: StreamLike, *, include_usage: bool) -> None:
        record = stream.record
        self._stream = stream
        self._include_usage = include_usage
        self._head = b'{"id":%b,"object":"chat.completion.chunk","created":%d,"model":%b,' % (
            encode(stream.stream_id),
            record.created,
            encode(record.model or ""),
        )

    def begin(self) -> bytes:
        """The role comes first, with an empty text."""
        return self._choice(None, b'"role":"assistant","content":""')

    def span(self, span: Span) -> bytes:
        """One event per chunk."""
        return b"".join([self._entry(entry) for entry in span.entries()])

    def _entry(self, entry: Entry) -> bytes:
        if entry.kind == Kind.TEXT:
            return self._choice(entry.chunk_id, b'"content":"%b"' % entry.body)
        if entry.kind == Kind.REASONING:
            return self._choice(entry.chunk_id, b'"reasoning_content":"%b"' % entry.body)
        if entry.kind == Kind.TOOL_CALL:
            return self._choice(entry.chunk_id, b'"tool_calls":%b' % encode(tool_deltas(entry.content)))
        told = b'"rewind":{%b}' % entry.body if entry.kind == Kind.REWIND else b'"data":"%b"' % entry.body
        return self._event(entry.chunk_id, b'"choices":[],"wsstream":{%b}}' % told)

    def _choice(self, chunk_id: int | None, delta: bytes, reason: bytes = b"null") -> bytes:
        return self._event(chunk_id, b'"choices":[{"index":0,"delta":{%b},"finish_reason":%b}]}' % (delta, reason))

    def _event(self, chunk_id: int | None, rest: bytes) -> bytes:
        name = b"" if chunk_id is None else b"id: %d\n" % chunk_id
        return b"%bdata: %b%b\n\n" % (name, self._head, rest)

    def end(self, outcome: Outcome) -> bytes:
        """The reason, what was used if that was asked for, and the end; or what went wrong."""
        if outcome.error_type is not None:
            return b"data: %b\n\n" % encode(_failed(outcome)) + DONE
        parts = [self._choice(None, b"", encode(finish_reason(outcome)))]
        if self._include_usage:
            usage = encode(usage_of(outcome.usage or Usage(0, self._stream.log.tail)))
            parts.append(self._event(None, b'"choices":[],"usage":%b}' % usage))
        return b"".join([*parts, DONE])

    def beat(self) -> bytes:
        """A comment, which clients do not see."""
        return b": waiting\n\n"

    def refuse(self, error: RequestError) -> bytes:
        """An error, without an id: whoever comes back goes on behind the last chunk."""
        told = _error(str(error), error.error_type.value, status_of(error))
        return b"data: %b\n\n" % encode(told) + DONE


def finish_reason(outcome: Outcome) -> str:
    """As OpenAI names it; a cancelled answer has stopped."""
    reason = outcome.finish_reason or "stop"
    return "stop" if reason == "cancelled" else reason


def tool_deltas(content: str) -> list[dict[str, Any]]:
    """The lines of a TOOL_CALL chunk as a chunk's ``tool_calls``."""
    found = []
    for line in content.splitlines():
        call = msgspec.json.decode(line, type=dict[str, Any])
        function: dict[str, Any] = {"arguments": call.get("arguments", "")}
        delta: dict[str, Any] = {"index": call.get("index", 0), "function": function}
        if "name" in call:
            function["name"] = call["name"]
            delta |= {"id": call.get("id"), "type": "function"}
        found.append(delta)
    return found


def _asked(body: CompletionBody, request_id: str) -> m.ChatRequested:
    if not body.messages:
        raise BadRequest("messages must not be empty")
    if body.n not in (None, 1):
        raise BadRequest("n: one answer at a time")
    options = {name: value for name in _PASSED_ON if (value := getattr(body, name)) is not None}
    config = m.ChatConfig(
        model=body.model,
        temperature=body.temperature,
        max_tokens=body.max_completion_tokens or body.max_tokens,
        response_format=body.response_format,
        options=options or None,
    )
    return m.ChatRequested(request_id=request_id, messages=body.messages, config=config)


# -- responses --------------------------------------------------------------------------------------------------------


class ResponseEvents:
    """One stream as the events of a response; those up to ``starting_after`` are known already."""

    def __init__(self, stream: StreamLike, starting_after: int = -1) -> None:
        self._stream = stream
        self._items = Items()
        self._next = 0
        self._after = starting_after

    def begin(self) -> bytes:
        """It was created, and runs."""
        shown = response_object(self._stream, "in_progress", [])
        return self._write([{"type": f"response.{name}", "response": shown} for name in ("created", "in_progress")])

    def span(self, span: Span) -> bytes:
        """What each chunk brings."""
        return b"".join([self._write(self._items.take(entry)) for entry in span.entries()])

    def end(self, outcome: Outcome) -> bytes:
        """What was begun is done, and so is the response."""
        events = self._items.finish(complete=outcome.state is StreamState.COMPLETE)
        shown = response_object(self._stream, None, self._items.output())
        name = {"completed": "completed", "failed": "failed"}.get(shown["status"], "incomplete")
        return self._write([*events, {"type": f"response.{name}", "response": shown}])

    def beat(self) -> bytes:
        """A comment, which clients do not see."""
        return b": waiting\n\n"

    def refuse(self, error: RequestError) -> bytes:
        """OpenAI's event for errors. It is no event of the log: its number is that of the last one which is."""
        told = {"type": "error", "code": error.error_type.value, "message": str(error), "param": None}
        return b"event: error\ndata: %b\n\n" % encode({**told, "sequence_number": self._next - 1})

    def _write(self, events: list[dict[str, Any]]) -> bytes:
        parts = []
        for event in events:
            if self._next > self._after:
                data = encode({**event, "sequence_number": self._next})
                parts.append(b"event: %b\ndata: %b\n\n" % (event["type"].encode(), data))
            self._next += 1
        return b"".join(parts)


def response_object(stream: StreamLike, status: str | None, output: list[dict[str, Any]]) -> dict[str, Any]:
    """A response as it stands; ``status`` None means as the log says."""
    record, outcome = stream.record, stream.log.outcome
    shown: dict[str, Any] = {
        "id": stream.stream_id,
        "object": "response",
        "created_at": int(record.created),
        "status": status or _response_status(outcome),
        "model": record.model or "",
        "output": output,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": None,
    }
    if status is not None or outcome is None:
        return shown
    if shown["status"] == "failed":
        limited = outcome.error_type == ErrorType.RATE_LIMIT
        code = "rate_limit_exceeded" if limited else "server_error"
        shown["error"] = {"code": code, "message": outcome.message or ""}
    if shown["status"] == "incomplete":
        reason = "max_output_tokens" if outcome.finish_reason == "length" else "content_filter"
        shown["incomplete_details"] = {"reason": reason}
    usage = outcome.usage or Usage(0, stream.log.tail)
    shown["usage"] = {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }
    return shown


def _response_status(outcome: Outcome | None) -> str:
    if outcome is None:
        return "in_progress"
    if outcome.state is StreamState.CANCELLED:
        return "cancelled"
    if outcome.error_type is not None:
        return "failed"
    return "incomplete" if outcome.finish_reason in ("length", "content_filter") else "completed"


def _messages_of(items: str | list[dict[str, Any]]) -> list[ChatMessage]:
    """The input of a response as the messages of a chat.

    Raises:
        BadRequest: an item is of a kind that this server does not take.
    """
    if isinstance(items, str):
        return [ChatMessage("user", items)]
    return [_message_of(item) for item in items]


def _message_of(item: dict[str, Any]) -> ChatMessage:
    kind = item.get("type", "message")
    if kind == "message" and isinstance(item.get("role"), str):
        return ChatMessage(item["role"], _content_of(item.get("content")))
    if kind == "function_call":
        function = {"name": item.get("name", ""), "arguments": item.get("arguments", "")}
        call = {"id": item.get("call_id", ""), "type": "function", "function": function}
        return ChatMessage("assistant", None, tool_calls=[call])
    if kind == "function_call_output":
        return ChatMessage("tool", str(item.get("output", "")), tool_call_id=str(item.get("call_id", "")))
    raise BadRequest(f"input: items of type {str(kind)[:40]!r} are not supported")


def _content_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise BadRequest("input: content must be a text or a list of parts")
    texts = []
    for part in content:
        if not isinstance(part, dict) or part.get("type") not in ("input_text", "output_text", "text"):
            raise BadRequest("input: only parts of text are supported")
        texts.append(str(part.get("text", "")))
    return "".join(texts)


def _tool_of(tool: dict[str, Any]) -> dict[str, Any]:
    if tool.get("type") != "function":
        raise BadRequest("tools: only functions are supported")
    return {"type": "function", "function": {name: value for name, value in tool.items() if name != "type"}}


def _response_config(body: ResponseBody) -> m.ChatConfig:
    options: dict[str, Any] = {}
    if body.tools:
        options["tools"] = [_tool_of(tool) for tool in body.tools]
    if body.tool_choice is not None:
        choice = body.tool_choice
        named = isinstance(choice, dict) and "name" in choice
        options["tool_choice"] = {"type": "function", "function": {"name": choice["name"]}} if named else choice
    for name, value in (
        ("parallel_tool_calls", body.parallel_tool_calls),
        ("top_p", body.top_p),
        ("reasoning_effort", (body.reasoning or {}).get("effort")),
    ):
        if value is not None:
            options[name] = value
    return m.ChatConfig(
        model=body.model,
        temperature=body.temperature,
        max_tokens=body.max_output_tokens,
        system_prompt=body.instructions,
        response_format=_format_of(body.text),
        on_orphan="continue" if body.background else None,
        options=options or None,
    )


def _format_of(text: dict[str, Any] | None) -> dict[str, Any] | None:
    wanted = (text or {}).get("format")
    if not isinstance(wanted, dict) or wanted.get("type") in (None, "text"):
        return None
    if wanted["type"] == "json_schema":
        return {"type": "json_schema", "json_schema": {name: v for name, v in wanted.items() if name != "type"}}
    return wanted


# -- the endpoints ----------------------------------------------------------------------------------------------------


class OpenAI:
    """The endpoints."""

    def __init__(
        self, config: Config, models: Callable[[], list[str]], providers: Callable[[], list[dict[str, str]]]
    ) -> None:
        self._max_body = config.max_body_bytes
        self._heartbeat = min(15.0, config.heartbeat_interval)
        self._models = models
        self._providers = providers

    async def completions(self, call: Call) -> Response:
        """``POST /v1/chat/completions``."""
        body = await read_json(call.request, CompletionBody, self._max_body)
        session_id, request_id = _names(call.request)
        stream = start(call, session_id, _asked(body, request_id))
        if body.stream:
            include_usage = body.stream_options is not None and body.stream_options.include_usage
            return self._follow(call, stream, Chunks(stream, include_usage=include_usage), early=_failure)
        outcome = await wait_outcome(call, stream)
        if outcome is None or outcome.error_type is not None:
            return Response(status_code=204) if outcome is None else _failure(outcome)
        return json_response(await self._completion(call, stream, outcome), headers=_headers(stream))

    async def _completion(self, call: Call, stream: StreamLike, outcome: Outcome) -> dict[str, Any]:
        items = items_of(await loaded(call.streams, stream))
        message: dict[str, Any] = {"role": "assistant", "content": items.text() or None, "refusal": None}
        if items.reasoning():
            message["reasoning_content"] = items.reasoning()
        if items.calls():
            message["tool_calls"] = [
                {"id": c["call_id"], "type": "function", "function": {"name": c["name"], "arguments": c["arguments"]}}
                for c in items.calls()
            ]
        elif message["content"] is None:
            message["content"] = ""
        return {
            "id": stream.stream_id,
            "object": "chat.completion",
            "created": int(stream.record.created),
            "model": stream.record.model or "",
            "choices": [{"index": 0, "message": message, "finish_reason": finish_reason(outcome), "logprobs": None}],
            "usage": usage_of(outcome.usage or Usage(0, stream.log.tail)),
        }

    async def resume_completion(self, call: Call) -> Response:
        """``GET /v1/streams/{stream_id}``: a completion from behind an event's id. Not OpenAI's."""
        after, _ = position(call)
        stream = call.streams.resume(call.request.path_params["stream_id"])
        stream.log.check_position(after)
        return self._follow(call, stream, Chunks(stream, include_usage=flag(call, "include_usage")), after)

    def _follow(
        self,
        call: Call,
        stream: StreamLike,
        script: Any,
        after: int = 0,
        early: Callable[[Outcome], Response] | None = None,
    ) -> Response:
        return LogResponse(
            call.streams,
            stream,
            script,
            after,
            cancel_on_close=flag(call, "cancel_on_close"),
            heartbeat=self._heartbeat,
            headers=_headers(stream),
            early=early,
        )

    async def create_response(self, call: Call) -> Response:
        """``POST /v1/responses``."""
        body = await read_json(call.request, ResponseBody, self._max_body)
        if body.conversation is not None:
            raise BadRequest("conversation: there are none here; previous_response_id goes on where a response ended")
        session_id, request_id = _names(call.request)
        messages = _messages_of(body.input)
        if body.previous_response_id is not None:
            session_id, earlier = await self._earlier(call, body.previous_response_id)
            messages = conversation(earlier, messages)
        if not messages:
            raise BadRequest("input must not be empty")
        asked = m.ChatRequested(request_id=request_id, messages=messages, config=_response_config(body))
        stream = start(call, session_id, asked)
        if body.stream:
            response = self._follow(call, stream, ResponseEvents(stream))
        elif body.background:
            response = json_response(response_object(stream, "in_progress", []), headers=_headers(stream))
        else:
            outcome = await wait_outcome(call, stream)
            response = Response(status_code=204) if outcome is None else await self._shown(call, stream)
            if outcome is not None and outcome.error_type is not None and not stream.log.tail:
                response = _failure(outcome)
        if body.store is False and not body.background and body.previous_response_id is None:
            response.background = BackgroundTask(_forget, call, session_id)
        return response

    async def _earlier(self, call: Call, previous: str) -> tuple[str, list[m.HistoryMessage]]:
        """The session of an earlier response, and what was said in it."""
        try:
            session_id = call.streams.get(previous).record.session_id
        except UnknownStream:
            raise UnknownStream(f"Previous response with id {previous[:80]!r} not found.") from None
        history, _ = await call.streams.history(session_id)
        return session_id, history

    async def _shown(self, call: Call, stream: StreamLike) -> Response:
        items = items_of(await loaded(call.streams, stream))
        outcome = stream.log.outcome
        items.finish(complete=outcome is not None and outcome.state is StreamState.COMPLETE)
        return json_response(response_object(stream, None, items.output()), headers=_headers(stream))

    async def get_response(self, call: Call) -> Response:
        """``GET /v1/responses/{response_id}``: as it stands, or its events behind ``starting_after``."""
        stream = call.streams.resume(call.request.path_params["response_id"])
        if not flag(call, "stream"):
            return await self._shown(call, stream)
        text = call.request.query_params.get("starting_after", "-1")
        if not (text == "-1" or (text.isascii() and text.isdigit() and len(text) < 17)):
            raise MalformedMessage("starting_after must be a sequence_number")
        return self._follow(call, stream, ResponseEvents(stream, int(text)))

    async def cancel_response(self, call: Call) -> Response:
        """``POST /v1/responses/{response_id}/cancel``."""
        stream = call.streams.get(call.request.path_params["response_id"])
        await cancel(call.streams, stream)
        return await self._shown(call, stream)

    async def delete_response(self, call: Call) -> Response:
        """``DELETE /v1/responses/{response_id}``: forget it. One that runs is stopped."""
        stream = call.streams.get(call.request.path_params["response_id"])
        deleted = asyncio.Event()
        call.streams.delete(stream, deleted.set)
        await deleted.wait()
        return json_response({"id": stream.stream_id, "object": "response", "deleted": True}, headers=_request_id())

    async def models(self, call: Call) -> Response:
        """``GET /v1/models``."""
        listed = [{"id": name, "object": "model", "created": 0, "owned_by": "wsstream"} for name in self._models()]
        own = {"providers": self._providers()}
        return json_response({"object": "list", "data": listed, "wsstream": own}, headers=_request_id())

    async def model(self, call: Call) -> Response:
        """``GET /v1/models/{model}``."""
        name = call.request.path_params["model"]
        if name not in self._models():
            body = _error(f"The model {name[:80]!r} is not listed", "model_not_found", 404)
            return json_response(body, 404, _request_id())
        return json_response({"id": name, "object": "model", "created": 0, "owned_by": "wsstream"})


async def _forget(call: Call, session_id: str) -> None:
    """What is done behind a response that was not to be stored: its session, made for it alone, is deleted."""
    call.streams.delete_session(session_id, lambda: None)


def endpoints(
    config: Config, models: Callable[[], list[str]], providers: Callable[[], list[dict[str, str]]]
) -> list[Endpoint]:
    """The wire's addresses. ``models`` and ``providers`` name what can be asked for."""
    api = OpenAI(config, models, providers)
    table: Mapping[tuple[str, str], Any] = {
        ("POST", "/v1/chat/completions"): api.completions,
        ("GET", "/v1/streams/{stream_id}"): api.resume_completion,
        ("GET", "/v1/models"): api.models,
        ("GET", "/v1/models/{model:path}"): api.model,
        ("POST", "/v1/responses"): api.create_response,
        ("GET", "/v1/responses/{response_id}"): api.get_response,
        ("DELETE", "/v1/responses/{response_id}"): api.delete_response,
        ("POST", "/v1/responses/{response_id}/cancel"): api.cancel_response,
    }
    return [Endpoint(method, path, handle, refuse) for (method, path), handle in table.items()]
