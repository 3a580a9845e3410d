"""The page about providers: its tables are the code's, and its examples run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from wsstream.providers import anthropic, openai, responses
from wsstream.providers.names import CHAT, RESPONSES, SERVICES, STYLES
from wsstream.testing.contracts import check_provider
from wsstream.testing.upstream import FAULTS

PAGE = (Path(__file__).parents[2] / "docs" / "providers.md").read_text(encoding="utf-8")


def between(name: str) -> str:
    """What stands between two marks."""
    return PAGE.split(f"<!-- {name} -->\n")[1].split(f"<!-- /{name} -->")[0]


def examples(kind: str) -> list[str]:
    """The examples of a kind."""
    return re.findall(rf"```python {kind}\n(.*?)```", PAGE, re.DOTALL)


def executed(*sources: str) -> dict[str, Any]:
    """What is defined there."""
    names: dict[str, Any] = {}
    for source in sources:
        exec(compile(source, "docs/providers.md", "exec"), names)
    return names


def test_every_name_is_documented() -> None:
    """The table of names is the one that is used."""
    api = {CHAT: "chat", RESPONSES: "responses"}
    rows = [
        f"| `{name}` | {f'`{s.key}`' if s.key else ''} | `{s.url}` | {api.get(s.speaks, 'messages')} "
        f"| {f'`{s.model}`' if s.model else 'the first listed'} | {s.prefill} |"
        for name, s in SERVICES.items()
    ]
    assert between("names").strip().splitlines() == rows


def test_every_option_is_documented() -> None:
    """The table of options has those of each API."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in between("options").strip().splitlines()]
    has = [{row[0].strip("`") for row in rows if row[column]} for column in (1, 2, 3)]
    assert has[0] == openai.OPTIONS
    translated = {"tools", "tool_choice", "reasoning_effort", "verbosity"}
    assert has[1] == responses.OPTIONS | translated
    source = Path(str(anthropic.__file__)).read_text(encoding="utf-8")
    assert has[2] == {name for name in openai.OPTIONS if f'"{name}"' in source and name != "metadata"}


def test_every_style_and_fault_is_documented() -> None:
    """None is left out, and none is made up."""
    assert set(re.findall(r"`([^`]+)`", between("faults"))) == FAULTS.keys()
    for style in (*STYLES, "auto"):
        assert f"| `{style}` |" in PAGE


@pytest.mark.parametrize("number", [0, 1])
async def test_the_providers_of_the_page_keep_the_contract(number: int) -> None:
    """Both ways to write one work as they are shown."""
    names = executed(examples("provider")[number])
    await check_provider(names["shout"] if number == 0 else names["Countdown"])


async def test_the_test_of_the_page_passes() -> None:
    """The three lines that test a provider test one."""
    names = executed(examples("provider")[0], *examples("contract"))
    await names["test_my_provider"]()


async def test_the_upstream_of_the_page_is_asked() -> None:
    """The example of the fake upstream runs."""
    (source,) = examples("upstream")
    await executed(source)["example"]()
