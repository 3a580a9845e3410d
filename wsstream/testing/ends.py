"""The inhabitants of a virtual world: an answer being produced, a server end and a client end of a connection.

Both ends drive the real core. `ServerEnd` does what `wsstream.connection.NativeConnection` does with it, on the real
`ChunkLog`, `Attachment` and `FrameBook`; only sockets, tasks and clocks are virtual. Each end keeps books of its own
beside the core's (`Ledger`, `Viewer`) and complains where the core's behaviour does not agree with them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from wsstream import messages as m
from wsstream.chunklog import Attachment, ChunkLog
from wsstream.chunks import ChatMessage, Kind, StreamInfo
from wsstream.client_protocol import ClientProtocol, Dead, Ended, Gap, Piece, Received, Resumed, Started, Told, View
from wsstream.errors import CloseCode
from wsstream.flow import SendWindow
from wsstream.frames import FrameBook
from wsstream.protocol import ServerProtocol
from wsstream.states import ViewState

if TYPE_CHECKING:
    from wsstream.testing.world import Answer, Link, World

INFINITE = float("inf")
CLOSE = b""
"""Stands on the link for a close frame; no message is empty."""

ACK = b'{"type":"chunk_ack"'
RESUME = b'{"type":"resume_stream"'
CHAT = b'{"type":"chat_request"'
ERROR = b'{"type":"error"'
CHUNK = (b'{"type":"content_chunk"', b'{"type":"chunk_batch"', b'{"type":"stream_rewind"')

ACK_PATIENCE = 0.25
"""Seconds a client may owe an ack (docs/protocol.md, rule 4)."""
QUESTION = [ChatMessage("user", "?")]
WIRE_KINDS = [kind.wire for kind in Kind]


def payloads(data: bytes) -> list[bytes]:
    """The text messages in a run of unmasked frames."""
    found = []
    at, end = 0, len(data)
    while at < end:
        size = data[at + 1]
        at += 2
        if size >= 126:
            width = 2 if size == 126 else 8
            size = int.from_bytes(data[at : at + width], "big")
            at += width
        found.append(data[at : at + size])
        at += size
    return found


class Ledger:
    """What one attachment may send, counted apart from the core: from the messages that really came and went."""

    __slots__ = (
        "_answer",
        "_ceiling",
        "_fixed",
        "_world",
        "acked",
        "asked_again",
        "limit",
        "limit_bytes",
        "sent",
        "window",
    )

    def __init__(self, world: World, answer: Answer, window: SendWindow, start: int, asked: int | None = None) -> None:
        plan = world.plan
        self._world = world
        self._answer = answer
        self._fixed = not plan.settings.adaptive_window
        self.window = window
        self.sent = self.acked = start
        self.limit = plan.limit
        # How wide an adaptive window may become: as the client asked, or as the server allows where it did not.
        self._ceiling = min(plan.client.window or plan.settings.max_window, plan.settings.max_window)
        self.limit_bytes = plan.limit_bytes
        self.asked_again = False
        if asked is not None:
            self.limit = self._ceiling = min(asked, plan.settings.max_window)

    def on_ack(self, ack: m.ChunkAck) -> None:
        """An ack is about to reach the core."""
        if ack.chunk_id > self.sent:
            self._world.fail(f"chunk {ack.chunk_id} was acknowledged, {self.sent} was the last one sent")
        if ack.chunk_id > self.acked:
            self.acked = ack.chunk_id

    def after_ack(self, ack: m.ChunkAck, *, live: bool) -> None:
        """It has reached the core, which must have understood it in the same way."""
        window = self.window
        if window.acked != self.acked:
            self._world.fail(f"after the ack of {ack.chunk_id} the core is at {window.acked}, not at {self.acked}")
        if not live:
            return
        wished = ack.window is not None and ack.chunk_id == self.acked  # an older ack's wish is out of date
        if ack.window is not None and wished and (self._fixed or window.limit == ack.window):
            self.limit = self._ceiling = min(ack.window, self._world.plan.settings.max_window)
        elif not self._fixed and window.limit != self.limit:
            if not min(8, self._ceiling) <= window.limit <= min(self._ceiling, max(8, 2 * self.limit)):
                self._world.fail(f"the adaptive window went from {self.limit} to {window.limit}")
            self.limit = window.limit

    def on_sent(self, first: int, last: int) -> None:
        """The chunks ``first`` … ``last`` are leaving."""
        log = self._answer.log
        if first <= self.sent:
            if last > self.sent or not self.asked_again:
                self._world.fail(f"chunks {first}-{last} are sent a second time after {self.sent}")
            return
        if first != self.sent + 1 or last < first:
            self._world.fail(f"chunks {first}-{last} are sent after {self.sent}")
        if last > self._answer.store.safe:
            self._world.fail(f"chunk {last} is sent, {self._answer.store.safe} was the last one stored")
        if last - self.acked > self.limit:
            self._world.fail(f"{last - self.acked} chunks in flight in a window of {self.limit}")
        size = log.totals[last] - log.totals[self.acked]
        if size > self.limit_bytes and last != self.acked + 1:
            self._world.fail(f"{size} bytes in flight in a window of {self.limit_bytes}")
        self.sent = last

    def on_end(self) -> None:
        """The terminal message is leaving."""
        if self.sent != len(self._answer.log):
            self._world.fail(f"the terminal message is sent after chunk {self.sent} of {len(self._answer.log)}")


class ServerEnd:
    """The server end of one connection; `wsstream.connection.NativeConnection` without its socket."""

    __slots__ = (
        "_acks",
        "_attachments",
        "_control",
        "_ledgers",
        "_link",
        "_marked",
        "_paused",
        "_ready",
        "_timer_at",
        "_world",
        "core",
        "gone",
    )

    def __init__(self, world: World, link: Link) -> None:
        self._world = world
        self._link = link
        self._attachments: dict[str, Attachment] = {}
        self._ledgers: dict[str, Ledger] = {}
        self._ready: list[Attachment] = []
        self._control: list[bytes] = []
        self._acks: list[bytes] = []
        self._marked = False
        self._paused = False
        self._timer_at = INFINITE
        self.gone = False
        self.core = ServerProtocol(world.plan.settings, world.now)
        self._schedule()

    # -- messages in

    def receive(self, messages: list[bytes]) -> None:
        """What the link brings."""
        for data in messages:
            if self.gone or self.core.close is not None:
                return
            if data == CLOSE:
                self.lost(None)
            elif data.startswith(ACK):
                if not self._disturb(data):
                    self._on_ack_message(data)
            else:
                self._on_message(data)
                if data.startswith(CHAT) and self._world.plan.repeats_request():
                    self._on_message(data)
        self._carry_out()

    def _disturb(self, data: bytes) -> bool:
        """A middle that delivers acks late or twice; True where it keeps this one for later."""
        plan = self._world.plan
        self._acks.append(data)
        if not plan.disturbs_ack():
            return False
        late = plan.toss()
        self._world.totals.duplicates += 1
        again = data if late else plan.pick(self._acks)
        self._world.after(plan.lateness(), self._on_late_ack, again)
        return late

    def _on_late_ack(self, data: bytes) -> None:
        if self.gone or self.core.close is not None:
            return
        ack = cast(m.ChunkAck, m.decode_client(data))
        ledger = self._ledgers.get(ack.stream_id or "s_1")
        if ledger is not None and ack.chunk_id > ledger.sent:
            return  # from before its viewer went back behind it, which no wire brings after the resume
        self._on_ack_message(data)
        self._carry_out()

    def _on_ack_message(self, data: bytes) -> None:
        ack = cast(m.ChunkAck, m.decode_client(data))
        stream_id = ack.stream_id or next(iter(self._ledgers), "")
        self._world.note("ack", stream_id, ack.chunk_id)
        ledger = self._ledgers.get(stream_id)
        if ledger is None:
            self._world.fail(f"an ack for {stream_id}, which this connection does not follow")
        ledger.on_ack(ack)
        self._on_message(data)
        ledger.after_ack(ack, live=stream_id in self._attachments)

    def _on_message(self, data: bytes) -> None:
        self.core.receive_message(data, self._world.now)
        for event in self.core.events_received():
            handler = _ON_REQUEST.get(type(event))
            if handler is None:
                self._world.fail(f"the server has no answer to {event}")
            handler(self, event)

    def _on_hello(self, hello: m.Hello) -> None:
        session_id = hello.session_id or "ses_1"
        running = [answer.log for answer in self._world.answers.values() if not answer.log.state.final]
        self.core.establish("c_1", session_id, [StreamInfo(log.stream_id, log.tail, log.state) for log in running])
        self._schedule()

    def _on_chat(self, asked: m.ChatRequested) -> None:
        answer = self._world.answer_to(asked.request_id)
        log = answer.log
        window = self.core.start_stream(
            asked.request_id, log.stream_id, session_id="ses_1", epoch=log.epoch, model=None, timestamp=0.0
        )
        self._follow(answer, window, 0)

    def _on_resume(self, asked: m.ResumeStream) -> None:
        answer = self._world.answers[asked.stream_id or "s_1"]
        log = answer.log
        log.check_position(asked.last_chunk_id)
        window = self.core.resume_stream(asked, log.stream_id, tail=log.tail, epoch=log.epoch, state=log.state)
        self._follow(answer, window, asked.last_chunk_id, asked.window)

    def _on_again(self, asked: m.RequestChunks) -> None:
        stream_id = asked.stream_id or ""
        window = self.core.window_of(stream_id)
        if asked.from_chunk_id > window.sent:
            self._world.fail(f"{asked} goes beyond {window}")
        attachment = self._attachments.get(stream_id)
        if attachment is None:
            attachment = self._attach(self._world.answers[stream_id], window, self._ledgers[stream_id])
            attachment.told = True
        self._ledgers[stream_id].asked_again = True
        attachment.send_again(asked.from_chunk_id, asked.to_chunk_id)

    def _on_cancel(self, asked: m.CancelStream) -> None:
        answer = self._world.answers[asked.stream_id or ""]
        answer.cancel()
        if asked.stream_id not in self._attachments:
            answer.log.when_finished(self._tell_end)

    def _on_acked(self, ack: m.ChunkAck) -> None:
        attachment = self._attachments.get(ack.stream_id or "")
        if attachment is not None:
            attachment.on_acked()

    def _tell_end(self, log: ChunkLog) -> None:
        if not self.gone and log.outcome is not None:
            self._control.append(m.encode(m.outcome_message(log.stream_id, log.outcome)))
            self._mark()

    # -- attachments

    def _follow(self, answer: Answer, window: SendWindow, start: int, asked: int | None = None) -> None:
        stream_id = answer.log.stream_id
        known = self._attachments.get(stream_id)
        if known is not None and known.window is window:
            return
        if known is not None:
            self._detach(known)
        self._ledgers[stream_id] = ledger = Ledger(self._world, answer, window, start, asked)
        if (window.acked, window.limit, window.limit_bytes) != (start, ledger.limit, ledger.limit_bytes):
            self._world.fail(f"{window} was opened for a viewer at {start} with a window of {ledger.limit}")
        self._attach(answer, window, ledger).rouse()

    def _attach(self, answer: Answer, window: SendWindow, ledger: Ledger) -> Attachment:
        attachment = self._attachments[answer.log.stream_id] = answer.log.attach(window, self._on_roused)
        answer.ledgers.append(ledger)
        return attachment

    def _detach(self, attachment: Attachment) -> None:
        stream_id = attachment.log.stream_id
        del self._attachments[stream_id]
        self._world.answers[stream_id].ledgers.remove(self._ledgers[stream_id])
        attachment.log.detach(attachment)

    def _on_roused(self, attachment: Attachment) -> None:
        self._ready.append(attachment)
        self._mark()

    def _mark(self) -> None:
        if not self._marked and not self.gone:
            self._marked = True
            self._world.dirty.append(self)

    # -- messages out

    def flush(self) -> None:
        """Write what this tick has brought: control messages first, then chunks."""
        self._marked = False
        if self.gone:
            return
        out, self._control = self._control, []
        while self._ready and not self._paused:
            ready, self._ready = self._ready, []
            for attachment in ready:
                self._take(attachment, out)
        if self.core.close is not None:
            out.append(CLOSE)
            self._detach_all()
        if out:
            self._link.send_down(out)
            if self._world.plan.pauses():
                self._paused = True
                self._world.after(self._world.plan.lateness(), self._resume_writing)

    def _resume_writing(self, _: None) -> None:
        self._paused = False
        if self._ready or self._control:
            self._mark()

    def _take(self, attachment: Attachment, out: list[bytes]) -> None:
        log = attachment.log
        if self._attachments.get(log.stream_id) is not attachment:
            return
        ledger = self._ledgers[log.stream_id]
        span = attachment.take(self._world.plan.slice)
        if span is not None:
            self._world.note("send", log.stream_id, span)
            ledger.on_sent(*span)
            out += payloads(FrameBook.of(log).span(*span, batch=self.core.batch))
            if not attachment.waiting:
                self._ready.append(attachment)
                return
        if attachment.take_outcome() is not None:
            self._world.note("end", log.stream_id, ledger.sent)
            ledger.on_end()
            out += payloads(FrameBook.of(log).outcome())
        if attachment.told:
            self.core.end_stream(log.stream_id)
            self._detach(attachment)

    def _carry_out(self) -> None:
        out = self.core.messages_to_send()
        if out:
            for data in out:
                if data.startswith(ERROR):
                    self._world.fail(f"the server answers a legitimate client {data!r}")
            self._control += out
        close = self.core.close
        if close is not None and (close.code != CloseCode.TIMEOUT or not self._link.cut):
            self._world.fail(f"the server closes a sound connection: {close}")
        if out or close is not None:
            self._mark()

    # -- the end, time

    def lost(self, _: None) -> None:
        """The socket is gone."""
        self.gone = True
        self._detach_all()
        self._ready.clear()

    def _detach_all(self) -> None:
        for attachment in list(self._attachments.values()):
            self._detach(attachment)

    def _schedule(self) -> None:
        wanted = self.core.get_timer()
        if wanted < self._timer_at:
            self._timer_at = wanted
            self._world.at(wanted, self._on_timer, wanted)

    def _on_timer(self, armed_for: float) -> None:
        if armed_for != self._timer_at or self.gone or self.core.close is not None:
            return
        self._timer_at = INFINITE
        self.core.handle_timer(self._world.now)
        self._carry_out()
        self._schedule()


_ON_REQUEST: dict[type, Callable[[ServerEnd, Any], None]] = {
    m.ChunkAck: ServerEnd._on_acked,
    m.Hello: ServerEnd._on_hello,
    m.ChatRequested: ServerEnd._on_chat,
    m.ResumeStream: ServerEnd._on_resume,
    m.RequestChunks: ServerEnd._on_again,
    m.CancelStream: ServerEnd._on_cancel,
}


class Viewer:
    """Whoever reads one answer at one client, and how far they are."""

    __slots__ = ("acked", "been", "busy", "done", "ended", "on", "owes_since", "position", "request_id", "text", "view")

    def __init__(self, view: View, request_id: str | None, position: int = 0) -> None:
        self.view = view
        self.request_id = request_id
        self.position = self.acked = position
        self.been = 0
        """Where it stood before it went back, until that is told: what it acknowledged then may still be on its way."""
        self.text = ""
        """What it shows, and all that it knows of it: where chunks end is forgotten at once."""
        self.on: Link | None = None
        self.owes_since = INFINITE
        self.busy = self.ended = self.done = False


class ClientEnd:
    """A client over all its connections, with its consumers."""

    __slots__ = ("_by_stream", "_late", "_protocol", "_timer_at", "_viewers", "_world", "link")

    def __init__(self, world: World) -> None:
        self._world = world
        self._protocol = ClientProtocol(world.plan.client)
        self._viewers: dict[View, Viewer] = {}
        self._by_stream: dict[str, Viewer] = {}
        self._late: list[bytes] = []
        self._timer_at = INFINITE
        self.link: Link | None = None

    # -- what the application wants

    def ask(self, request_id: str) -> None:
        """Request an answer."""
        view = self._protocol.chat(request_id, QUESTION)
        self._viewers[view] = Viewer(view, request_id)
        self._after()

    def follow(self, stream_id: str, position: int) -> None:
        """Follow an answer that somebody else has asked for, from behind ``position``."""
        view = self._protocol.follow(stream_id, position, snapshot=self._world.plan.toss())
        self._viewers[view] = self._by_stream[stream_id] = viewer = Viewer(view, None, position)
        viewer.text = self._world.answers[stream_id].text_at(position)
        self._after()

    def cancel(self, _: None) -> None:
        """Stop one of the answers."""
        viewer = self._world.plan.pick(list(self._viewers.values()))
        self._world.note("cancel", viewer.request_id, viewer.position)
        self._protocol.cancel(viewer.view)
        self._after()

    def _reload(self) -> None:
        """The page is loaded anew: all that is left of the old one is what it knew of its answers."""
        old, self._viewers = self._viewers, {}
        self._protocol = ClientProtocol(self._world.plan.client, self._protocol.session_id)
        for viewer in old.values():
            if viewer.done:
                self._viewers[viewer.view] = viewer
                continue
            viewer.position = viewer.acked = viewer.position if self._world.plan.toss() else 0
            viewer.text = viewer.text if viewer.position else ""
            stream_id = viewer.view.stream_id
            if stream_id is None:
                viewer.view = self._protocol.chat(viewer.request_id or "", QUESTION, again=True)
            else:
                viewer.view = self._protocol.follow(stream_id, viewer.position)
            viewer.ended = False
            self._viewers[viewer.view] = viewer

    # -- connections

    def connect(self, _: None) -> None:
        """Open a connection."""
        if self._world.plan.reloads():
            self._world.note("reload", None, None)
            self._reload()
        self.link = self._world.open_link(self)
        self._protocol.connect(self._world.now)
        self._after()

    def lost(self, link: Link) -> None:
        """That connection is gone: come back a little later."""
        if self.link is not link:
            return
        self._world.note("lost", None, None)
        self.link = None
        self._world.gaps_due -= len(self._late)
        self._late.clear()
        self._protocol.connection_lost()
        for viewer in self._viewers.values():
            viewer.on = None
            viewer.owes_since = INFINITE
        self._world.after(self._world.plan.back_off(), self.connect)
        self._after()

    # -- messages in

    def receive(self, messages: list[bytes]) -> None:
        """What the link brings."""
        if self._world.plan.swaps or self._late:
            messages = self._swap(messages)
        for data in messages:
            if data == CLOSE:
                assert self.link is not None
                self.lost(self.link)
                return
            self._protocol.receive_message(data, self._world.now)
            self._on_events()
        if self._protocol.ignored:
            self._world.fail(f"the client does not understand one of {messages}")
        self._after()

    def _swap(self, messages: list[bytes]) -> list[bytes]:
        """A middle that swaps a chunk with what follows it, or delivers it twice."""
        if self._late:
            first = int(messages[0].startswith(CHUNK))
            messages = [*messages[:first], *self._late, *messages[first:]]
            self._late.clear()
        if messages[-1].startswith(CHUNK) and self._world.plan.swaps_chunk():
            self._world.totals.swaps += 1
            if self._world.plan.toss():
                return [*messages, messages[-1]]
            self._world.gaps_due += 1
            self._late.append(messages[-1])
            self._world.after(self._world.plan.lateness(), self._receive_late, self.link)
            return messages[:-1]
        return messages

    def _receive_late(self, link: Link) -> None:
        if self._late and link is self.link:
            late, self._late = self._late, []
            self._world.gaps_due -= len(late)
            self.receive(late)

    def _on_events(self) -> None:
        for event in self._protocol.events_received():
            if isinstance(event, Received):
                self._on_received(self._viewers[event.view])
                continue
            self._world.note("event", type(event).__name__, None)
            handler = _ON_EVENT.get(type(event))
            if handler is not None:
                handler(self, event)

    def _on_received(self, viewer: Viewer) -> None:
        plan = self._world.plan
        if plan.eager:
            self._read(viewer, 1000)
        elif not viewer.busy:
            viewer.busy = True
            self._world.after(plan.reading(), self._read_on, viewer)
        if plan.has_whim():
            self._follow_whim(viewer.view)

    def _on_started(self, event: Started) -> None:
        viewer = self._viewers[event.view]
        viewer.on = self.link
        self._by_stream[event.view.stream_id or ""] = viewer

    def _on_resumed(self, event: Resumed) -> None:
        self._viewers[event.view].on = self.link
        self._world.totals.resumes += 1

    def _on_gap(self, event: Gap) -> None:
        self._world.gaps_due -= 1
        self._viewers[event.view].owes_since = INFINITE
        if self._world.gaps_due < 0:
            self._world.fail(f"chunk {event.received} came where {event.expected} was due")

    def _on_ended(self, event: Ended) -> None:
        viewer = self._viewers[event.view]
        if event.view.stream_id is None:
            self._on_unasked(viewer)
            return
        log = self._world.answers[event.view.stream_id].log
        told, outcome = event.view.outcome, log.outcome
        if viewer.ended or told is None or outcome is None:
            self._world.fail(f"a second or untimely end of {log.stream_id}")
        if (told.state, told.final_chunk_id) != (outcome.state, len(log)):
            self._world.fail(f"{log.stream_id} ended as {outcome}, its viewer was told {told}")
        viewer.ended = True
        self._see_done(viewer)

    def _on_unasked(self, viewer: Viewer) -> None:
        """An answer that was cancelled before anybody was asked for it."""
        if viewer.done or not viewer.view.cancelled or self._world.was_asked(viewer.request_id or ""):
            self._world.fail(f"{viewer.request_id} ended, and nobody has said so")
        viewer.ended = viewer.done = True
        self._world.on_done()

    def _on_dead(self, event: Dead) -> None:
        assert self.link is not None
        if not self.link.cut:
            self._world.fail("the client takes a sound connection for dead")
        self.link.close()
        self.lost(self.link)

    def _on_told(self, event: Told) -> None:
        self._world.fail(f"unexpected: {event.message}")

    def _follow_whim(self, view: View) -> None:
        """What clients may do and `ClientProtocol` does not: ask for chunks again, move the window."""
        if view.state is not ViewState.STREAMING or view.received == 0:
            return
        plan = self._world.plan
        message: m.RequestChunks | m.ChunkAck
        if plan.toss():
            first = 1 + plan.below(view.received)
            last = first + plan.below(view.received - first + 1)
            message = m.RequestChunks(from_chunk_id=first, to_chunk_id=last, stream_id=view.stream_id)
        else:
            message = m.ChunkAck(chunk_id=view.acked, stream_id=view.stream_id, window=1 + plan.below(60))
        self._send([*self._protocol.messages_to_send(), m.encode(message)])

    # -- reading

    def _read_on(self, viewer: Viewer) -> None:
        self._read(viewer, self._world.plan.mouthful())
        viewer.busy = viewer.view.waiting > 0
        if viewer.busy:
            self._world.after(self._world.plan.reading(), self._read_on, viewer)
        self._after()

    def _read(self, viewer: Viewer, pieces: int) -> None:
        for _ in range(pieces):
            piece = self._protocol.take(viewer.view, self._world.now)
            if piece is None:
                break
            self._see_piece(viewer, piece)
        self._see_done(viewer)

    def _see_piece(self, viewer: Viewer, piece: Piece) -> None:
        answer = self._world.answers[viewer.view.stream_id or ""]
        first, last, content, kind, to, withdrawn = piece
        self._world.note("read", answer.log.stream_id, last)
        if kind == "rewind" and to == last < viewer.position:
            viewer.been = max(viewer.been, viewer.position)
            viewer.position = viewer.acked = last  # back to before a batch, of which a part comes again
            return
        if first != viewer.position + 1 or last > answer.log.tail:
            self._world.fail(f"the viewer at {viewer.position} of {answer.log.tail} was given {piece}")
        expected = answer.texts[first - 1] if first == last else "".join(answer.texts[first - 1 : last])
        if content != expected or to != answer.rewinds.get(last):
            self._world.fail(f"{piece} should be {expected!r}")
        if any(kind != WIRE_KINDS[number] for number in answer.log.kinds(first, last)):
            self._world.fail(f"{piece} is of another kind")
        viewer.position = last
        if kind == "text":
            viewer.text += content
        elif withdrawn is not None:
            viewer.text = viewer.text[: len(viewer.text) - withdrawn]

    def _see_done(self, viewer: Viewer) -> None:
        if viewer.ended and not viewer.done and not viewer.view.waiting:
            log = self._world.answers[viewer.view.stream_id or ""].log
            if viewer.position != len(log):
                self._world.fail(f"the viewer of {log.stream_id} has read {viewer.position} of {len(log)} chunks")
            if self._world.plan.counts and viewer.text != log.text():
                self._world.fail(f"the viewer of {log.stream_id} shows {viewer.text!r}, it says {log.text()!r}")
            viewer.done = True
            self._world.on_done()

    # -- messages out, time

    def _after(self) -> None:
        """What the core's owner must do after every call."""
        self._on_events()
        out = self._protocol.messages_to_send()
        if out:
            self._send(out)
        for viewer in self._viewers.values():
            self._see_debt(viewer)
        wanted = self._protocol.get_timer()
        if wanted is not None and wanted < self._timer_at:
            self._timer_at = wanted
            self._world.at(wanted, self._on_timer, wanted)

    def _send(self, messages: list[bytes]) -> None:
        if self.link is None:
            self._world.fail(f"{messages} without a connection")
        for data in messages:
            if data.startswith(ACK) or data.startswith(RESUME):
                self._see_ack(m.decode_client(data))
        if self._world.plan.terse:
            messages = [data.replace(b',"stream_id":"s_1"', b"") for data in messages]
        self.link.send_up(messages)

    def _see_ack(self, message: m.ClientMessage) -> None:
        assert isinstance(message, m.ChunkAck | m.ResumeStream)
        viewer = self._by_stream[message.stream_id or ""]
        upto = message.chunk_id if isinstance(message, m.ChunkAck) else message.last_chunk_id
        if isinstance(message, m.ResumeStream):
            viewer.been = 0
        if upto > max(viewer.position, viewer.been):
            self._world.fail(f"chunk {upto} is acknowledged by a viewer at {viewer.position}")
        if viewer.acked < upto <= viewer.position:
            viewer.acked = upto
            viewer.owes_since = INFINITE

    def _see_debt(self, viewer: Viewer) -> None:
        going_back = viewer.view.processed < viewer.position  # it has not read yet that it is to
        if viewer.acked == viewer.position or viewer.on is None or viewer.view.state is ViewState.LOST or going_back:
            viewer.owes_since = INFINITE
        elif viewer.owes_since == INFINITE:
            viewer.owes_since = self._world.now
        elif self._world.now > viewer.owes_since + ACK_PATIENCE:
            self._world.fail(f"a viewer at {viewer.position} has acknowledged {viewer.acked}, long ago")

    def see_debts(self) -> None:
        """At the end of the world: nothing is owed any more."""
        self._after()

    def _on_timer(self, armed_for: float) -> None:
        if armed_for == self._timer_at:
            self._timer_at = INFINITE
            self._protocol.handle_timer(self._world.now)
            self._after()


_ON_EVENT: dict[type, Callable[[ClientEnd, Any], None]] = {
    Started: ClientEnd._on_started,
    Resumed: ClientEnd._on_resumed,
    Gap: ClientEnd._on_gap,
    Ended: ClientEnd._on_ended,
    Dead: ClientEnd._on_dead,
    Told: ClientEnd._on_told,
}
