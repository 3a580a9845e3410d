"""What one configuration makes, without anything that listens."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.answers import until
from wsstream.assembly import Assembly, default_provider
from wsstream.config import Config
from wsstream.errors import ConfigError, StoreError


def test_the_default_provider() -> None:
    """A key in the environment says which provider is wanted."""
    assert default_provider({"OPENAI_API_KEY": "sk"}) == "openai"
    assert default_provider({"OPENAI_API_KEY": ""}) == "demo"
    assert default_provider({}) == "demo"


async def test_it_opens_and_closes_without_a_socket() -> None:
    """An assembly has streams, a gate and health once it is open, and can be closed again."""
    assembly = Assembly(Config(store="memory:", provider="demo"))
    await assembly.open()
    assert assembly.health()["status"] == "ok"
    assert assembly.hub.gate is not None
    await assembly.interrupt()
    assert assembly.health()["status"] == "draining"
    await assembly.close()


async def test_a_provider_that_cannot_be_made() -> None:
    """It is said before anything is opened."""
    with pytest.raises(ConfigError, match="OPENAI_API_KEY"):
        await Assembly(Config(store="memory:", provider="openai")).open()


async def test_a_store_that_cannot_be_opened_is_closed(tmp_path: Path) -> None:
    """A failed opening leaves no thread and no lock behind."""
    with pytest.raises(StoreError):
        await Assembly(Config(store=f"sqlite:{tmp_path}", provider="demo")).open()
    await until(lambda: not [thread for thread in threading.enumerate() if thread.name == "wsstream-store"])
