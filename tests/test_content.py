"""What clients append comes back as it was, whatever it was."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsstream.chunks import Kind
from wsstream.content import NOTHING, Form, form_of, from_chunks, to_chunks
from wsstream.errors import MalformedMessage

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def back(form: Form, data: bytes) -> bytes:
    """What a reader gets of an append."""
    content = to_chunks(form, data)
    return from_chunks(form, content.bodies, content.kinds)


@given(st.binary())
def test_bytes(data: bytes) -> None:
    """Any bytes come back, whether they are said to be text or not."""
    assert back(Form.BYTES, data) == back(Form.TEXT, data) == data


@given(st.binary(), st.integers(0, 50))
def test_letters_that_two_appends_share(data: bytes, cut: int) -> None:
    """Text that is cut anywhere is whole again for who reads both parts."""
    first, second = to_chunks(Form.TEXT, data[:cut]), to_chunks(Form.TEXT, data[cut:])
    assert from_chunks(Form.TEXT, first.bodies + second.bodies, first.kinds + second.kinds) == data


@given(st.lists(JSON))
def test_messages(values: list[object]) -> None:
    """A list is so many messages, and a reader gets a list of them."""
    assert json.loads(back(Form.JSON, json.dumps(values).encode())) == values
    assert len(to_chunks(Form.JSON, json.dumps(values).encode()).bodies) == len(values)


def test_messages_are_kept_as_they_were_written() -> None:
    """No number loses a digit, and no space inside a message is lost."""
    assert back(Form.JSON, b' { "a" :  1.00000000000000000001 }\n') == b'[{ "a" :  1.00000000000000000001 }]'


@pytest.mark.parametrize("data", [b"", b"{", b"[1,]", b"nan", b"1 2", b'"\xff"', b'{"a":tru}', b"[" * 100_000])
def test_what_is_no_json(data: bytes) -> None:
    """It is refused, before anything of it is kept."""
    with pytest.raises(MalformedMessage):
        to_chunks(Form.JSON, data)


def test_text_is_a_chunk_of_text() -> None:
    """So whoever reads the log sees what it says; other bytes are data."""
    assert to_chunks(Form.TEXT, "ä".encode()) == ([b"\xc3\xa4"], bytes([Kind.TEXT]))
    assert to_chunks(Form.TEXT, b"\xc3").kinds == bytes([Kind.DATA])
    assert to_chunks(Form.BYTES, b"") == NOTHING
    assert to_chunks(Form.BYTES, b"abc").size == 4


def test_forms() -> None:
    """The media type alone says what a stream holds."""
    assert form_of("Application/JSON; charset=utf-8") is Form.JSON
    assert form_of("text/csv") is Form.TEXT
    assert form_of("application/x-ndjson") is Form.BYTES
    assert form_of(None) is Form.BYTES
