"""What a client of the AI SDK asks: UI messages, and what becomes of them.

Its chats are our sessions, by the same ids. It says with every request what was said before.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import msgspec

from wsstream.chunks import ChatMessage
from wsstream.errors import BadRequest
from wsstream.messages import ChatConfig, ChatRequested, Name, SessionId, encode

Part = dict[str, Any]


class UiMessage(msgspec.Struct):
    """A message of the AI SDK. ``parts`` are its text, files, reasoning and tool calls, in their order."""

    role: Literal["system", "user", "assistant"]
    parts: list[Part]
    id: str = ""


class Asked(msgspec.Struct, rename="camel"):
    """What both transports ask for an answer with: the body of a POST, and with more around it a ``send``.

    ``model`` and ``config`` are ours: they choose as those of a `chat_request` do.
    """

    id: SessionId
    messages: list[UiMessage]
    trigger: Literal["submit-message", "regenerate-message"] = "submit-message"
    message_id: str | None = None
    model: str | None = None
    config: ChatConfig | None = None
    request_id: Name | None = None


class Settings(msgspec.Struct, frozen=True):
    """The part of a ``send``'s ``body`` that is for us."""

    model: str | None = None
    config: ChatConfig | None = None


class Turn(NamedTuple):
    """A request, translated. ``continues`` is the id of the assistant's message that the answer goes on with."""

    session_id: str
    asked: ChatRequested
    continues: str | None


def translate(asked: Asked, request_id: str) -> Turn:
    """What is asked, in our words.

    Raises:
        BadRequest: there is nothing to answer, or a part cannot be understood.
    """
    messages = list(chat_messages(asked.messages))
    if not messages:
        raise BadRequest("messages is empty")
    last = asked.messages[-1]
    continues = last.id if last.role == "assistant" and last.id else None
    request = ChatRequested(request_id=request_id, messages=messages, model=asked.model, config=asked.config)
    return Turn(asked.id, request, continues)


def chat_messages(messages: list[UiMessage]) -> Iterator[ChatMessage]:
    """``messages`` as a provider takes them. Reasoning, data and sources are not for it."""
    for message in messages:
        if message.role == "assistant":
            yield from _assistant_messages(message.parts)
        else:
            yield ChatMessage(message.role, _content(message.parts))


def _content(parts: list[Part]) -> str | list[dict[str, Any]]:
    content = [_content_part(part) for part in parts if part.get("type") in ("text", "file")]
    if all(part["type"] == "text" for part in content):
        return "".join(part["text"] for part in content)
    return content


def _content_part(part: Part) -> dict[str, Any]:
    if part["type"] == "text":
        return {"type": "text", "text": _text(part, "text")}
    url = _text(part, "url")
    if str(part.get("mediaType", "")).startswith("image/"):
        return {"type": "image_url", "image_url": {"url": url}}
    return {"type": "file", "file": {"filename": str(part.get("filename", "file")), "file_data": url}}


def _assistant_messages(parts: list[Part]) -> Iterator[ChatMessage]:
    """An assistant's message: for each of its steps what it said and called, then what the calls have given."""
    step: list[Part] = []
    for part in [*parts, {"type": "step-start"}]:
        if part.get("type") != "step-start":
            step.append(part)
            continue
        yield from _step(step)
        step = []


def _step(parts: list[Part]) -> Iterator[ChatMessage]:
    text = "".join(_text(part, "text") for part in parts if part.get("type") == "text")
    # A call without a result would be refused by every provider; that the user went on without it says enough.
    calls = [part for part in parts if _is_tool(part) and part.get("state") in _RESULTS]
    if text or calls:
        yield ChatMessage("assistant", text or None, tool_calls=[_call(part) for part in calls] or None)
    for part in calls:
        yield ChatMessage("tool", _result(part), tool_call_id=_text(part, "toolCallId"))


_RESULTS = {"output-available": "output", "output-error": "errorText", "output-denied": "errorText"}


def _is_tool(part: Part) -> bool:
    kind = str(part.get("type"))
    return kind == "dynamic-tool" or kind.startswith("tool-")


def _call(part: Part) -> dict[str, Any]:
    name = part.get("toolName") or str(part["type"]).removeprefix("tool-")
    arguments = encode(part.get("input", part.get("rawInput", {}))).decode()
    return {"id": _text(part, "toolCallId"), "type": "function", "function": {"name": name, "arguments": arguments}}


def _result(part: Part) -> str:
    result = part.get(_RESULTS[part["state"]], "denied")
    return result if isinstance(result, str) else encode(result).decode()


def _text(part: Part, name: str) -> str:
    value = part.get(name)
    if not isinstance(value, str):
        raise BadRequest(f"messages: a part of type {part.get('type')!r} has no {name}")
    return value
