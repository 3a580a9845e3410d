"""The README's examples do what it says."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

from wsstream.chunks import ChatMessage, ChatRequest
from wsstream.cli import make_parser
from wsstream.config import Config
from wsstream.server import Server

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def example(marker: str) -> str:
    """The Python example that contains ``marker``."""
    (found,) = [block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if marker in block]
    return found


async def test_the_client_example_prints_the_answer(capsys: pytest.CaptureFixture[str]) -> None:
    """The client example prints the demo model's whole answer."""
    async with Server(Config(store="memory:", port=0, provider="demo", listeners=1)).running() as server:
        body = example("client.chat").replace("ws://127.0.0.1:8765/ws", server.url.replace("http", "ws") + "ws")
        body = body.replace("How does the window work?", "hello").replace("client.chat(", "client.chat(**FAST, prompt=")
        imports, _, statements = body.partition("\n\n")
        names: dict[str, Any] = {"FAST": {"model": "demo:rate=0,tokens=40,seed=3"}}
        exec(f"{imports}\nasync def main():\n{textwrap.indent(statements, '    ')}", names)
        await names["main"]()
    assert len(capsys.readouterr().out.split()) == 40


async def test_the_provider_example_answers() -> None:
    """The provider example yields the last message's words, loudly."""
    names: dict[str, Any] = {}
    exec(example("upper"), names)
    request = ChatRequest(messages=[ChatMessage("user", "so be it")])
    assert [word async for word in names["shout"](request)] == ["SO ", "BE ", "IT "]


@pytest.mark.parametrize("line", re.findall(r"-m wsstream (.+)", README))
def test_every_command_line_is_understood(line: str) -> None:
    """The command line knows every option that the README uses."""
    words = [word.strip('"`') for word in re.findall(r'"[^"]*"|\S+', line)]
    if words[0].startswith("--"):
        words.insert(0, "serve")
    if words[0] in ("serve", "chat"):
        make_parser().parse_args(words)
