"""WebSocket frames of a log's chunks, ready to be written.

A server's frames are unmasked and, without extensions, the same bytes for every connection (RFC 6455, section 5.2). So
viewers that move in step are written the very same bytes: they are made once.
"""

from __future__ import annotations

from collections.abc import Iterator

from wsstream.chunklog import SNAPSHOT_BYTES, ChunkLog
from wsstream.chunks import Kind
from wsstream.messages import ChunkWriter, encode, outcome_message

_TEXT = 0x81
_SHORT = [bytes((_TEXT, size)) for size in range(126)]

MAX_BATCH_BYTES = SNAPSHOT_BYTES
"""A batch longer than this is sent as several, so that no client has to hold a huge frame."""


def text_frame(payload: bytes) -> bytes:
    """``payload`` as one unmasked, final text frame."""
    size = len(payload)
    if size < 126:
        return _SHORT[size] + payload
    if size < 65536:
        return b"\x81\x7e%b%b" % (size.to_bytes(2, "big"), payload)
    return b"\x81\x7f%b%b" % (size.to_bytes(8, "big"), payload)


def payloads(data: bytes) -> Iterator[bytes]:
    """What is in the frames that make up ``data``: for those who send messages and leave the frames to others.

    ``data`` is whole frames of a server's: unmasked, final. Only text is given; pings are the others' business too.
    """
    position = 0
    while position < len(data):
        size, begin = data[position + 1], position + 2
        if size > 125:
            begin += 2 if size == 126 else 8
            size = int.from_bytes(data[position + 2 : begin], "big")
        if data[position] == _TEXT:
            yield data[begin : begin + size]
        position = begin + size


class FrameBook:
    """The native frames of one log. The last ones made are kept: the next viewer probably wants the same."""

    __slots__ = ("_log", "_made", "_made_for", "_outcome", "_writer")

    def __init__(self, log: ChunkLog) -> None:
        self._log = log
        self._writer = ChunkWriter(log.stream_id)
        self._made = b""
        self._made_for = (0, 0, False)
        self._outcome = b""

    @classmethod
    def of(cls, log: ChunkLog) -> FrameBook:
        """The book that all viewers of ``log`` share."""
        book = log.wire_cache.get(cls)
        if book is None:
            book = log.wire_cache[cls] = cls(log)
        return book

    def span(self, first: int, last: int, *, batch: bool) -> bytes:
        """The frames of the chunks ``first`` … ``last``: one each, or merged where the viewer takes batches."""
        if self._log.sole is not None:
            return self._make(first, last, batch)
        key = (first, last, batch)
        if key != self._made_for:
            self._made = self._make(first, last, batch)
            self._made_for = key
        return self._made

    def one(self, chunk_id: int) -> bytes:
        """The frame of one chunk: the way of nearly every token."""
        log = self._log
        if log.sole is None:
            return self.span(chunk_id, chunk_id, batch=False)
        body, kind = log.entry(chunk_id)
        payload = self._writer.chunk(chunk_id, body, kind)
        size = len(payload)
        return _SHORT[size] + payload if size < 126 else text_frame(payload)

    def outcome(self) -> bytes:
        """The frame of the terminal message."""
        if not self._outcome:
            assert self._log.outcome is not None
            self._outcome = text_frame(encode(outcome_message(self._log.stream_id, self._log.outcome)))
        return self._outcome

    def _make(self, first: int, last: int, batch: bool) -> bytes:
        log, writer = self._log, self._writer
        if first == last:
            return text_frame(writer.chunk(first, *log.entry(first)))
        kinds = log.kinds(first, last)
        if not batch:
            pairs = enumerate(zip(log.bodies(first, last), kinds, strict=True), first)
            return b"".join([text_frame(writer.chunk(n, body, kind)) for n, (body, kind) in pairs])
        if log.size(first, last) <= MAX_BATCH_BYTES and kinds[0] != Kind.REWIND and kinds.count(kinds[0]) == len(kinds):
            # By far the commonest case.
            return text_frame(writer.batch(first, last, log.joined(first, last), kinds[0]))
        return b"".join([text_frame(payload) for payload in self._batches(first, last, kinds)])

    def _batches(self, first: int, last: int, kinds: bytearray) -> list[bytes]:
        log, writer = self._log, self._writer
        payloads = []
        begin = first
        while begin <= last:
            kind = kinds[begin - first]
            end = self._run_end(begin, last, kind, kinds, begin - first)
            if begin == end:
                payloads.append(writer.chunk(begin, *log.entry(begin)))
            else:
                payloads.append(writer.batch(begin, end, log.joined(begin, end), kind))
            begin = end + 1
        return payloads

    def _run_end(self, begin: int, last: int, kind: int, kinds: bytearray, offset: int) -> int:
        """The last chunk of the run of one ``kind`` that begins at ``begin``; a rewind is always a run of its own.

        ``kinds[offset]`` is the kind of ``begin``.
        """
        if kind == Kind.REWIND:
            return begin
        end = begin
        while end < last and kinds[offset + end + 1 - begin] == kind:
            end += 1
        return self._log.fitting(begin, end, MAX_BATCH_BYTES)
