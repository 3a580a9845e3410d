"""The table of providers, and what each of them owes to whoever runs it."""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import AsyncIterator, Callable

import pytest

from tests.virtual import in_virtual_time, turns
from wsstream.chunks import ChatRequest, Finish
from wsstream.config import Config
from wsstream.errors import ConfigError
from wsstream.intake import Intake
from wsstream.providers import PROVIDERS, open_provider
from wsstream.providers.base import Provider, Sink
from wsstream.providers.callable import CallableProvider
from wsstream.providers.demo import DemoProvider
from wsstream.providers.names import SERVICES
from wsstream.testing.sinks import ListSink, ask


async def endless(request: ChatRequest) -> AsyncIterator[str]:
    """A provider for ``module:attribute``."""
    while True:
        await asyncio.sleep(1)
        yield "x"


LOCAL = [
    ("demo", "demo"),
    ("demo", "demo:rate=5,tokens=1000"),
    ("demo", "demo:rate=0,tokens=10000000"),
    (f"{__name__}:endless", None),
]
"""Providers that need no network, and a model that takes long."""


@pytest.mark.parametrize("name", PROVIDERS)
def test_every_provider_of_the_table_can_be_made(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line of the table leads to something with the methods of a provider."""
    for service in SERVICES.values():
        monkeypatch.setenv(service.key or "NO_KEY", "k")

    @in_virtual_time
    async def scenario() -> None:
        provider = open_provider(name, Config(provider=name))
        assert inspect.iscoroutinefunction(provider.answer)
        await provider.close()

    scenario()


def test_the_table_imports_nothing_by_itself() -> None:
    """A server that uses one provider loads no other's SDK."""
    code = "import sys, wsstream.providers as p; p.open_provider('demo', p.Config()); print('openai' in sys.modules)"
    import subprocess

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    "name",
    ["", "nothing", "demo2", "no.such.module:thing", "json:no_such_thing", "json:", ":x", "json:dumps", "os:sep"],
)
def test_what_cannot_be_found_is_refused(name: str) -> None:
    """A wrong name is a ConfigError that says what was asked for."""
    with pytest.raises(ConfigError, match="provider: "):
        open_provider(name, Config())


def test_anything_importable_is_a_provider() -> None:
    """A function of a module outside the project is found by its path."""
    assert isinstance(open_provider(f"{__name__}:endless", Config()), CallableProvider)
    assert isinstance(open_provider("wsstream.providers.demo:DemoProvider", Config()), DemoProvider)


def test_the_intake_is_a_sink() -> None:
    """What providers are promised of a sink, the producer's intake has, with the same parameters."""
    for name, method in inspect.getmembers(Sink, inspect.isfunction):
        if not name.startswith("_"):
            theirs = inspect.signature(method).parameters.keys()
            assert inspect.signature(getattr(Intake, name)).parameters.keys() == theirs


@pytest.mark.parametrize(("name", "model"), LOCAL)
@in_virtual_time
async def test_a_cancel_stops_a_provider(name: str, model: str | None) -> None:
    """A provider whose task is cancelled ends at once, puts nothing more, and can be closed."""
    provider = open_provider(name, Config())
    sink = ListSink()
    task = asyncio.create_task(provider.answer(ask(model=model), sink))
    await asyncio.sleep(2) if model != LOCAL[2][1] else await turns(5)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    count = len(sink.deltas)
    assert count > 0
    await asyncio.sleep(5)
    assert len(sink.deltas) == count
    await provider.close()


@pytest.mark.parametrize(("name", "model"), LOCAL)
@in_virtual_time
async def test_a_provider_stops_without_room(name: str, model: str | None) -> None:
    """A provider puts nothing while there is no room, however long, and goes on where it was."""
    provider = open_provider(name, Config())
    sink = ListSink(room=3)
    task = asyncio.create_task(provider.answer(ask(model=model), sink))
    await asyncio.sleep(1000)
    count = len(sink.deltas)
    assert 3 <= count <= 3 + 64
    assert sink.waits == 1
    await asyncio.sleep(1000)
    assert len(sink.deltas) == count
    sink.give(1)
    await asyncio.sleep(1000)
    assert count < len(sink.deltas) <= count + 64
    task.cancel()
    await asyncio.wait([task])
    await provider.close()


@in_virtual_time
async def test_two_answers_do_not_meet() -> None:
    """One provider serves many answers at once, each with its own text."""
    provider: Provider = open_provider("demo", Config())
    sinks = [ListSink() for _ in range(5)]
    models: list[Callable[[int], str]] = [lambda n: f"demo:rate={n + 1},tokens=20,seed={n}"]
    finishes = await asyncio.gather(*(provider.answer(ask(model=models[0](n)), s) for n, s in enumerate(sinks)))
    assert all(isinstance(finish, Finish) for finish in finishes)
    assert [len(sink.deltas) for sink in sinks] == [20] * 5
    assert len({sink.text for sink in sinks}) == 5
    await provider.close()
