"""Repair of text that arrives in pieces."""

from __future__ import annotations

_HIGH = range(0xD800, 0xDC00)


class SurrogateRepair:
    """Joins surrogate pairs that were split between pieces, and replaces the halves that never find each other.

    Some servers cut JSON strings in the middle of a pair: ``"\\ud83d"`` in one event, ``"\\ude00"`` in the next. UTF-8
    has no form for either half (RFC 3629, section 3), so a half waits for its partner or becomes U+FFFD.
    """

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = ""

    def feed(self, text: str) -> str:
        """The text that can go now; at most one code unit is held back."""
        text = self._held + text
        self._held = ""
        if text and ord(text[-1]) in _HIGH:
            self._held, text = text[-1], text[:-1]
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")

    def flush(self) -> str:
        """What is still held, now that nothing follows."""
        held, self._held = self._held, ""
        return "\ufffd" if held else ""
