"""What was said: an answer as its session keeps it, a session as the next provider needs it, and as pages.

An answer's log holds all of it; its message holds what is of use later: the text, the reasoning, and the calls of
tools (docs/protocol.md, "Tool calls"). Reasoning is shown and never sent back: no provider takes another's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from wsstream.bodies import Bodies
from wsstream.chunks import (
    MAX_KEPT_ARGUMENTS,
    MAX_KEPT_CALLS,
    MAX_KEPT_REASONING,
    PAGE_BYTES,
    ChatMessage,
    Kind,
    ToolCall,
)
from wsstream.messages import HistoryMessage, encode, text_of


class Keep(NamedTuple):
    """How much of an answer, beside its text, its message keeps; the log has all of it."""

    reasoning: int = MAX_KEPT_REASONING
    """Characters."""
    calls: int = MAX_KEPT_CALLS
    arguments: int = MAX_KEPT_ARGUMENTS
    """Characters, of all calls together; a call that goes beyond is not kept."""


KEEP = Keep()


class Said(NamedTuple):
    """What an answer has said so far, without what was withdrawn."""

    text: str = ""
    reasoning: str = ""
    tool_calls: Sequence[ToolCall] = ()
    cut: bool = False
    """Whether there was more reasoning, or more calls."""

    def kept(self, keep: Keep) -> Said:
        """As much of it as a message keeps."""
        reasoning, calls = self.reasoning[: keep.reasoning], self.tool_calls[: _fitting(self.tool_calls, keep)]
        cut = self.cut or len(reasoning) < len(self.reasoning) or len(calls) < len(self.tool_calls)
        return Said(self.text, reasoning, calls, cut)


class _Line(msgspec.Struct, gc=False):
    index: int
    id: str | None = None
    name: str | None = None
    arguments: str | None = None


_decode_line = msgspec.json.Decoder(_Line).decode


def said_of(bodies: Sequence[bytes], kinds: Sequence[int]) -> Said:
    """What the chunks 1 … n of an answer say."""
    bodies = Bodies.of(bodies)
    reasoning = text_of(bodies, kinds, Kind.REASONING) if Kind.REASONING in kinds else ""
    calls = _calls(text_of(bodies, kinds, Kind.TOOL_CALL)) if Kind.TOOL_CALL in kinds else ()
    return Said(text_of(bodies, kinds), reasoning, calls).kept(KEEP)


def _calls(lines: str) -> list[ToolCall]:
    calls: dict[int, ToolCall] = {}
    parts: dict[int, list[str]] = {}
    for line in filter(None, map(_read_line, lines.split("\n"))):
        if line.index not in calls:
            calls[line.index] = ToolCall(line.id or "", line.name or "")
        parts.setdefault(line.index, []).append(line.arguments or "")
    return [ToolCall(call.id, call.name, "".join(parts[index])) for index, call in calls.items()]


def _read_line(line: str) -> _Line | None:
    try:
        return _decode_line(line)
    except msgspec.DecodeError:  # of a provider that has its own idea of them, or not all there yet
        return None


def _fitting(calls: Sequence[ToolCall], keep: Keep) -> int:
    """How many of the calls are kept."""
    left = keep.arguments
    for n, call in enumerate(calls[: keep.calls]):
        left -= len(call.arguments)
        if left < 0:
            return n
    return min(len(calls), keep.calls)


# -- for the next provider


class Spoken(Protocol):
    """A message of a session, as stores and histories have it."""

    @property
    def role(self) -> str: ...

    @property
    def content(self) -> str | list[dict[str, Any]]: ...

    @property
    def tool_calls(self) -> list[ToolCall] | None: ...

    @property
    def tool_call_id(self) -> str | None: ...


class _Turn:
    """A message, and the results that its calls have, by their ids."""

    def __init__(self, message: ChatMessage) -> None:
        self.message = message
        self.results: dict[str, ChatMessage] = {}

    def told(self) -> list[ChatMessage]:
        """It with the calls that have a result, then those; nothing where nothing is left."""
        calls = [call for call in self.message.tool_calls or [] if call["id"] in self.results]
        if not (calls or self.message.content):
            return []
        message = msgspec.structs.replace(self.message, content=self.message.content or None, tool_calls=calls or None)
        return [message, *(self.results[call["id"]] for call in calls)]


def conversation(earlier: Iterable[Spoken], new: Sequence[ChatMessage]) -> list[ChatMessage]:
    """``new`` behind what a session holds, as a provider takes it.

    Providers want the result of each call right behind it, and refuse calls without one. So a result is moved behind
    the newest call of its id, also one among ``new``; of what the session holds, calls that never had one, and empty
    answers, are left out.
    """
    turns: list[_Turn] = []
    asked: dict[str, _Turn] = {}
    for message in earlier:
        if message.role == "tool":
            _settle(asked, ChatMessage("tool", message.content, tool_call_id=message.tool_call_id))
            continue
        calls = [_call(call) for call in message.tool_calls or [] if _is_whole(call)]
        turns.append(_Turn(ChatMessage(message.role, message.content, tool_calls=calls or None)))
        asked.update((call["id"], turns[-1]) for call in calls)
    rest = [message for message in new if message.role != "tool" or not _settle(asked, message)]
    return [*(message for turn in turns for message in turn.told()), *rest]


def _settle(asked: dict[str, _Turn], result: ChatMessage) -> bool:
    """Put a result behind its call; False where nobody has called."""
    turn = asked.get(result.tool_call_id or "")
    if turn is not None:
        turn.results[result.tool_call_id or ""] = result
    return turn is not None


def _call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments or "{}"}}


def _is_whole(call: ToolCall) -> bool:
    """Whether its arguments are all there: a result says so, but a client may be wrong, and providers parse them."""
    try:
        msgspec.json.decode(call.arguments or "{}", type=msgspec.Raw)
    except msgspec.DecodeError:
        return False
    return True


# -- as pages


def fitting(messages: Sequence[HistoryMessage], page_bytes: int = PAGE_BYTES) -> Sequence[HistoryMessage]:
    """The newest of ``messages``, which are oldest first, as many as go into one page."""
    size, begin = 0, len(messages)
    while begin:
        size += len(encode(messages[begin - 1])) + 1
        if size > page_bytes and begin < len(messages):
            break
        begin -= 1
    return messages[begin:]
