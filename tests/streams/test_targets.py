"""Whom an answer is asked of, and who is turned to where they fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.house import asked
from tests.virtual import in_virtual_time
from wsstream.chunks import ChatRequest, Delta, Finish, StreamState
from wsstream.config import Config
from wsstream.errors import (
    BadRequest,
    ErrorType,
    ProviderError,
    StreamFailure,
)
from wsstream.messages import ChatConfig
from wsstream.providers.base import Provider, Sink
from wsstream.providers.demo import DemoProvider
from wsstream.recovery import FailedTry
from wsstream.server import Server
from wsstream.stores.memory import MemoryStore
from wsstream.streams import Streams


class Failing:
    """A provider that says what it is given, and fails."""

    def __init__(self, failure: StreamFailure, *texts: str) -> None:
        self.failure = failure
        self.texts = texts

    async def answer(self, request: ChatRequest, sink: Sink) -> Finish:
        """Fail."""
        for text in self.texts:
            sink.put([Delta(text)])
        raise self.failure

    async def close(self) -> None:
        """Nothing is shared."""


@asynccontextmanager
async def several(providers: dict[str | None, Any], **settings: Any) -> AsyncIterator[Streams]:
    """Streams with these providers."""

    def find(name: str | None) -> Provider:
        if name not in providers:
            raise BadRequest("There is no such provider")
        return providers[name]  # type: ignore[no-any-return]

    on_failure = settings.pop("on_failure", {})
    streams = Streams(Config(**{"store": "memory:", **settings}), MemoryStore(), find, on_failure)
    yield streams
    await streams.close()


@pytest.mark.parametrize("name", ["os:system", "wsstream.providers.demo:make", "", "anthropic", "demo "])
def test_a_client_names_no_provider_outside_the_table(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a server a client can have the providers of its table, and never have it import something."""
    imported: list[str] = []
    monkeypatch.setattr("wsstream.config.import_module", imported.append)
    server = Server(Config(store="memory:", provider="demo"))
    if name:
        with pytest.raises(BadRequest):
            server.assembly.provider(name)
        assert imported == []


@pytest.mark.parametrize("where", ["server", "request"])
@in_virtual_time
async def test_a_fallback_is_turned_to(where: str) -> None:
    """The server's list, or that of the request, names who is asked next, and the end says who it was."""
    providers = {None: Failing(ProviderError()), "module:other": DemoProvider(), "x": Failing(ProviderError())}
    entry = "module:other:demo:rate=0,tokens=3"
    settings, config = ({"fallback": f"x {entry}"}, {}) if where == "server" else ({}, {"fallback": ["x", entry]})
    async with several(providers, **settings) as streams:
        stream = streams.start("ses", asked("r", config=ChatConfig(**config)))
        await asyncio.sleep(1)
        outcome = stream.log.outcome
        assert outcome is not None
        assert (outcome.state, outcome.model) == (StreamState.COMPLETE, "demo:rate=0,tokens=3")
        assert (outcome.retry_count, streams.statistics().retries) == (2, 2)


@in_virtual_time
async def test_a_request_may_refuse_all_fallbacks() -> None:
    """An empty list is a list."""
    async with several({None: Failing(ProviderError()), "x": DemoProvider()}, fallback="x") as streams:
        stream = streams.start("ses", asked("r", config=ChatConfig(fallback=[])))
        await asyncio.sleep(1)
        assert stream.log.state is StreamState.FAILED


@in_virtual_time
async def test_who_a_fallback_names() -> None:
    """Providers and models may both hold colons; the longest provider that there is counts."""
    one, two = DemoProvider(), DemoProvider()
    async with several({"a": one, "a:b": two}) as streams:
        assert streams.find_target("a") == (one, "a", None)
        assert streams.find_target("a:c:d") == (one, "a", "c:d")
        assert streams.find_target("a:b:c") == (two, "a:b", "c")
        with pytest.raises(BadRequest, match="nobody:x"):
            streams.find_target("nobody:x")


@in_virtual_time
async def test_an_operator_decides() -> None:
    """A callback of the server's decides what becomes of a failure of its type."""
    seen: list[FailedTry] = []
    on_failure = {ErrorType.PROVIDER_ERROR: seen.append}
    async with several({None: Failing(ProviderError())}, on_failure=on_failure) as streams:
        streams.start("ses", asked("r"))
        await asyncio.sleep(1)
        assert [type(failed.failure) for failed in seen] == [ProviderError]
