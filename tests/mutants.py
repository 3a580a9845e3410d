"""Mistakes that somebody could make, each patched into the core on its own; the worlds must notice every one.

The last section holds mistakes that this code really had. Left out, because they are harmless by design, or invisible
from the outside:

* A client that acknowledges again, after a resume, what the resume has acknowledged: acks are idempotent.
* A pacer that waits for more than half a window: no ack is later than its delay, so the window is only used badly.
* A repeated request that opens a fresh window: the viewer ignores what it has, and its acks fit the new window.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from wsstream import messages as m
from wsstream.chunklog import Attachment, ChunkLog
from wsstream.chunks import Kind, Outcome
from wsstream.client_protocol import _CLIENT_HANDLERS, ClientProtocol, Piece, View
from wsstream.flow import AckPacer, AdaptiveWindow, SendWindow
from wsstream.frames import FrameBook
from wsstream.messages import ChunkWriter
from wsstream.protocol import ServerProtocol
from wsstream.states import ConnectionState, ViewState

INFINITE = float("inf")


class Mutant(NamedTuple):
    """One mistake."""

    name: str
    plant: Callable[[pytest.MonkeyPatch], None]


MUTANTS: list[Mutant] = []


def mutant(plant: Callable[[pytest.MonkeyPatch], None]) -> Callable[[pytest.MonkeyPatch], None]:
    """Put it on the list under its function's name."""
    MUTANTS.append(Mutant(plant.__name__, plant))
    return plant


def replace(patch: pytest.MonkeyPatch, owner: type, name: str, make: Callable[[Any], Any]) -> None:
    """Replace ``owner.name`` by what ``make`` makes of it."""
    patch.setattr(owner, name, make(getattr(owner, name)))


# -- windows


@mutant
def window_not_enforced(patch: pytest.MonkeyPatch) -> None:
    """Only bytes limit what is in flight."""

    def grant(self: SendWindow, tail: int, totals: Any) -> int:
        if tail > self.sent and totals[tail] > totals[self.acked] + self.limit_bytes:
            return max(self._fit_bytes(tail, totals), self.sent)
        return tail

    patch.setattr(SendWindow, "grant", grant)


@mutant
def window_one_too_wide(patch: pytest.MonkeyPatch) -> None:
    """One chunk more than the window holds is in flight."""

    def widen(grant: Any) -> Any:
        def grant_more(self: SendWindow, tail: int, totals: Any) -> int:
            self.limit += 1
            try:
                return int(grant(self, tail, totals))
            finally:
                self.limit -= 1

        return grant_more

    replace(patch, SendWindow, "grant", widen)


@mutant
def bytes_window_ignored(patch: pytest.MonkeyPatch) -> None:
    """Only the number of chunks limits what is in flight."""
    patch.setattr(SendWindow, "_fit_bytes", lambda self, last, totals: last)


@mutant
def bytes_counted_from_sent(patch: pytest.MonkeyPatch) -> None:
    """What is in flight already is forgotten when bytes are counted."""

    def fit(self: SendWindow, last: int, totals: Any) -> int:
        budget = totals[self.sent] + self.limit_bytes
        while last > self.sent + 1 and totals[last] > budget:
            last -= 1
        return last

    patch.setattr(SendWindow, "_fit_bytes", fit)


@mutant
def large_chunk_waits_for_ever(patch: pytest.MonkeyPatch) -> None:
    """A chunk larger than the byte window is never sent, not even alone."""

    def only_fitting(fit: Any) -> Any:
        def fit_strictly(self: SendWindow, last: int, totals: Any) -> int:
            found = int(fit(self, last, totals))
            return found if totals[found] <= totals[self.acked] + self.limit_bytes else self.sent

        return fit_strictly

    replace(patch, SendWindow, "_fit_bytes", only_fitting)


@mutant
def ack_regression_accepted(patch: pytest.MonkeyPatch) -> None:
    """An old ack that comes late moves the floor back."""

    def on_ack(self: SendWindow, chunk_id: int) -> bool:
        self.acked = chunk_id
        return True

    patch.setattr(SendWindow, "on_ack", on_ack)


