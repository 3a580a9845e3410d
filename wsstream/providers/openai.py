"""OpenAI's chat completions, and every server that speaks them (vLLM, Ollama, llama.cpp, OpenRouter, LiteLLM …).

The SDK opens the stream; its bytes are read raw and decoded by msgspec (see `wsstream.providers.http`).
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import msgspec
import openai

from wsstream.chunks import ChatRequest, Delta, Finish, Kind, Usage
from wsstream.config import Config
from wsstream.errors import (
    ConfigError,
    ContentFiltered,
    Interrupted,
    ProviderError,
    ProviderRateLimited,
    ProviderTimeout,
    StreamFailure,
)
from wsstream.providers.base import Sink
from wsstream.providers.http import finish, http_client, pump
from wsstream.providers.sse import SseParser

logger = logging.getLogger(__name__)

OPENAI_URL = "https://api.openai.com/v1"
DEFAULT_MODEL = "gpt-5.4-mini"
END = b"[DONE]"
LAST_BYTES_TIMEOUT = 0.05
"""Seconds to wait, after the end was announced, for the response's own end: only then can its connection be reused."""

_REASONS = {"function_call": "tool_calls"}
_KNOWN_REASONS = ("stop", "length", "content_filter", "tool_calls")


class _Delta(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning_content: str | None = None


class _Choice(msgspec.Struct, gc=False):
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Event(msgspec.Struct, gc=False):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


_decode = msgspec.json.Decoder(_Event).decode


def make(config: Config) -> OpenAIProvider:
    """The provider for the table in `wsstream.providers`.

    Raises:
        ConfigError: there is neither a key nor another server that may not need one.
    """
    base_url = config.base_url or os.environ.get("OPENAI_BASE_URL")
    key = os.environ.get("OPENAI_API_KEY")
    if not key and not base_url:
        raise ConfigError("provider openai: set OPENAI_API_KEY, or --base-url to a server that needs no key")
    return OpenAIProvider(key or "none", base_url)


class OpenAIProvider:
    """The provider ``openai``."""

    def __init__(self, api_key: str, base_url: str | None = None) -> None:
        client = http_client(base_url or OPENAI_URL)
        self._client = openai.AsyncOpenAI(api_key=api_key, base_url=base_url or OPENAI_URL, http_client=client)
        self._is_openai = self._client.base_url.host == "api.openai.com"
        self._wants_usage = True

    async def answer(self, request: ChatRequest, sink: Sink) -> Finish:
        """Put the answer as the upstream's reads bring it."""
        async with _failures_mapped(), self._opened(request) as response:
            reading = _Reading(sink)
            while await pump(response, reading.take) and not reading.ended:
                await sink.wait_room()
            await finish(response, LAST_BYTES_TIMEOUT)
            return reading.finish()

    @asynccontextmanager
    async def _opened(self, request: ChatRequest) -> AsyncIterator[httpx2.Response]:
        create = self._client.chat.completions.with_streaming_response.create
        asked_usage = self._wants_usage  # another answer may learn meanwhile that it is not to be asked
        try:
            async with create(**self._arguments(request)) as answer:
                yield answer.http_response
        except openai.BadRequestError as error:
            if not asked_usage or "stream_options" not in str(error):
                raise
            self._wants_usage = False  # an older compatible server; from now on it is not asked
            async with create(**self._arguments(request)) as answer:
                yield answer.http_response

    def _arguments(self, request: ChatRequest) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "model": request.model or DEFAULT_MODEL,
            "messages": msgspec.to_builtins(request.messages),
            "stream": True,
            "temperature": request.temperature,
            "response_format": request.response_format,
            # OpenAI's newer models refuse the old name, other servers do not know the new one.
            "max_completion_tokens" if self._is_openai else "max_tokens": request.max_tokens,
            "stream_options": {"include_usage": True} if self._wants_usage else None,
        }
        return {name: value for name, value in arguments.items() if value is not None}

    async def close(self) -> None:
        """Close the idle connections."""
        await self._client.close()


