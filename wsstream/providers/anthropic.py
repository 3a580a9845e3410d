"""Anthropic's Messages API: the provider ``anthropic``.

As with `wsstream.providers.openai`, the SDK opens the stream and its bytes are read raw.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import partial
from typing import Any

import anthropic
import msgspec

from wsstream.chunks import ChatMessage, ChatRequest, Delta, Finish, Kind, Usage
from wsstream.config import Config
from wsstream.errors import ProviderError
from wsstream.providers.base import Sink
from wsstream.providers.failures import of_event, quiet, translated
from wsstream.providers.http import http_client
from wsstream.providers.names import SERVICES, Prefill, access
from wsstream.providers.reading import ANY, Bounds, Reading, bounds_of, convert_odd, read
from wsstream.providers.tools import ToolCalls

DEFAULT_MAX_TOKENS = 8192
"""The API wants a limit; where a request names none, this."""

_REASONS = {
    **{"end_turn": "stop", "stop_sequence": "stop", "tool_use": "tool_calls", "refusal": "content_filter"},
    **{"max_tokens": "length", "model_context_window_exceeded": "length", "pause_turn": "length"},
}
_EFFORTS = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh", "max": "max"}
_CHOICES = {"auto": "auto", "none": "none", "required": "any"}


def make(config: Config, name: str = "anthropic") -> AnthropicProvider:
    """The provider for the table in `wsstream.providers`.

    Raises:
        ConfigError: there is no key.
    """
    to = access(name, config, os.environ)
    return AnthropicProvider(to.key, to.url, model=to.model, prefill=to.prefill, bounds=bounds_of(config))


class AnthropicProvider:
    """The provider ``anthropic``."""

    def __init__(
        self,
        api_key: str,
        base_url: str | None = None,
        *,
        model: str | None = None,
        prefill: Prefill | None = None,
        bounds: Bounds = ANY,
    ) -> None:
        quiet("anthropic", "httpx2", "httpcore2")
        url = base_url or SERVICES["anthropic"].url
        self._client = anthropic.AsyncAnthropic(
            api_key=api_key, base_url=url, http_client=http_client(url, bounds.head_bytes), max_retries=0
        )
        # What is asked goes past the SDK's own parameters: some that the API takes have no name there any more.
        create = self._client.messages.with_streaming_response.create
        self._create: Any = partial(create, model="", messages=[], max_tokens=1, stream=True)
        self._model = model or SERVICES["anthropic"].model or ""
        self._prefill = prefill or Prefill()
        self._bounds = bounds
        self.continues = self._prefill.style != "off"

    def suits(self, model: str | None) -> bool:
        """Whether ``model``, None: its own, can go on behind a text."""
        return self._prefill.suits(model or self._model or "")

    async def answer(self, request: ChatRequest, sink: Sink) -> Finish:
        """Put the answer as the upstream's reads bring it."""
        if request.options.get("n") not in (None, 1):
            raise ProviderError("One answer at a time: n must be 1")
        model = request.model or self._model
        if request.prefix and not self._prefill.suits(model):
            raise ProviderError("This model cannot go on behind the answer so far")
        with translated(anthropic):
            async with self._create(extra_body=_body(request, model)) as answer:
                return await read(answer.http_response, _MessagesReading(sink, self._bounds), sink)

    async def close(self) -> None:
        """Close the idle connections."""
        await self._client.close()


# -- the request


def _body(request: ChatRequest, model: str) -> dict[str, Any]:
    options = request.options
    system = [part for message in request.messages if _is_system(message) for part in _parts(message)]
    effort = {"effort": _EFFORTS.get(options.get("reasoning_effort", "")), "format": _format(request.response_format)}
    stop = options.get("stop")
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": request.max_tokens or DEFAULT_MAX_TOKENS,
        "messages": _messages(request),
        "stream": True,
        "system": system or None,
        "temperature": request.temperature,
        "top_p": options.get("top_p"),
        "stop_sequences": [stop] if isinstance(stop, str) else stop,
        "tools": [_tool(tool) for tool in options["tools"]] if options.get("tools") else None,
        "tool_choice": _choice(options),
        "metadata": {"user_id": options["user"]} if options.get("user") else None,
        "output_config": {name: value for name, value in effort.items() if value} or None,
    }
    return {name: value for name, value in body.items() if value is not None}


def _is_system(message: ChatMessage) -> bool:
    return message.role in ("system", "developer")


def _messages(request: ChatRequest) -> list[dict[str, Any]]:
    """The turns, and the answer so far; what one side says in several turns is one turn here."""
    turns: list[dict[str, Any]] = []
    for message in request.messages:
        if not _is_system(message):
            _add_turn(turns, "assistant" if message.role == "assistant" else "user", _blocks(message))
    if prefix := request.prefix.rstrip():  # a last turn that ends in a space is refused
        _add_turn(turns, "assistant", [{"type": "text", "text": prefix}])
    return turns


def _add_turn(turns: list[dict[str, Any]], role: str, blocks: list[dict[str, Any]]) -> None:
    if turns and turns[-1]["role"] == role:
        turns[-1]["content"] += blocks
    elif blocks:
        turns.append({"role": role, "content": blocks})


def _blocks(message: ChatMessage) -> list[dict[str, Any]]:
    if message.role == "tool":
        return [{"type": "tool_result", "tool_use_id": message.tool_call_id, "content": _parts(message)}]
    return [*_parts(message), *(_tool_use(call) for call in message.tool_calls or [])]


def _parts(message: ChatMessage) -> list[dict[str, Any]]:
    if isinstance(message.content, list):
        return [_part(part) for part in message.content]
    return [{"type": "text", "text": message.content}] if message.content else []  # empty text is refused


