"""When memory runs short: first nothing new is begun, then connections are shed. Decides only; reads and does nothing.

The share is how much is taken of the memory that this process could have (`wsstream.memory`). Each level is left only
when the share has fallen `MARGIN` below the mark at which it was entered, so that a server at the mark does not change
its mind every second.
"""

from __future__ import annotations

from enum import IntEnum

MARGIN = 0.05

PATIENCE = 11
"""Readings between two rounds of shedding: the memory of the last round must have had time to come back."""

ROUND = 0.1
"""The part of all connections that one round sheds."""


class Level(IntEnum):
    """How short memory is."""

    FINE = 0
    REFUSE = 1
    """Nothing new is begun: no stream, no connection."""
    SHED = 2
    """Connections are closed, too."""


class Pressure:
    """What to do at which share of memory."""

    __slots__ = ("_refuse_at", "_shed_at", "_since_round", "level")

    def __init__(self, refuse_at: float = 0.85, shed_at: float = 0.92) -> None:
        """``refuse_at`` is not above ``shed_at``."""
        self._refuse_at = refuse_at
        self._shed_at = shed_at
        self._since_round = PATIENCE
        self.level = Level.FINE

    def is_short(self, share: float) -> bool:
        """Whether something is to be done at this share; what can be had without refusing anybody comes first."""
        return share >= self._refuse_at

    def alarm(self, share: float) -> bool:
        """Between two readings: whether nothing more is to be begun from now on. Nobody is shed for a moment's peak."""
        if self.level is not Level.FINE or not self.is_short(share):
            return False
        self.level = Level.REFUSE
        return True

    def judge(self, share: float) -> Level:
        """The level at this share; call it at regular times."""
        if share >= self._shed_at:
            self.level = Level.SHED
        elif self.level is Level.SHED and share > self._shed_at - MARGIN:
            pass
        elif share >= self._refuse_at or (self.level is not Level.FINE and share > self._refuse_at - MARGIN):
            self.level = Level.REFUSE
        else:
            self.level = Level.FINE
        self._since_round += 1
        if self.level is not Level.SHED:
            self._since_round = PATIENCE
        return self.level

    def to_shed(self, connections: int) -> int:
        """How many of so many connections are to be shed after this reading."""
        if self.level is not Level.SHED or self._since_round <= PATIENCE or not connections:
            return 0
        self._since_round = 0
        return max(1, round(connections * ROUND))
