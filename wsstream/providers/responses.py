"""OpenAI's Responses API: the provider ``openai-responses``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import msgspec

from wsstream.chunks import ChatMessage, ChatRequest, Delta, Finish, Kind, Usage
from wsstream.config import Config
from wsstream.errors import ProviderError
from wsstream.providers.base import Sink
from wsstream.providers.failures import of_event
from wsstream.providers.names import access
from wsstream.providers.openai import OpenAIProvider
from wsstream.providers.reading import ANY, Bounds, Reading, bounds_of, convert_odd
from wsstream.providers.tools import ToolCalls

OPTIONS = {"parallel_tool_calls", "top_p", "user", "metadata", "service_tier", "prompt_cache_key", "safety_identifier"}
"""Further settings of a request that have the same name here. Others are translated below, or do not exist."""


def make(config: Config, name: str = "openai-responses") -> ResponsesProvider:
    """The provider for the table in `wsstream.providers`.

    Raises:
        ConfigError: there is neither a key nor another server that may not need one.
    """
    to = access(name, config, os.environ)
    return ResponsesProvider(to.key, to.url, model=to.model, bounds=bounds_of(config))


class ResponsesProvider(OpenAIProvider):
    """The provider ``openai-responses``. It does not continue answers: the API has no place for the answer so far."""

    path = "/responses"

    def _reading(self, sink: Sink) -> Reading:
        return _ResponsesReading(sink, self._bounds)

    def _body(self, request: ChatRequest, model: str) -> dict[str, Any]:
        options = request.options
        self._answer_so_far(request, model)
        body: dict[str, Any] = {
            **{name: value for name, value in options.items() if name in OPTIONS},
            "model": model,
            "input": [item for message in request.messages for item in _items(message)],
            "stream": True,
            "store": False,  # who wants an answer kept has it in the log
            "temperature": request.temperature,
            "max_output_tokens": request.max_tokens,
            "text": _text(request),
            "tools": [_flat(tool) for tool in options["tools"]] if options.get("tools") else None,
            "tool_choice": _flat(options.get("tool_choice")),
            "reasoning": {"effort": options["reasoning_effort"]} if options.get("reasoning_effort") else None,
            "stream_options": self._stream_options() if self._takes_stream_options else None,
        }
        return {name: value for name, value in body.items() if value is not None}

    def _stream_options(self) -> dict[str, Any] | None:
        return {"include_obfuscation": False} if self._is_openai else None


# -- the request


def _items(message: ChatMessage) -> Iterator[dict[str, Any]]:
    """A turn as items of input."""
    if message.role == "tool":
        yield {"type": "function_call_output", "call_id": message.tool_call_id, "output": _parts(message)}
        return
    if message.content:
        yield {"role": message.role, "content": _parts(message)}
    for call in message.tool_calls or []:
        function = call.get("function") or {}
        fields = {"name": function.get("name"), "arguments": function.get("arguments")}
        yield {"type": "function_call", "call_id": call.get("id"), **fields}


def _parts(message: ChatMessage) -> Any:
    if not isinstance(message.content, list):
        return message.content or ""
    text = "output_text" if message.role == "assistant" else "input_text"
    return [_part(part, text) for part in message.content]


def _part(part: dict[str, Any], text: str) -> dict[str, Any]:
    if part.get("type") == "text":
        return {"type": text, "text": part.get("text")}
    if part.get("type") == "image_url" and isinstance(part.get("image_url"), dict):
        image = part["image_url"]
        return {"type": "input_image", "image_url": image.get("url"), "detail": image.get("detail", "auto")}
    return part


def _flat(value: Any) -> Any:
    """A tool, or a choice of one, or a schema: what chat completions nest under its type stands beside it here."""
    if not isinstance(value, dict):
        return value
    inner = value.get(value.get("type", ""))
    return {"type": value["type"], **inner} if isinstance(inner, dict) else value


def _text(request: ChatRequest) -> dict[str, Any] | None:
    text = {"format": _flat(request.response_format), "verbosity": request.options.get("verbosity")}
    return {name: value for name, value in text.items() if value is not None} or None


# -- the stream


class _Details(msgspec.Struct, gc=False):
    reasoning_tokens: int | None = None
    cached_tokens: int | None = None


class _Usage(msgspec.Struct, gc=False):
    input_tokens: int = 0
    output_tokens: int = 0
    input_tokens_details: _Details | None = None
    output_tokens_details: _Details | None = None


class _Incomplete(msgspec.Struct, gc=False):
    reason: str | None = None


class _Response(msgspec.Struct, gc=False):
    usage: _Usage | None = None
    error: Any = None
    incomplete_details: _Incomplete | None = None


class _Item(msgspec.Struct, gc=False):
    type: str | None = None
    call_id: str | None = None
    name: str | None = None


class _Event(msgspec.Struct, gc=False):
    type: str
    delta: str | None = None
    sequence_number: int | None = None
    output_index: int | None = None
    summary_index: int | None = None
    item: _Item | None = None
    arguments: str | None = None
    response: _Response | None = None
    error: Any = None
    code: Any = None


_decode = msgspec.json.Decoder(_Event).decode
_LENGTH = "max_output_tokens"


class _ResponsesReading(Reading):
    """What one response has said so far."""

    __slots__ = ("_calls", "_in_a_row", "_last", "_next", "_reason", "_refused", "_usage", "_with_arguments")

    def __init__(self, sink: Sink, bounds: Bounds = ANY) -> None:
        super().__init__(sink, bounds)
        self._reason = "stop"
        self._refused = False
        self._usage: Usage | None = None
        self._calls = ToolCalls(bounds.tool_calls)
        self._with_arguments: set[int | None] = set()
        self._next = -1
        self._last = b""
        self._in_a_row = 0

    def _take_payload(self, payload: bytes, deltas: list[Delta]) -> None:
        if payload == b"[DONE]":
            return  # some say it here too, behind the event that is the end
        try:
            event = _decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            event = convert_odd(payload, _Event)
        if event.sequence_number is not None and not self._is_new(event.sequence_number, payload):
            return
        if event.type == "response.output_text.delta":
            if event.delta:
                deltas.append(Delta(event.delta))
        else:
            self._take_other(event, deltas)

    def _is_new(self, number: int, payload: bytes) -> bool:
        """Whether an event is not the last one once more.

        Servers that number in ways of their own are believed no number.

        Raises:
            ProviderError: one before it is missing.
        """
        if number == self._next - 1 and payload == self._last:
            return False
        if number == self._next or self._next < 0:
            self._in_a_row += 1
        elif number < self._next or self._in_a_row < 2:
            self._in_a_row = -(1 << 60)
        else:
            raise ProviderError("The model provider left out a part of its answer", recoverable=True)
        self._next = number + 1
        self._last = payload
        return True

    def _take_other(self, event: _Event, deltas: list[Delta]) -> None:
        kind = event.type
        if kind in ("response.reasoning_text.delta", "response.reasoning_summary_text.delta"):
            if event.delta:
                deltas.append(Delta(event.delta, Kind.REASONING))
        elif kind == "response.reasoning_summary_part.added":
            if event.summary_index:
                deltas.append(Delta("\n\n", Kind.REASONING))
        elif kind == "response.refusal.delta":
            self._refused = True
            if event.delta:
                deltas.append(Delta(event.delta))
        elif kind.startswith(("response.output_item.", "response.function_call_arguments.")):
            self._take_call(event, deltas)
        else:
            self._take_end(event)

    def _take_call(self, event: _Event, deltas: list[Delta]) -> None:
        item = event.item
        if event.type == "response.output_item.added":
            if item is not None and item.type == "function_call":
                self._calls.take(deltas, event.output_index, item.call_id, item.name, None)
        elif event.type == "response.function_call_arguments.delta":
            self._with_arguments.add(event.output_index)
            self._calls.take(deltas, event.output_index, None, None, event.delta)
        elif event.type == "response.function_call_arguments.done" and event.output_index not in self._with_arguments:
            self._calls.take(deltas, event.output_index, None, None, event.arguments)

    def _take_end(self, event: _Event) -> None:
        response = event.response or _Response()
        if event.type == "error":
            raise of_event(event.error if event.error is not None else {"code": event.code})
        if event.type == "response.failed":
            raise of_event(response.error)
        if event.type in ("response.completed", "response.incomplete"):
            self.ended = True
            self._usage = _usage(response.usage) if response.usage else None
            if event.type == "response.incomplete":
                details = response.incomplete_details or _Incomplete(_LENGTH)
                self._reason = "content_filter" if details.reason == "content_filter" else "length"

    def finish(self) -> Finish:
        """The reason by the names of chat completions."""
        if self._refused:
            return Finish("content_filter", self._usage)
        if self._reason == "stop" and len(self._calls):
            return Finish("tool_calls", self._usage)
        return Finish(self._reason, self._usage)


def _usage(usage: _Usage) -> Usage:
    output, given = usage.output_tokens_details or _Details(), usage.input_tokens_details or _Details()
    return Usage(
        usage.input_tokens,
        usage.output_tokens,
        msgspec.UNSET if output.reasoning_tokens is None else output.reasoning_tokens,
        msgspec.UNSET if given.cached_tokens is None else given.cached_tokens,
    )
