"""An answer in the words of the AI SDK: UI message chunks (AI SDK 7, "UI Message Stream Protocol").

What a log holds is translated one to one: the n-th UI message chunk of an answer is the same for every viewer, in every
replay and over every transport, so a number is enough to go on behind one.
"""

from __future__ import annotations

from itertools import groupby
from operator import itemgetter
from typing import Any

import msgspec

from wsstream.chunks import Kind, Outcome, StreamState
from wsstream.messages import decode_body, encode, read_rewind
from wsstream.wires.base import StreamLike
from wsstream.wires.uimessages import NO_JSON, figures_of

_FINISH_REASONS = {"stop": "stop", "length": "length", "content_filter": "content-filter", "tool_calls": "tool-calls"}
_PARTS = {Kind.TEXT: b"text", Kind.REASONING: b"reasoning"}


class _ToolLine(msgspec.Struct):
    """One line of what a TOOL_CALL chunk holds: a call's beginning, or more of its arguments."""

    index: int = 0
    id: str | None = None
    name: str | None = None
    arguments: str = ""


_decode_line = msgspec.json.Decoder(_ToolLine).decode


class _Call:
    """A tool call under way."""

    __slots__ = ("arguments", "call_id", "name")

    def __init__(self, call_id: str, name: str) -> None:
        self.call_id = call_id
        self.name = name
        self.arguments: list[str] = []

    def finish(self) -> bytes:
        """That its input is whole; an input that is no JSON is the call's own error."""
        text = "".join(self.arguments)
        whole = {"toolCallId": self.call_id, "toolName": self.name}
        try:
            value = msgspec.json.decode(text) if text.strip() else {}
        except msgspec.DecodeError:
            return encode({"type": "tool-input-error", **whole, "input": text, "errorText": NO_JSON})
        return encode({"type": "tool-input-available", **whole, "input": value})


def message_id_of(stream: StreamLike) -> str:
    """The id of the message that an answer is, the same that histories show."""
    return "m_" + stream.stream_id.removeprefix("s_")


class UiStream:
    """Translates one answer, chunk after chunk; the results are JSON objects, ready to be sent."""

    __slots__ = ("_calls", "_line", "_part", "_parts", "_stream", "message_id")

    def __init__(self, stream: StreamLike, message_id: str | None = None) -> None:
        """``message_id`` is that of the message which the answer continues, where it does."""
        self._stream = stream
        self._part: tuple[bytes, bytes] | None = None
        self._parts = 0
        self._calls: dict[int, _Call] = {}
        self._line = ""
        self.message_id = message_id or message_id_of(stream)

    def begin(self) -> list[bytes]:
        """What precedes the first chunk."""
        record = self._stream.record
        metadata = {"streamId": record.stream_id}
        if record.model is not None:
            metadata["model"] = record.model
        start = {"type": "start", "messageId": self.message_id, "messageMetadata": metadata}
        return [encode(start), b'{"type":"start-step"}']

    def take(self, chunk_id: int, kind: int, body: bytes) -> list[bytes]:
        """One chunk, the next one."""
        if kind == Kind.TEXT or kind == Kind.REASONING:
            return self._take_text(_PARTS[Kind(kind)], body)
        if kind == Kind.TOOL_CALL:
            return self._take_tool(decode_body(body))
        if kind == Kind.REWIND:
            return self._rewind(chunk_id)
        return [b'{"type":"data-chunk","data":"%b"}' % body]

    def _take_text(self, name: bytes, body: bytes) -> list[bytes]:
        part = self._part
        if part is not None and part[0] == name:
            return [b'{"type":"%b-delta","id":"%b","delta":"%b"}' % (name, part[1], body)]
        out = self._close_part()
        self._parts += 1
        self._part = (name, b"%d" % self._parts)
        out.append(b'{"type":"%b-start","id":"%d"}' % (name, self._parts))
        out.append(b'{"type":"%b-delta","id":"%d","delta":"%b"}' % (name, self._parts, body))
        return out

    def _close_part(self) -> list[bytes]:
        part, self._part = self._part, None
        return [] if part is None else [b'{"type":"%b-end","id":"%b"}' % part]

    # -- tool calls

    def _take_tool(self, text: str) -> list[bytes]:
        *lines, self._line = (self._line + text).split("\n")
        return [chunk for line in lines if line.strip() for chunk in self._take_line(line)]

    def _take_line(self, text: str) -> list[bytes]:
        try:
            line = _decode_line(text)
        except msgspec.DecodeError:
            return []  # a provider that is not ours may put what it likes; it is still in the log
        out = self._close_part()
        if line.name is not None:
            self._calls[line.index] = call = _Call(line.id or f"call_{line.index}", line.name)
            out.append(encode({"type": "tool-input-start", "toolCallId": call.call_id, "toolName": call.name}))
        known = self._calls.get(line.index)
        if known is not None and line.arguments:
            known.arguments.append(line.arguments)
            delta = {"type": "tool-input-delta", "toolCallId": known.call_id, "inputTextDelta": line.arguments}
            out.append(encode(delta))
        return out

    # -- what was withdrawn

    def _rewind(self, chunk_id: int) -> list[bytes]:
        """Begin the step anew, with what still stands: a client can forget a step, and nothing less."""
        self._part = None
        self._calls.clear()
        self._line = ""
        out = [b'{"type":"reset-step"}']
        for kind, bodies in groupby(self._standing(chunk_id), key=itemgetter(0)):
            out += self.take(0, kind, b"".join([body for _, body in bodies]))
        return out

    def _standing(self, last: int) -> list[tuple[int, bytes]]:
        """Kinds and bodies of the chunks up to ``last``, without those that were withdrawn."""
        log = self._stream.log
        standing: list[tuple[int, int, bytes]] = []
        for chunk_id, (kind, body) in enumerate(zip(log.kinds(1, last), log.bodies(1, last), strict=True), 1):
            if kind != Kind.REWIND:
                standing.append((chunk_id, kind, body))
                continue
            to = read_rewind(body).to_chunk_id
            while standing and standing[-1][0] > to:
                standing.pop()
        return [(kind, body) for _, kind, body in standing]

    # -- the end

    def end(self, outcome: Outcome) -> list[bytes]:
        """What follows the last chunk."""
        out = self._take_tool("\n") if self._line else []
        out += self._close_part()
        if outcome.error_type is not None:
            return [*out, encode({"type": "error", "errorText": outcome.message or outcome.error_type})]
        if outcome.state is StreamState.CANCELLED:
            return [*out, b'{"type":"abort","reason":"cancelled"}']
        out += [call.finish() for call in self._calls.values()]
        finish: dict[str, Any] = {
            "type": "finish",
            "finishReason": _FINISH_REASONS.get(outcome.finish_reason or "stop", "other"),
            "messageMetadata": _figures(outcome),
        }
        return [*out, b'{"type":"finish-step"}', encode(finish)]


def _figures(outcome: Outcome) -> dict[str, Any]:
    figures: dict[str, Any] = {"elapsedSeconds": outcome.elapsed_seconds, "tokensPerSecond": outcome.tokens_per_second}
    if outcome.usage is not None:
        figures["usage"] = figures_of(outcome.usage)
    return figures
