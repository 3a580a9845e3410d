"""What a client of the AI SDK asks, in our words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from wsstream.errors import BadRequest
from wsstream.wires.uimessages import Asked, UiMessage, chat_messages, translate

VECTORS = Path(__file__).parent.parent / "data" / "aisdk.json"
CASES = json.loads(VECTORS.read_text(encoding="utf-8"))["conversations"]


def message(role: str, *parts: dict[str, Any], id: str = "m") -> UiMessage:
    return msgspec.convert({"role": role, "parts": list(parts), "id": id}, UiMessage)


def text(content: str) -> dict[str, Any]:
    return {"type": "text", "text": content}


def plain(*messages: UiMessage) -> list[Any]:
    return [msgspec.to_builtins(m) for m in chat_messages(list(messages))]


def test_text() -> None:
    """Parts of text are one text; what is not for a provider is left out."""
    found = plain(
        message("system", text("Be brief.")),
        message("user", text("a"), text("b"), {"type": "data-x", "data": 1}),
        message("assistant", {"type": "step-start"}, {"type": "reasoning", "text": "hm"}, text("c")),
    )
    assert found == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "ab"},
        {"role": "assistant", "content": "c"},
    ]


def test_files() -> None:
    """Images and other files become the parts of a chat completion."""
    image = {"type": "file", "mediaType": "image/png", "url": "data:image/png;base64,AA=="}
    paper = {"type": "file", "mediaType": "application/pdf", "url": "data:,x", "filename": "a.pdf"}
    (found,) = plain(message("user", text("look"), image, paper))
    assert found["content"] == [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": image["url"]}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:,x"}},
    ]


def test_tools() -> None:
    """A step is what was said and called, and then the results; a call that never had one is left out."""
    found = plain(
        message(
            "assistant",
            {"type": "step-start"},
            text("Let me see."),
            {
                "type": "tool-weather",
                "toolCallId": "a",
                "state": "output-available",
                "input": {"x": 1},
                "output": {"t": 2},
            },
            {"type": "dynamic-tool", "toolName": "f", "toolCallId": "b", "state": "output-error", "errorText": "no"},
            {"type": "tool-g", "toolCallId": "c", "state": "input-available", "input": {}},
            {"type": "step-start"},
            text("It is 2."),
        )
    )
    calls = found[0].pop("tool_calls")
    assert [(call["id"], call["function"]) for call in calls] == [
        ("a", {"name": "weather", "arguments": '{"x":1}'}),
        ("b", {"name": "f", "arguments": "{}"}),
    ]
    assert found == [
        {"role": "assistant", "content": "Let me see."},
        {"role": "tool", "content": '{"t":2}', "tool_call_id": "a"},
        {"role": "tool", "content": "no", "tool_call_id": "b"},
        {"role": "assistant", "content": "It is 2."},
    ]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_the_shared_cases(case: dict[str, Any]) -> None:
    """What every implementation of the translation is held to, is so here."""
    assert plain(*msgspec.convert(case["messages"], list[UiMessage])) == case["told"]


def test_what_is_continued() -> None:
    """A request that ends with the assistant's message goes on with it; any other begins one."""
    user, assistant = message("user", text("hi")), message("assistant", text("he"), id="theirs")
    assert translate(Asked("chat", [user, assistant]), "r").continues == "theirs"
    turn = translate(Asked("chat", [user]), "r")
    assert (turn.continues, turn.session_id, turn.asked.request_id) == (None, "chat", "r")


@pytest.mark.parametrize("messages", [[], [{"role": "assistant", "parts": []}]])
def test_nothing_to_answer(messages: list[Any]) -> None:
    """A request without anything that a provider could be told is refused."""
    with pytest.raises(BadRequest, match="messages"):
        translate(msgspec.convert({"id": "c", "messages": messages}, Asked), "r")


@pytest.mark.parametrize("part", [{"type": "text"}, {"type": "file", "mediaType": "image/png", "url": 5}])
def test_a_broken_part(part: dict[str, Any]) -> None:
    """A part that lacks what it is about is refused, by name."""
    with pytest.raises(BadRequest, match=str(part["type"])):
        plain(message("user", part))
