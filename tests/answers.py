"""What the end-to-end tests of sessions, orphans, cancels and snapshots do again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from tests.data.scripted import Run, Scripted
from tests.native import PATIENCE, Answer, Message, Native


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


def said(told: Message) -> list[tuple[str, Any]]:
    """Who said what."""
    return [(message["role"], message["content"]) for message in told["messages"]]


class _OnlyTheEnd(Answer):
    """A stream that is not followed: of it the end alone is told."""

    def take(self, message: Message) -> None:
        assert message["type"] in ("stream_complete", "stream_error")
        self.end = message


async def cancelled(native: Native, stream_id: str) -> Message:
    """Cancel; the terminal message that comes of it, wherever it comes."""
    native.answers.setdefault(stream_id, _OnlyTheEnd(stream_id))
    await native.send("cancel_stream", stream_id=stream_id)
    return await native.until("stream_complete", stream_id=stream_id)
