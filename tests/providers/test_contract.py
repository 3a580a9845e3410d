"""The contract of providers: the ones that are here keep it, and one that breaks it is found out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from wsstream.chunks import ChatMessage, ChatRequest, Delta, Finish, Kind
from wsstream.errors import ProviderError
from wsstream.providers.anthropic import AnthropicProvider
from wsstream.providers.base import Sink
from wsstream.providers.demo import DemoProvider
from wsstream.providers.openai import OpenAIProvider
from wsstream.providers.responses import ResponsesProvider
from wsstream.testing import contracts
from wsstream.testing.contracts import check_provider
from wsstream.testing.upstream import Load, Upstream, serving


async def words(request: ChatRequest) -> AsyncIterator[str]:
    """A provider of a few words."""
    for word in ["These", "are", "a", "few", "words", "of", "a", "provider"]:
        yield word + " "
        await asyncio.sleep(0.001)


async def test_a_generator_function_keeps_it() -> None:
    """The smallest provider keeps the contract without knowing of it."""
    await check_provider(words)


async def test_the_demo_keeps_it() -> None:
    """So does the demo."""
    await check_provider(DemoProvider, ChatRequest([ChatMessage("user", "hi")], "demo:rate=500,tokens=20"))


@pytest.mark.parametrize("fault", ["none", "tools", "thoughts"])
@pytest.mark.parametrize("kind", [OpenAIProvider, ResponsesProvider, AnthropicProvider])
async def test_the_adapters_keep_it(kind: Callable[..., Any], fault: str) -> None:
    """So does every adapter, over a real connection to an upstream."""
    upstream = Upstream(serving(Load(rate=500, tokens=20)))
    await upstream.start()
    url = upstream.root if kind is AnthropicProvider else upstream.url
    await check_provider(lambda: kind("k", url), ChatRequest([ChatMessage("user", "hi")], f"fake:fault={fault}"))
    await upstream.close()


class Broken:
    """A provider that can do everything wrong; each of its children does one thing."""

    end: Any = Finish()
    deltas = (Delta("a"), Delta("b"), Delta("c"))

    async def answer(self, request: ChatRequest, sink: Sink) -> Any:
        """Answer."""
        for delta in self.deltas:
            sink.put([delta])
            await sink.give_way()
        return self.end

    async def close(self) -> None:
        """Nothing is shared."""


class NoEnd(Broken):
    """Returns nothing."""

    end = None


class OddReason(Broken):
    """Ends for a reason of its own."""

    end = Finish("because")


class TooLittle(Broken):
    """Says too little to be tried."""

    deltas = ()


class HalfLines(Broken):
    """Cuts calls of tools where it likes."""

    deltas = (Delta('{"index":', Kind.TOOL_CALL), Delta('0,"id":"c"}\n', Kind.TOOL_CALL), Delta("x"))


class Pushy(Broken):
    """Never asks for room."""

    async def answer(self, request: ChatRequest, sink: Sink) -> Any:
        """Answer."""
        for delta in self.deltas:
            sink.put([delta])
            await asyncio.sleep(0.01)
        return self.end


class Late(Broken):
    """Goes on behind its end."""

    async def answer(self, request: ChatRequest, sink: Sink) -> Any:
        """Answer."""
        asyncio.get_running_loop().call_later(0.01, sink.put, [Delta("late")])
        return await super().answer(request, sink)


class Deaf(Broken):
    """Takes a cancel for an end."""

    async def answer(self, request: ChatRequest, sink: Sink) -> Any:
        """Answer."""
        try:
            return await super().answer(request, sink)
        except asyncio.CancelledError:
            return self.end


class Failing(Broken):
    """Fails."""

    async def answer(self, request: ChatRequest, sink: Sink) -> Any:
        """Fail."""
        raise ProviderError("no")


class Slow(Broken):
    """Never comes to its end."""

    async def answer(self, request: ChatRequest, sink: Sink) -> Any:
        """Wait."""
        await asyncio.sleep(1000)


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        (NoEnd, "returns a Finish"),
        (OddReason, "reason is one of"),
        (TooLittle, "three deltas or more"),
        (HalfLines, "one line"),
        (Pushy, "waits where there is no room"),
        (Late, "nothing behind its end"),
        (Deaf, "ends with CancelledError"),
        (Failing, "provider_error: no"),
        (Slow, "takes longer than"),
    ],
)
async def test_what_breaks_it_is_found(broken: type[Broken], complaint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each way to break the contract is named."""
    monkeypatch.setattr(contracts, "PATIENCE", 1.0)
    with pytest.raises(AssertionError, match=complaint):
        await check_provider(broken)


async def test_the_broken_ones_are_broken_in_one_way() -> None:
    """What they are made of keeps the contract."""
    await check_provider(Broken)
