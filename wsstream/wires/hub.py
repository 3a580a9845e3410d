"""What the dialogues of one server share."""

from __future__ import annotations

import asyncio

from wsstream.moderation import Moderator
from wsstream.protocol import ServerSettings
from wsstream.registry import Registry
from wsstream.tally import WireTally
from wsstream.ticks import Flusher, TimerWheel
from wsstream.wires.base import Gate


class Hub:
    """What the connections of one server share."""

    __slots__ = (
        "flusher",
        "gate",
        "grace",
        "loop",
        "moderator",
        "now",
        "pushes",
        "registry",
        "settings",
        "stall",
        "tally",
        "turn",
        "wheel",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        settings: ServerSettings,
        gate: Gate,
        registry: Registry,
        grace: float = 60.0,
        stall: float | None = None,
        moderator: Moderator | None = None,
    ) -> None:
        """What is shared, and two limits in seconds.

        Args:
            grace: for which a connection goes on when its token has run out.
            stall: for which a viewer may leave everything that it was sent unacknowledged; None for ever.
            moderator: says when the loop may rest; without one it never does.
        """
        self.loop = loop
        self.settings = settings
        self.gate = gate
        """Whoever serves may put another in its place before anybody comes."""
        self.registry = registry
        self.grace = grace
        self.stall = stall
        self.moderator = moderator or Moderator(loop, Flusher(loop), 0.0)
        self.flusher = self.moderator.flusher
        self.wheel = TimerWheel(loop)
        self.now = loop.time
        self.turn = 0.0
        """When, by the loop's clock, the millisecond began in which chunks were last written at once."""
        self.pushes = 0
        """How many were, in it."""
        self.tally = WireTally()