def _part(part: dict[str, Any]) -> dict[str, Any]:
    if part.get("type") != "image_url" or not isinstance(part.get("image_url"), dict):
        return part
    url = str(part["image_url"].get("url"))
    if not url.startswith("data:"):
        return {"type": "image", "source": {"type": "url", "url": url}}
    kind, _, data = url.removeprefix("data:").partition(",")
    return {"type": "image", "source": {"type": "base64", "media_type": kind.partition(";")[0], "data": data}}


def _tool_use(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function") or {}
    try:
        given = json.loads(function.get("arguments") or "{}")
    except (TypeError, ValueError, RecursionError):
        raise ProviderError("A tool call in the conversation has arguments that are not JSON") from None
    return {"type": "tool_use", "id": call.get("id"), "name": function.get("name"), "input": given}


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    function = tool.get("function")
    if tool.get("type") != "function" or not isinstance(function, dict):
        return tool
    made = {name: function[name] for name in ("name", "description", "strict") if function.get(name) is not None}
    return {**made, "input_schema": function.get("parameters") or {"type": "object", "properties": {}}}


def _choice(options: dict[str, Any]) -> dict[str, Any] | None:
    wanted = options.get("tool_choice")
    alone = {"disable_parallel_tool_use": True} if options.get("parallel_tool_calls") is False else {}
    if isinstance(wanted, dict):
        function = wanted.get("function")
        return {"type": "tool", "name": function.get("name"), **alone} if isinstance(function, dict) else wanted
    if wanted in _CHOICES:
        return {"type": _CHOICES[wanted], **(alone if wanted != "none" else {})}
    return {"type": "auto", **alone} if alone and options.get("tools") else None


def _format(wanted: dict[str, Any] | None) -> dict[str, Any] | None:
    schema = (wanted or {}).get("json_schema")
    return {"type": "json_schema", "schema": schema.get("schema")} if isinstance(schema, dict) else None


# -- the stream


class _Usage(msgspec.Struct, gc=False):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None


class _Message(msgspec.Struct, gc=False):
    usage: _Usage | None = None


class _Delta(msgspec.Struct, gc=False):
    text: str | None = None
    thinking: str | None = None
    partial_json: str | None = None
    stop_reason: str | None = None


class _Block(msgspec.Struct, gc=False):
    type: str | None = None
    id: str | None = None
    name: str | None = None
    text: str | None = None
    input: Any = None


class _Event(msgspec.Struct, gc=False):
    type: str
    index: int | None = None
    delta: _Delta | None = None
    content_block: _Block | None = None
    message: _Message | None = None
    usage: _Usage | None = None
    error: Any = None


_decode = msgspec.json.Decoder(_Event).decode


class _MessagesReading(Reading):
    """What one response has said so far."""

    __slots__ = ("_calls", "_counts", "_reason", "_tools")

    def __init__(self, sink: Sink, bounds: Bounds = ANY) -> None:
        super().__init__(sink, bounds)
        self._reason: str | None = None
        self._counts: dict[str, int] = {}
        self._calls = ToolCalls(bounds.tool_calls)
        self._tools: set[int | None] = set()
        """Blocks that are calls of tools of ours. The provider's own have their arguments in deltas, too."""

    def _take_payload(self, payload: bytes, deltas: list[Delta]) -> None:
        try:
            event = _decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            event = convert_odd(payload, _Event)
        if event.type == "content_block_delta":
            if event.delta is not None:
                self._take_delta(event.delta, event.index, deltas)
        elif event.type == "content_block_start":
            self._take_start(event.content_block or _Block(), event.index, deltas)
        else:
            self._take_other(event)

    def _take_delta(self, delta: _Delta, index: int | None, deltas: list[Delta]) -> None:
        if delta.text:
            deltas.append(Delta(delta.text))
        elif delta.thinking:
            deltas.append(Delta(delta.thinking, Kind.REASONING))
        elif delta.partial_json and index in self._tools:
            self._calls.take(deltas, index, None, None, delta.partial_json)

    def _take_start(self, block: _Block, index: int | None, deltas: list[Delta]) -> None:
        if block.type == "tool_use":
            self._tools.add(index)
            self._calls.take(deltas, index, block.id, block.name, block.input)
        elif block.type == "text" and block.text:
            deltas.append(Delta(block.text))

    def _take_other(self, event: _Event) -> None:
        if event.type == "message_stop":
            self.ended = True
        elif event.type == "error":
            raise of_event({"error": event.error})
        elif event.type == "message_start" and event.message is not None:
            self._count(event.message.usage)
        elif event.type == "message_delta":
            self._count(event.usage)
            if event.delta is not None and event.delta.stop_reason is not None:
                self._reason = event.delta.stop_reason

    def _count(self, usage: _Usage | None) -> None:
        if usage is not None:  # later counts are totals, too
            counts: dict[str, int | None] = msgspec.structs.asdict(usage)
            self._counts.update({name: count for name, count in counts.items() if count is not None})

    def finish(self) -> Finish:
        """The reason by the names of chat completions."""
        return Finish(_REASONS.get(self._reason or "", "stop"), _usage(self._counts) if self._counts else None)


_INPUTS: Sequence[str] = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")


def _usage(counts: dict[str, int]) -> Usage:
    """All of the input counts as input, as elsewhere: this API leaves out what has to do with its cache."""
    return Usage(
        sum(counts.get(name, 0) for name in _INPUTS),
        counts.get("output_tokens", 0),
        cached_tokens=counts.get("cache_read_input_tokens", msgspec.UNSET),
    )
