"""The log of one answer, and the cursors that read it.

Live delivery, replay, a second viewer and a slow one are all the same read: an `Attachment` is a cursor behind a
`SendWindow`, and `Attachment.take` says which chunks may go now. Whoever appends never waits for a viewer and no chunk
is ever copied for one; a viewer that is behind costs nothing but its number.

A chunk is kept as the inside of its JSON string (see `wsstream.messages`), escaped once, from which every wire builds
its own messages.
"""

from __future__ import annotations

import asyncio
from array import array
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import count, pairwise
from operator import add
from typing import Any

from wsstream.bodies import Bodies
from wsstream.chunks import Chunk, Delta, Kind, Outcome, StreamState
from wsstream.errors import ResumeAhead
from wsstream.flow import SendWindow
from wsstream.messages import StreamStatus, decode_body, encode, rewind_body, standing, text_of
from wsstream.said import Said, said_of
from wsstream.stores.base import Store

_KINDS = [bytes((kind,)) for kind in Kind]

HIGH_BYTES = 1024 * 1024
"""The high mark in bytes, for answers whose chunks are large; the low one is half of it."""

SQUEEZED_BYTES = HIGH_BYTES // 16
"""The same while memory is short."""

SNAPSHOT_BYTES = 255 * 1024
"""Bytes of contents that go into one message of a snapshot; with what is around them, 256 KiB at most."""

Span = tuple[int, int]
"""Chunk ids, both ends included."""


class Attachment:
    """One connection following one stream: a cursor, a window, and somebody to wake."""

    __slots__ = (
        "_repair",
        "credit",
        "frames",
        "log",
        "push",
        "snapshot_to",
        "tell_status",
        "told",
        "waiting",
        "wake",
        "window",
    )

    def __init__(self, log: ChunkLog, window: SendWindow, wake: Callable[[Attachment], None]) -> None:
        """``wake`` is called, at most once until the next `take`, when there may be something to take."""
        self.log = log
        self.frames: Any = None
        """What the owner makes its wire's messages with."""
        self.window = window
        self.wake = wake
        self.push = wake
        """Called instead of ``wake`` where it is new chunks that there may be to take."""
        self.tell_status: Callable[[StreamStatus], None] | None = None
        """Called with what the viewer should know while it waits: see `tell_statuses`."""
        self.waiting = True
        self.credit = 0
        """Bytes it may take in this turn, where a connection has several; less than none is owed."""
        self.told = False
        """Whether the terminal record has been taken."""
        self.snapshot_to = 0
        """Up to here what was missed may come at once, beyond the window: see `take`."""
        self._repair: Span | None = None

    def take(self, max_bytes: int, joined: bool = False) -> Span | None:
        """The next chunks that may go now, about ``max_bytes`` of them; they count as sent.

        Where the window or the log ends, the attachment is `waiting` again: its `wake` will be called. Where only
        ``max_bytes`` did, it is not, and the owner takes again. Chunks that were asked for again come first; they
        are within what was sent, so they move no window. A snapshot goes out in large pieces whatever the window; it
        counts as in flight, so that nothing follows before it is acknowledged.

        With ``joined``, ``max_bytes`` are those of the contents alone, as they are in a batch.
        """
        if self._repair is not None:
            return self._take_repair(*self._repair, max_bytes)
        window = self.window
        totals = self.log.totals
        first = window.sent + 1
        if first <= self.snapshot_to:
            window.sent = self.log.fitting(first, self.snapshot_to, SNAPSHOT_BYTES)
            self.waiting = False
            return first, window.sent
        last = window.grant(self.log.tail, totals)
        self.waiting = True
        if last < first:
            return None
        if totals[last] - totals[first - 1] > max_bytes:
            cut = self.log.fitting(first, last, max_bytes) if joined else self._cut(first, last, max_bytes)
            self.waiting = cut == last
            last = cut
        window.sent = last
        return first, last

    def _take_repair(self, first: int, last: int, max_bytes: int) -> Span:
        cut = self._cut(first, last, max_bytes)
        self._repair = None if cut == last else (cut + 1, last)
        self.waiting = False
        return first, cut

    def _cut(self, first: int, last: int, max_bytes: int) -> int:
        totals = self.log.totals
        return max(first, bisect_right(totals, totals[first - 1] + max_bytes, first, last + 1) - 1)

    def take_outcome(self) -> Outcome | None:
        """The terminal record, once, behind the last chunk."""
        log = self.log
        if self.told or log.outcome is None or self.window.sent != log.tail or self._repair is not None:
            return None
        self.told = True
        return log.outcome

    def rouse(self) -> None:
        """Have the owner look again."""
        if self.waiting:
            self.waiting = False
            self.wake(self)

    def tell_statuses(self, tell: Callable[[StreamStatus], None]) -> None:
        """Call ``tell`` with why the viewer waits: at once if it does so already, and for whatever comes."""
        self.tell_status = tell
        if self.log.status is not None:
            tell(self.log.status)

    def on_acked(self) -> None:
        """The window has moved on."""
        self.log.on_floor_moved()
        if self.window.sent < self.log.tail or self.log.outcome is not None:
            self.rouse()

    def send_again(self, first: int, last: int) -> None:
        """Send ``first`` … ``last`` again, as far as they were sent, and as many as a window holds."""
        last = min(last, self.window.sent, first + self.window.limit - 1)
        if first <= last:
            self._repair = (first, last)
            self.rouse()


