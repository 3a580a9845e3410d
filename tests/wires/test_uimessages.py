"""What a client of the AI SDK asks, in our words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from wsstream.chunks import ToolCall, Usage
from wsstream.errors import BadRequest
from wsstream.messages import HistoryMessage
from wsstream.wires.uimessages import NO_JSON, Asked, UiMessage, chat_messages, translate, ui_messages

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


def said(role: str, content: Any, id: str = "m", **more: Any) -> HistoryMessage:
    return HistoryMessage(id, role, content, 1.0, more.pop("is_complete", True), **more)


def test_a_history() -> None:
    """An answer has its reasoning, its text and its calls, these with the results that came behind it."""
    calls = [ToolCall("c1", "f", '{"a":1}'), ToolCall("c2", "f", ""), ToolCall("c3", "f", "{")]
    found = ui_messages(
        [
            said("user", "hi", "m1", client_id="theirs"),
            said("assistant", "so", "m2", stream_id="s_2", usage=Usage(1, 2), reasoning="hm", tool_calls=calls),
            said("tool", '{"b": 2}', "m3", tool_call_id="c1"),
            said("tool", "42", "m4", tool_call_id="c2"),
            said("tool", "lost", "m5", tool_call_id="c9"),
            said("assistant", "then", "m6", stream_id="s_6", is_complete=False),
        ]
    )
    usage = {"inputTokens": 1, "outputTokens": 2, "totalTokens": 3}
    shown = {"type": "tool-f", "state": "output-available"}
    assert found == [
        {"id": "theirs", "role": "user", "parts": [text("hi")]},
        {
            "id": "m2",
            "role": "assistant",
            "parts": [
                {"type": "reasoning", "text": "hm", "state": "done"},
                text("so"),
                {**shown, "toolCallId": "c1", "input": {"a": 1}, "output": {"b": 2}},
                {**shown, "toolCallId": "c2", "input": {}, "output": "42"},
                {"type": "tool-f", "state": "output-error", "toolCallId": "c3", "rawInput": "{", "errorText": NO_JSON},
            ],
            "metadata": {"streamId": "s_2", "usage": usage},
        },
        {
            "id": "m6",
            "role": "assistant",
            "parts": [text("then")],
            "metadata": {"streamId": "s_6", "isComplete": False},
        },
    ]


def test_a_message_that_comes_again() -> None:
    """It takes the place of the first of its id, and of all that followed it; an empty answer is left out."""
    found = ui_messages(
        [
            said("user", "one", "m1", client_id="a"),
            said("assistant", "1", "m2", stream_id="s_2"),
            said("user", "two", "m3", client_id="b"),
            said("assistant", "2", "m4", stream_id="s_4"),
            said("user", "uno", "m5", client_id="a"),
            said("assistant", "", "m6", stream_id="s_6"),
        ]
    )
    assert [(message["id"], message["parts"]) for message in found] == [("a", [text("uno")])]


def test_files_that_come_back() -> None:
    """What became parts of a chat completion becomes files again."""
    image = {"type": "file", "mediaType": "image/png", "url": "data:image/png;base64,AA=="}
    paper = {"type": "file", "mediaType": "application/pdf", "url": "data:application/pdf,x", "filename": "a.pdf"}
    far = {"type": "file", "mediaType": "image/*", "url": "https://example.org/a"}
    (sent,) = chat_messages([message("user", text("look"), image, paper, far)])
    (found,) = ui_messages([said("user", sent.content)])
    assert found["parts"] == [text("look"), image, paper, far]


@pytest.mark.parametrize(("id", "kept"), [("m1", "m1"), ("", None), ("x" * 128, "x" * 128), ("x" * 129, None)])
def test_the_id_of_what_is_asked(id: str, kept: str | None) -> None:
    """A user's message keeps its id, where that is of a reasonable length."""
    assert translate(Asked("chat", [message("user", text("hi"), id=id)]), "r").client_id == kept
