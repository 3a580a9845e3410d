"""A provider that does what the last message says: for clients in other languages, which cannot script one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

from wsstream.chunks import ChatRequest, Delta, Finish, Kind, Usage
from wsstream.errors import ProviderError

WORDS = [f"word{number} " for number in range(200)]


async def answer(request: ChatRequest) -> AsyncIterator[str | Delta | Finish]:
    """``slow``: 200 words, one every 10 ms; ``fast``: at once; ``tool``, ``reason``, ``fail``: what they say."""
    last = request.messages[-1]
    what = str(last.content)
    if last.role == "tool":
        yield f"The tool says {what}."
    elif what == "tool":
        for line in (
            {"index": 0, "id": "call_1", "name": "weather"},
            {"index": 0, "arguments": '{"city":'},
            {"index": 0, "arguments": '"Ulm"}'},
        ):
            yield Delta(json.dumps(line) + "\n", Kind.TOOL_CALL)
        yield Finish("tool_calls", Usage(3, 4))
    elif what == "reason":
        yield Delta("Let me ", Kind.REASONING)
        yield Delta("think.", Kind.REASONING)
        yield "So be it."
    elif what == "fail":
        yield "half "
        raise ProviderError("The provider failed")
    elif what in ("slow", "fast"):
        for word in WORDS:
            yield word
            if what == "slow":
                await asyncio.sleep(0.01)
    else:
        yield f"{len(request.messages)} messages, the last: {what}"
    yield Finish("stop", Usage(3, 4))
