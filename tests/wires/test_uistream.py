"""An answer in the words of the AI SDK."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from wsstream.chunklog import ChunkLog
from wsstream.chunks import Delta, Kind, Outcome, StreamState, Usage
from wsstream.messages import rewind_body
from wsstream.stores.memory import MemoryStore
from wsstream.wires.base import StreamLike
from wsstream.wires.uistream import UiStream

CASES = json.loads((Path(__file__).parent.parent / "data" / "aisdk.json").read_text(encoding="utf-8"))["answers"]


class Answer:
    """A log, and what a viewer is told of it."""

    def __init__(self, message_id: str | None = None) -> None:
        self.log = ChunkLog("s_1", "e", MemoryStore())
        record = SimpleNamespace(stream_id="s_1", model="m")
        stream = cast(StreamLike, SimpleNamespace(stream_id="s_1", log=self.log, record=record))
        self.ui = UiStream(stream, message_id)
        self._told = 0

    def put(self, *deltas: Delta) -> list[dict[str, Any]]:
        self.log.append(list(deltas))
        return self.told()

    def told(self) -> list[dict[str, Any]]:
        out: list[bytes] = []
        for chunk_id in range(self._told + 1, self.log.tail + 1):
            body, kind = self.log.entry(chunk_id)
            out += self.ui.take(chunk_id, kind, body)
        self._told = self.log.tail
        return [json.loads(chunk) for chunk in out]

    def end(self, **outcome: Any) -> list[dict[str, Any]]:
        given = {"state": StreamState.COMPLETE, "final_chunk_id": self.log.tail, **outcome}
        return [json.loads(chunk) for chunk in self.ui.end(Outcome(**given))]


def tool(**line: Any) -> Delta:
    return Delta(json.dumps(line) + "\n", Kind.TOOL_CALL)


def types(chunks: list[dict[str, Any]]) -> list[str]:
    return [chunk["type"] for chunk in chunks]


def test_text() -> None:
    """Text is one part, from its start to the end of the answer."""
    answer = Answer()
    assert [json.loads(c) for c in answer.ui.begin()] == [
        {"type": "start", "messageId": "m_1", "messageMetadata": {"streamId": "s_1", "model": "m"}},
        {"type": "start-step"},
    ]
    assert answer.put(Delta('say "ä"\n')) == [
        {"type": "text-start", "id": "1"},
        {"type": "text-delta", "id": "1", "delta": 'say "ä"\n'},
    ]
    assert answer.put(Delta("more")) == [{"type": "text-delta", "id": "1", "delta": "more"}]
    end = answer.end(finish_reason="stop", usage=Usage(3, 4), elapsed_seconds=2.0)
    assert types(end) == ["text-end", "finish-step", "finish"]
    assert end[-1]["finishReason"] == "stop"
    assert end[-1]["messageMetadata"]["usage"] == {"inputTokens": 3, "outputTokens": 4, "totalTokens": 7}


def test_reasoning_and_text_take_turns() -> None:
    """Each turn of reasoning or text is a part with an id of its own."""
    answer = Answer()
    chunks = answer.put(Delta("hm", Kind.REASONING), Delta("so"), Delta("well", Kind.REASONING))
    assert [(c["type"], c["id"]) for c in chunks] == [
        ("reasoning-start", "1"),
        ("reasoning-delta", "1"),
        ("reasoning-end", "1"),
        ("text-start", "2"),
        ("text-delta", "2"),
        ("text-end", "2"),
        ("reasoning-start", "3"),
        ("reasoning-delta", "3"),
    ]


def test_tool_calls() -> None:
    """A call's input streams in; at the end of the answer it is there as a whole, also where two calls mingle."""
    answer = Answer()
    chunks = answer.put(
        tool(index=0, id="a", name="weather"),
        tool(index=1, id="b", name="clock"),
        tool(index=0, arguments='{"city":'),
        tool(index=1, arguments="{}"),
        tool(index=0, arguments='"Ulm"}'),
    )
    assert types(chunks) == ["tool-input-start"] * 2 + ["tool-input-delta"] * 3
    assert chunks[0] == {"type": "tool-input-start", "toolCallId": "a", "toolName": "weather"}
    assert "".join(c["inputTextDelta"] for c in chunks[2:] if c["toolCallId"] == "a") == '{"city":"Ulm"}'
    end = answer.end(finish_reason="tool_calls")
    assert end[0] == {
        "type": "tool-input-available",
        "toolCallId": "a",
        "toolName": "weather",
        "input": {"city": "Ulm"},
    }
    assert end[1]["input"] == {}
    assert end[-1]["finishReason"] == "tool-calls"


