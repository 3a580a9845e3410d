"""Each limit at its value, one past it and ten times past it: what a client sees, and what is counted."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import Serve
from tests.data.scripted import Scripted
from tests.limits import NO_LIMITS, ROWS, Row, documented
from tests.mounted import mount
from tests.virtual import in_virtual_time
from wsstream.assembly import Assembly
from wsstream.config import settings
from wsstream.rejections import Reason

TESTS = Path(__file__).resolve().parent
OPERATIONS = (TESTS.parent / "docs" / "operations.md").read_text(encoding="utf-8")
VIRTUAL = [row for row in ROWS if row.drive is not None and not row.real]
REAL = [row for row in ROWS if row.real]
STEPS = ("at", "past", "ten")


def named(row: Row) -> str:
    """For the list of tests."""
    return f"{row.what} {' '.join(row.settings)}".strip().replace(" ", "-")


async def counted(assembly: Assembly, metric: str) -> float:
    """What `/metrics` has of it, all series that fit together."""
    name, _, labels = metric.partition("{")
    wanted = dict(re.findall(r'(\w+)="(\w+)"', labels))
    text = (await assembly.metrics().render()).decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    found = [s.value for s in samples if s.name == "wsstream_" + name and wanted.items() <= s.labels.items()]
    assert found or not name.startswith("rejected"), metric
    return sum(found)


async def check(row: Row, step: str, assembly: Assembly, seen: str) -> None:
    """Hold what was seen and counted to the row."""
    assert seen == row.sees[STEPS.index(step)]
    if not row.metric:
        return
    count = await counted(assembly, row.metric)
    if step != "at":
        assert count > 0
    elif row.metric.partition("{")[0].endswith("_total"):
        assert count == 0


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("row", VIRTUAL, ids=named)
@in_virtual_time
async def test_a_limit(scripted: Scripted, row: Row, step: str) -> None:
    """At its value nothing is refused; past it and far past it a client sees what is documented, and it is counted."""
    assert row.drive is not None
    async with mount(scripted, **row.config) as it:
        seen = await row.drive(it, getattr(row.steps, step))
        await check(row, step, it.assembly, seen)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("row", REAL, ids=named)
async def test_a_limit_of_sockets(serve: Serve, row: Row, step: str) -> None:
    """The same, of those that only the server's own sockets have."""
    assert row.drive is not None
    server = await serve(**row.config)
    seen = await row.drive(server, getattr(row.steps, step))
    await check(row, step, server.assembly, seen)


# -- the table is whole


def test_every_setting_is_a_limit_or_not() -> None:
    """No setting is left out: each is in a row, or is said to be something else."""
    limits = {name for row in ROWS for name in row.settings}
    assert limits | set(NO_LIMITS) == {setting.name for setting in settings()}
    assert limits & set(NO_LIMITS) == set()


def test_every_row_is_driven_or_held() -> None:
    """Each has a key; one that goes nowhere itself names the test which does: it is there, and speaks of the limit."""
    for row in ROWS:
        assert (row.drive is None) is bool(row.held_by), row.what
        assert row.settings, row.what
        if row.held_by:
            body = function(row.held_by)
            assert any(name in body for name in row.settings), f"{row.what}: {row.held_by} speaks of another"


def function(place: str) -> str:
    """The source of a test, by file and name."""
    file, _, name = place.partition("::")
    text = (TESTS / file).read_text(encoding="utf-8")
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name:
            return ast.get_source_segment(text, node) or ""
    raise AssertionError(place)


LIMITLESS = {
    Reason.HOST,
    Reason.ORIGIN,
    Reason.FORBIDDEN,
    Reason.REVOKED,
    Reason.DRAINING,
}
"""Reasons that are no limits."""


def test_every_reason_is_a_row() -> None:
    """What is counted as rejected is the work of a limit in the table, or of no limit at all."""
    rows = " ".join(row.metric for row in ROWS)
    missing = {reason for reason in Reason if f'"{reason.value}"' not in rows}
    assert missing == LIMITLESS


def test_the_documentation_has_this_table() -> None:
    """docs/operations.md has every row: its settings, their defaults, what a client sees and the metric."""
    shown = OPERATIONS.split("<!-- limits -->\n")[1].split("\n<!-- /limits -->")[0]
    assert shown == documented()
