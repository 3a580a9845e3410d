"""What was said: of a log's chunks a message, of a session's messages a conversation, of many messages pages."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsstream import said as module
from wsstream.chunks import ChatMessage, Kind, ToolCall
from wsstream.messages import HistoryMessage, encode, rewind_body
from wsstream.providers.tools import ToolCalls
from wsstream.said import Said, conversation, fitting, said_of

# -- messages


def said(*chunks: tuple[str, Kind]) -> Said:
    """What these chunks say."""
    bodies = [content.encode() if kind is Kind.REWIND else encode(content)[1:-1] for content, kind in chunks]
    return said_of(bodies, bytes(kind for _, kind in chunks))


def line(index: int, **fields: str) -> tuple[str, Kind]:
    """A line about a call."""
    return json.dumps({"index": index, **fields}) + "\n", Kind.TOOL_CALL


def test_text_thoughts_and_calls() -> None:
    """Each kind is joined by itself, however it was mixed."""
    found = said(
        ("hm", Kind.REASONING),
        ("I'll ", Kind.TEXT),
        ("ä\n", Kind.REASONING),
        ("look", Kind.TEXT),
        line(0, id="a", name="find", arguments='{"q"'),
        line(1, id="b", name="count"),
        line(0, arguments=": 1}"),
        ("{}", Kind.DATA),
    )
    assert found == Said("I'll look", "hmä\n", [ToolCall("a", "find", '{"q": 1}'), ToolCall("b", "count", "")])


def test_what_was_withdrawn_was_not_said() -> None:
    """A rewind takes thoughts with it as it takes text."""
    rewind = rewind_body(1, "policy").decode(), Kind.REWIND
    assert said(("a", Kind.REASONING), ("b", Kind.REASONING), ("c", Kind.TEXT), rewind) == Said("", "a")


def test_lines_that_are_none() -> None:
    """What a provider of one's own puts as calls, in another form or not all of it yet, is left out."""
    assert said(
        ("no JSON\n[]\n{}\n", Kind.TOOL_CALL), line(0, name="x"), ('{"index":0,"argum', Kind.TOOL_CALL)
    ) == Said("", "", [ToolCall("", "x")])


def test_a_message_keeps_so_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thoughts are cut, and calls beyond the limits left out, whole: half a call would be another one."""
    monkeypatch.setattr(module, "KEEP", module.Keep(reasoning=3, calls=2, arguments=4))
    assert said(("ab", Kind.REASONING), ("cd", Kind.REASONING)) == Said("", "abc", (), cut=True)
    assert not said(("abc", Kind.REASONING)).cut
    four, five = line(0, id="a", arguments="1234"), line(1, id="b", arguments="5")
    assert [call.id for call in said(four, five).tool_calls] == ["a"]
    assert [call.id for call in said(four, *(line(n, id=str(n)) for n in (1, 2))).tool_calls] == ["a", "1"]


@given(st.lists(st.tuples(st.integers(0, 3), st.text(max_size=30)), max_size=20), st.integers(1, 200))
def test_calls_are_those_that_were_put(pieces: list[tuple[int, str]], size: int) -> None:
    """Whatever pieces calls come in, and however their lines are cut into chunks, the message has them as they were."""
    calls, deltas, given = ToolCalls(), [], {}
    for key, text in pieces:
        calls.take(deltas, key, f"id{key}", f"tool{key}", text)
        given[key] = given.get(key, "") + text.encode("utf-8", "replace").decode()
    lines = "".join(delta.content for delta in deltas)
    found = said(*((lines[n : n + size], Kind.TOOL_CALL) for n in range(0, len(lines), size)))
    assert list(found.tool_calls) == [ToolCall(f"id{key}", f"tool{key}", text) for key, text in given.items()]


# -- conversations


def user(text: str) -> HistoryMessage:
    """What somebody asked."""
    return HistoryMessage("m", "user", text, 1.0, True)


def answer(text: str, *calls: ToolCall) -> HistoryMessage:
    """What was answered."""
    return HistoryMessage("m", "assistant", text, 1.0, True, reasoning="hm", tool_calls=list(calls) or None)


def result(call_id: str, text: str) -> HistoryMessage:
    """What a tool gave."""
    return HistoryMessage("m", "tool", text, 1.0, True, tool_call_id=call_id)


A, B, BROKEN = ToolCall("a", "one", '{"x":1}'), ToolCall("b", "two"), ToolCall("c", "three", '{"x":')


def told(*turns: ChatMessage) -> list[Any]:
    """Roles, contents and ids, which is all that counts."""
    return [(t.role, t.content, [call["id"] for call in t.tool_calls or []] or t.tool_call_id) for t in turns]


def test_calls_are_told_with_their_results() -> None:
    """Each result stands right behind its call, as providers want it, also where others spoke in between."""
    turns = conversation([user("q"), answer("", A, B), user("and"), result("b", "2"), result("a", "1")], [])
    assert told(*turns) == [
        ("user", "q", None),
        ("assistant", None, ["a", "b"]),
        ("tool", "1", "a"),
        ("tool", "2", "b"),
        ("user", "and", None),
    ]
    assert (turns[1].tool_calls or [])[1]["function"] == {"name": "two", "arguments": "{}"}


def test_calls_without_results_are_not_told() -> None:
    """Nor results without calls, nor calls that broke off: a provider would refuse the whole conversation."""
    turns = conversation(
        [answer("look", A, B), result("a", "1"), answer("", BROKEN), result("c", "3"), result("z", "?"), answer("", A)],
        [ChatMessage("user", "so?")],
    )
    assert told(*turns) == [("assistant", "look", ["a"]), ("tool", "1", "a"), ("user", "so?", None)]


def test_the_newest_result_of_the_newest_call_counts() -> None:
    """Ids come again, with servers that give none of their own; results do, where an answer was asked for again."""
    turns = conversation([answer("", A), result("a", "1"), answer("", A), result("a", "2"), result("a", "3")], [])
    assert told(*turns)[1::2] == [("tool", "1", "a"), ("tool", "3", "a")]


def test_new_results_for_old_calls() -> None:
    """What a request brings may answer what the session holds; else it is told as it came."""
    new = [ChatMessage("tool", "1", tool_call_id="a"), ChatMessage("tool", "?", tool_call_id="z")]
    assert told(*conversation([answer("", A), user("and")], new)) == [
        ("assistant", None, ["a"]),
        ("tool", "1", "a"),
        ("user", "and", None),
        ("tool", "?", "z"),
    ]


def test_thoughts_are_not_told() -> None:
    """What was thought is nobody's but the reader's."""
    assert conversation([answer("yes")], []) == [ChatMessage("assistant", "yes")]


# -- pages


def many(count: int, size: int = 1) -> list[HistoryMessage]:
    """So many messages."""
    return [HistoryMessage(f"m{n}", "user", "x" * size, 1.0, True) for n in range(count)]


def test_a_page_has_so_many_bytes() -> None:
    """Of messages that are large fewer fit, and one that is larger than any page comes alone."""
    messages = many(4, module.PAGE_BYTES // 3)
    assert fitting(messages) == messages[2:]
    assert len(encode(fitting(messages))) <= module.PAGE_BYTES
    assert fitting([*many(1), *many(1, module.PAGE_BYTES + 1)]) == many(1, module.PAGE_BYTES + 1)
    assert fitting(many(30)) == many(30)
    assert fitting([]) == []
