"""The transition tables: every state with every input."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from itertools import product
from typing import Any

import pytest

from wsstream.errors import LocalError
from wsstream.states import CONNECTION, VIEW, ConnectionInput, ConnectionState, ViewInput, ViewState, step

S, I = ConnectionState, ConnectionInput  # noqa: E741 - the tables read better with one letter each
V, W = ViewState, ViewInput

# Written again by hand, a row a state: what may happen and where it leads. All else is illegal.
CONNECTION_ROWS = {
    S.GREETING: {I.GREETED: S.OPEN, I.CLOSE: S.CLOSED},
    S.OPEN: {I.MESSAGE: S.OPEN, I.REQUEST: S.OPEN, I.DRAIN: S.DRAINING, I.CLOSE: S.CLOSED},
    S.DRAINING: {I.MESSAGE: S.DRAINING, I.DRAIN: S.DRAINING, I.CLOSE: S.CLOSED},
    S.CLOSED: {I.CLOSE: S.CLOSED},
}
VIEW_ROWS = {
    V.REQUESTED: {W.QUEUED: V.REQUESTED, W.START: V.STREAMING, W.LOST: V.REQUESTED, W.END: V.ENDED},
    V.STREAMING: {
        W.START: V.STREAMING,
        W.CHUNK: V.STREAMING,
        W.RESUMED: V.STREAMING,
        W.LOST: V.LOST,
        W.END: V.ENDED,
    },
    V.LOST: {W.RESUMED: V.STREAMING, W.LOST: V.LOST, W.END: V.ENDED},
    V.ENDED: {},
}
MACHINES: list[tuple[Any, Any, Any, Any]] = [
    (CONNECTION, CONNECTION_ROWS, ConnectionState, ConnectionInput),
    (VIEW, VIEW_ROWS, ViewState, ViewInput),
]
PAIRS = [
    pytest.param(table, rows, state, happened, id=f"{state.name}-{happened.name}")
    for table, rows, states, inputs in MACHINES
    for state, happened in product(states, inputs)
]


@pytest.mark.parametrize(("table", "rows", "state", "happened"), PAIRS)
def test_every_pair(table: Mapping[Any, Any], rows: Mapping[Any, Any], state: Enum, happened: Enum) -> None:
    """A legal input leads where the row says; an illegal one raises, naming both, and changes nothing."""
    before = dict(table)
    if happened in rows[state]:
        assert step(table, state, happened) is rows[state][happened]
    else:
        with pytest.raises(LocalError, match=f"{happened.name.lower()} is not allowed while {state.name.lower()}"):
            step(table, state, happened)
    assert table == before


@pytest.mark.parametrize(("table", "rows", "states", "inputs"), MACHINES, ids=["connection", "view"])
def test_every_state_is_reached(table: Any, rows: Any, states: Any, inputs: Any) -> None:
    """From the first state every other one can be reached, and every input is legal somewhere."""
    reached = {next(iter(states))}
    for _ in states:
        reached |= {after for (state, _), after in table.items() if state in reached}
    assert reached == set(states)
    assert {happened for _, happened in table} == set(inputs)


def test_an_ended_view_stays_ended() -> None:
    """Nothing leads out of a view's end."""
    assert [pair for pair in VIEW if pair[0] is V.ENDED] == []


def test_a_closed_connection_stays_closed() -> None:
    """Nothing leads out of a closed connection, and closing it again is harmless."""
    assert {after for (state, _), after in CONNECTION.items() if state is S.CLOSED} == {S.CLOSED}
