"""A model's calls of tools, as lines of JSON (docs/protocol.md, "Tool calls")."""

from __future__ import annotations

import json
from typing import Any

from wsstream.chunks import Delta, Kind
from wsstream.errors import ProviderError
from wsstream.text import SurrogateRepair

MAX_CALLS = 128
MAX_LINE = 8 * 1024
"""Characters of arguments in a line, as JSON."""


class ToolCalls:
    """The calls of one answer, numbered 0, 1, 2 … as they begin, whatever the upstream calls them."""

    __slots__ = ("_last", "_limit", "_numbers", "_repairs")

    def __init__(self, limit: int = MAX_CALLS) -> None:
        """``limit``: how many there may be."""
        self._limit = limit
        self._numbers: dict[Any, tuple[int, str | None]] = {}
        self._repairs: list[SurrogateRepair] = []
        self._last: Any = None

    def __len__(self) -> int:
        return len(self._repairs)

    def take(self, deltas: list[Delta], key: Any, call_id: str | None, name: str | None, arguments: Any) -> None:
        """Add the lines for one piece of a call. ``key`` is what pieces of one call have in common.

        Some servers number no call, or all of them 0: without a key the last call goes on, and another id begins
        another call.

        Raises:
            ProviderError: it makes more than there may be.
        """
        key = self._last if key is None else key
        number, known_id = self._numbers.get(key, (-1, None))
        if number < 0 or (call_id and known_id and call_id != known_id):
            number = self._begin(deltas, key, call_id, name)
        self._last = key
        if arguments:
            text = arguments if isinstance(arguments, str) else json.dumps(arguments)
            self._add(deltas, number, self._repairs[number].feed(text))

    def _begin(self, deltas: list[Delta], key: Any, call_id: str | None, name: str | None) -> int:
        number = len(self._repairs)
        if number == self._limit:
            raise ProviderError("The model calls too many tools at once")
        self._repairs.append(SurrogateRepair())
        self._numbers[key] = (number, call_id)
        deltas.append(_line({"index": number, "id": call_id or f"call_{number}", "name": name or ""}))
        return number

    def _add(self, deltas: list[Delta], number: int, text: str) -> None:
        while text:
            piece = text[:MAX_LINE]
            while len(json.dumps(piece, ensure_ascii=False).encode()) > MAX_LINE:
                piece = piece[: len(piece) // 2]
            deltas.append(_line({"index": number, "arguments": piece}))
            text = text[len(piece) :]


def _line(fields: dict[str, Any]) -> Delta:
    text = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
    return Delta(text.encode("utf-8", "replace").decode() + "\n", Kind.TOOL_CALL)
