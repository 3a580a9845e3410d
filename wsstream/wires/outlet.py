"""The way out of a dialogue: what its logs and its core have to say, in one write per loop tick.

Control messages go first, then the chunks of its attachments, in turns. An outlet has no task and no queue: it acts
when a log rouses one of its attachments, when the core has something to say, and when the shared `Flusher` calls.
Every token passes here, so that nothing is looked up on the way that could have been looked up before.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import NamedTuple

from wsstream.chunklog import Attachment
from wsstream.errors import CloseCode
from wsstream.flow import SendWindow
from wsstream.frames import text_frame
from wsstream.protocol import ServerProtocol
from wsstream.states import ConnectionState
from wsstream.wires.hub import Hub
from wsstream.wires.line import Line

logger = logging.getLogger(__name__)

WRITE_SLICE = 16 * 1024
"""Bytes of chunks per write, so that a client that stops reading is noticed soon."""
TURN = 0.001
"""Seconds in which a connection writes one chunk at once; what follows is gathered."""
MAX_PUSHES = 64
"""Chunks written at once in that time, all connections together, before the loop gets its turn."""
MIN_SHARE = 1024
"""Bytes of a slice that one of many streams gets at least: below that there is more frame than content."""
SHORT_SLICE = 2 * 1024
"""The same where several streams share a connection that is behind: what one has written, the others wait for."""
GATHER = 0.01
MAX_GATHER = 0.04
"""Seconds for which such a connection gathers chunks, at first and at most: many small frames are what fills it."""
CALM = 500
"""So many times in a row it must then get through with what it has gathered, before it counts as quick again."""


class Measured(NamedTuple):
    """A chunk whose way there and back is measured."""

    window: SendWindow
    chunk_id: int
    since: float


class Outlet:
    """What goes out to one client."""

    __slots__ = (
        "_behind",
        "_calm",
        "_control",
        "_core",
        "_gather",
        "_gathering",
        "_hub",
        "_line",
        "_marked",
        "_pushed",
        "_ready",
        "attachments",
        "batch",
        "bytes_sent",
        "measured",
        "measuring",
        "over",
    )

    def __init__(self, hub: Hub, line: Line, core: ServerProtocol, *, batch: bool) -> None:
        self._hub = hub
        self._line = line
        self._core = core
        self._behind = False
        self._calm = 0
        self._gather = 0.0
        self._gathering: asyncio.TimerHandle | None = None
        self._ready: list[Attachment] = []
        self._control: list[bytes] = []
        self._marked = False
        self._pushed = -1.0
        self.attachments: dict[str, Attachment] = {}
        """What the client follows, by stream."""
        self.batch = batch
        """Whether the client knows `chunk_batch`."""
        self.bytes_sent = 0
        self.measuring = False
        """Whether the next chunk's way is to be measured."""
        self.measured: list[Measured] = []
        """The one that is under way, if any."""
        self.over = False
        """Whether nothing is said any more."""

    # -- what is followed

    def follow(self, attachment: Attachment) -> None:
        """Send what ``attachment`` reads from now on, in place of another one of the same stream."""
        stream_id = attachment.log.stream_id
        known = self.attachments.get(stream_id)
        self.attachments[stream_id] = attachment
        self._wire_up()
        if known is None and len(self.attachments) == 2:
            self._line.keep_short(True)
        if known is not None:  # only now: the answer was deserted at no moment
            self._detach(known)

    def _detach(self, attachment: Attachment) -> None:
        if self.attachments.get(attachment.log.stream_id) is attachment:
            del self.attachments[attachment.log.stream_id]
            if len(self.attachments) == 1:
                self._line.keep_short(False)
                self._on_caught_up()
        attachment.log.detach(attachment)
        if attachment in self._ready:
            self._ready.remove(attachment)

    def on_roused(self, attachment: Attachment) -> None:
        """It may have something to send: look at the end of this tick."""
        self._ready.append(attachment)
        if not self._marked and not self.over:
            self._marked = True
            self._hub.flusher.mark(self)

    # -- a chunk that comes alone

    def _on_pushed(self, attachment: Attachment) -> None:
        """Write a chunk that comes alone at once: waiting for the end of the turn costs a turn of the loop.

        What follows within the same millisecond is gathered; so is what would keep others waiting.
        """
        hub = self._hub
        now = hub.now  # by a name: Python looks for a method first where a slot is called
        turn = now()
        if turn - hub.turn >= TURN:
            hub.turn = turn
            hub.pushes = 0
        if self._marked or self._pushed == hub.turn or hub.pushes == MAX_PUSHES or self._line.paused or self.over:
            self.on_roused(attachment)
            return
        self._pushed = hub.turn
        hub.pushes += 1
        try:
            self._push(attachment)
        except Exception:
            logger.exception("a connection failed unexpectedly", extra={"connection_id": self._line.connection_id})
            self.on_broken()

    def _push(self, attachment: Attachment) -> None:
        log = attachment.log
        if not self.measuring and attachment.window.send_next(log.tail, log.weight, log.totals):
            attachment.waiting = True
            part = attachment.frames.one(log.tail)
        else:
            part = self._take(attachment)
        if part:
            self.bytes_sent += len(part)
            write = self._line.write
            write(part)
        if self._ready:
            self._mark()

    # -- a socket that does not keep up

    def _on_behind(self) -> None:
        """The socket did not keep up with several streams: they take short turns now, and gather more for each."""
        self._calm = CALM
        self._gather = min(MAX_GATHER, 2 * self._gather) or GATHER
        if not self._behind:
            self._behind = True
            self._wire_up()

    def _on_caught_up(self) -> None:
        self._behind = False
        self._gather = 0.0
        self._wire_up()

    def _wire_up(self) -> None:
        """Choose who is called for a chunk, so that it costs those who keep up nothing that others do not."""
        for attachment in self.attachments.values():
            attachment.wake = self._on_gathering if self._behind else self.on_roused
            attachment.push = self._on_gathering if self._behind else self._on_pushed

    def _on_gathering(self, attachment: Attachment) -> None:
        self._ready.append(attachment)
        if self._gathering is None and not self._marked and not self.over:
            self._gathering = self._hub.loop.call_later(self._gather, self._on_gathered)

    def _on_gathered(self) -> None:
        self._gathering = None
        self._calm -= 1
        if self._ready:
            self._mark()
        if self._behind and self._calm <= 0:
            self._on_caught_up()

    def on_unpaused(self) -> None:
        """The client reads again."""
        if len(self.attachments) > 1:
            self._on_behind()
        if self._ready or self._control:
            self._mark()

    # -- one write per tick

    def _mark(self) -> None:
        if not self._marked and not self.over:
            self._marked = True
            self._hub.flusher.mark(self)

    def flush(self) -> None:
        """Write what this tick has brought: control messages first, then chunks."""
        self._marked = False
        if self.over:
            return
        if self._control:
            self._write_control()
        line = self._line
        while self._ready and not line.paused:
            # Nearly always one connection follows one stream.
            alone = len(self._ready) == 1 and not self._behind
            part = self._take(self._ready.pop()) if alone else self._take_turns()
            if part:
                self.bytes_sent += len(part)
                line.write(part)
        if self._core.close is not None:
            self._say_close(self._core.close.code, self._core.close.reason)

    def _write_control(self) -> None:
        control, self._control = self._control, []
        data = b"".join([text_frame(message) for message in control])
        self.bytes_sent += len(data)
        self._line.write_anyway(data)

    def _take_turns(self) -> bytes:
        """At most about a slice, the same number of bytes for each attachment that is ready.

        Who took more, because a chunk is never cut, is passed over until it is even; who found no room in this slice is
        the first in the next. (Deficit round robin: Shreedhar and Varghese, SIGCOMM 1995.)
        """
        ready, self._ready = self._ready, []
        whole = SHORT_SLICE if self._behind else WRITE_SLICE
        share = max(MIN_SHARE, whole // len(ready))
        parts: list[bytes] = []
        size = turns = 0
        for attachment in ready:
            if size >= whole:
                break
            turns += 1
            attachment.credit += share
            if attachment.credit <= 0:
                self._ready.append(attachment)
                continue
            part = self._take(attachment, attachment.credit, self._behind and self.batch)
            attachment.credit = 0 if attachment.waiting else attachment.credit - len(part)
            parts.append(part)
            size += len(part)
        self._ready = [*ready[turns:], *self._ready]
        return b"".join(parts)

    def _take(self, attachment: Attachment, most: int = WRITE_SLICE, joined: bool = False) -> bytes:
        span = attachment.take(most, joined)
        if span is None:
            part = b""
        else:
            first, last = span
            part = attachment.frames.span(first, last, batch=self.batch)
            if first != last and self.batch:
                self._hub.tally.conflated += last - first + 1
            if self.measuring:
                self.measuring = False
                self.measured[:] = [Measured(attachment.window, last, time.monotonic())]
        if not attachment.waiting:
            self._ready.append(attachment)
        elif attachment.log.outcome is not None:
            if attachment.take_outcome() is not None:
                part += attachment.frames.outcome()
            if attachment.told:
                self._on_told(attachment)
        return part

    def _on_told(self, attachment: Attachment) -> None:
        self._core.end_stream(attachment.log.stream_id)
        self._detach(attachment)

    # -- control messages

    def carry_out(self) -> None:
        """After the core was given something: have sent what it has to say."""
        core = self._core
        messages = core.messages_to_send()
        if messages or core.close is not None:
            self.say(messages)

    def say(self, messages: list[bytes]) -> None:
        """Send these, and the close that the core may have decided on, at the end of this tick."""
        self._control += messages
        self._mark()

    @property
    def unsaid(self) -> int:
        """Bytes of control messages that wait for the end of this tick."""
        return sum(map(len, self._control))

    # -- the end

    def close(self, code: int, reason: str) -> None:
        """Close the connection after what is pending was written."""
        if self._core.state is not ConnectionState.CLOSED:
            self._core.fail(code, reason)
            self.carry_out()

    def on_broken(self) -> None:
        """A mistake of ours must end this connection only, and say so: the client comes back and resumes."""
        self._ready.clear()
        self.close(CloseCode.INTERNAL_ERROR, "internal error")

    def _say_close(self, code: int, reason: str) -> None:
        self.over = True
        self._hub.tally.closes[int(code)] += 1
        self._line.say_close(code, reason)
        self._let_go()

    def end(self) -> None:
        """The connection is gone."""
        self.over = True
        self._let_go()
        self._ready.clear()
        self._control.clear()

    def _let_go(self) -> None:
        for attachment in list(self.attachments.values()):
            self._detach(attachment)
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering = None
