"""The state machines of both ends, as tables. No other module decides what may happen when.

Two machines run at each end. A *connection* goes from its greeting to its close::

    server   GREETING --hello--> OPEN --drain--> DRAINING --close--> CLOSED
    client   GREETING --established--> OPEN --going_away--> DRAINING --close--> CLOSED

A *view* is one connection's interest in one stream. The server's begins when chunks may flow and ends with the terminal
message. The client's outlives connections::

    client   REQUESTED --start--> STREAMING --end--> ENDED
                 |                  |   ^
                 |                lost  resumed
                 |                  v   |
                 +----------------> LOST

An input that a state's row does not name is illegal: `step` raises and nothing has changed, so a caller may step
first and act afterwards. The diagrams in docs/design.md are drawn from these tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import TypeVar

from wsstream.errors import LocalError


class ConnectionState(Enum):
    """Where one end of a connection stands."""

    GREETING = auto()
    OPEN = auto()
    DRAINING = auto()
    CLOSED = auto()


class ConnectionInput(Enum):
    """What happens to a connection."""

    GREETED = auto()
    MESSAGE = auto()
    REQUEST = auto()
    DRAIN = auto()
    CLOSE = auto()


class ViewState(Enum):
    """Where a client stands with one stream."""

    REQUESTED = auto()
    STREAMING = auto()
    LOST = auto()
    ENDED = auto()


class ViewInput(Enum):
    """What happens to a client's view of a stream."""

    QUEUED = auto()
    START = auto()
    CHUNK = auto()
    LOST = auto()
    RESUMED = auto()
    END = auto()


S, I = ConnectionState, ConnectionInput  # noqa: E741 - the tables read better with one letter each

CONNECTION: Mapping[tuple[ConnectionState, ConnectionInput], ConnectionState] = {
    (S.GREETING, I.GREETED): S.OPEN,
    (S.GREETING, I.CLOSE): S.CLOSED,
    (S.OPEN, I.MESSAGE): S.OPEN,
    (S.OPEN, I.REQUEST): S.OPEN,
    (S.OPEN, I.DRAIN): S.DRAINING,
    (S.OPEN, I.CLOSE): S.CLOSED,
    # A draining connection takes no new request, but acks, cancels and resumes go on.
    (S.DRAINING, I.MESSAGE): S.DRAINING,
    (S.DRAINING, I.DRAIN): S.DRAINING,
    (S.DRAINING, I.CLOSE): S.CLOSED,
    (S.CLOSED, I.CLOSE): S.CLOSED,
}

V, W = ViewState, ViewInput

VIEW: Mapping[tuple[ViewState, ViewInput], ViewState] = {
    (V.REQUESTED, W.QUEUED): V.REQUESTED,
    (V.REQUESTED, W.START): V.STREAMING,
    (V.REQUESTED, W.LOST): V.REQUESTED,
    (V.REQUESTED, W.END): V.ENDED,
    (V.STREAMING, W.START): V.STREAMING,
    (V.STREAMING, W.CHUNK): V.STREAMING,
    (V.STREAMING, W.RESUMED): V.STREAMING,
    (V.STREAMING, W.LOST): V.LOST,
    (V.STREAMING, W.END): V.ENDED,
    # A resume may be refused (END), or its connection may be lost in turn.
    (V.LOST, W.RESUMED): V.STREAMING,
    (V.LOST, W.LOST): V.LOST,
    (V.LOST, W.END): V.ENDED,
}

State = TypeVar("State", bound=Enum)
Input = TypeVar("Input", bound=Enum)


def step(table: Mapping[tuple[State, Input], State], state: State, happened: Input) -> State:
    """The state after ``happened``.

    Raises:
        LocalError: the table has no such transition.
    """
    after = table.get((state, happened))
    if after is None:
        raise LocalError(f"{happened.name.lower()} is not allowed while {state.name.lower()}")
    return after
