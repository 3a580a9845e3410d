"""A provider for the browser tests: thoughts, a tool call, a status and an answer, piece by piece."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

from wsstream.chunks import ChatRequest, Delta, Kind

CALL = json.dumps({"name": "look_up", "arguments": {"city": "Ulm", "__proto__": {"polluted": 1}}}) + "\n"


async def thoughtful(request: ChatRequest) -> AsyncIterator[Delta]:
    """Think, call a tool, and answer with what was asked."""
    for word in ("First ", "I ", "*think*. "):
        yield Delta(word, Kind.REASONING)
        await asyncio.sleep(0.01)
    yield Delta(CALL[:9], Kind.TOOL_CALL)
    yield Delta(CALL[9:], Kind.TOOL_CALL)
    for letter in str(request.messages[-1].content):
        yield Delta(letter)
