"""What the end-to-end tests of sessions, orphans, cancels and snapshots do again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from tests.data.scripted import Run, Scripted
from tests.native import PATIENCE, HasPort, Message, Native, connected


async def until(condition: Callable[[], object]) -> None:
    """Wait for something that the server is about to do."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - most of what is waited for has no event
            await asyncio.sleep(0.002)


async def begun(native: Native, scripted: Scripted, **fields: Any) -> tuple[str, Run]:
    """A scripted answer, under way."""
    before = len(scripted.runs)
    stream_id = await native.ask(**fields)
    await until(lambda: len(scripted.runs) > before)
    return stream_id, scripted.last


async def answered(native: Native, scripted: Scripted, *texts: str, **fields: Any) -> str:
    """A scripted answer that has ended well and was read."""
    stream_id, run = await begun(native, scripted, **fields)
    run.put(*texts)
    run.finish()
    await native.read(stream_id)
    return stream_id


async def history(native: Native, **fields: Any) -> Message:
    """What the server tells of a session."""
    await native.send("get_history", **fields)
    return await native.until("history")


def said(told: Message) -> list[tuple[str, str]]:
    """Who said what."""
    return [(message["role"], message["content"]) for message in told["messages"]]


async def whole(server: HasPort, stream_id: str) -> str:
    """The answer's text, as a viewer who comes when all is over reads it."""
    async with connected(server) as late:
        await late.resume(stream_id, 0)
        return (await late.read(stream_id)).text
