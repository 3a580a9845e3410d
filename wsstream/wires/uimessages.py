"""What a client of the AI SDK asks: UI messages, and what becomes of them; and what was said, as UI messages again.

Its chats are our sessions, by the same ids. It says with every request what was said before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, Literal, NamedTuple

import msgspec

from wsstream.chunks import ChatMessage, ToolCall, Usage
from wsstream.errors import BadRequest
from wsstream.messages import ChatConfig, ChatRequested, HistoryMessage, Name, SessionId, encode

Part = dict[str, Any]

MAX_CLIENT_ID = 128
"""Characters of a message's id that are kept."""


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
    """A request, translated."""

    session_id: str
    asked: ChatRequested
    continues: str | None
    """The id of the assistant's message that the answer goes on with."""
    client_id: str | None
    """The id of the user's message that is answered."""


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
    client_id = last.id if last.role == "user" and 0 < len(last.id) <= MAX_CLIENT_ID else None
    return Turn(asked.id, request, continues, client_id)


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


# -- what was said


def ui_messages(history: Sequence[HistoryMessage]) -> list[dict[str, Any]]:
    """A session's messages (oldest first) as a page shows them.

    A user's message that comes again under the same id (it was edited, or its answer asked for again) takes the place
    of the first, and of all that followed. Results of tools are shown with the calls that they are of. An answer that
    says nothing yet, or never did, is left out.
    """
    shown: list[dict[str, Any]] = []
    calls: dict[str, Part] = {}
    for message in history:
        if message.role == "tool":
            _settle(calls.get(message.tool_call_id or ""), message.content)
            continue
        name = message.client_id or message.id
        del shown[next((n for n, other in enumerate(shown) if other["id"] == name), len(shown)) :]
        parts = _answer_parts(message, calls) if message.role == "assistant" else list(_parts_of(message.content))
        told: dict[str, Any] = {"id": name, "role": message.role, "parts": parts}
        if message.stream_id is not None:
            told["metadata"] = _metadata(message, message.stream_id)
        if parts:
            shown.append(told)
    return shown


def figures_of(usage: Usage) -> dict[str, int]:
    """Tokens, by the AI SDK's names."""
    return {
        "inputTokens": usage.input_tokens,
        "outputTokens": usage.output_tokens,
        "totalTokens": usage.input_tokens + usage.output_tokens,
    }


def _metadata(message: HistoryMessage, stream_id: str) -> dict[str, Any]:
    metadata: dict[str, Any] = {"streamId": stream_id}
    if message.usage is not None:
        metadata["usage"] = figures_of(message.usage)
    if not message.is_complete:
        metadata["isComplete"] = False
    return metadata


def _answer_parts(message: HistoryMessage, calls: dict[str, Part]) -> list[Part]:
    parts: list[Part] = []
    if message.reasoning:
        parts.append({"type": "reasoning", "text": message.reasoning, "state": "done"})
    parts += _parts_of(message.content)
    for call in message.tool_calls or []:
        part = calls[call.id] = _call_part(call)
        parts.append(part)
    return parts


def _call_part(call: ToolCall) -> Part:
    whole = {"type": f"tool-{call.name}", "toolCallId": call.id}
    try:
        value = msgspec.json.decode(call.arguments or "{}")
    except msgspec.DecodeError:
        return {**whole, "state": "output-error", "rawInput": call.arguments, "errorText": NO_JSON}
    return {**whole, "state": "input-available", "input": value}


NO_JSON = "The arguments of this call are no JSON"


def _settle(part: Part | None, result: str | list[dict[str, Any]]) -> None:
    """Put a result to its call. Objects and lists are kept as JSON, and become what they were."""
    if part is None or part["state"] != "input-available":
        return
    output: Any = result
    if isinstance(result, str) and result.startswith(("{", "[")):
        with suppress(msgspec.DecodeError):
            output = msgspec.json.decode(result)
    part.update(state="output-available", output=output)


def _parts_of(content: str | list[dict[str, Any]]) -> Iterator[Part]:
    if isinstance(content, str):
        if content:
            yield {"type": "text", "text": content}
        return
    for part in content:
        if part.get("type") == "text":
            yield {"type": "text", "text": part.get("text", "")}
        elif part.get("type") == "image_url":
            yield _file_part(part.get("image_url", {}).get("url", ""), "image/*")
        elif part.get("type") == "file":
            file = part.get("file", {})
            yield {
                **_file_part(file.get("file_data", ""), "application/octet-stream"),
                "filename": file.get("filename", "file"),
            }


def _file_part(url: str, otherwise: str) -> Part:
    media = url[5:].partition(",")[0].partition(";")[0] if url.startswith("data:") else ""
    return {"type": "file", "mediaType": media or otherwise, "url": url}