class _Reading:
    """What one response has said so far."""

    __slots__ = ("_parser", "_reason", "_sink", "_usage", "ended")

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._parser = SseParser()
        self._reason: str | None = None
        self._usage: Usage | None = None
        self.ended = False

    def take(self, data: bytes) -> bool:
        """Put the deltas in what one read brought; whether to go on reading."""
        deltas: list[Delta] = []
        try:
            self._take_events(data, deltas)
        except StreamFailure:
            if deltas:  # what came before the failure counts
                self._sink.put(deltas)
            raise
        return (not deltas or self._sink.put(deltas)) and not self.ended

    def _take_events(self, data: bytes, deltas: list[Delta]) -> None:
        for payload in self._parser.feed(data):
            if payload == END:
                self.ended = True
                break
            try:
                event = _decode(payload)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                event = _read_odd_event(payload)
            self._take_event(event, deltas)

    def _take_event(self, event: _Event, deltas: list[Delta]) -> None:
        for choice in event.choices:
            delta = choice.delta
            if delta is not None:
                if delta.reasoning_content:
                    deltas.append(Delta(delta.reasoning_content, Kind.REASONING))
                if delta.content:
                    deltas.append(Delta(delta.content))
            if choice.finish_reason is not None:
                self._reason = choice.finish_reason
        if event.usage is not None:
            self._usage = Usage(event.usage.prompt_tokens, event.usage.completion_tokens)
        if event.error is not None:
            raise _failure_in_stream(event.error)

    def finish(self) -> Finish:
        """The end of the answer.

        Raises:
            Interrupted: it has no end: neither a finish reason nor the end marker came.
        """
        if self._reason is None and not self.ended:
            raise Interrupted("The model provider broke off its answer")
        reason = _REASONS.get(self._reason or "stop", self._reason or "stop")
        return Finish(reason if reason in _KNOWN_REASONS else "stop", self._usage)


def _read_odd_event(payload: bytes) -> _Event:
    """What msgspec refuses with good reason and a stream must survive: lone surrogates, broken UTF-8."""
    try:
        return msgspec.convert(json.loads(payload.decode("utf-8", "replace")), _Event)
    except (ValueError, RecursionError) as error:
        raise ProviderError("The model provider sent something unreadable", recoverable=True) from error


# -- failures


@asynccontextmanager
async def _failures_mapped() -> AsyncIterator[None]:
    """The one seam where the SDK's and aiohttp's exceptions become ours. Users never read a provider's own words."""
    try:
        yield
    except openai.APIError as error:
        logger.warning("upstream failed: %s, request %s", _describe(error), getattr(error, "request_id", None))
        raise _failure_of(error) from error
    except httpx2.TransportError as error:
        logger.warning("upstream broke off: %r", error)
        raise Interrupted("The connection to the model provider was lost") from error


def _describe(error: openai.APIError) -> str:
    # Never the body: it may repeat the prompt, or a key.
    return f"{type(error).__name__} {getattr(error, 'status_code', '')} code={error.code!r}"


def _failure_of(error: openai.APIError) -> StreamFailure:
    if error.code == "content_filter":
        return ContentFiltered()
    if isinstance(error, openai.APITimeoutError):
        return ProviderTimeout("The model provider cannot be reached in time")
    if isinstance(error, openai.APIConnectionError):
        return ProviderError("The model provider cannot be reached", recoverable=True)
    if isinstance(error, openai.RateLimitError):
        return ProviderRateLimited(retry_after=_retry_after(error.response.headers.get("retry-after")))
    if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
        return ProviderError("The model provider does not accept this server's credentials")
    if isinstance(error, openai.InternalServerError):
        return ProviderError("The model provider is having trouble", recoverable=True)
    return ProviderError("The model provider refused the request")


def _failure_in_stream(error: Any) -> StreamFailure:
    """An error that came inside an answer which had begun well."""
    code = error.get("code") or error.get("type") if isinstance(error, dict) else None
    logger.warning("upstream reported an error in the stream: code=%r", code)
    if code == "content_filter":
        return ContentFiltered()
    if code in ("rate_limit_exceeded", 429):
        return ProviderRateLimited()
    return ProviderError("The model provider failed in the middle of its answer", recoverable=True)


def _retry_after(value: str | None) -> float | None:
    try:
        seconds = float(value or "nan")
    except ValueError:
        return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
