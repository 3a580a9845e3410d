"""Frames that come in. Nearly all of them are acks: one short text frame that fills its TCP segment.

`websockets` reads every kind of frame, and takes a dozen calls for each. `short_text` opens just the commonest kind
without it, and `Alignment` knows whether a segment begins where a frame does; all else goes to the library, which
stays the judge of what is legal.
"""

from __future__ import annotations

try:
    from websockets.speedups import apply_mask
except ImportError:  # no compiled extension for this platform
    from websockets.utils import apply_mask

_FINAL_TEXT = 0x81
_MASKED = 0x80
_HEAD = 6
"""Bytes of a head with a short length and a mask (RFC 6455, section 5.2)."""


def short_text(data: bytes) -> bytes | None:
    """The payload, if ``data`` is exactly one final, masked text frame of at most 125 bytes; else None.

    ``data`` must begin where a frame does, with no fragmented message under way.
    """
    size = len(data) - _HEAD
    if not 0 <= size <= 125 or data[0] != _FINAL_TEXT or data[1] != _MASKED | size:
        return None
    return apply_mask(data[_HEAD:], data[2:_HEAD])


class Alignment:
    """Follows where frames begin and end in a stream of bytes, without reading what is in them."""

    __slots__ = ("_head", "_owed")

    def __init__(self) -> None:
        self._head = b""
        self._owed = 0

    @property
    def aligned(self) -> bool:
        """Whether the next byte is the first of a frame."""
        return not self._owed and not self._head

    def advance(self, data: bytes) -> None:
        """``data`` has come."""
        data = self._head + data
        self._head = b""
        position = self._owed
        while position < len(data):
            size = _frame_size(data, position)
            if size is None:
                self._head = data[position:]
                self._owed = 0
                return
            position += size
        self._owed = position - len(data)


def _frame_size(data: bytes, start: int) -> int | None:
    """The length of the frame that begins at ``start``; None where its head is not all there."""
    if len(data) < start + 2:
        return None
    short = data[start + 1] & 0x7F
    mask = 4 if data[start + 1] & _MASKED else 0
    if short < 126:
        return 2 + mask + short
    extra = 2 if short == 126 else 8
    if len(data) < start + 2 + extra:
        return None
    return 2 + extra + mask + int.from_bytes(data[start + 2 : start + 2 + extra], "big")
