"""OpenAI's chat completions, and every server that speaks them (vLLM, Ollama, llama.cpp, OpenRouter, LiteLLM …).

The SDK opens the stream; its bytes are read raw and decoded by msgspec (see `wsstream.providers.http`).
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import httpx2
import msgspec
import openai

from wsstream.chunks import ChatRequest, Delta, Finish, Kind, Usage
from wsstream.config import Config
from wsstream.errors import ProviderError
from wsstream.providers.base import Sink
from wsstream.providers.failures import of_event, quiet, translated
from wsstream.providers.http import http_client, read_whole
from wsstream.providers.names import SERVICES, Prefill, access
from wsstream.providers.reading import ANY, Bounds, Reading, bounds_of, convert, load_odd, read
from wsstream.providers.tools import ToolCalls

OPENAI_URL = SERVICES["openai"].url
DEFAULT_MODEL = SERVICES["openai"].model
END = b"[DONE]"
MAX_LIST_BYTES = 8 * 1024 * 1024

OPTIONS = {
    *("tools", "tool_choice", "parallel_tool_calls", "top_p", "stop", "seed", "presence_penalty", "frequency_penalty"),
    *("reasoning_effort", "logit_bias", "user", "metadata", "verbosity", "service_tier", "prompt_cache_key"),
    "safety_identifier",
}
"""Further settings of a request that are passed on."""

_REASONS = {"function_call": "tool_calls"}
_KNOWN_REASONS = ("stop", "length", "content_filter", "tool_calls")


def make(config: Config, name: str = "openai") -> OpenAIProvider:
    """The provider for the table in `wsstream.providers`.

    Raises:
        ConfigError: there is neither a key nor another server that may not need one.
    """
    to = access(name, config, os.environ)
    return OpenAIProvider(to.key, to.url, model=to.model, prefill=to.prefill, bounds=bounds_of(config))


class OpenAIProvider:
    """The provider ``openai``, and those of its kind."""

    path = "/chat/completions"

    def __init__(
        self,
        api_key: str,
        base_url: str | None = None,
        *,
        model: str | None = DEFAULT_MODEL,
        prefill: Prefill | None = None,
        bounds: Bounds = ANY,
    ) -> None:
        """``model`` is asked where a request names none; where neither does, the first that the server lists."""
        quiet("openai", "httpx2", "httpcore2")
        url = base_url or OPENAI_URL
        client = http_client(url, bounds.head_bytes)
        # Trying again is the producer's business: it tells people why they wait.
        self._client = openai.AsyncOpenAI(api_key=api_key, base_url=url, http_client=client, max_retries=0)
        self._is_openai = self._client.base_url.host == "api.openai.com"
        self._model = model
        self._asking_for_model = asyncio.Lock()
        self._prefill = prefill or Prefill()
        self._bounds = bounds
        self._takes_stream_options = True
        self.continues = self._prefill.style != "off"

    def _reading(self, sink: Sink) -> Reading:
        return _ChatReading(sink, self._bounds)

    def suits(self, model: str | None) -> bool:
        """Whether ``model``, None: its own, can go on behind a text."""
        return self._prefill.suits(model or self._model or "")

    async def answer(self, request: ChatRequest, sink: Sink) -> Finish:
        """Put the answer as the upstream's reads bring it."""
        if request.options.get("n") not in (None, 1):
            raise ProviderError("One answer at a time: n must be 1")
        with translated(openai):
            model = request.model or self._model or await self._first_model()
            async with self._opened(request, model) as response:
                return await read(response, self._reading(sink), sink)

    async def _first_model(self) -> str:
        """The first model that the server lists: servers on one's own machine often have just one."""
        async with self._asking_for_model:
            if self._model is None:
                async with self._client.models.with_streaming_response.list() as answer:
                    body = await read_whole(answer.http_response, MAX_LIST_BYTES)
                self._model = _first_id(body)
        return self._model

    @asynccontextmanager
    async def _opened(self, request: ChatRequest, model: str) -> AsyncIterator[httpx2.Response]:
        asked = self._takes_stream_options  # another answer may learn meanwhile that they are refused
        try:
            async with aclosing(await self._post(self._body(request, model))) as answer:
                yield answer.response
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            if not asked or not _is_about_stream_options(error):
                raise
            self._takes_stream_options = False  # an older compatible server; from now on it is spared them
            async with aclosing(await self._post(self._body(request, model))) as answer:
                yield answer.response

    async def _post(self, body: dict[str, Any]) -> openai.AsyncStream[object]:
        """Ask as at an endpoint that the SDK has no method for: what it has one for it takes apart and puts together
        again, and takes half as long again for it (docs/benchmarks.md, "What is added to the first token").
        """
        return await self._client.post(
            self.path, cast_to=object, body=body, stream=True, stream_cls=openai.AsyncStream[object]
        )

    def _body(self, request: ChatRequest, model: str) -> dict[str, Any]:
        body: dict[str, Any] = {
            **{name: value for name, value in request.options.items() if name in OPTIONS},
            "model": model,
            "messages": [*msgspec.to_builtins(request.messages), *self._answer_so_far(request, model)],
            "stream": True,
            "temperature": request.temperature,
            "response_format": request.response_format,
            # OpenAI's newer models refuse the old name, other servers do not know the new one.
            "max_completion_tokens" if self._is_openai else "max_tokens": request.max_tokens,
            "stream_options": self._stream_options() if self._takes_stream_options else None,
        }
        if request.prefix and self._prefill.style == "vllm":
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        return {name: value for name, value in body.items() if value is not None}

    def _stream_options(self) -> dict[str, Any] | None:
        # Padding against observers on the wire: behind TLS it costs more than it gives, and others do not know it.
        return {"include_usage": True, **({"include_obfuscation": False} if self._is_openai else {})}

    def _answer_so_far(self, request: ChatRequest, model: str) -> list[dict[str, Any]]:
        if not request.prefix:
            return []
        if not self._prefill.suits(model):
            raise ProviderError("This model cannot go on behind the answer so far")
        mark = {"prefix": True} if self._prefill.style == "prefix" else {}
        return [{"role": "assistant", "content": request.prefix, **mark}]

    async def close(self) -> None:
        """Close the idle connections."""
        await self._client.close()


