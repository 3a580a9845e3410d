"""Answers that were asked for as JSON are JSON, or say that they are not."""

from __future__ import annotations

from typing import Any

import pytest

from wsstream.errors import InvalidOutput
from wsstream.structured import MAX_PARSED, parse_answer, wants_json

OBJECT = {"type": "json_object"}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}


@pytest.mark.parametrize(
    ("form", "wanted"), [(None, False), ({}, False), ({"type": "text"}, False), (OBJECT, True), (SCHEMA, True)]
)
def test_what_asks_for_json(form: dict[str, Any] | None, wanted: bool) -> None:
    """Both forms of JSON do, and no other."""
    assert wants_json(form) is wanted


def test_what_an_answer_holds() -> None:
    """An answer is read as a whole, with white space around it."""
    assert parse_answer(' {"a": [1, {"b": null}]}\n', OBJECT) == {"a": [1, {"b": None}]}
    assert parse_answer("[1, 2]", SCHEMA) == [1, 2]
    assert parse_answer("3", None) == 3


@pytest.mark.parametrize("text", ["", "{", '{"a": 1', "```json\n{}\n```", "{} {}", "[" * 100_000])
def test_what_is_no_json(text: str) -> None:
    """What is cut off, wrapped or too deep is not valid, and may be asked for again."""
    with pytest.raises(InvalidOutput) as caught:
        parse_answer(text, SCHEMA)
    assert caught.value.recoverable


def test_an_object_was_asked_for() -> None:
    """A list is no object."""
    with pytest.raises(InvalidOutput):
        parse_answer("[]", OBJECT)


def test_a_long_answer_is_only_checked() -> None:
    """A terminal message does not repeat an answer of any length."""
    assert parse_answer('{"a": "' + "x" * MAX_PARSED + '"}', OBJECT) is None
