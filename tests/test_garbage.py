"""What connections that are gone leave in memory until somebody looks for garbage: nothing, whatever carried them."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from tests.conftest import SCRIPTED, Serve
from tests.data.scripted import Scripted
from tests.hosted import hosted
from tests.native import PATIENCE, HasPort, connected
from tests.wires.http import browsing, events
from tests.wires.test_native_http import talking
from wsstream.asgi import WsstreamApp
from wsstream.config import Config
from wsstream.registry import Registry

OURS = ("wsstream.connection", "wsstream.asgi", "wsstream.wires.", "wsstream.protocol", "wsstream.flow")
"""The modules of what belongs to one connection: whole ones, so that no class is forgotten that comes later."""
ENDS = ("closed", "dropped", "shown out")


def living() -> Counter[str]:
    """Objects of connections in memory, used or not, by the names of their classes."""
    kinds = (type(each) for each in gc.get_objects())
    return Counter(f"{kind.__module__}.{kind.__name__}" for kind in kinds if str(kind.__module__).startswith(OURS))


@asynccontextmanager
async def nothing_left() -> AsyncIterator[Callable[[], Counter[str]]]:
    """See that behind the block no more is in memory than before, though nobody has looked for garbage.

    What is given counts what has come since.
    """
    gc.collect()
    gc.disable()
    try:
        before = living()
        yield lambda: living() - before
        end = asyncio.get_running_loop().time() + PATIENCE
        while living() - before and asyncio.get_running_loop().time() < end:  # noqa: ASYNC110 - nobody tells of deaths
            await asyncio.sleep(0.01)
        assert not living() - before
    finally:
        gc.enable()


@asynccontextmanager
async def native(server: HasPort) -> AsyncIterator[Callable[[], None]]:
    """A native conversation, in the middle of an answer. What is given drops it."""
    async with connected(server) as client:
        await client.send("chat_request", request_id="r", message="hi")
        await client.until("stream_start")
        yield client.drop


@asynccontextmanager
async def of_ai(server: HasPort) -> AsyncIterator[Callable[[], None]]:
    """A socket of the AI SDK, on which something was said."""
    async with connected(server, path="/ai", greet=False) as client:
        await client.send_text("x")
        yield client.drop


@asynccontextmanager
async def over_http(server: HasPort) -> AsyncIterator[Callable[[], None]]:
    """The same as `native` over HTTP, where to close is to drop."""
    async with browsing(server) as client, talking(client) as talk:
        await talk.send({"type": "chat_request", "request_id": "r", "message": "hi"})
        await talk.until("stream_start")
        yield lambda: None


Carrier = Callable[[HasPort], AbstractAsyncContextManager[Callable[[], None]]]
CARRIERS: list[tuple[Carrier, str]] = [(native, "Dialogue"), (of_ai, "AiDialogue"), (over_http, "Dialogue")]


async def converse(server: HasPort, registry: Registry, carrier: Carrier, dialogue: str, end: str) -> None:
    """A conversation that comes and goes, without the collector."""
    async with nothing_left() as came, carrier(server) as drop:
        names = [name.rpartition(".")[2] for name in came()]
        assert dialogue in names
        if end == "dropped":
            drop()
        elif end == "shown out":
            registry.close_all()


@pytest.mark.usefixtures("scripted")
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize(("carrier", "dialogue"), CARRIERS)
async def test_a_dialogue_leaves_nothing(serve: Serve, carrier: Carrier, dialogue: str, end: str) -> None:
    """However a conversation ends, on a socket of ours or over HTTP, nothing of it waits for the garbage collector."""
    server = await serve(provider=SCRIPTED)
    await converse(server, server.registry, carrier, dialogue, end)


@pytest.mark.usefixtures("scripted", "quick_stop")
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize(("carrier", "dialogue"), CARRIERS)
async def test_a_mounted_dialogue_leaves_nothing(carrier: Carrier, dialogue: str, end: str) -> None:
    """Nor where somebody else's server carries it."""
    app = WsstreamApp(Config(store="memory:", provider=SCRIPTED))
    async with app.running(), hosted(app) as server:
        assert app.assembly is not None
        await converse(server, app.assembly.registry, carrier, dialogue, end)


@pytest.mark.parametrize("whole", [True, False])
async def test_a_response_leaves_nothing(serve: Serve, scripted: Scripted, *, whole: bool) -> None:
    """An answer over HTTP, read to its end or left in its middle, leaves nothing either."""
    server = await serve(provider=SCRIPTED)
    async with (
        nothing_left() as came,
        browsing(server) as client,
        events(client, "POST", "/api/chat/stream", json={"message": "hi"}) as stream,
    ):
        scripted.last.put("one")
        await stream.next()
        assert came()["wsstream.wires.reader.LogReader"] == 1
        if whole:
            scripted.last.finish()
            await stream.rest()


@pytest.mark.usefixtures("scripted")
async def test_who_is_not_let_in_leaves_nothing(serve: Serve) -> None:
    """A connection over HTTP for which there is no room, and a message for one that has gone, leave nothing."""
    server = await serve(provider=SCRIPTED, max_connections=1)
    async with browsing(server) as client, connected(server), nothing_left():
        reply = await client.post("/api/native", json={"type": "hello"})
        assert reply.status_code == 503
