"""The policies for answers that nobody follows any more, as requests ask for them."""

from __future__ import annotations

from typing import Any

import pytest

from wsstream.config import Config
from wsstream.errors import BadRequest
from wsstream.orphans import Continue, OrphanPolicy, Pause, StopAfter, StopAfterChunks, parse_policy

WISHES: list[tuple[Any, OrphanPolicy]] = [
    ("continue", Continue()),
    ("pause", Pause()),
    ("stop_after", StopAfter(60.0)),
    ({"stop_after": 5}, StopAfter(5.0)),
    ({"stop_after": 0}, StopAfter(0.0)),
    ({"stop_after": 86_400.0}, StopAfter(86_400.0)),
    ({"stop_after_chunks": 0}, StopAfterChunks(0)),
    ({"stop_after_chunks": 10_000_000}, StopAfterChunks(10_000_000)),
    ({"stop_after_chunks": 7, "stop_after": None}, StopAfterChunks(7)),
]


@pytest.mark.parametrize(("wish", "policy"), WISHES, ids=repr)
def test_what_a_request_may_ask_for(wish: Any, policy: OrphanPolicy) -> None:
    """Each documented wish is the policy of that name."""
    assert parse_policy(wish, Config()) == policy


@pytest.mark.parametrize(
    ("settings", "policy"),
    [
        ({}, StopAfter(60.0)),
        ({"orphan_grace": 5.0}, StopAfter(5.0)),
        ({"on_orphan": "pause"}, Pause()),
        ({"on_orphan": "continue"}, Continue()),
    ],
)
def test_the_server_has_one_too(settings: dict[str, Any], policy: OrphanPolicy) -> None:
    """A request without a wish gets the server's policy; one with a wish does not."""
    assert parse_policy(None, Config(**settings)) == policy
    assert parse_policy("pause", Config(**settings)) == Pause()


@pytest.mark.parametrize(
    "wish",
    [
        "",
        "stop",
        "Continue",
        "stop_after_chunks",
        {},
        {"stop_after": 1, "stop_after_chunks": 1},
        {"stop_after": None},
        {"stop_after": -1},
        {"stop_after": 86_401},
        {"stop_after": "5"},
        {"stop_after": True},
        {"stop_after": float("nan")},
        {"stop_after": float("inf")},
        {"stop_after_chunks": 1.5},
        {"stop_after_chunks": -1},
        {"stop_after_chunks": 10_000_001},
        {"continue": True},
        {"stop_after": 1, "more": 2},
        [],
        0,
        5,
        True,
        False,
    ],
    ids=repr,
)
def test_anything_else_is_refused(wish: Any) -> None:
    """A wish that is not documented is a bad request that names the setting."""
    with pytest.raises(BadRequest, match=r"config\.on_orphan: "):
        parse_policy(wish, Config())