@mutant
def timeout_widens_window(patch: pytest.MonkeyPatch) -> None:
    """A quiet viewer gets a larger window with every timer."""

    def widen(handle: Any) -> Any:
        def handle_timer(self: ServerProtocol, now: float) -> None:
            handle(self, now)
            for window in self._windows.values():
                window.limit *= 2

        return handle_timer

    replace(patch, ServerProtocol, "handle_timer", widen)


@mutant
def timeout_counts_as_ack(patch: pytest.MonkeyPatch) -> None:
    """What is long in flight is taken to have arrived."""

    def forget(handle: Any) -> Any:
        def handle_timer(self: ServerProtocol, now: float) -> None:
            handle(self, now)
            for window in self._windows.values():
                window.acked = window.sent

        return handle_timer

    replace(patch, ServerProtocol, "handle_timer", forget)


@mutant
def adaptive_window_leaps(patch: pytest.MonkeyPatch) -> None:
    """The adaptive window goes to its ceiling at the first ack."""

    def on_ack(self: AdaptiveWindow, window: SendWindow, now: float, round_trip: float | None) -> None:
        window.limit = self._ceiling

    patch.setattr(AdaptiveWindow, "on_ack", on_ack)


# -- acks


@mutant
def pacer_drops_acks(patch: pytest.MonkeyPatch) -> None:
    """An ack that could wait is not sent at all."""

    def on_processed(self: AckPacer, chunk_id: int, now: float, size: int) -> int | None:
        self.processed = chunk_id
        return self.take() if chunk_id - self.acked >= self.pace.chunks else None

    patch.setattr(AckPacer, "on_processed", on_processed)


@mutant
def ack_deadline_moves_on(patch: pytest.MonkeyPatch) -> None:
    """Every chunk begins the ack's delay anew, so that a steady reader owes it for too long."""

    def on_processed(self: AckPacer, chunk_id: int, now: float, size: int) -> int | None:
        self.processed = chunk_id
        self.deadline = now + self.pace.delay
        return self.take() if chunk_id - self.acked >= self.pace.chunks else None

    patch.setattr(AckPacer, "on_processed", on_processed)


@mutant
def received_counts_as_processed(patch: pytest.MonkeyPatch) -> None:
    """The client acknowledges what has come, not what was read."""

    def acknowledge(self: ClientProtocol, view: View, chunk_id: int | None, now: float) -> None:
        if chunk_id is not None and self._follows(view) and view.state is not ViewState.LOST:
            self._send(m.ChunkAck(chunk_id=view.received, stream_id=view.stream_id))

    patch.setattr(ClientProtocol, "_acknowledge", acknowledge)


@mutant
def late_ack_of_an_ended_stream_refused(patch: pytest.MonkeyPatch) -> None:
    """The server forgets a stream with its terminal message."""
    patch.setattr(ServerProtocol, "end_stream", lambda self, stream_id: self._windows.pop(stream_id, None))


# -- resume


@mutant
def server_resumes_one_too_late(patch: pytest.MonkeyPatch) -> None:
    """The server goes on at ``last_chunk_id + 2``."""

    def shift(open_window: Any) -> Any:
        def open_later(self: ServerProtocol, stream_id: str, start: int) -> Any:
            return open_window(self, stream_id, start + 1 if start else 0)

        return open_later

    replace(patch, ServerProtocol, "_open_window", shift)


@mutant
def resume_is_not_an_ack(patch: pytest.MonkeyPatch) -> None:
    """What a resume acknowledges still counts as in flight."""

    def keep(open_window: Any) -> Any:
        def open_full(self: ServerProtocol, stream_id: str, start: int) -> Any:
            window = open_window(self, stream_id, start)
            window.acked = max(0, start - window.limit)
            return window

        return open_full

    replace(patch, ServerProtocol, "_open_window", keep)


@mutant
def client_resumes_from_received(patch: pytest.MonkeyPatch) -> None:
    """The client asks to go on behind what it had received, and has thrown away."""

    def keep(forget: Any) -> Any:
        def forget_pieces_only(self: ClientProtocol, view: View) -> None:
            received = view.received
            forget(self, view)
            view._pacer.processed = view.received = received

        return forget_pieces_only

    replace(patch, ClientProtocol, "_forget_untaken", keep)