class ChunkLog:
    """A stream's chunks, append-only, and at the end its one outcome.

    ``tail`` is the last chunk that viewers may see: one whose commit has returned (written before sent).
    """

    HIGH = 1000
    LOW = 500

    __slots__ = (
        "_broken",
        "_data",
        "_delivered",
        "_durable",
        "_high_bytes",
        "_kinds",
        "_newest",
        "_newest_id",
        "_overhead",
        "_pending_outcome",
        "_reached",
        "_room",
        "_room_until",
        "_status",
        "_status_at",
        "_store",
        "_watchers",
        "_weight_until",
        "attachments",
        "epoch",
        "high",
        "loaded",
        "low",
        "on_deserted",
        "on_ending",
        "on_stop",
        "outcome",
        "paused",
        "sole",
        "state",
        "stop_at",
        "stream_id",
        "tail",
        "totals",
        "weight",
        "wire_cache",
    )

    def __init__(
        self,
        stream_id: str,
        epoch: str,
        store: Store,
        *,
        overhead: int = 0,
        high: int = HIGH,
        low: int = LOW,
        on_deserted: Callable[[], None] | None = None,
        on_ending: Callable[[Outcome], None] | None = None,
    ) -> None:
        """An empty log.

        Args:
            overhead: bytes that a chunk weighs in a byte window beyond its content.
            high: chunks that may exist beyond the slowest viewer's ack before `has_room` says no.
            low: and how far that must fall before it says yes again.
            on_deserted: called when the last viewer leaves.
            on_ending: called with the outcome before it is given to the store, to write what is to be kept with it.
        """
        self.stream_id = stream_id
        self.epoch = epoch
        self.state = StreamState.RUNNING
        self.outcome: Outcome | None = None
        self.tail = 0
        self.totals = array("Q", (0,))
        """Bytes of the chunks 1 … n together, each with its overhead."""
        self.weight = 0
        """Bytes appended: the last of `totals`."""
        self.attachments: list[Attachment] = []
        self.sole: Attachment | None = None
        """The one of `attachments`, where there is just one."""
        self.wire_cache: dict[type, Any] = {}
        """What a wire derives once from this log for all its viewers."""
        self.loaded = True
        """Whether the chunks are in memory. Those of an ended log may be in its store only: see `fill`."""
        self.high = high
        self.low = low
        self.on_deserted = on_deserted
        self.on_ending = on_ending
        self.paused = False
        """Whether nothing is to be appended until somebody attaches."""
        self.stop_at: int | None = None
        """The chunk at which `on_stop` is called."""
        self.on_stop: Callable[[], None] | None = None
        self._broken = False
        self._delivered = 0
        self._reached = 0
        self._status: StreamStatus | None = None
        self._status_at = 0
        self._store = store
        self._durable = store.durable
        self._overhead = overhead
        # All bodies, end to end: an object for each would take four times their size. Where they begin is in `totals`.
        self._data = bytearray()
        self._kinds = bytearray()  # empty as long as all is text
        self._newest = b""  # the body of the last chunk that came alone: whoever keeps up asks for it at once
        self._newest_id = 0
        self._room: asyncio.Future[None] | None = None
        self._room_until = high
        self._high_bytes = HIGH_BYTES
        self._weight_until = HIGH_BYTES
        self._pending_outcome: Outcome | None = None
        self._watchers: list[Callable[[ChunkLog], None]] = []

    def __repr__(self) -> str:
        return f"<ChunkLog {self.stream_id} {self.state} tail={self.tail} viewers={len(self.attachments)}>"

    def __len__(self) -> int:
        """Chunks appended, seen or not."""
        return len(self.totals) - 1

    @property
    def ending(self) -> bool:
        """Whether its outcome is settled, stored or not."""
        return self._pending_outcome is not None

    # -- writing

    def append(self, deltas: Sequence[Delta]) -> None:
        """Number ``deltas`` and store them; viewers see them when the store has committed.

        Raises:
            UnicodeEncodeError: a content holds a lone surrogate. Nothing was appended.
        """
        bodies = [encode(delta.content)[1:-1] for delta in deltas]
        self.append_bodies(bodies, bytes([delta.kind for delta in deltas]))

    def append_one(self, delta: Delta) -> bool:
        """As `append`, of one delta, and `has_room` behind it: nearly every token comes alone, and each list built for
        it, each call and each further place in memory is felt.
        """
        if self._broken:
            return self.has_room()
        self._newest = body = encode(delta.content)[1:-1]
        self._data += body
        totals = self.totals
        self.weight = weight = self.weight + len(body) + self._overhead
        totals.append(weight)
        self._newest_id = last = len(totals) - 1
        if delta.kind or self._kinds:
            self._note_kinds(last - 1, _KINDS[delta.kind])
        if self._durable:
            self._store.append(self.stream_id, last, [body], _KINDS[delta.kind], self._on_committed)
        else:
            self._on_committed(last)  # there is nothing to wait for
        return (last < self._room_until and weight < self._weight_until) or self.has_room()

    def append_bodies(self, bodies: list[bytes], kinds: bytes) -> None:
        """As `append`, for contents that are escaped already."""
        if self._broken:
            return
        first = len(self.totals)
        data = self._data
        totals = self.totals
        total = self.weight
        for body in bodies:
            data += body
            total += len(body) + self._overhead
            totals.append(total)
        self.weight = total
        if self._kinds or any(kinds):
            self._note_kinds(first - 1, kinds)
        self._store.append(self.stream_id, first, bodies, kinds, self._on_committed)

    def _note_kinds(self, before: int, kinds: bytes) -> None:
        """The kinds of the chunks behind ``before``, not all of which are text."""
        if not self._kinds:
            self._kinds = bytearray(before)
        self._kinds += kinds

    def rewind(self, to_chunk_id: int, reason: str) -> None:
        """Withdraw what came behind ``to_chunk_id``. It stays in the log, and a chunk behind it says so."""
        behind = [body for chunk_id, body in self._standing() if chunk_id > to_chunk_id]
        withdrawn = len(decode_body(b"".join(behind)))
        self.append_bodies([rewind_body(to_chunk_id, reason, withdrawn)], bytes([Kind.REWIND]))

    def _on_committed(self, last: int) -> None:
        if self._broken:
            return
        self.tail = last
        if self._room is not None:
            self.on_floor_moved()
        sole = self.sole
        if sole is None:
            self._push_all()
        elif sole.waiting:  # as `rouse`, without the call: this runs for every token
            sole.waiting = False
            push = sole.push  # by a name: Python looks for a method first where a slot is called
            push(sole)

    def _push_all(self) -> None:
        for attachment in self.attachments:
            if attachment.waiting:
                attachment.waiting = False
                attachment.push(attachment)

    def finish(self, outcome: Outcome) -> None:
        """End the log. The first outcome stands; later ones are ignored."""
        if self._pending_outcome is not None:
            return
        self._pending_outcome = outcome
        self._release_room()
        if self._broken:
            # Viewers get their ending whatever becomes of the store; there, it is tried.
            self._on_finished()
        self._store_ending(outcome)

    def _store_ending(self, outcome: Outcome) -> None:
        if self.on_ending is not None:
            self.on_ending(outcome)
        # Its own buffers, which nothing changes any more: a copy of every log that ends would be felt.
        self._store.finish(self.stream_id, outcome, self._whole(len(self)), bytes(self._all_kinds()), self._on_finished)

    def on_store_failed(self, outcome: Callable[[int], Outcome]) -> None:
        """The store has lost a write: what it does not have, nobody has seen, and it is as if it had never been.

        If the log was only waiting for its end to be stored, it ends with ``outcome(tail)`` now; otherwise its producer
        is expected to finish it. Nothing can be appended any more.
        """
        if self.outcome is not None:
            return
        self._broken = True
        end = self._end(self.tail)  # and not in place: the store may be reading the buffers
        self._data, self._kinds, self.totals = self._data[:end], self._kinds[: self.tail], self.totals[: self.tail + 1]
        self.weight = self.totals[-1]
        if self._pending_outcome is not None:
            self._pending_outcome = outcome(self.tail)
            self._on_finished()
            self._store_ending(self._pending_outcome)

    def when_finished(self, tell: Callable[[ChunkLog], None]) -> None:
        """Call ``tell``, once however often this is asked, when the outcome is there; at once if it is."""
        if self.outcome is not None:
            tell(self)
        elif tell not in self._watchers:
            self._watchers.append(tell)

    def _on_finished(self) -> None:
        if self.outcome is not None:
            return
        assert self._pending_outcome is not None
        self.outcome = self._pending_outcome
        self.state = self.outcome.state
        watchers, self._watchers = self._watchers, []
        for tell in watchers:
            tell(self)
        for attachment in list(self.attachments):  # whoever takes the end leaves
            attachment.rouse()

    # -- ended logs

    @classmethod
    def ended(cls, stream_id: str, epoch: str, store: Store, outcome: Outcome, *, overhead: int) -> ChunkLog:
        """A log that has ended, with its chunks still in ``store``."""
        log = cls(stream_id, epoch, store, overhead=overhead)
        log.outcome = log._pending_outcome = outcome
        log.state = outcome.state
        log.tail = outcome.final_chunk_id
        log.loaded = False
        return log

    def fill(self, bodies: Sequence[bytes], kinds: bytes) -> None:
        """The chunks, as the store has them."""
        whole = Bodies.of(bodies)
        self._data = bytearray(whole.data)
        self._kinds = bytearray(kinds if any(kinds) else b"")
        more = self._overhead - whole.overhead
        self.totals = array("Q", map(add, whole.totals, count(0, more))) if more else whole.totals
        self.weight = self.totals[-1]
        self.loaded = True

    def go_on_from(self, bodies: Sequence[bytes], kinds: bytes) -> None:
        """The chunks of a process before this one, behind which more are to come; its viewers have seen them."""
        self.fill(bodies, kinds)
        self.tail = self._reached = len(self)

    def empty(self) -> None:
        """Leave the chunks to the store again; nobody is attached."""
        self._data = bytearray()
        self._kinds = bytearray()
        self.totals = array("Q", (0,))
        self.weight = 0
        self.wire_cache.clear()
        self.loaded = False

    # -- reading

    def text(self) -> str:
        """The text of the answer so far, without what was withdrawn."""
        return self._text(self.tail)

    def whole_text(self) -> str:
        """The same, with what is not committed yet."""
        return self._text(len(self))

    def said(self) -> Said:
        """All that the answer has said so far, without what was withdrawn."""
        return self._said(self.tail)

    def whole_said(self) -> Said:
        """The same, with what is not committed yet."""
        return self._said(len(self))

    def _said(self, last: int) -> Said:
        return said_of(self._whole(last), self._kinds) if self._kinds else Said(self._text(last))

    def _text(self, last: int) -> str:
        if not self._kinds:
            return decode_body(self.joined(1, last))
        return text_of(self._whole(last), self._kinds)

    def _whole(self, last: int) -> Bodies:
        """The chunks 1 … ``last`` in the buffers that they are in; nothing of all is copied, whatever their number."""
        totals = self.totals
        return Bodies(self._data, totals if last == len(self) else totals[: last + 1], self._overhead)

    def holds(self, *kinds: Kind) -> bool:
        """Whether a chunk of one of these kinds was appended."""
        there = self._all_kinds()
        return any(kind in there for kind in kinds)

    def parts(self) -> list[tuple[int, str]]:
        """The text that stands, with what is not committed yet: the ids of its chunks and what they hold."""
        return [(chunk_id, decode_body(body)) for chunk_id, body in self._standing()]

    def _standing(self) -> list[tuple[int, bytes]]:
        return standing(self._whole(len(self)), self._all_kinds())

    def _all_kinds(self) -> bytearray:
        return self._kinds or bytearray(len(self))

    def _end(self, chunk_id: int) -> int:
        """Where the body of a chunk ends in the data."""
        return self.totals[chunk_id] - chunk_id * self._overhead

    def joined(self, first: int, last: int) -> bytes:
        """The bodies of the chunks ``first`` … ``last``, end to end."""
        return bytes(self._data[self._end(first - 1) : self._end(last)])

    def bodies(self, first: int, last: int) -> list[bytes]:
        """The same, one by one."""
        ends = [self._end(chunk_id) for chunk_id in range(first - 1, last + 1)]
        return [bytes(self._data[start:end]) for start, end in pairwise(ends)]

    def kinds(self, first: int, last: int) -> bytearray:
        """Their kinds."""
        if self._kinds:
            return self._kinds[first - 1 : last]
        return bytearray(max(0, min(last, len(self)) - first + 1))

    def entry(self, chunk_id: int) -> tuple[bytes, int]:
        """One body and its kind."""
        kind = self._kinds[chunk_id - 1] if self._kinds else Kind.TEXT
        if chunk_id == self._newest_id:
            return self._newest, kind
        end = self.totals[chunk_id] - chunk_id * self._overhead
        start = self.totals[chunk_id - 1] - (chunk_id - 1) * self._overhead
        return bytes(self._data[start:end]), kind

    def size(self, first: int, last: int) -> int:
        """Bytes of their bodies alone."""
        return self.totals[last] - self.totals[first - 1] - self._overhead * (last - first + 1)

    def fitting(self, first: int, last: int, max_bytes: int) -> int:
        """The last chunk up to ``last`` with which the bodies from ``first`` on fit; ``first`` goes in any case."""
        end = bisect_right(range(last + 1), max_bytes, first, last + 1, key=lambda n: self.size(first, n))
        return max(first, end - 1)

    def chunks(self, first: int, last: int) -> list[Chunk]:
        """The chunks ``first`` … ``last``, decoded; what a rewind says is a JSON object."""
        return [
            Chunk(first + i, decode_body(body) if kind != Kind.REWIND else f"{{{body.decode()}}}", Kind(kind))
            for i, (body, kind) in enumerate(zip(self.bodies(first, last), self.kinds(first, last), strict=True))
        ]

    def check_position(self, last_chunk_id: int) -> None:
        """See that a viewer may go on behind ``last_chunk_id``.

        Raises:
            ResumeAhead: there is no such chunk (yet).
        """
        if last_chunk_id > self.tail:
            raise ResumeAhead(f"Chunk {last_chunk_id} was asked for, the stream ends at {self.tail}")

    # -- viewers

    @property
    def status(self) -> StreamStatus | None:
        """Why viewers wait. What it says is over with the next chunk."""
        return self._status if self._status_at == len(self) and self._pending_outcome is None else None

    def tell_status(self, status: StreamStatus) -> None:
        """Tell all viewers, and those who attach before the next chunk, why they wait."""
        self._status = status
        self._status_at = len(self)
        for attachment in self.attachments:
            if attachment.tell_status is not None:
                attachment.tell_status(status)

    def attach(self, window: SendWindow, wake: Callable[[Attachment], None]) -> Attachment:
        """A new viewer, from behind ``window.sent``."""
        attachment = Attachment(self, window, wake)
        self.attachments.append(attachment)
        self.sole = attachment if len(self.attachments) == 1 else None
        self._room_until = min(self._room_until, window.acked + self.high)
        self._weight_until = min(self._weight_until, self.totals[window.acked] + self._high_bytes)
        self.stop_at = None
        self.paused = False
        self.on_floor_moved()
        return attachment

    def detach(self, attachment: Attachment) -> None:
        """The viewer is gone. The producer no longer waits for it."""
        if attachment not in self.attachments:
            return
        self.attachments.remove(attachment)
        self.sole = self.attachments[0] if len(self.attachments) == 1 else None
        self._delivered = max(self._delivered, attachment.window.acked)
        self._reached = max(self._reached, attachment.window.sent)
        self.on_floor_moved()
        if not self.attachments:
            self._be_deserted()

    def _be_deserted(self) -> None:
        if self.outcome is not None:
            self.wire_cache.clear()  # up to a snapshot's message, which nobody counts
        if self.on_deserted is not None:
            self.on_deserted()

    def let_go(self) -> None:
        """Nobody finds the log any more: hold nobody who holds it, so that it goes with its last reader."""
        self.on_ending = self.on_stop = None
        if not self.attachments:
            self.on_deserted = None
            self.wire_cache.clear()

    @property
    def delivered(self) -> int:
        """The furthest ack of any viewer, also of those who have left."""
        return max([self._delivered, *[attachment.window.acked for attachment in self.attachments]])

    @property
    def unsent(self) -> int:
        """Chunks that were sent to nobody yet."""
        return len(self) - max([self._reached, *[attachment.window.sent for attachment in self.attachments]])

    @property
    def floor(self) -> int:
        """The ack of the slowest viewer; the tail where there is none.

        Not what was appended: chunks that wait for their commit wait in memory, and are bounded like any other.
        """
        return min((a.window.acked for a in self.attachments), default=self.tail)

    # -- room: the producer's side of backpressure

    def has_room(self) -> bool:
        """Whether the producer may read on. O(1) but for every ``high``-th chunk or so."""
        size = len(self.totals) - 1
        if size < self._room_until and self.weight < self._weight_until:
            return True
        if self.paused:
            return False
        floor = self.floor
        self._room_until = floor + self.high
        self._weight_until = self.totals[floor] + self._high_bytes
        if self.stop_at is not None and self.on_stop is not None:
            self._room_until = min(self._room_until, self.stop_at)
            if size >= self.stop_at:
                self.on_stop()
        return size < self._room_until and self.weight < self._weight_until

    def pause(self) -> None:
        """Have no room until somebody attaches."""
        self.paused = True
        self._room_until = 0

    def squeeze(self, squeezed: bool) -> None:
        """Let the provider be less far ahead of the slowest viewer, because memory is short; or as far as usual."""
        self._high_bytes = SQUEEZED_BYTES if squeezed else HIGH_BYTES
        self._weight_until = 0
        self.on_floor_moved()

    def go_on(self) -> None:
        """The end of a `pause`, though nobody has attached."""
        self.paused = False
        self.on_floor_moved()

    def stop_after(self, chunks: int, on_stop: Callable[[], None]) -> None:
        """Call ``on_stop`` when ``chunks`` more were appended, unless somebody attaches before."""
        self.stop_at = len(self) + chunks
        self.on_stop = on_stop
        self._room_until = min(self._room_until, self.stop_at)
        if not chunks:
            on_stop()

    async def wait_room(self) -> None:
        """Wait until the slowest viewer is at most ``low`` chunks behind, or has left; not at all where it is so.

        Any number of tasks may wait: a provider may have several, and one of a try that is over may still be here.
        """
        if self._pending_outcome is None and not self._is_near():
            if self._room is None:
                self._room = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._room)  # the cancel of one is not that of the others

    def on_floor_moved(self) -> None:
        """An ack came or a viewer left."""
        if self._room is not None and self._is_near():
            self._release_room()

    def _is_near(self) -> bool:
        size = len(self)
        if self.paused or (self.stop_at is not None and size >= self.stop_at):
            return False
        floor = self.floor
        return size - floor <= self.low and self.weight - self.totals[floor] <= self._high_bytes // 2

    def _release_room(self) -> None:
        room, self._room = self._room, None
        if room is not None:
            room.set_result(None)
