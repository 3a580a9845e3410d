"""What clients append to a feed, as chunks of its log, and back.

A chunk is the inside of a JSON string, so three forms of content become one: a *message* of JSON is its own text,
*text* is itself, and *bytes* are base64. Text that is no UTF-8 is kept as bytes: what is read is what was appended.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple

import msgspec

from wsstream.chunks import Kind
from wsstream.errors import MalformedMessage
from wsstream.messages import decode_body, encode
from wsstream.writers import media_type

_messages = msgspec.json.Decoder(list[msgspec.Raw]).decode
_check = msgspec.json.Decoder(msgspec.Raw).decode
_SPACE = b" \t\r\n"


class Form(Enum):
    """What a feed holds, by its content type."""

    JSON = "json"
    TEXT = "text"
    BYTES = "bytes"


class Content(NamedTuple):
    """Chunks to be appended."""

    bodies: list[bytes]
    kinds: bytes

    @property
    def size(self) -> int:
        """Bytes of all bodies."""
        return sum(map(len, self.bodies))


NOTHING = Content([], b"")


def form_of(content_type: str | None) -> Form:
    """The form of what has this content type."""
    media = media_type(content_type or "")
    if media == "application/json":
        return Form.JSON
    return Form.TEXT if media.startswith("text/") else Form.BYTES


def to_chunks(form: Form, data: bytes) -> Content:
    """The chunks that hold ``data``: one for each message of JSON, where a list is so many messages; else one.

    Raises:
        MalformedMessage: it is to be JSON, and is not.
    """
    if form is Form.JSON:
        bodies = [encode(message)[1:-1] for message in _split(data)]
        return Content(bodies, bytes([Kind.DATA]) * len(bodies))
    if not data:
        return NOTHING
    if form is Form.TEXT:
        try:
            return Content([encode(data.decode())[1:-1]], bytes([Kind.TEXT]))
        except UnicodeDecodeError:
            pass  # not text after all, or a letter that two appends share
    return Content([base64.b64encode(data)], bytes([Kind.DATA]))


def _split(data: bytes) -> list[str]:
    """The messages of a body, as they were written."""
    text = data.strip(_SPACE)
    try:
        found = _messages(text) if text.startswith(b"[") else [_check(text)]
        return [bytes(raw).strip(_SPACE).decode() for raw in found]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise MalformedMessage("The body is not JSON") from None


def from_chunk(form: Form, kind: int, body: bytes) -> bytes:
    """What was appended as this chunk."""
    if kind == Kind.TEXT or form is Form.JSON:
        return decode_body(body).encode()
    return base64.b64decode(body)


def from_chunks(form: Form, bodies: Iterable[bytes], kinds: Iterable[int]) -> bytes:
    """What was appended, as a reader gets it: the bytes, or a list of the messages."""
    parts = [from_chunk(form, kind, body) for body, kind in zip(bodies, kinds, strict=True)]
    return b"[%b]" % b",".join(parts) if form is Form.JSON else b"".join(parts)
