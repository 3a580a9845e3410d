"""Calls of tools as lines of JSON, whatever pieces an upstream makes of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsstream.chunks import Delta, Kind
from wsstream.errors import ProviderError
from wsstream.providers.tools import MAX_CALLS, MAX_LINE, ToolCalls


def lines(*pieces: tuple[Any, str | None, str | None, Any]) -> list[dict[str, Any]]:
    """What these pieces become."""
    calls = ToolCalls()
    deltas: list[Delta] = []
    for piece in pieces:
        calls.take(deltas, *piece)
    assert all(delta.kind is Kind.TOOL_CALL for delta in deltas)
    return [json.loads(line) for line in "".join(delta.content for delta in deltas).splitlines()]


def test_a_call_in_pieces() -> None:
    """A call begins with its name, and its arguments follow."""
    assert lines((0, "call_1", "f", ""), (0, None, None, '{"ci'), (0, None, None, 'ty": 1}')) == [
        {"index": 0, "id": "call_1", "name": "f"},
        {"index": 0, "arguments": '{"ci'},
        {"index": 0, "arguments": 'ty": 1}'},
    ]


def test_a_call_in_one_piece() -> None:
    """A call that comes whole is a beginning and its arguments, also where they are an object already."""
    whole = [{"index": 0, "id": "a", "name": "f"}, {"index": 0, "arguments": '{"x": 1}'}]
    assert lines((0, "a", "f", '{"x": 1}')) == whole
    assert lines((0, "a", "f", {"x": 1})) == whole


@pytest.mark.parametrize("keys", [(0, 1), (3, 7), (0, 0), (None, None), ("a", "b")])
def test_calls_are_numbered_as_they_begin(keys: tuple[Any, Any]) -> None:
    """Whatever a server calls its calls, here they are 0, 1, 2; another id is another call."""
    found = lines((keys[0], "a", "f", "1"), (keys[1], "b", "g", "2"), (keys[1], None, None, "3"))
    assert [(line["index"], line.get("id"), line.get("arguments")) for line in found] == [
        *[(0, "a", None), (0, None, "1"), (1, "b", None), (1, None, "2"), (1, None, "3")],
    ]


def test_calls_may_mix() -> None:
    """Pieces of several calls at once each go to their own."""
    found = lines((0, "a", "f", ""), (1, "b", "g", ""), (0, None, None, "1"), (1, None, None, "2"), (0, "a", "f", "3"))
    assert [line["arguments"] for line in found if line["index"] == 0 and "arguments" in line] == ["1", "3"]
    assert [line["arguments"] for line in found if line["index"] == 1 and "arguments" in line] == ["2"]


def test_a_call_without_an_id_gets_one() -> None:
    """Whoever answers a call needs a name for it."""
    assert [line["id"] for line in lines((0, None, "f", ""), (1, None, "g", ""))] == ["call_0", "call_1"]


@given(st.text(st.characters(codec="utf-8"), max_size=40), st.integers(1, 3000))
def test_long_arguments_are_cut(text: str, times: int) -> None:
    """No line is much longer than 8 KiB, whatever has to be escaped in it, and joined they are the arguments."""
    given_text = json.dumps(text * times, ensure_ascii=False)
    calls = ToolCalls()
    deltas: list[Delta] = []
    calls.take(deltas, 0, "a", "f", given_text)
    assert all(len(delta.content.encode()) <= MAX_LINE + 64 for delta in deltas)
    assert "".join(json.loads(delta.content).get("arguments", "") for delta in deltas) == given_text


def test_a_pair_that_was_split_is_joined() -> None:
    """Halves of a character in two pieces are the character."""
    found = lines((0, "a", "f", '"x\ud83d'), (0, None, None, '\ude00"'))
    assert "".join(line.get("arguments", "") for line in found) == '"x😀"'


@pytest.mark.parametrize("limit", [MAX_CALLS, 3])
@pytest.mark.parametrize("times", [1, 10])
def test_max_tool_calls(limit: int, times: int) -> None:
    """A model may call as many tools as are allowed; one that calls one more, or ten times as many, is stopped."""
    calls = ToolCalls(limit)
    for n in range(limit):
        calls.take([], n, f"c{n}", "f", "")
    assert len(calls) == limit
    with pytest.raises(ProviderError, match="too many tools"):
        calls.take([], limit * times, f"c{limit * times}", "f", "")
