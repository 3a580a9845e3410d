"""The rows as they are packed: MessagePack behind a checksum, and a log as one piece.

Every packed row carries a CRC-32 of its content and number: a flipped bit is found when it is read, not shown to
anybody.
"""

from __future__ import annotations

import zlib
from typing import Any

import msgspec

from wsstream.bodies import Bodies
from wsstream.chunks import Outcome
from wsstream.errors import StoreCorrupt
from wsstream.stores.base import StoredMessage, StreamRecord

LARGE = 64 * 1024
"""The size from which a row has a statement of its own: one that is kept ready keeps its last row in memory."""

_into = msgspec.msgpack.Encoder().encode_into
_log = msgspec.msgpack.Decoder(tuple[bytes, int, bytes, bytes]).decode
_old_log = msgspec.msgpack.Decoder(tuple[bytes, list[bytes]]).decode
_record = msgspec.msgpack.Decoder(StreamRecord).decode
_ending = msgspec.msgpack.Decoder(tuple[Outcome, float, int]).decode
_message = msgspec.msgpack.Decoder(StoredMessage).decode

pack = msgspec.msgpack.Encoder().encode
"""What is sealed as a row, but for logs."""


def sealed(data: bytes, number: int = 0) -> bytes:
    """``data`` with a checksum, which is also that of the row's number: no row passes for another."""
    return _checksum(data, number) + data


def checked(row: Any, number: int = 0) -> bytes:
    """What `sealed` has sealed.

    Raises:
        StoreCorrupt: it is not that any more.
    """
    if not isinstance(row, bytes):
        raise StoreCorrupt("a stored row is not of its type")
    data = row[4:]
    if _checksum(data, number) != row[:4]:
        raise StoreCorrupt("a stored row fails its checksum")
    return data


def _checksum(data: bytes | memoryview, number: int) -> bytes:
    return zlib.crc32(data, number & 0xFFFFFFFF).to_bytes(4, "big")


def sealed_log(kinds: bytes, bodies: Bodies, number: int) -> bytearray:
    """A log as one row; made in one piece, as a long one is not to be in memory three times."""
    row = bytearray(4)
    _into((kinds, bodies.overhead, bodies.sizes(), bodies.data), row, 4)
    with memoryview(row) as view:
        row[:4] = _checksum(view[4:], number)
    return row


def read_log(row: Any, number: int) -> tuple[bytes, Bodies]:
    """The kinds and bodies that `sealed_log` has sealed, or versions before 3 had: a list of bodies.

    Raises:
        StoreCorrupt: it fails its checksum, or its sizes do not fit.
        msgspec.DecodeError: it is no log.
    """
    data = checked(row, number)
    if data[:1] == b"\x92":
        kinds, old = _old_log(data)
        return kinds, Bodies.of(old)
    kinds, overhead, sizes, content = _log(data)
    try:
        return kinds, Bodies.from_sizes(content, sizes, len(kinds), overhead)
    except ValueError as error:
        raise StoreCorrupt(str(error)) from None


def read_record(row: Any, number: int) -> StreamRecord:
    """What is kept of a stream beside its chunks.

    Raises:
        StoreCorrupt: it fails its checksum.
        msgspec.DecodeError: it is no record.
    """
    return _record(checked(row, number))


def read_ending(row: Any, number: int) -> tuple[Outcome, float, int]:
    """How a stream ended and when, in seconds since 1970, and the bytes its log takes.

    Raises:
        StoreCorrupt: it fails its checksum.
        msgspec.DecodeError: it is no ending.
    """
    return _ending(checked(row, number))


def read_message(row: Any) -> StoredMessage:
    """A message of a session.

    Raises:
        StoreCorrupt: it fails its checksum.
        msgspec.DecodeError: it is no message.
    """
    return _message(checked(row))