def test_a_tool_line_in_pieces() -> None:
    """A line that comes in two chunks is one line, with or without an end."""
    answer = Answer()
    line = '{"index":0,"id":"a","name":"f"}'
    assert answer.put(Delta(line[:9], Kind.TOOL_CALL)) == []
    assert answer.put(Delta(line[9:], Kind.TOOL_CALL)) == []
    assert types(answer.end()) == ["tool-input-start", "tool-input-available", "finish-step", "finish"]


@pytest.mark.parametrize("text", ["no json\n", "[]\n", '{"index":"x"}\n', '{"index":7,"arguments":"x"}\n', "\n"])
def test_a_tool_line_that_is_none(text: str) -> None:
    """What a provider of somebody else's puts instead is passed over, and the answer goes on."""
    answer = Answer()
    assert answer.put(Delta(text, Kind.TOOL_CALL)) == []
    assert types(answer.put(Delta("text"))) == ["text-start", "text-delta"]


def test_arguments_that_are_no_json() -> None:
    """Such a call is told as its own error, with what there was."""
    answer = Answer()
    answer.put(tool(index=0, id="a", name="f"), tool(index=0, arguments='{"x":'))
    first = answer.end()[0]
    assert (first["type"], first["input"]) == ("tool-input-error", '{"x":')


def test_a_rewind() -> None:
    """What was withdrawn leaves the client's step, and what still stands is told again."""
    answer = Answer()
    answer.put(Delta("keep ", Kind.REASONING), Delta("one "), Delta("two "), Delta("three"))
    answer.log.append_bodies([rewind_body(3, "retry")], bytes([Kind.REWIND]))
    chunks = answer.told()
    assert types(chunks) == [
        "reset-step",
        *("reasoning-start", "reasoning-delta", "reasoning-end"),
        *("text-start", "text-delta"),
    ]
    assert chunks[-1]["delta"] == "one two "
    assert types(answer.put(Delta("3"))) == ["text-delta"]


def test_data() -> None:
    """Other data is a data part."""
    assert Answer().put(Delta("x", Kind.DATA)) == [{"type": "data-chunk", "data": "x"}]


def test_bad_ends() -> None:
    """A failure is an error with its message, a cancel an abort; parts are closed before."""
    answer = Answer()
    answer.put(Delta("text"))
    failed = answer.end(state=StreamState.FAILED, error_type="provider_error", message="The provider failed")
    assert failed == [{"type": "text-end", "id": "1"}, {"type": "error", "errorText": "The provider failed"}]
    assert types(answer.end(state=StreamState.CANCELLED, finish_reason="cancelled")) == ["abort"]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("stop", "stop"), ("length", "length"), ("content_filter", "content-filter"), ("odd", "other"), (None, "stop")],
)
def test_finish_reasons(ours: str | None, theirs: str) -> None:
    """Reasons have their names there."""
    assert Answer().end(finish_reason=ours)[-1]["finishReason"] == theirs


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_the_shared_cases(case: dict[str, Any]) -> None:
    """What every implementation of the translation is held to, is so here."""
    answer = Answer()
    told = answer.put(*[Delta(content, Kind[kind.upper()]) for kind, content in case["chunks"]])
    if "error" in case:
        told += answer.end(state=StreamState.FAILED, error_type="provider_error", message=case["error"])
    else:
        state = StreamState.CANCELLED if case["finish_reason"] == "cancelled" else StreamState.COMPLETE
        told += answer.end(state=state, finish_reason=case["finish_reason"])
    assert [{k: v for k, v in chunk.items() if k != "messageMetadata"} for chunk in told] == case["told"]


def test_a_message_that_is_continued() -> None:
    """An answer that goes on with a message has its id."""
    assert json.loads(Answer("theirs").ui.begin()[0])["messageId"] == "theirs"
