"""The documentation is executed, and complete."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect

from wsstream import messages as m
from wsstream.config import Config, settings
from wsstream.errors import CloseCode, ErrorType
from wsstream.server import Server
from wsstream.states import CONNECTION, VIEW

DOCS = Path(__file__).parent.parent / "docs"
PROTOCOL = (DOCS / "protocol.md").read_text(encoding="utf-8")
OPERATIONS = (DOCS / "operations.md").read_text(encoding="utf-8")
WILDCARD = "…"


def conversations() -> list[list[tuple[str, dict[str, Any]]]]:
    blocks = re.findall(r"```conversation\n(.*?)```", PROTOCOL, re.DOTALL)
    return [[(line[0], json.loads(line[2:])) for line in block.strip().split("\n")] for block in blocks]


class Speaker:
    """Plays the client's lines and holds the server to its own; remembers what the wildcards stood for."""

    def __init__(self) -> None:
        self._seen: dict[str, Any] = {}

    async def play(self, socket: ClientConnection, lines: list[tuple[str, dict[str, Any]]]) -> None:
        for speaker, line in lines:
            if speaker == "C":
                await socket.send(json.dumps({name: self._filled(name, value) for name, value in line.items()}))
            else:
                self._check(line, await self._receive(socket))

    def _filled(self, name: str, value: Any) -> Any:
        return self._seen[name] if isinstance(value, str) and WILDCARD in value else value

    async def _receive(self, socket: ClientConnection) -> dict[str, Any]:
        while True:
            message: dict[str, Any] = json.loads(await socket.recv())
            if message["type"] != "heartbeat":
                return message

    def _check(self, line: dict[str, Any], message: dict[str, Any]) -> None:
        assert next(iter(message)) == "type"
        for name, value in line.items():
            if isinstance(value, str) and WILDCARD in value:
                assert str(message[name]).startswith(value.removesuffix(WILDCARD))
                self._seen[name] = message[name]
            else:
                assert message[name] == value


async def test_the_conversation_of_the_specification_takes_place() -> None:
    """Every line of the documented conversation is said as it stands there."""
    speaker = Speaker()
    blocks = conversations()
    assert len(blocks) == 2
    async with Server(Config(store="memory:", port=0, provider="demo", listeners=1)).running() as server:
        for lines in blocks:
            async with connect(server.url.replace("http", "ws") + "ws", ping_interval=None) as socket:
                await speaker.play(socket, lines)


MESSAGES = sorted({str(t.__struct_config__.tag) for t in (*m.ClientMessage.__args__, *m.ServerMessage.__args__)})


@pytest.mark.parametrize("name", MESSAGES)
def test_every_message_is_documented(name: str) -> None:
    """The specification has a word on each message, and on each of its fields."""
    assert f"`{name}`" in PROTOCOL
    for struct in (*m.ClientMessage.__args__, *m.ServerMessage.__args__):
        if struct.__struct_config__.tag == name:
            for field in struct.__struct_fields__:
                assert re.search(rf"[`{{ ,]{field}\b", PROTOCOL), f"{name}.{field}"


@pytest.mark.parametrize("name", [error.value for error in ErrorType])
def test_every_error_type_is_documented(name: str) -> None:
    """The table of error types is complete."""
    assert f"`{name}`" in PROTOCOL


@pytest.mark.parametrize("code", [int(code) for code in CloseCode if code != CloseCode.ABNORMAL])
def test_every_close_code_is_documented(code: int) -> None:
    """The table of close codes is complete; 1006 never travels."""
    assert re.search(rf"\b{code}\b", PROTOCOL)


@pytest.mark.parametrize("setting", settings(), ids=lambda setting: setting.name)
def test_every_setting_is_documented(setting: Any) -> None:
    """The operations page has each setting with its default."""
    default = "" if setting.default is None else str(setting.default)
    assert f"| `{setting.flag}` | {default} | {setting.description} |" in OPERATIONS


def test_the_state_tables_of_the_design_page_are_the_codes() -> None:
    """The design page shows every transition of both tables, and no other."""
    page = (DOCS / "design.md").read_text(encoding="utf-8")
    shown = page.split("<!-- states -->")[1].split("<!-- /states -->")[0]
    found = set(re.findall(r"([A-Z]+) -([a-z]+)-> ([A-Z]+)", shown))
    real = {
        (state.name, happened.name.lower(), after.name)
        for table in (CONNECTION, VIEW)
        for (state, happened), after in table.items()
    }
    assert found == real
