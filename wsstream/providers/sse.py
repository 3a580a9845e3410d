"""Server-sent events from bytes, in pieces of any size (WHATWG HTML, section 9.2.6)."""

from __future__ import annotations

from wsstream.errors import ProviderError

MAX_EVENT_BYTES = 4 * 1024 * 1024
_HEAD, _LINE, _TAIL = slice(6), slice(6, -2), slice(-2, None)
_BOM = b"\xef\xbb\xbf"


class SseParser:
    """Turns what a socket brings into the ``data`` of whole events.

    Only ``data`` fields are kept: the providers' events carry their own type inside. Comments, other fields and events
    without data yield nothing, and so does an event that the end of the stream cuts off.
    """

    __slots__ = ("_begun", "_limit", "_rest", "_skip_newline")

    def __init__(self, limit: int = MAX_EVENT_BYTES) -> None:
        """``limit``: bytes that an event may have."""
        self._limit = limit
        self._rest = bytearray()
        self._begun = False
        self._skip_newline = False

    def feed(self, data: bytes) -> list[bytes]:
        """The events that ``data`` completes, each as its data lines joined by newlines.

        Raises:
            ProviderError: an event is larger than the limit.
        """
        if not self._begun:
            data = self._begin(data)
        if 13 in data or self._skip_newline:  # an int is found five times as fast as a one-byte string
            data = self._only_newlines(data)
        if not self._rest:
            if data[_TAIL] == b"\n\n" and data[_HEAD] == b"data: ":  # a method for it parses its arguments first
                line = data[_LINE]
                if 10 not in line:  # one event of one line: what nearly every read of a slow model's answer brings
                    return [line]
            return self._split(data)
        searched = max(len(self._rest) - 1, 0)
        self._rest += data
        if self._rest.find(b"\n\n", searched) < 0:
            self._check_size()
            return []
        data = bytes(self._rest)
        self._rest.clear()
        return self._split(data)

    def _begin(self, data: bytes) -> bytes:
        """Drop the byte order mark that may open the stream, even one that comes in pieces."""
        data = bytes(self._rest) + data
        self._rest.clear()
        if len(data) < len(_BOM) and _BOM.startswith(data):
            self._rest += data
            return b""
        self._begun = True
        return data.removeprefix(_BOM)

    def _only_newlines(self, data: bytes) -> bytes:
        """CRLF and CR as LF; a CR at the end of a piece may be half of a CRLF."""
        if data:
            if self._skip_newline:
                data = data.removeprefix(b"\n")
            self._skip_newline = data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _split(self, data: bytes) -> list[bytes]:
        blocks = data.split(b"\n\n")
        rest = blocks.pop()
        if rest:
            self._rest += rest
            self._check_size()
        events = []
        for block in blocks:
            if block.startswith(b"data: ") and 10 not in block:
                events.append(block[6:])
            elif (event := _data_of(block)) is not None:
                events.append(event)
        return events

    def _check_size(self) -> None:
        if len(self._rest) > self._limit:
            raise ProviderError("The model provider sent something unreadable")


def _data_of(block: bytes) -> bytes | None:
    lines = []
    for line in block.split(b"\n"):
        name, _, value = line.partition(b":")
        if name == b"data":
            lines.append(value.removeprefix(b" "))
    return b"\n".join(lines) if lines else None
