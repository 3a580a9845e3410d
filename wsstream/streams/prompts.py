"""What a provider is asked: the conversation with its system prompt, and what the request has set."""

from __future__ import annotations

from typing import Any

import msgspec

from wsstream.chunks import ChatMessage, ChatRequest
from wsstream.errors import MalformedMessage, PromptTooLong
from wsstream.messages import ChatConfig, ChatRequested, explain
from wsstream.producer import Prepare
from wsstream.sessions import Conversation
from wsstream.stores.base import StreamRecord


def check_length(asked: ChatRequested, config: ChatConfig, limit: int) -> None:
    """Hold what is new to a length; what was said before has passed here already, or is bounded with its message.

    Raises:
        PromptTooLong: the newest message or the system prompt is longer.
    """
    newest = asked.message if asked.messages is None else _text(asked.messages[-1].content)
    for name, text in (("message", newest), ("system prompt", config.system_prompt)):
        if text is not None and len(text) > limit:
            raise PromptTooLong(f"The {name} has {len(text)} characters, {limit} are the limit")


def _text(content: str | list[dict[str, object]] | None) -> str:
    if not isinstance(content, list):
        return content or ""
    return "".join(str(part.get("text", "")) for part in content)


class _Typed(msgspec.Struct):
    """A tool, a call or choice of one, or a format: adapters look into these two."""

    type: str | None = None
    function: dict[str, Any] | None = None


class _Shapes(msgspec.Struct):
    """What a request has set, as far as adapters look into it; all else is the upstream's to refuse."""

    tools: list[_Typed] | None = None
    tool_choice: str | _Typed | None = None
    reasoning_effort: str | None = None
    response_format: _Typed | None = None
    tool_calls: list[_Typed] | None = None


def check_shapes(asked: ChatRequested, config: ChatConfig) -> None:
    """Hold what adapters translate to its shape, before anything begins.

    Raises:
        MalformedMessage: it has another one.
    """
    calls = [call for message in asked.messages or () for call in message.tool_calls or ()]
    if calls or config.options or config.response_format:
        given = {"response_format": config.response_format, "tool_calls": calls}
        try:
            msgspec.convert({**(config.options or {}), **given}, _Shapes)
        except msgspec.ValidationError as error:
            raise MalformedMessage(explain(error)) from None


def preparing(record: StreamRecord, config: ChatConfig, conversation: Conversation) -> Prepare:
    """What makes the request to a provider."""

    async def prepare() -> ChatRequest:
        return ChatRequest(
            messages=[*_system(config), *await conversation()],
            model=record.model,
            temperature=config.temperature,
            max_tokens=config.max_tokens,
            response_format=config.response_format,
            options=config.options or {},
        )

    return prepare


def _system(config: ChatConfig) -> list[ChatMessage]:
    return [] if config.system_prompt is None else [ChatMessage("system", config.system_prompt)]