@mutant
def untaken_pieces_kept(patch: pytest.MonkeyPatch) -> None:
    """What was received and not read stays over a reconnect, where it comes again."""

    def forget(self: ClientProtocol, view: View) -> None:
        view.received = view.processed

    patch.setattr(ClientProtocol, "_forget_untaken", forget)


@mutant
def lost_views_not_resumed(patch: pytest.MonkeyPatch) -> None:
    """A new connection does not ask for what the old one was following."""
    patch.setattr(ClientProtocol, "_resume", lambda self, view, *, snapshot=False: None)


@mutant
def unanswered_request_not_repeated(patch: pytest.MonkeyPatch) -> None:
    """A request that went down with its connection is forgotten."""

    def forget(lost: Any) -> Any:
        def connection_lost(self: ClientProtocol) -> None:
            lost(self)
            self._requested.clear()

        return connection_lost

    replace(patch, ClientProtocol, "connection_lost", forget)


# -- chunks


@mutant
def terminal_before_the_last_chunk(patch: pytest.MonkeyPatch) -> None:
    """The end is told as soon as it is known."""

    def take_outcome(self: Attachment) -> Outcome | None:
        if self.told or self.log.outcome is None:
            return None
        self.told = True
        return self.log.outcome

    patch.setattr(Attachment, "take_outcome", take_outcome)


@mutant
def terminal_told_twice(patch: pytest.MonkeyPatch) -> None:
    """The application hears of one end two times."""

    def on_end(end: Any) -> Any:
        def end_again(self: ClientProtocol, view: View, outcome: Outcome) -> None:
            end(self, view, outcome)
            self._events.append(self._events[-1])

        return end_again

    replace(patch, ClientProtocol, "_end", on_end)


@mutant
def duplicate_read_twice(patch: pytest.MonkeyPatch) -> None:
    """The client takes every chunk that comes."""

    def take_in(careful: Any) -> Any:
        def take_all(self: ClientProtocol, stream_id: str, piece: Piece) -> None:
            view = self._streams.get(stream_id)
            if view is not None and piece.last <= view.received:
                view.received = piece.first - 1
            careful(self, stream_id, piece)

        return take_all

    replace(patch, ClientProtocol, "_take_in", take_in)


@mutant
def gap_ignored(patch: pytest.MonkeyPatch) -> None:
    """The client goes on behind a hole."""

    def take_in(careful: Any) -> Any:
        def take_beyond(self: ClientProtocol, stream_id: str, piece: Piece) -> None:
            view = self._streams.get(stream_id)
            if view is not None and piece.first > view.received:
                view.received = piece.first - 1
            careful(self, stream_id, piece)

        return take_beyond

    replace(patch, ClientProtocol, "_take_in", take_in)


@mutant
def batch_names_one_too_few(patch: pytest.MonkeyPatch) -> None:
    """A batch says that it ends one chunk before it does."""

    def shorten(batch: Any) -> Any:
        def short_batch(self: ChunkWriter, first: int, last: int, bodies: list[bytes], kind: int) -> bytes:
            return bytes(batch(self, first, last - 1, bodies, kind))

        return short_batch

    replace(patch, ChunkWriter, "batch", shorten)


@mutant
def batch_leaves_out_its_last_chunk(patch: pytest.MonkeyPatch) -> None:
    """The text of a batch is one chunk short."""

    def shorten(batch: Any) -> Any:
        def short_batch(self: ChunkWriter, first: int, last: int, body: bytes, kind: int) -> bytes:
            return bytes(batch(self, first, last, body.rpartition(b" ")[0], kind))

        return short_batch

    replace(patch, ChunkWriter, "batch", shorten)


@mutant
def batch_runs_over_a_change_of_kind(patch: pytest.MonkeyPatch) -> None:
    """The first chunk of the next kind is taken into the run before it."""

    def lengthen(run_end: Any) -> Any:
        def late_end(self: FrameBook, begin: int, last: int, *rest: Any) -> int:
            return min(last, int(run_end(self, begin, last, *rest)) + 1)

        return late_end

    replace(patch, FrameBook, "_run_end", lengthen)


