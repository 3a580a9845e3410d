"""Any async generator function as a provider."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

import pytest

from tests.virtual import in_virtual_time, turns
from wsstream.chunks import ChatRequest, Delta, Finish, Kind, Usage
from wsstream.errors import ConfigError
from wsstream.providers.callable import CallableProvider, adapt
from wsstream.testing.sinks import ListSink, ask


async def greet(request: ChatRequest) -> AsyncIterator[str]:
    """The smallest provider."""
    yield "hello "
    yield str(request.messages[0].content)


class Whole:
    """A provider by itself."""

    async def answer(self, request: ChatRequest, sink: Any) -> Finish:
        """Answer."""
        return Finish("length")

    async def close(self) -> None:
        """Nothing."""


class Generator:
    """An object that is called as a function."""

    async def __call__(self, request: ChatRequest) -> AsyncIterator[str]:
        yield "called"

    async def method(self, request: ChatRequest) -> AsyncIterator[str]:
        """A bound one."""
        yield "bound"


async def answered(target: Any) -> tuple[ListSink, Finish]:
    """What that says."""
    sink = ListSink()
    provider = adapt(target)
    finish = await provider.answer(ask("you"), sink)
    await provider.close()
    return sink, finish


def yielding(*items: Any) -> Any:
    """A provider that yields these."""

    async def generate(request: ChatRequest) -> AsyncIterator[Any]:
        for item in items:
            yield item

    return generate


@in_virtual_time
async def test_the_smallest_provider() -> None:
    """A function that yields strings answers with them, one chunk each, and stops."""
    sink, finish = await answered(greet)
    assert [delta.content for delta in sink.deltas] == ["hello ", "you"]
    assert finish == Finish()
    assert sink.ways == 2


@in_virtual_time
async def test_what_may_be_yielded() -> None:
    """Strings, deltas and sequences of them are put as they come; nothing empty is."""
    thought = Delta("hm", Kind.REASONING)
    sink, _ = await answered(yielding("a", "", thought, Delta(""), ["b", thought, ""], [], ("c", ["d"]), iter("ef")))
    assert sink.deltas == [Delta("a"), thought, Delta("b"), thought, *map(Delta, "cdef")]
    assert sink.puts == [1, 1, 2, 2, 2]


@in_virtual_time
async def test_an_end_of_its_own() -> None:
    """A Finish is the end, and what would follow it is not asked for."""
    finish = Finish("length", Usage(1, 2))
    sink, found = await answered(yielding("a", finish, "never"))
    assert (sink.text, found) == ("a", finish)


@pytest.mark.parametrize("item", [5, None, b"bytes", {1: 2}, object(), ["a", 5]])
@in_virtual_time
async def test_anything_else_is_a_mistake(item: object, caplog: pytest.LogCaptureFixture) -> None:
    """What is neither text nor delta is refused, and the log has words for whoever wrote the provider."""
    with pytest.raises(TypeError, match="yields strings, deltas or sequences"):
        await answered(yielding(item))
    assert "yields strings, deltas or sequences of them, not " in caplog.text


@pytest.mark.parametrize("how", ["cancel", "finish", "fail"])
@in_virtual_time
async def test_the_function_is_always_closed(how: str) -> None:
    """However an answer ends, the function's own clean-up runs before the provider returns."""
    closed: list[int] = []

    async def careful(request: ChatRequest) -> AsyncIterator[Any]:
        try:
            yield "a"
            if how == "cancel":
                await asyncio.sleep(1000)
            yield Finish() if how == "finish" else 5
        finally:
            await asyncio.sleep(0.1)
            closed.append(1)

    task = asyncio.create_task(adapt(careful).answer(ask(), ListSink()))
    await turns()
    if how == "cancel":
        task.cancel()
    await asyncio.wait([task])
    assert closed == [1]


@pytest.mark.parametrize(
    ("target", "text"),
    [(Generator(), "called"), (Generator().method, "bound"), (Generator, "called"), (partial(greet), "hello you")],
)
@in_virtual_time
async def test_other_callables(target: Any, text: str) -> None:
    """Objects that are called, bound methods, partial functions, and classes of them are functions too."""
    assert (await answered(target))[0].text == text


@pytest.mark.parametrize("target", [Whole, Whole(), lambda: Whole()])
@in_virtual_time
async def test_whole_providers(target: Any) -> None:
    """What has an answer method is a provider already; a class or a function that makes one is called first."""
    assert (await answered(target))[1] == Finish("length")


def _sync(request: ChatRequest) -> Iterator[str]:
    yield "x"


async def _coroutine(request: ChatRequest) -> str:
    return "x"


@in_virtual_time
async def test_strings_of_other_classes() -> None:
    """What a template gives is a string of a class of its own; the log gets a plain one of the same text."""

    class Marked(str):
        def __str__(self) -> str:
            return "something else"

    sink, _ = await answered(yielding(Marked("text")))
    assert [(delta.content, type(delta.content)) for delta in sink.deltas] == [("text", str)]


async def _without_request() -> AsyncIterator[str]:
    yield "x"


class _Demanding:
    def __init__(self, key: str) -> None:
        """Cannot be made without a key."""


@pytest.mark.parametrize(
    ("target", "said"), [(_without_request, "one argument"), (_Demanding, "cannot be made: TypeE")]
)
def test_what_could_not_be_called(target: Any, said: str) -> None:
    """A function that takes no request, and a class that cannot be made, are refused when the server starts."""
    with pytest.raises(ConfigError, match=said):
        adapt(target)


@pytest.mark.parametrize("target", [5, "text", None, _sync, _coroutine, print, int, lambda: 5, object])
def test_what_is_no_provider(target: Any) -> None:
    """Anything else is refused when the server starts, not when it is first asked."""
    with pytest.raises(ConfigError, match="neither an async generator function nor"):
        adapt(target)


def test_it_is_a_plain_wrapper() -> None:
    """An async generator function is not called to be adapted."""
    assert isinstance(adapt(greet), CallableProvider)