def _is_about_stream_options(error: openai.APIStatusError) -> bool:
    return "stream_options" in json.dumps(error.body)


def _first_id(body: bytes) -> str:
    try:
        return msgspec.json.decode(body, type=_Models).data[0].id
    except (msgspec.DecodeError, IndexError):
        raise ProviderError("The model provider lists no models: name one, with --model or in the request") from None


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model] = []


# -- the stream


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: Any = None


class _Call(msgspec.Struct, gc=False):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[_Call] | None = None
    function_call: _Function | None = None


class _Choice(msgspec.Struct, gc=False):
    index: int = 0
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Details(msgspec.Struct, gc=False):
    reasoning_tokens: int | None = None
    cached_tokens: int | None = None


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    completion_tokens_details: _Details | None = None
    prompt_tokens_details: _Details | None = None


class _Event(msgspec.Struct, gc=False):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


_decode = msgspec.json.Decoder(_Event).decode


class _ChatReading(Reading):
    """What one response has said so far."""

    __slots__ = ("_calls", "_most_calls", "_reason", "_refused", "_usage")

    def __init__(self, sink: Sink, bounds: Bounds = ANY) -> None:
        super().__init__(sink, bounds)
        self._reason: str | None = None
        self._refused = False
        self._usage: Usage | None = None
        self._calls: ToolCalls | None = None
        self._most_calls = bounds.tool_calls

    def _take_payload(self, payload: bytes, deltas: list[Delta]) -> None:
        if payload == END:
            self.ended = True
            return
        try:
            event = _decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            event = _read_odd_event(payload)
        for choice in event.choices:
            if choice.index:
                continue  # another answer, that nobody has asked for
            if choice.delta is not None:
                self._take_delta(choice.delta, deltas)
            if choice.finish_reason is not None:
                self._reason = choice.finish_reason
        if event.usage is not None:
            self._usage = _usage(event.usage)
        if event.error is not None:
            raise of_event(event.error)

    def _take_delta(self, delta: _Delta, deltas: list[Delta]) -> None:
        thought = delta.reasoning_content or delta.reasoning  # the same by two names
        if thought:
            deltas.append(Delta(thought, Kind.REASONING))
        if delta.content:
            deltas.append(Delta(delta.content))
        if delta.refusal:
            self._refused = True
            deltas.append(Delta(delta.refusal))
        if delta.tool_calls or delta.function_call:
            self._take_calls(delta, deltas)

    def _take_calls(self, delta: _Delta, deltas: list[Delta]) -> None:
        if self._calls is None:
            self._calls = ToolCalls(self._most_calls)
        calls = delta.tool_calls or [_Call(0, None, delta.function_call)]
        for call in calls:
            function = call.function or _Function()
            self._calls.take(deltas, call.index, call.id, function.name, function.arguments)

    @property
    def complete(self) -> bool:
        """A finish reason will do: not every server sends the end marker."""
        return self.ended or self._reason is not None

    def finish(self) -> Finish:
        """The reason by our names; servers have many of their own."""
        if self._refused:
            return Finish("content_filter", self._usage)
        reason = self._reason or ("tool_calls" if self._calls else "stop")
        reason = _REASONS.get(reason, reason)
        return Finish(reason if reason in _KNOWN_REASONS else "stop", self._usage)


def _usage(usage: _Usage) -> Usage:
    output, given = usage.completion_tokens_details or _Details(), usage.prompt_tokens_details or _Details()
    return Usage(
        usage.prompt_tokens,
        usage.completion_tokens,
        msgspec.UNSET if output.reasoning_tokens is None else output.reasoning_tokens,
        msgspec.UNSET if given.cached_tokens is None else given.cached_tokens,
    )


def _read_odd_event(payload: bytes) -> _Event:
    fields = load_odd(payload)
    choices = fields.get("choices") if isinstance(fields, dict) else None
    for choice in choices if isinstance(choices, list) else []:
        delta = choice.get("delta") if isinstance(choice, dict) else None
        if isinstance(delta, dict) and isinstance(delta.get("content"), list):
            _flatten(delta)
    event: _Event = convert(fields, _Event)
    return event


def _flatten(delta: dict[str, Any]) -> None:
    """Content in typed parts, as Mistral's thinking models send it, to text and thoughts."""
    parts = [part for part in delta["content"] if isinstance(part, dict)]
    if len(parts) == len(delta["content"]):
        delta["content"] = "".join(str(part.get("text", "")) for part in parts if part.get("type") == "text")
        thoughts = [inner for part in parts for inner in part.get("thinking") or [] if isinstance(inner, dict)]
        delta["reasoning_content"] = "".join(str(inner.get("text", "")) for inner in thoughts)