@mutant
def slice_cut_off_by_one(patch: pytest.MonkeyPatch) -> None:
    """Where a write is full, the chunk that did not fit is skipped."""

    def skip(take: Any) -> Any:
        def take_and_skip(self: Attachment, max_bytes: int) -> Any:
            span = take(self, max_bytes)
            if not self.waiting and self._repair is None and self.window.sent < self.log.tail:
                self.window.sent += 1
            return span

        return take_and_skip

    replace(patch, Attachment, "take", skip)


# -- rewinds


@mutant
def rewind_counts_bytes(patch: pytest.MonkeyPatch) -> None:
    """What a rewind says to be withdrawn is counted as it is stored, escaped and encoded."""

    def rewind(self: ChunkLog, to_chunk_id: int, reason: str) -> None:
        size = sum(len(body) for chunk_id, body in self._standing() if chunk_id > to_chunk_id)
        self.append_bodies([m.rewind_body(to_chunk_id, reason, size)], bytes([Kind.REWIND]))

    patch.setattr(ChunkLog, "rewind", rewind)


@mutant
def rewind_counts_the_withdrawn_again(patch: pytest.MonkeyPatch) -> None:
    """A second rewind withdraws once more what the first has withdrawn already."""

    def rewind(self: ChunkLog, to_chunk_id: int, reason: str) -> None:
        behind = [chunk for chunk in self.chunks(to_chunk_id + 1, len(self)) if chunk.kind is Kind.TEXT]
        size = sum(len(chunk.content) for chunk in behind)
        self.append_bodies([m.rewind_body(to_chunk_id, reason, size)], bytes([Kind.REWIND]))

    patch.setattr(ChunkLog, "rewind", rewind)


@mutant
def rewind_counts_reasoning(patch: pytest.MonkeyPatch) -> None:
    """What was only thought is counted with what was said."""

    def standing(bodies: Any, kinds: Any) -> list[tuple[int, bytes]]:
        return plainly(bodies, [Kind.TEXT if kind == Kind.REASONING else kind for kind in kinds])

    plainly = m.standing
    patch.setattr("wsstream.chunklog.standing", standing)


@mutant
def rewind_goes_one_too_far(patch: pytest.MonkeyPatch) -> None:
    """The chunk that a rewind names goes too."""

    def go_far(rewind: Any) -> Any:
        def rewind_far(self: ChunkLog, to_chunk_id: int, reason: str) -> None:
            rewind(self, max(0, to_chunk_id - 1), reason)

        return rewind_far

    replace(patch, ChunkLog, "rewind", go_far)


@mutant
def rewind_sent_in_a_batch(patch: pytest.MonkeyPatch) -> None:
    """A rewind is merged with what follows it."""

    def lengthen(run_end: Any) -> Any:
        def run_on(self: FrameBook, begin: int, last: int, kind: int, *rest: Any) -> int:
            return min(begin + 1, last) if kind == Kind.REWIND else int(run_end(self, begin, last, kind, *rest))

        return run_on

    replace(patch, FrameBook, "_run_end", lengthen)


@mutant
def rewind_not_acknowledged(patch: pytest.MonkeyPatch) -> None:
    """The client carries a rewind out without counting it among the chunks."""

    def take_in(careful: Any) -> Any:
        def take_uncounted(self: ClientProtocol, stream_id: str, piece: Piece) -> None:
            careful(self, stream_id, piece)
            view = self._streams.get(stream_id)
            if view is not None and piece.kind == "rewind" and view.received == piece.last:
                view.received -= 1

        return take_uncounted

    replace(patch, ClientProtocol, "_take_in", take_in)


@mutant
def history_ignores_rewinds(patch: pytest.MonkeyPatch) -> None:
    """What was withdrawn is still part of the answer's text."""

    def text_of(bodies: Any, kinds: Any, wanted: Kind = Kind.TEXT) -> str:
        return m.decode_body(b"".join(b for b, kind in zip(bodies, kinds, strict=False) if kind == wanted))

    patch.setattr("wsstream.chunklog.text_of", text_of)
    patch.setattr("wsstream.said.text_of", text_of)


# -- log and producer


