"""WebSocket frames by hand (RFC 6455, section 5.2): the load client must stay cheaper than the server it loads."""

from __future__ import annotations

import random

TEXT, CONTINUATION, CLOSE, PING, PONG = 0x1, 0x0, 0x8, 0x9, 0xA
FIN = 0x80
RESERVED = 0x70
WHOLE_TEXT = FIN | TEXT
LARGEST = 16 * 1024 * 1024
"""A frame beyond this is a broken server, and not to be waited for."""


class BadFrame(Exception):
    """The server sent what is no frame of a server."""


def split_frames(data: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """Cut the whole frames off ``data``: each one's first byte and payload, and the bytes that are left over.

    Raises:
        BadFrame: a frame is masked or enormous.
    """
    frames = []
    at, end = 0, len(data)
    while end - at >= 2:
        size = data[at + 1]
        start = at + 2
        if size >= 126:
            start += _extra(size)
            if start > end:
                break
            size = int.from_bytes(data[at + 2 : start], "big")
            if size > LARGEST:
                raise BadFrame("an enormous frame")
        stop = start + size
        if stop > end:
            break
        frames.append((data[at], data[start:stop]))
        at = stop
    return frames, data[at:]


def _extra(size: int) -> int:
    if size > 127:
        raise BadFrame("a masked frame")
    return 2 if size == 126 else 8


def client_frame(opcode: int, payload: bytes) -> bytes:
    """One whole masked frame, as clients have to send them."""
    size = len(payload)
    if size < 126:
        head = bytes((FIN | opcode, 0x80 | size))
    elif size < 65536:
        head = bytes((FIN | opcode, 0x80 | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((FIN | opcode, 0x80 | 127)) + size.to_bytes(8, "big")
    mask = random.randbytes(4)
    cover = (mask * (size // 4 + 1))[:size]
    masked = (int.from_bytes(payload, "big") ^ int.from_bytes(cover, "big")).to_bytes(size, "big")
    return head + mask + masked
