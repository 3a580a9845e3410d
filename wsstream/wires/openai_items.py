"""The output of a response, made of a log's chunks one by one: its items, and the events that tell of them.

The same chunks always make the same items and the same events. Neighbouring chunks of one kind are one item; calls of
tools are an item each, whose pieces may come mixed.
"""

from __future__ import annotations

from typing import Any

import msgspec

from wsstream.chunklog import ChunkLog
from wsstream.chunks import Kind
from wsstream.wires.reader import Entry, Span

Event = dict[str, Any]


class _Item:
    """One item under way: what came for it, and which chunk brought that."""

    def __init__(self, index: int, kind: int, chunk_id: int, call: dict[str, Any] | None = None) -> None:
        self.index = index
        self.kind = kind
        self.call = call or {}
        self.begun = chunk_id
        self.parts: list[tuple[int, str]] = []
        self.done = False
        prefix = {Kind.TEXT: "msg", Kind.REASONING: "rs", Kind.TOOL_CALL: "fc"}[Kind(kind)]
        self.item_id = f"{prefix}_{index}"

    @property
    def text(self) -> str:
        return "".join([text for _, text in self.parts])

    def shown(self, status: str) -> dict[str, Any]:
        """The item as a response shows it."""
        base = {"id": self.item_id, "status": status}
        begun = status == "in_progress"
        if self.kind == Kind.TEXT:
            return {**base, "type": "message", "role": "assistant", "content": [] if begun else [self.part()]}
        if self.kind == Kind.REASONING:
            content = [] if begun else [{"type": "reasoning_text", "text": self.text}]
            return {**base, "type": "reasoning", "summary": [], "content": content}
        call_id, name = self.call.get("id") or "", self.call.get("name") or ""
        arguments = "" if begun else self.text
        return {**base, "type": "function_call", "call_id": call_id, "name": name, "arguments": arguments}

    def part(self) -> dict[str, Any]:
        """The one part of a message."""
        return {"type": "output_text", "text": self.text, "annotations": [], "logprobs": []}

    def where(self) -> dict[str, Any]:
        """What every event about the item says."""
        return {"item_id": self.item_id, "output_index": self.index}


class Items:
    """The items of one response."""

    def __init__(self) -> None:
        self._items: list[_Item] = []
        self._current: _Item | None = None
        self._calls: dict[int, _Item] = {}
        self._status = "incomplete"

    def take(self, entry: Entry) -> list[Event]:
        """The events that a chunk causes."""
        if entry.kind in (Kind.TEXT, Kind.REASONING):
            return self._take_text(entry)
        if entry.kind == Kind.TOOL_CALL:
            return self._take_calls(entry)
        if entry.kind == Kind.REWIND:
            return self._rewind(entry)
        return [{"type": "response.wsstream.data", "chunk_id": entry.chunk_id, "data": entry.content}]

    def _take_text(self, entry: Entry) -> list[Event]:
        events: list[Event] = []
        item = self._current
        if item is None or item.kind != entry.kind:
            events += self._close_current()
            item = self._current = self._begin(events, entry)
        item.parts.append((entry.chunk_id, entry.content))
        name = "output_text" if item.kind == Kind.TEXT else "reasoning_text"
        delta: Event = {"type": f"response.{name}.delta", **item.where(), "content_index": 0, "delta": entry.content}
        if item.kind == Kind.TEXT:
            delta["logprobs"] = []
        return [*events, delta]

    def _begin(self, events: list[Event], entry: Entry, call: dict[str, Any] | None = None) -> _Item:
        item = _Item(len(self._items), entry.kind, entry.chunk_id, call)
        self._items.append(item)
        added = {"type": "response.output_item.added", "output_index": item.index}
        events.append({**added, "item": item.shown("in_progress")})
        if item.kind == Kind.TEXT:
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            events.append({"type": "response.content_part.added", **item.where(), "content_index": 0, "part": part})
        return item

    def _take_calls(self, entry: Entry) -> list[Event]:
        events = self._close_current()
        for line in entry.content.splitlines():
            call = msgspec.json.decode(line, type=dict[str, Any])
            index = int(call.get("index", 0))
            if index not in self._calls:
                self._calls[index] = self._begin(events, entry, call)
            item = self._calls[index]
            if call.get("arguments"):
                item.parts.append((entry.chunk_id, call["arguments"]))
                name = "response.function_call_arguments.delta"
                events.append({"type": name, **item.where(), "delta": call["arguments"]})
        return events

    def _rewind(self, entry: Entry) -> list[Event]:
        """Withdraw what came behind a chunk. OpenAI knows no such thing: clients that do not either see it twice."""
        to = entry.rewind.to_chunk_id
        for item in self._items:
            item.parts = [part for part in item.parts if part[0] <= to]
        self._calls = {index: item for index, item in self._calls.items() if item.begun <= to}
        told = {"chunk_id": entry.chunk_id, "to_chunk_id": to, "reason": entry.rewind.reason}
        return [{"type": "response.wsstream.rewind", **told}]

    def _close_current(self) -> list[Event]:
        item, self._current = self._current, None
        return [] if item is None else self._close(item, "completed")

    def _close(self, item: _Item, status: str) -> list[Event]:
        item.done = True
        where, text = item.where(), item.text
        done = {"type": "response.output_item.done", "output_index": item.index, "item": item.shown(status)}
        if item.kind == Kind.TOOL_CALL:
            name = item.call.get("name") or ""
            arguments = {"type": "response.function_call_arguments.done", **where, "name": name, "arguments": text}
            return [arguments, done]
        if item.kind == Kind.REASONING:
            return [{"type": "response.reasoning_text.done", **where, "content_index": 0, "text": text}, done]
        told = {**where, "content_index": 0}
        return [
            {"type": "response.output_text.done", **told, "text": text, "logprobs": []},
            {"type": "response.content_part.done", **told, "part": item.part()},
            done,
        ]

    def finish(self, *, complete: bool) -> list[Event]:
        """The events that end what is still open."""
        self._status = "completed" if complete else "incomplete"
        return [event for item in self._items if not item.done for event in self._close(item, self._status)]

    # -- all of it

    def output(self) -> list[dict[str, Any]]:
        """The items, without those of which nothing is left."""
        return [item.shown(self._status) for item in self._standing()]

    def _standing(self) -> list[_Item]:
        return [item for item in self._items if item.parts or (item.kind == Kind.TOOL_CALL and self._is_called(item))]

    def _is_called(self, item: _Item) -> bool:
        return any(call is item for call in self._calls.values())

    def text(self) -> str:
        """All text."""
        return "".join([item.text for item in self._standing() if item.kind == Kind.TEXT])

    def reasoning(self) -> str:
        """All reasoning."""
        return "".join([item.text for item in self._standing() if item.kind == Kind.REASONING])

    def calls(self) -> list[dict[str, Any]]:
        """The calls of tools."""
        return [item.shown("completed") for item in self._standing() if item.kind == Kind.TOOL_CALL]


def items_of(log: ChunkLog) -> Items:
    """What the chunks of a log make so far."""
    items = Items()
    for entry in Span(1, log.bodies(1, log.tail), bytes(log.kinds(1, log.tail))).entries():
        items.take(entry)
    return items