@mutant
def shown_before_commit(patch: pytest.MonkeyPatch) -> None:
    """Chunks are visible when they are appended, not when they are stored."""

    def show(append: Any) -> Any:
        def append_and_show(self: ChunkLog, bodies: list[bytes], kinds: bytes) -> None:
            append(self, bodies, kinds)
            self._on_committed(len(self))

        return append_and_show

    replace(patch, ChunkLog, "append_bodies", show)


@mutant
def fastest_viewer_sets_the_pace(patch: pytest.MonkeyPatch) -> None:
    """The producer waits for the fastest viewer, not for the slowest."""
    fastest = property(lambda self: max((a.window.acked for a in self.attachments), default=len(self)))
    patch.setattr(ChunkLog, "floor", fastest)


@mutant
def producer_never_woken(patch: pytest.MonkeyPatch) -> None:
    """Nobody tells the producer that there is room again."""
    patch.setattr(ChunkLog, "on_floor_moved", lambda self: None)


@mutant
def new_viewer_not_waited_for(patch: pytest.MonkeyPatch) -> None:
    """A viewer that joins from the start does not hold the producer back."""

    def ignore(attach: Any) -> Any:
        def attach_unnoticed(self: ChunkLog, window: SendWindow, wake: Any) -> Attachment:
            until = self._room_until
            attachment: Attachment = attach(self, window, wake)
            self._room_until = until
            return attachment

        return attach_unnoticed

    replace(patch, ChunkLog, "attach", ignore)


# -- silence


@mutant
def server_never_misses_a_client(patch: pytest.MonkeyPatch) -> None:
    """The server keeps a silent connection, and its viewer holds the producer back for ever."""

    def hear(handle: Any) -> Any:
        def handle_timer(self: ServerProtocol, now: float) -> None:
            self.last_heard = now
            handle(self, now)

        return handle_timer

    replace(patch, ServerProtocol, "handle_timer", hear)


@mutant
def client_sends_no_sign_of_life(patch: pytest.MonkeyPatch) -> None:
    """A client that waits for text neither answers heartbeats nor sends any."""

    def silence(established: Any) -> Any:
        def without_beats(self: ClientProtocol, message: Any, now: float) -> None:
            established(self, message, now)
            self._next_beat = INFINITE

        return without_beats

    patch.setitem(_CLIENT_HANDLERS, m.Heartbeat, lambda self, message, now: None)
    patch.setitem(_CLIENT_HANDLERS, m.ConnectionEstablished, silence(_CLIENT_HANDLERS[m.ConnectionEstablished]))


# -- mistakes that were really made


@mutant
def hello_unanswered_for_ever(patch: pytest.MonkeyPatch) -> None:
    """A client whose connection falls silent before the hello is answered waits without end."""

    def forget(connect: Any) -> Any:
        def connect_patiently(self: ClientProtocol, now: float) -> None:
            connect(self, now)
            self._timeout = INFINITE

        return connect_patiently

    replace(patch, ClientProtocol, "connect", forget)


@mutant
def timer_of_a_closed_client_spins(patch: pytest.MonkeyPatch) -> None:
    """Between connections the timer still names an ack's deadline, which nobody can meet."""

    def overlook(get_timer: Any) -> Any:
        def get_stale_timer(self: ClientProtocol) -> float | None:
            if self.state is not ConnectionState.CLOSED:
                return get_timer(self)  # type: ignore[no-any-return]
            deadlines = [view._pacer.deadline for view in self._streams.values()]
            return min((deadline for deadline in deadlines if deadline is not None), default=None)

        return get_stale_timer

    replace(patch, ClientProtocol, "get_timer", overlook)


@mutant
def last_acks_outlive_their_connection(patch: pytest.MonkeyPatch) -> None:
    """An ended stream read to its end later is acknowledged on a connection that does not know it."""

    def acknowledge(self: ClientProtocol, view: View, chunk_id: int | None, now: float) -> None:
        if chunk_id is None or view.stream_id is None:
            return
        if view.state is not ViewState.LOST and self._state is not ConnectionState.CLOSED:
            self._send(m.ChunkAck(chunk_id=chunk_id, stream_id=view.stream_id))
        if view.state is ViewState.ENDED and not view._pieces:
            self.drop(view)

    patch.setattr(ClientProtocol, "_acknowledge", acknowledge)
