"""Answers that were asked for as JSON."""

from __future__ import annotations

from typing import Any

import msgspec

from wsstream.errors import InvalidOutput

MAX_PARSED = 256 * 1024
"""Characters of an answer that is repeated, parsed, in its terminal message. A longer one is only checked."""

_FORMS = ("json_object", "json_schema")


def wants_json(response_format: dict[str, Any] | None) -> bool:
    """Whether a request's ``response_format`` asks for JSON."""
    return response_format is not None and response_format.get("type") in _FORMS


def parse_answer(text: str, response_format: dict[str, Any] | None) -> Any:
    """What a complete answer holds; None where it is too long to be told twice.

    That it fits a schema is the provider's promise; it is not checked here.

    Raises:
        InvalidOutput: it is not JSON, or not an object where one was asked for.
    """
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        raise InvalidOutput("The answer is not valid JSON", recoverable=True) from None
    if response_format is not None and response_format.get("type") == "json_object" and not isinstance(value, dict):
        raise InvalidOutput("The answer is not a JSON object", recoverable=True)
    return value if len(text) <= MAX_PARSED else None
