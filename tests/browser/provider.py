"""Providers for the browser tests: thoughts, tool calls, a slow start, and failures that pass."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator

from wsstream.chunks import ChatRequest, Delta, Kind
from wsstream.errors import ProviderRateLimited, ProviderTimeout

ARGUMENTS = json.dumps({"city": "Ulm", "__proto__": {"polluted": 1}})
CALLS = [
    {"index": 0, "id": "call_1", "name": "look_up"},
    {"index": 0, "arguments": ARGUMENTS[:9]},
    {"index": 1, "id": "call_2", "name": "listen"},
    {"index": 0, "arguments": ARGUMENTS[9:]},
]
_asked: Counter[str] = Counter()


async def thoughtful(request: ChatRequest) -> AsyncIterator[Delta]:
    """Think, call tools, and answer with what was asked, over and over where it says "slowly"."""
    said = str(request.messages[-1].content)
    for word in ("First ", "I ", "*think*. "):
        yield Delta(word, Kind.REASONING)
        await asyncio.sleep(0.01)
    for call in CALLS:
        yield Delta(json.dumps(call) + "\n", Kind.TOOL_CALL)
    for _ in range(400 if said.startswith("slowly") else 1):
        for letter in said:
            yield Delta(letter)
        if said.startswith("slowly"):
            yield Delta("\n\n")
            await asyncio.sleep(0.02)


KEPT = "## What stays\n\n" + "".join(f"- Line {n} of what *stays*.\n" for n in range(1, 7))
WRONG = "\nThis is **wrong** " + "and it goes on being wrong, word by word, " * 12
RIGHT = "\nThis is **right**, and there is less of it.\n"


async def changing(request: ChatRequest) -> AsyncIterator[Delta]:
    """Break off in the middle; begin as before when asked again, and then say something else, and less."""
    said = str(request.messages[-1].content)
    _asked[said] += 1
    for piece in (KEPT, WRONG if _asked[said] == 1 else RIGHT):
        for word in piece.split(" "):
            yield Delta(word + " ")
            await asyncio.sleep(0.008)
    if _asked[said] == 1:
        raise ProviderTimeout("Lost", retry_after=1.0)


async def stumbling(request: ChatRequest) -> AsyncIterator[Delta]:
    """Fail twice before each answer."""
    said = str(request.messages[-1].content)
    _asked[said] += 1
    if _asked[said] == 1:
        raise ProviderRateLimited("Not so fast", retry_after=1.0)
    if _asked[said] == 2:
        raise ProviderTimeout("Too late", retry_after=1.0)
    yield Delta("There it is.")
