"""The words of the data path."""

from __future__ import annotations

import msgspec
import pytest

from wsstream.chunks import (
    ChatMessage,
    ChatRequest,
    Chunk,
    Delta,
    Finish,
    Kind,
    Outcome,
    Receipt,
    StreamInfo,
    StreamState,
    Usage,
)


def test_kind_numbers_never_change() -> None:
    """The numbers that stores keep on disk are fixed for good."""
    assert {kind.name: int(kind) for kind in Kind} == {
        "TEXT": 0,
        "REASONING": 1,
        "TOOL_CALL": 2,
        "DATA": 3,
        "REWIND": 4,
    }


def test_kind_names_on_the_wire() -> None:
    """Each kind has the lower-case name that messages use."""
    assert [kind.wire for kind in Kind] == ["text", "reasoning", "tool_call", "data", "rewind"]


@pytest.mark.parametrize("state", StreamState)
def test_final_states(state: StreamState) -> None:
    """A stream that waits or runs can still change; all its other states are final."""
    assert state.final is (state.value not in {"queued", "running"})


@pytest.mark.parametrize(
    "word",
    [
        Delta("a"),
        Usage(),
        Finish(),
        Chunk(1, "a"),
        Receipt(1, 1),
        Outcome(StreamState.COMPLETE, 1),
        ChatMessage("user", "hi"),
        ChatRequest([]),
        StreamInfo("s", 0, StreamState.RUNNING),
    ],
    ids=lambda word: type(word).__name__,
)
def test_words_are_frozen(word: msgspec.Struct) -> None:
    """What several tasks share cannot be changed by one of them."""
    name = word.__struct_fields__[0]
    with pytest.raises(AttributeError):
        setattr(word, name, None)


def test_plain_text_is_the_default_kind() -> None:
    """A delta or chunk without a kind is text."""
    assert Delta("a").kind is Kind.TEXT
    assert Chunk(1, "a").kind is Kind.TEXT


def test_a_finish_without_a_reason_is_a_stop() -> None:
    """A provider that says nothing about its end has simply come to it."""
    assert Finish() == Finish(reason="stop", usage=None)


def test_receipt_leaves_out_what_is_not_known() -> None:
    """The time until the upstream was closed is only in the JSON of a receipt that has one."""
    assert msgspec.to_builtins(Receipt(7, 5)) == {"generated_chunks": 7, "delivered_chunk_id": 5}
    assert msgspec.to_builtins(Receipt(7, 5, 1.5))["upstream_closed_ms"] == 1.5


@pytest.mark.parametrize("content", ["hi", [{"type": "text", "text": "hi"}], None])
def test_a_turn_holds_text_or_parts(content: object) -> None:
    """A turn's content is read as text, as a list of parts, or as nothing beside a tool call, whichever was sent."""
    turn = msgspec.convert({"role": "user", "content": content}, ChatMessage)
    assert turn == ChatMessage("user", content)  # type: ignore[arg-type]


@pytest.mark.parametrize("content", [5, {"text": "hi"}, ["hi"]])
def test_a_turn_holds_nothing_else(content: object) -> None:
    """A turn whose content is neither text nor a list of parts is refused."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"role": "user", "content": content}, ChatMessage)
