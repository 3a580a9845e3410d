"""The client end: message by message where a server must misbehave, joined to a real server end elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pair import QUESTION, Pair, read, wire
from wsstream import messages as m
from wsstream.chunks import Kind, Outcome, Receipt, StreamState, Usage
from wsstream.client_protocol import (
    MAX_GAPS,
    Answered,
    ClientProtocol,
    ClientSettings,
    Dead,
    Ended,
    Established,
    Gap,
    Piece,
    Received,
    Resumed,
    Started,
    Told,
    View,
)
from wsstream.errors import BadRequest, MessageTooLarge
from wsstream.protocol import ServerSettings
from wsstream.states import ConnectionState, ViewState

NOW = 100.0

ESTABLISHED = {
    "type": "connection_established",
    "connection_id": "con",
    "session_id": "ses",
    "heartbeat_interval": 10.0,
    "heartbeat_timeout": 25.0,
    "window": 50,
    "window_bytes": 1000,
    "limits": {"max_message_bytes": 1000, "max_streams": 1},
    "active_streams": [],
}


def hear(end: ClientProtocol, now: float = NOW, **fields: Any) -> list[Any]:
    """Hand the client a message; what happened."""
    end.receive_message(wire(**fields), now)
    return end.events_received()


def said(end: ClientProtocol) -> list[dict[str, Any]]:
    """What the client has to say."""
    return read(end.messages_to_send())


def greet(end: ClientProtocol, now: float = NOW) -> ClientProtocol:
    """Open a connection and answer its hello."""
    end.connect(now)
    hear(end, now, **ESTABLISHED)
    return end


def make(**settings: Any) -> ClientProtocol:
    """A connected client that has nothing left to say."""
    end = greet(ClientProtocol(ClientSettings(**{"ack_delay": 0.1, **settings})))
    end.messages_to_send()
    return end


def ask(end: ClientProtocol, window: int = 50) -> View:
    """A view whose stream `s` has started."""
    view = end.chat("r", QUESTION)
    start(end, window=window)
    end.messages_to_send()
    return view


def start(end: ClientProtocol, window: int = 50) -> list[Any]:
    """The answer to the request `r`."""
    fields = {"request_id": "r", "stream_id": "s", "session_id": "ses", "epoch": "e", "model": "demo"}
    return hear(end, type="stream_start", window=window, timestamp=0.0, **fields)


def resumed(end: ClientProtocol, last: int, now: float = NOW, window: int = 50) -> list[Any]:
    """The answer to a resume of the stream `s`."""
    fields = {"stream_id": "s", "tail_chunk_id": 9, "epoch": "e2", "state": "running", "window": window}
    return hear(end, now, type="stream_resumed", last_chunk_id=last, **fields)


def chunk(end: ClientProtocol, *ids: int) -> list[Any]:
    """Chunks of the stream `s`, whose text is their number."""
    return [e for n in ids for e in hear(end, type="content_chunk", stream_id="s", chunk_id=n, content=str(n))]


def complete(end: ClientProtocol, final: int, **fields: Any) -> list[Any]:
    """The good end of the stream `s`."""
    return hear(end, type="stream_complete", stream_id="s", final_chunk_id=final, finish_reason="stop", **fields)


def take_all(end: ClientProtocol, view: View, now: float = NOW) -> str:
    """Read all that waits in a view."""
    text = ""
    while (piece := end.take(view, now)) is not None:
        text += piece.content
    return text


# -- the connection


def test_a_new_client_is_not_connected() -> None:
    """Before its first connection a client says nothing and wants no timer."""
    end = ClientProtocol()
    assert (end.state, end.session_id, end.get_timer()) == (ConnectionState.CLOSED, None, None)
    assert (end.messages_to_send(), end.events_received()) == ([], [])
    end.handle_timer(NOW)
    assert end.messages_to_send() == []


def test_connecting_greets() -> None:
    """The first message on every connection is a hello with the client's wishes."""
    settings = ClientSettings(window=5, window_bytes=6, batch=False, client="c")
    end = ClientProtocol(settings, session_id="ses")
    end.connect(NOW, token="t")
    assert end.state is ConnectionState.GREETING
    assert said(end) == [
        {
            "type": "hello",
            "token": "t",
            "session_id": "ses",
            "window": 5,
            "window_bytes": 6,
            "batch": False,
            "client": "c",
        }
    ]


def test_an_answered_hello_opens() -> None:
    """The server's greeting opens the connection and names the session, which the next hello asks for."""
    end = ClientProtocol()
    end.connect(NOW)
    (event,) = hear(end, **ESTABLISHED)
    assert isinstance(event, Established)
    assert event.message.connection_id == "con"
    assert (end.state, end.session_id) == (ConnectionState.OPEN, "ses")
    end.connection_lost()
    end.connect(NOW)
    assert said(end)[0]["session_id"] == "ses"


def test_what_was_not_sent_dies_with_its_connection() -> None:
    """Messages of a lost connection are not sent on the next one; only the hello is."""
    end = make()
    end.list_streams()
    end.connection_lost()
    assert end.messages_to_send() == []
    end.connect(NOW)
    assert [message["type"] for message in said(end)] == ["hello"]


def test_nothing_goes_ahead_of_the_hello() -> None:
    """What was said without a connection is not sent on the next one."""
    end = ClientProtocol()
    end.list_streams()
    end.connect(NOW)
    assert [message["type"] for message in said(end)] == ["hello"]


def test_losing_a_connection_twice_is_harmless() -> None:
    """A loss that is reported again changes nothing more."""
    end = make()
    view = ask(end)
    end.connection_lost()
    end.connection_lost()
    assert (view.state, end.state) == (ViewState.LOST, ConnectionState.CLOSED)


# -- asking


def test_asking_sends_the_request() -> None:
    """A question goes out at once on an open connection."""
    end = make()
    view = end.chat("r", QUESTION, config=m.ChatConfig(model="m"), session_id="other")
    assert said(end) == [
        {
            "type": "chat_request",
            "request_id": "r",
            "session_id": "other",
            "messages": [{"role": "user", "content": "hi"}],
            "config": {"model": "m"},
        }
    ]
    assert (view.state, view.stream_id, view.processed, view.received) == (ViewState.REQUESTED, None, 0, 0)


def test_a_request_that_cannot_be_sent_is_refused_and_forgotten() -> None:
    """Half of a surrogate pair, or more than the server reads, harms neither this connection nor the next."""
    end = make()
    with pytest.raises(BadRequest, match="surrogate"):
        end.chat("r", "a\ud83d")
    with pytest.raises(MessageTooLarge, match="the server reads 1000"):
        end.chat("r", "x" * 1000)
    assert said(end) == []
    end.connection_lost()
    greet(end)
    assert [message["type"] for message in said(end)] == ["hello"]


def test_a_request_made_before_the_greeting_that_is_too_large_ends_alone() -> None:
    """How much the server reads is known with its greeting; who waited for that is told, and the rest is asked for."""
    end = ClientProtocol()
    large, small = end.chat("r1", "x" * 1000), end.chat("r2", QUESTION)
    end.connect(NOW)
    assert Ended(large) in hear(end, **ESTABLISHED)
    assert large.outcome is not None
    assert (large.outcome.error_type, large.outcome.recoverable) == ("message_too_large", False)
    assert "the server reads 1000" in (large.outcome.message or "")
    assert [message["request_id"] for message in said(end) if message["type"] == "chat_request"] == ["r2"]
    assert small.state is ViewState.REQUESTED


def test_a_start_names_the_stream() -> None:
    """The answer to a question tells the view what it follows."""
    end = make()
    view = end.chat("r", QUESTION)
    assert start(end) == [Started(view)]
    assert view.state is ViewState.STREAMING
    assert (view.stream_id, view.session_id, view.epoch, view.model) == ("s", "ses", "e", "demo")


def test_a_start_that_nobody_asked_for_is_ignored() -> None:
    """The answer to a question that was dropped, or answered before, changes nothing."""
    end = make()
    view = end.chat("r", QUESTION)
    end.drop(view)
    assert start(end) == []
    assert view.state is ViewState.REQUESTED


def test_a_question_waits_for_its_connection() -> None:
    """A question asked before the connection is open goes out when it is."""
    end = ClientProtocol()
    end.chat("r", QUESTION)
    end.connect(NOW)
    assert [message["type"] for message in said(end)] == ["hello"]
    hear(end, **ESTABLISHED)
    assert [message["type"] for message in said(end)] == ["chat_request"]


def test_a_question_is_asked_again_until_it_is_answered() -> None:
    """An unanswered request is sent on every new connection under the same id, and not once it has its stream."""
    end = make()
    end.chat("r", QUESTION)
    first = end.messages_to_send()
    for _ in range(2):
        end.connection_lost()
        greet(end)
        assert end.messages_to_send()[1:] == first
    start(end)
    end.connection_lost()
    greet(end)
    assert [message["type"] for message in said(end)] == ["hello", "resume_stream"]


def test_a_question_waits_while_the_server_goes_away() -> None:
    """A server that is about to leave is not asked; the next one is."""
    end = make()
    hear(end, type="going_away", deadline_ms=1, reconnect_after_ms=1)
    end.chat("r", QUESTION)
    assert said(end) == []
    end.connection_lost()
    greet(end)
    assert [message["type"] for message in said(end)] == ["hello", "chat_request"]


# -- receiving


def test_chunks_wait_to_be_taken_in_order() -> None:
    """Each chunk becomes one piece, and pieces come out in the order of their ids."""
    end = make()
    view = ask(end)
    assert chunk(end, 1, 2) == [Received(view), Received(view)]
    assert (view.received, view.processed, view.waiting) == (2, 0, 2)
    assert end.take(view, NOW) == Piece(1, 1, "1")
    assert end.take(view, NOW) == Piece(2, 2, "2")
    assert end.take(view, NOW) is None
    assert (view.received, view.processed, view.waiting) == (2, 2, 0)


def test_a_batch_is_one_piece() -> None:
    """A batch counts as all of its chunks."""
    end = make()
    view = ask(end)
    batch = {"type": "chunk_batch", "stream_id": "s", "first_chunk_id": 1, "last_chunk_id": 3}
    assert hear(end, content="abc", kind="reasoning", **batch) == [Received(view)]
    assert end.take(view, NOW) == Piece(1, 3, "abc", "reasoning")
    assert chunk(end, 4) == [Received(view)]


def test_a_rewind_is_a_piece_of_its_own() -> None:
    """A rewind keeps its place among the chunks and says how far back it goes."""
    end = make()
    view = ask(end)
    chunk(end, 1, 2)
    hear(end, type="stream_rewind", stream_id="s", chunk_id=3, to_chunk_id=1, reason="retry")
    pieces = [end.take(view, NOW) for _ in range(3)]
    assert pieces[2] == Piece(3, 3, "", "rewind", to=1)
    assert view.processed == 3


@pytest.mark.parametrize("again", [1, 2, 3])
def test_duplicates_are_ignored(again: int) -> None:
    """A chunk that was received before, taken or not, changes nothing."""
    end = make()
    view = ask(end)
    chunk(end, 1, 2, 3)
    end.take(view, NOW)
    assert chunk(end, again) == []
    assert (view.received, view.waiting, view.state) == (3, 2, ViewState.STREAMING)
    assert said(end) == []


def test_a_batch_of_known_chunks_is_ignored() -> None:
    """A batch that ends within what was received changes nothing."""
    end = make()
    view = ask(end)
    chunk(end, 1, 2, 3)
    assert hear(end, type="chunk_batch", stream_id="s", first_chunk_id=1, last_chunk_id=3, content="123") == []
    assert view.waiting == 3


def test_a_gap_is_a_reason_to_resume() -> None:
    """A chunk that comes too early is not taken in; the view resumes behind what its reader has processed."""
    end = make()
    view = ask(end)
    chunk(end, 1, 2, 3)
    end.take(view, NOW)
    assert chunk(end, 5) == [Gap(view, 4, 5)]
    assert said(end) == [{"type": "resume_stream", "stream_id": "s", "last_chunk_id": 1, "epoch": "e"}]
    assert (view.state, view.received, view.waiting) == (ViewState.LOST, 1, 0)


def test_a_batch_that_overlaps_is_a_gap() -> None:
    """A batch cannot be cut, so one that begins within what was received is asked for again."""
    end = make()
    view = ask(end)
    chunk(end, 1, 2)
    events = hear(end, type="chunk_batch", stream_id="s", first_chunk_id=2, last_chunk_id=4, content="234")
    assert events == [Gap(view, 3, 2)]
    assert view.state is ViewState.LOST


def test_a_hole_that_stays_ends_the_view() -> None:
    """A server that leaves the same gap again and again is not asked for ever; what was processed stands."""
    end = make()
    view = ask(end)
    chunk(end, 1)
    end.take(view, NOW)
    for _ in range(MAX_GAPS):
        assert chunk(end, 3) == [Gap(view, 2, 3)]
        assert [message["type"] for message in said(end)] == ["resume_stream"]
        resumed(end, 1)
    assert chunk(end, 3) == [Gap(view, 2, 3), Ended(view)]
    assert said(end) == []
    assert view.outcome is not None
    assert (view.outcome.state, view.outcome.final_chunk_id) == (StreamState.FAILED, 1)
    assert view.outcome.error_type == "internal_error"


def test_a_chunk_between_gaps_forgives_them() -> None:
    """Gaps with progress between them never end a view."""
    end = make()
    view = ask(end)
    for n in range(1, 3 * MAX_GAPS):
        chunk(end, n)
        end.take(view, NOW)
        chunk(end, n + 2)
        resumed(end, n)
    assert view.state is ViewState.STREAMING


def test_nothing_is_taken_in_while_a_resume_is_unanswered() -> None:
    """Chunks that were under way before the resume are ignored until its answer comes."""
    end = make()
    view = ask(end)
    chunk(end, 1, 3)
    assert chunk(end, 1, 2, 3, 4) == []
    assert complete(end, 0) == []
    (event,) = resumed(end, 0)
    assert isinstance(event, Resumed)
    assert event.view is view
    chunk(end, 1, 2)
    assert take_all(end, view) == "12"


def test_a_resumed_view_goes_on() -> None:
    """The answer to a resume says from where and under which epoch the view goes on."""
    end = make()
    view = ask(end)
    chunk(end, 1, 3)
    resumed(end, 0)
    assert (view.state, view.epoch, view.resumes) == (ViewState.STREAMING, "e2", 1)


def test_the_answer_to_another_resume_is_ignored() -> None:
    """An answer that does not echo the position asked for does not count."""
    end = make()
    view = ask(end)
    chunk(end, 1, 3)
    assert resumed(end, 7) == []
    assert view.state is ViewState.LOST


def test_messages_of_streams_that_are_not_followed_are_ignored() -> None:
    """Chunks, resumes and ends of a stream without a view change nothing."""
    end = make()
    assert chunk(end, 1) == []
    assert resumed(end, 0) == []
    assert complete(end, 0) == []
    assert said(end) == []


# -- acknowledging


def test_acks_mean_processed() -> None:
    """What was received but not taken is not acknowledged, however much time passes."""
    end = make()
    view = ask(end)
    chunk(end, 1, 2)
    end.handle_timer(NOW + 1)
    assert said(end) == []
    end.take(view, NOW + 1)
    assert end.get_timer() == pytest.approx(NOW + 1.1)
    end.handle_timer(NOW + 1.2)
    assert said(end) == [{"type": "chunk_ack", "chunk_id": 1, "stream_id": "s"}]


def test_half_a_window_is_acknowledged_at_once() -> None:
    """The server's window decides after how many chunks an ack does not wait."""
    end = make()
    view = ask(end, window=4)
    chunk(end, 1, 2, 3)
    take_all(end, view)
    assert [message["chunk_id"] for message in said(end)] == [2]


def test_the_smallest_window_is_acknowledged_chunk_by_chunk() -> None:
    """With a window of one chunk every ack goes at once, or nothing would move."""
    end = make()
    view = ask(end, window=1)
    chunk(end, 1)
    end.take(view, NOW)
    assert [message["chunk_id"] for message in said(end)] == [1]


def test_a_resume_acknowledges_what_was_processed() -> None:
    """After a resume no ack repeats what it has said."""
    end = make()
    view = ask(end)
    chunk(end, 1)
    end.take(view, NOW)
    chunk(end, 3)
    assert [message["type"] for message in said(end)] == ["resume_stream"]
    assert view.acked == 1
    end.handle_timer(NOW + 5)
    assert said(end) == []


def test_a_resumed_view_keeps_the_new_window_s_pace() -> None:
    """The window that a resume is answered with sets the pace of acks from then on."""
    end = make()
    view = ask(end, window=50)
    chunk(end, 2)
    resumed(end, 0, window=2)
    end.messages_to_send()
    chunk(end, 1)
    end.take(view, NOW)
    assert [message["chunk_id"] for message in said(end)] == [1]


def test_a_lost_view_acknowledges_nothing() -> None:
    """What was processed before a loss is acknowledged by the resume alone."""
    end = make()
    view = ask(end)
    chunk(end, 1)
    end.take(view, NOW)
    end.connection_lost()
    end.connect(NOW)
    end.messages_to_send()
    assert end.get_timer() == pytest.approx(NOW + 0.1)
    end.handle_timer(NOW + 1)
    assert said(end) == []
    hear(end, **ESTABLISHED)
    assert said(end) == [{"type": "resume_stream", "stream_id": "s", "last_chunk_id": 1, "epoch": "e"}]


# -- losing and coming back


def test_what_was_not_taken_is_rolled_back() -> None:
    """A loss drops what was received but not processed; the resume asks for it again."""
    end = make()
    view = ask(end)
    chunk(end, 1, 2, 3)
    end.take(view, NOW)
    end.connection_lost()
    assert (view.state, view.received, view.processed, view.waiting) == (ViewState.LOST, 1, 1, 0)
    assert end.take(view, NOW) is None
    greet(end)
    assert said(end)[1] == {"type": "resume_stream", "stream_id": "s", "last_chunk_id": 1, "epoch": "e"}
    resumed(end, 1)
    chunk(end, 2, 3)
    assert take_all(end, view) == "23"


def test_a_disconnected_client_wants_no_timer() -> None:
    """Without a connection nothing is due, whatever was waiting to be acknowledged."""
    end = make()
    view = ask(end)
    chunk(end, 1)
    end.take(view, NOW)
    end.connection_lost()
    assert end.get_timer() is None


def test_following_a_known_stream() -> None:
    """A stream that exists is followed from where its reader stands."""
    end = make()
    view = end.follow("s", 4, snapshot=True)
    assert said(end) == [{"type": "resume_stream", "stream_id": "s", "last_chunk_id": 4, "snapshot": True}]
    assert (view.state, view.processed, view.request) == (ViewState.LOST, 4, None)
    resumed(end, 4)
    chunk(end, 5)
    assert take_all(end, view) == "5"


def test_a_snapshot_is_asked_for_again() -> None:
    """Whoever wants what was missed at once wants it after a lost connection too."""
    end = make()
    end.follow("s", 4, snapshot=True)
    said(end)
    end.connection_lost()
    greet(end)
    assert said(end)[1] == {"type": "resume_stream", "stream_id": "s", "last_chunk_id": 4, "snapshot": True}


def test_a_prompt_continues_or_says_all() -> None:
    """A text is the next message of the session's conversation, a list is a conversation."""
    end = make()
    end.chat("a", "hi")
    end.chat("b", QUESTION)
    first, second = said(end)
    assert first == {"type": "chat_request", "request_id": "a", "message": "hi"}
    assert second == {"type": "chat_request", "request_id": "b", "messages": [{"role": "user", "content": "hi"}]}


# -- history


def history(session_id: str = "ses") -> dict[str, Any]:
    """An answer to a get_history."""
    message = {"id": "m", "role": "user", "content": "hi", "created": 0.0, "is_complete": True}
    return {"type": "history", "session_id": session_id, "messages": [message], "title": "t"}


def test_histories_are_asked_for_one_by_one() -> None:
    """A question waits until the one before it is answered, and each has its own answer."""
    end = make()
    end.get_history()
    end.get_history("other")
    assert said(end) == [{"type": "get_history"}]
    (answered,) = hear(end, **history())
    assert (answered.message.session_id, answered.message.title) == ("ses", "t")
    assert said(end) == [{"type": "get_history", "session_id": "other"}]
    hear(end, **history("other"))
    assert (said(end), hear(end, **history("unasked"))) == ([], [])


def test_a_history_is_asked_for_again() -> None:
    """A question that has no answer yet goes with every new connection."""
    end = ClientProtocol()
    end.get_history()
    greet(end)
    assert said(end)[1:] == [{"type": "get_history"}]
    end.connection_lost()
    greet(end)
    assert said(end)[1:] == [{"type": "get_history"}]
    hear(end, **history())
    end.connection_lost()
    greet(end)
    assert said(end)[1:] == []


def test_a_history_that_is_refused() -> None:
    """An error that names no stream or request answers the question that waits, and no other error does."""
    end = make()
    ask(end)
    end.get_history()
    error = {"type": "error", "error_type": "rate_limit", "message": "Later", "recoverable": True}
    assert not [event for event in hear(end, **error, stream_id="s") if isinstance(event, Answered)]
    (answered,) = hear(end, **error)
    assert isinstance(answered, Answered)
    end.get_history()
    end.forget_questions()
    assert [type(event) for event in hear(end, **error)] == [Told]


def test_following_while_the_server_goes_away() -> None:
    """A leaving server still serves streams, so it is asked."""
    end = make()
    hear(end, type="going_away", deadline_ms=1, reconnect_after_ms=1)
    end.follow("s")
    assert [message["type"] for message in said(end)] == ["resume_stream"]


def test_a_second_greeting_resumes_nothing_twice() -> None:
    """A greeting that comes again leaves views alone that are streaming."""
    end = make()
    view = ask(end)
    hear(end, **ESTABLISHED)
    assert said(end) == []
    assert view.state is ViewState.STREAMING


def test_following_waits_for_a_connection() -> None:
    """A stream followed while disconnected is resumed once there is a connection."""
    end = ClientProtocol()
    end.follow("s", 4)
    greet(end)
    assert [message["type"] for message in said(end)] == ["hello", "resume_stream"]


# -- the end


def test_a_good_end() -> None:
    """The outcome holds what the server says about the whole answer."""
    end = make()
    view = ask(end)
    chunk(end, 1)
    take_all(end, view)
    usage = {"input_tokens": 3, "output_tokens": 4}
    assert complete(end, 1, usage=usage, ttft_ms=12.5, elapsed_seconds=2.0, tokens_per_second=0.5) == [Ended(view)]
    assert view.state is ViewState.ENDED
    assert view.outcome == Outcome(
        StreamState.COMPLETE, 1, "stop", Usage(3, 4), ttft_ms=12.5, elapsed_seconds=2.0, tokens_per_second=0.5
    )


def test_a_cancelled_end() -> None:
    """A cancelled answer ends in a state of its own, with its receipt."""
    end = make()
    view = ask(end)
    receipt = {"generated_chunks": 0, "delivered_chunk_id": 0}
    fields = {"stream_id": "s", "final_chunk_id": 0, "finish_reason": "cancelled", "receipt": receipt}
    hear(end, type="stream_complete", **fields)
    assert view.outcome is not None
    assert (view.outcome.state, view.outcome.receipt) == (StreamState.CANCELLED, Receipt(0, 0))


def test_a_bad_end() -> None:
    """A failed answer ends with its error."""
    end = make()
    view = ask(end)
    fields = {"error_type": "chunk_timeout", "message": "m", "recoverable": True, "retry_after": 2.0}
    assert hear(end, type="stream_error", stream_id="s", last_chunk_id=0, **fields) == [Ended(view)]
    assert view.outcome == Outcome(
        StreamState.FAILED, 0, error_type="chunk_timeout", message="m", recoverable=True, retry_after=2.0
    )


@given(
    st.sampled_from([StreamState.COMPLETE, StreamState.CANCELLED, StreamState.FAILED]),
    st.none() | st.floats(0, 1e6),
    st.none() | st.builds(Usage, st.integers(0, 1000), st.integers(0, 1000)),
)
def test_an_outcome_survives_the_wire(state: StreamState, number: float | None, usage: Usage | None) -> None:
    """What the server knows about an end is what the client's view knows about it."""
    if state is StreamState.FAILED:
        outcome = Outcome(state, 0, error_type="interrupted", message="m", recoverable=True, retry_after=number)
    else:
        reason = "cancelled" if state is StreamState.CANCELLED else "length"
        outcome = Outcome(state, 0, reason, usage, ttft_ms=number, elapsed_seconds=number or 0.0)
    end = make()
    view = ask(end)
    end.receive_message(m.encode(m.outcome_message("s", outcome)), NOW)
    assert view.outcome == outcome


def test_the_last_ack_does_not_wait() -> None:
    """An answer that has been read whole is acknowledged as soon as it ends."""
    end = make()
    view = ask(end)
    chunk(end, 1, 2)
    take_all(end, view)
    assert said(end) == []
    complete(end, 2)
    assert said(end) == [{"type": "chunk_ack", "chunk_id": 2, "stream_id": "s"}]


def test_an_ended_view_can_be_read_out() -> None:
    """Pieces that waited when the end came can still be taken, and the last one is acknowledged at once."""
    end = make()
    view = ask(end)
    chunk(end, 1, 2)
    assert complete(end, 2) == [Ended(view)]
    assert end.take(view, NOW) == Piece(1, 1, "1")
    assert said(end) == []
    assert end.take(view, NOW) == Piece(2, 2, "2")
    assert said(end) == [{"type": "chunk_ack", "chunk_id": 2, "stream_id": "s"}]
    assert end._streams == {}


def test_a_slow_reader_of_an_ended_view_acknowledges_on_time() -> None:
    """The end of a stream does not stop the acks of what is still being read."""
    end = make()
    view = ask(end)
    chunk(end, 1, 2)
    complete(end, 2)
    end.take(view, NOW)
    end.handle_timer(NOW + 1)
    assert [message["chunk_id"] for message in said(end)] == [1]
    assert take_all(end, view) == "2"


def test_an_ended_view_outlives_its_connection() -> None:
    """What waits in an ended view can be read after a loss, and is acknowledged to nobody."""
    end = make()
    view = ask(end)
    chunk(end, 1, 2)
    complete(end, 2)
    end.take(view, NOW)
    end.connection_lost()
    greet(end)
    assert take_all(end, view) == "2"
    end.handle_timer(NOW + 1)
    assert [message["type"] for message in said(end)] == ["hello"]
    assert view.outcome is not None


@pytest.mark.parametrize("final", [3, 1])
def test_an_end_with_missing_chunks_is_a_gap(final: int) -> None:
    """A terminal message that does not follow the last chunk received does not end the view; it resumes."""
    end = make()
    view = ask(end)
    chunk(end, 1, 2)
    end.take(view, NOW)
    assert complete(end, final) == [Gap(view, 3, final + 1)]
    assert (view.state, view.outcome) == (ViewState.LOST, None)
    assert [(message["type"], message["last_chunk_id"]) for message in said(end)] == [("resume_stream", 1)]


def test_a_second_end_is_ignored() -> None:
    """A terminal message that comes again, or another one, does not change the outcome."""
    end = make()
    view = ask(end)
    chunk(end, 1)
    complete(end, 1)
    first = view.outcome
    fields = {"error_type": "interrupted", "message": "m", "recoverable": True, "last_chunk_id": 1}
    assert complete(end, 1) == []
    assert hear(end, type="stream_error", stream_id="s", **fields) == []
    assert resumed(end, 0) == []
    assert chunk(end, 2) == []
    assert view.outcome is first


# -- errors


def _error(end: ClientProtocol, error_type: str = "bad_request", **fields: Any) -> list[Any]:
    return hear(end, **{"type": "error", "error_type": error_type, "message": "m", "recoverable": False, **fields})


def test_an_error_about_a_request_ends_its_view() -> None:
    """A refused question ends the view that asked it, and is not asked again."""
    end = make()
    view, other = end.chat("r", QUESTION), end.chat("q", QUESTION)
    ended, told = _error(end, request_id="r", retry_after=3.0)
    assert ended == Ended(view)
    assert isinstance(told, Told)
    assert view.outcome == Outcome(StreamState.FAILED, 0, error_type="bad_request", message="m", retry_after=3.0)
    assert other.state is ViewState.REQUESTED
    end.connection_lost()
    end.messages_to_send()
    greet(end)
    assert [message.get("request_id") for message in said(end)] == [None, "q"]


def test_an_error_about_a_stream_ends_its_view() -> None:
    """A refused resume ends the view of that stream."""
    end = make()
    view = end.follow("s", 4)
    assert _error(end, "unknown_stream", stream_id="s")[0] == Ended(view)
    assert view.outcome == Outcome(StreamState.FAILED, 4, error_type="unknown_stream", message="m")
    assert end._streams == {}


def test_an_error_leaves_what_was_received() -> None:
    """A view that an error ended can still be read out."""
    end = make()
    view = ask(end)
    chunk(end, 1, 2)
    _error(end, stream_id="s")
    assert view.outcome is not None
    assert view.outcome.final_chunk_id == 2
    assert take_all(end, view) == "12"


@pytest.mark.parametrize("about", [{}, {"request_id": "other"}, {"stream_id": "other"}])
def test_an_error_about_nothing_known_is_only_told(about: dict[str, str]) -> None:
    """An error about the connection, or about somebody else's stream, ends no view."""
    end = make()
    view = ask(end)
    (told,) = _error(end, **about)
    assert isinstance(told, Told)
    assert view.state is ViewState.STREAMING


def test_an_error_about_an_ended_view_is_only_told() -> None:
    """An outcome that is known stays, whatever is said later."""
    end = make()
    view = ask(end)
    chunk(end, 1)
    complete(end, 1)
    first = view.outcome
    assert [type(event) for event in _error(end, stream_id="s")] == [Told]
    assert view.outcome is first


@pytest.mark.parametrize(("retry_after", "wait"), [(None, 1.0), (0.25, 0.25)])
def test_a_server_without_capacity_is_asked_again(retry_after: float | None, wait: float) -> None:
    """A request that may be served later is repeated after the time the server names, or a second."""
    end = make()
    view = end.chat("r", QUESTION)
    first = end.messages_to_send()
    events = _error(end, "capacity", recoverable=True, request_id="r", retry_after=retry_after)
    assert [type(event) for event in events] == [Told]
    assert view.state is ViewState.REQUESTED
    assert end.get_timer() == NOW + wait
    end.handle_timer(NOW + wait - 0.01)
    assert end.messages_to_send() == []
    end.handle_timer(NOW + wait)
    assert end.messages_to_send() == first
    end.handle_timer(NOW + wait + 5)
    assert end.messages_to_send() == []


def test_a_server_without_capacity_is_not_asked_for_ever() -> None:
    """After some refusals the view ends with what the server said."""
    end = make(refusals=2)
    view = end.chat("r", QUESTION)
    for n in range(1, 4):
        assert view.state is ViewState.REQUESTED
        _error(end, "capacity", recoverable=True, request_id="r")
        end.handle_timer(NOW + 2 * n)
    assert view.outcome is not None
    assert view.outcome.error_type == "capacity"


def test_capacity_that_cannot_be_waited_for_ends() -> None:
    """A refusal that is not recoverable, such as too many streams of one connection, ends the view."""
    end = make()
    view = end.chat("r", QUESTION)
    _error(end, "capacity", recoverable=False, request_id="r")
    assert view.state is ViewState.ENDED


def test_a_refused_request_goes_to_the_next_connection_at_once() -> None:
    """A new connection is asked without waiting for the old one's time to come, and once only."""
    end = make()
    end.chat("r", QUESTION)
    _error(end, "capacity", recoverable=True, request_id="r", retry_after=5.0)
    end.connection_lost()
    end.messages_to_send()
    greet(end)
    assert [message["type"] for message in said(end)] == ["hello", "chat_request"]
    end.handle_timer(NOW + 6)
    assert said(end) == []


def test_a_refusing_server_that_leaves_is_not_asked_again() -> None:
    """While the server goes away the request waits for the next connection."""
    end = make()
    end.chat("r", QUESTION)
    end.messages_to_send()
    _error(end, "capacity", recoverable=True, request_id="r")
    hear(end, type="going_away", deadline_ms=1, reconnect_after_ms=1)
    assert end.get_timer() == NOW + 10
    end.handle_timer(NOW + 5)
    assert said(end) == []


# -- everything else


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"type": "stream_status", "stream_id": "s", "status": "retrying", "message": "m"},
            m.StreamStatus("s", "retrying", "m"),
        ),
        ({"type": "stream_list", "streams": []}, m.StreamList([])),
        (
            {"type": "stream_queued", "request_id": "r", "stream_id": "s", "position": 1},
            m.StreamQueued("r", "s", 1),
        ),
        ({"type": "going_away", "deadline_ms": 1, "reconnect_after_ms": 2}, m.GoingAway(1, 2)),
    ],
    ids=["status", "list", "queued", "going away"],
)
def test_other_messages_are_told(fields: dict[str, Any], message: m.ServerMessage) -> None:
    """What only the application can make use of is handed to it as it is."""
    end = make()
    assert hear(end, **fields) == [Told(message)]


def test_going_away_is_noted() -> None:
    """A client knows when its server is about to leave, and hearing it twice is harmless."""
    end = make()
    for _ in range(2):
        hear(end, type="going_away", deadline_ms=1, reconnect_after_ms=2)
        assert end.state is ConnectionState.DRAINING


def test_asking_for_streams() -> None:
    """The session's streams are asked for in one message."""
    end = make()
    end.list_streams()
    assert said(end) == [{"type": "list_streams"}]


@pytest.mark.parametrize("data", [b"{", b"[]", b'{"type":"poem"}', b'{"type":"hello"}', '{"type":"\ud800"}'])
def test_what_cannot_be_understood_is_counted(data: bytes | str) -> None:
    """A message that makes no sense changes nothing but a count, and is a sign of life."""
    end = make()
    view = ask(end)
    end.receive_message(data, NOW + 20)
    assert (end.ignored, end.events_received(), said(end)) == (1, [], [])
    assert view.state is ViewState.STREAMING
    end.handle_timer(NOW + 44)
    assert Dead() not in end.events_received()


def test_text_is_read_like_bytes() -> None:
    """A socket that hands over text serves as well as one that hands over bytes."""
    end = make()
    view = ask(end)
    end.receive_message('{"type":"content_chunk","stream_id":"s","chunk_id":1,"content":"é"}', NOW)
    assert take_all(end, view) == "é"


# -- cancelling and dropping


def test_a_cancel_is_said_at_once() -> None:
    """Cancelling an answer under way tells the server, also one that is going away."""
    end = make()
    view = ask(end)
    end.cancel(view)
    assert said(end) == [{"type": "cancel_stream", "stream_id": "s"}]
    hear(end, type="going_away", deadline_ms=1, reconnect_after_ms=1)
    end.cancel(view)
    assert said(end) == [{"type": "cancel_stream", "stream_id": "s"}]
    assert view.state is ViewState.STREAMING


def test_a_cancel_before_the_start_is_said_with_it() -> None:
    """An answer that was cancelled before the server named its stream is stopped as soon as it does."""
    end = make()
    view = end.chat("r", QUESTION)
    end.messages_to_send()
    end.cancel(view)
    assert said(end) == []
    start(end)
    assert said(end) == [{"type": "cancel_stream", "stream_id": "s"}]


def test_a_cancel_without_a_connection_is_said_on_the_next() -> None:
    """An answer that was cancelled while disconnected is stopped after the resume."""
    end = make()
    view = ask(end)
    end.connection_lost()
    end.cancel(view)
    assert said(end) == []
    greet(end)
    assert [message["type"] for message in said(end)] == ["hello", "resume_stream", "cancel_stream"]


def test_an_ended_view_is_not_cancelled() -> None:
    """There is nothing to stop about an answer that has ended."""
    end = make()
    view = ask(end)
    complete(end, 0)
    end.cancel(view)
    assert said(end) == []


def test_a_dropped_view_is_left_alone() -> None:
    """A view nobody wants is neither fed nor acknowledged nor resumed."""
    end = make()
    view = ask(end)
    chunk(end, 1, 2)
    end.drop(view)
    assert chunk(end, 3) == []
    take_all(end, view)
    end.handle_timer(NOW + 1)
    end.connection_lost()
    greet(end)
    assert [message["type"] for message in said(end)] == ["hello"]


def test_dropping_a_replaced_view_leaves_the_new_one() -> None:
    """Following a stream again makes the old view's end no concern of the new one."""
    end = make()
    old = end.follow("s")
    new = end.follow("s")
    end.drop(old)
    end.messages_to_send()
    resumed(end, 0)
    assert chunk(end, 1) == [Received(new)]


# -- time


def test_a_client_s_heartbeats() -> None:
    """After the greeting a heartbeat goes out every interval that the server names."""
    end = make()
    for at in (NOW + 10, NOW + 20):
        assert end.get_timer() == at
        end.handle_timer(at - 0.001)
        assert said(end) == []
        end.handle_timer(at)
        assert said(end) == [{"type": "heartbeat", "timestamp": at}]
        assert hear(end, at, type="heartbeat_ack", timestamp=at) == []


def test_no_heartbeat_before_the_greeting() -> None:
    """A new connection keeps silent until the server has greeted, whatever the last one was about to say."""
    end = make()
    end.connection_lost()
    end.connect(NOW + 9)
    end.messages_to_send()
    end.handle_timer(NOW + 11)
    assert said(end) == []


def test_a_server_s_heartbeat_is_answered() -> None:
    """A heartbeat goes back with its own timestamp and is nobody else's business."""
    end = make()
    assert hear(end, type="heartbeat", timestamp=7.5) == []
    assert said(end) == [{"type": "heartbeat_ack", "timestamp": 7.5}]


def test_a_silent_server_is_dead() -> None:
    """When nothing came for the timeout the owner is told to give the connection up, once."""
    end = make()
    end.handle_timer(NOW + 24.999)
    assert end.events_received() == []
    end.handle_timer(NOW + 25)
    assert end.events_received() == [Dead()]
    end.handle_timer(NOW + 60)
    assert end.events_received() == []


def test_a_server_that_does_not_greet_is_dead() -> None:
    """A hello that is not answered in time means a dead connection too, also on the second connection."""
    end = ClientProtocol(ClientSettings(greeting_timeout=5.0))
    for _ in range(2):
        end.connect(NOW)
        assert end.get_timer() == NOW + 5
        end.handle_timer(NOW + 4.999)
        assert end.events_received() == []
        end.handle_timer(NOW + 5)
        assert end.events_received() == [Dead()]
        assert end.get_timer() is None
        end.connection_lost()


def test_an_ack_within_the_protocol_s_delay() -> None:
    """Without other settings an ack waits no longer than the 250 ms that rule 4 allows."""
    assert ClientSettings().ack_delay <= 0.25


def test_the_soonest_deadline_counts() -> None:
    """One timer serves heartbeats, silence and acks."""
    end = make(ack_delay=20.0)
    view = ask(end)
    chunk(end, 1)
    end.take(view, NOW)
    assert end.get_timer() == NOW + 10
    end.handle_timer(NOW + 10)
    end.handle_timer(NOW + 19)
    assert end.get_timer() == NOW + 20
    end.messages_to_send()
    end.handle_timer(NOW + 20)
    assert [message["type"] for message in said(end)] == ["chunk_ack", "heartbeat"]
    assert end.get_timer() == NOW + 25


@given(st.floats(0, 1e9), st.floats(0.01, 100), st.floats(2, 4), st.floats(0.01, 0.25))
def test_a_timer_that_has_fired_asks_for_a_later_time(now: float, beat: float, factor: float, delay: float) -> None:
    """An owner with an exact clock never spins: each timer does something and the next one is later."""
    end = ClientProtocol(ClientSettings(ack_delay=delay))
    end.connect(now)
    hear(end, now, **{**ESTABLISHED, "heartbeat_interval": beat, "heartbeat_timeout": beat * factor})
    view = ask(end)
    chunk(end, 1)
    end._last_heard = now
    end.take(view, now)
    for _ in range(20):
        due = end.get_timer()
        assert due is not None
        end.handle_timer(due)
        if Dead() in end.events_received():
            return
        after = end.get_timer()
        assert after is not None
        assert after > due
    raise AssertionError("a silent server lives for ever")


def test_repr_tells_where_a_view_stands() -> None:
    """A view in a log line tells its stream, state and positions."""
    end = make()
    view = ask(end)
    chunk(end, 1, 2)
    end.take(view, NOW)
    assert repr(view) == "<View s STREAMING received=2 processed=1>"


# -- two real ends


@pytest.mark.parametrize("batch", [False, True])
def test_an_answer_from_end_to_end(batch: bool) -> None:
    """An answer arrives whole, in order and once, and its last chunk is acknowledged."""
    pair = Pair(batch=batch)
    pair.connect()
    view = pair.ask()
    log = pair.log_of(view)
    log.append(*[f"{n} " for n in range(200)])
    log.finish()
    pair.settle()
    pair.pass_time(1.0)
    assert pair.text["str_1"] == log.text
    assert view.outcome == log.outcome
    assert pair.server is not None
    assert pair.server.window_of("str_1").acked == 200


def test_nobody_reads() -> None:
    """A client that takes nothing is sent one window and no more, for as long as it likes."""
    pair = Pair(ServerSettings(window=7))
    pair.connect()
    view = pair.ask()
    pair.log_of(view).append(*"abcdefghijklmnop")
    for _ in range(5):
        pair.settle(take=False)
        pair.client.handle_timer(pair.now)
        pair.now += 20
    assert (view.waiting, view.received) == (7, 7)


def test_a_reload_in_the_middle() -> None:
    """A new client that knows only the stream and its position reads the rest."""
    pair = Pair()
    pair.connect()
    view = pair.ask()
    pair.log_of(view).append("a", "b", "c")
    pair.settle()
    pair.drop()
    pair.client = ClientProtocol(ClientSettings(batch=False))
    pair.connect()
    again = pair.client.follow("str_1", 2)
    pair.logs["str_1"].append("d")
    pair.settle()
    assert pair.text["str_1"] == "abc" + "cd"
    assert (again.processed, again.epoch) == (4, "epoch-str_1")


def test_a_loss_at_every_message() -> None:
    """However many messages arrive before the connection breaks, the text comes whole, in order and once."""
    for survived in range(12):
        pair = Pair(ServerSettings(window=4))
        pair.connect()
        pair.settle()
        pair.client.chat("r1", QUESTION)
        pair.deliver_to_server()
        pair.logs["str_1"].append(*"abcdefgh")
        pair.logs["str_1"].finish()
        for _ in range(survived):
            pair.deliver_to_client(1)
            pair.take_all()
            pair.deliver_to_server()
        pair.drop()
        pair.connect()
        pair.settle()
        pair.pass_time(1.0)
        assert pair.text == {"str_1": "abcdefgh"}
        assert len(pair.requests) == 1


def test_a_loss_before_the_request_arrived() -> None:
    """A request that was lost with its connection is asked again, and starts one stream."""
    pair = Pair()
    pair.connect()
    pair.settle()
    view = pair.client.chat("r1", QUESTION)
    pair.client.messages_to_send()
    pair.drop()
    pair.connect()
    pair.settle()
    assert (view.state, pair.requests) == (ViewState.STREAMING, {"r1": "str_1"})


def test_a_cancel_from_end_to_end() -> None:
    """A cancelled answer ends with what had been written until then."""
    pair = Pair()
    pair.connect()
    view = pair.ask()
    pair.log_of(view).append("a", "b")
    pair.client.cancel(view)
    pair.settle()
    assert pair.cancels == ["str_1"]
    assert view.outcome is not None
    assert (view.outcome.state, view.outcome.final_chunk_id) == (StreamState.CANCELLED, 2)
    assert pair.text["str_1"] == "ab"


def test_two_streams_on_one_connection() -> None:
    """Streams side by side do not mix, and a slow one does not hold the other."""
    pair = Pair(ServerSettings(window=4))
    pair.connect()
    slow, fast = pair.ask("r1"), pair.ask("r2")
    pair.log_of(slow).append(*"abcdefgh")
    pair.log_of(fast).append(*"12345678")
    for _ in range(10):
        pair.settle(take=False)
        while pair.take(fast) is not None:
            pass
    assert pair.text == {"str_2": "12345678"}
    assert slow.waiting == 4


def test_a_resume_of_an_unknown_stream() -> None:
    """A stream the server does not know ends its view with the server's error."""
    pair = Pair()
    pair.connect()
    pair.settle()
    view = pair.client.follow("gone", 3)
    pair.settle()
    assert view.outcome is not None
    assert view.outcome.error_type == "unknown_stream"


def test_two_living_ends_stay_alive() -> None:
    """Heartbeats keep a silent conversation open for as long as both ends answer."""
    pair = Pair(ServerSettings(heartbeat_interval=1.0, heartbeat_timeout=2.5))
    server = pair.connect()
    pair.ask()
    pair.pass_time(600.0)
    assert server.close is None
    assert Dead() not in pair.events
    assert server.round_trip == 0.0


def test_every_kind_arrives_as_what_it_is() -> None:
    """Reasoning, tool calls and data keep their kind on the way."""
    pair = Pair()
    pair.connect()
    view = pair.ask()
    kinds = [Kind.TEXT, Kind.REASONING, Kind.TOOL_CALL, Kind.DATA]
    for kind in kinds:
        pair.log_of(view).append("x", kind=kind)
    pair.settle(take=False)
    taken = [pair.take(view) for _ in kinds]
    assert [piece.kind for piece in taken if piece is not None] == [kind.wire for kind in kinds]


def test_a_slow_greeting_counts_as_a_second_at_most() -> None:
    """Who waited long for the greeting is not therefore far away."""
    end = ClientProtocol(ClientSettings())
    end.connect(NOW)
    hear(end, NOW + 5, **{**ESTABLISHED, "limits": {"max_message_bytes": 1000, "max_streams": 1, "max_window": 100}})
    assert end._round_trip == 1.0
    hear(end, NOW + 9, **ESTABLISHED)
    assert end._round_trip == 1.0


def test_an_expiry_is_told_twice_and_asked_for_once() -> None:
    """A second connection's expiry takes the place of the first one's."""
    end = ClientProtocol(ClientSettings(renews=True))
    for expires_in, due in ((8.0, 6.0), (4.0, 3.0)):
        end.connect(NOW)
        hear(end, NOW, **{**ESTABLISHED, "expires_in": expires_in})
        assert end.get_timer() == NOW + due
        end.connection_lost()
        assert end.get_timer() is None


def test_a_stream_s_refusal_is_none_of_the_token_s() -> None:
    """While a token is being renewed, an error that names a stream is about that stream."""
    end = ClientProtocol(ClientSettings(renews=True))
    greet(end)
    view = ask(end)
    end.renew("t2")
    hear(end, type="error", error_type="forbidden", message="No", recoverable=False, stream_id=view.stream_id)
    assert view.outcome is not None
    assert end._renewing


def test_a_rewind_into_a_batch_ends_in_the_first_window() -> None:
    """After what was left of a batch was fetched, the window is again what it was at first."""
    end = make()
    hear(end, **{**ESTABLISHED, "limits": {"max_message_bytes": 1000, "max_streams": 1, "max_window": 1000}})
    view = ask(end, window=8)
    assert view._wished is not None
    hear(end, type="chunk_batch", stream_id=view.stream_id, first_chunk_id=1, last_chunk_id=4, content="abcd")
    hear(end, type="stream_rewind", stream_id=view.stream_id, chunk_id=5, to_chunk_id=2, reason="retry")
    resumed(end, 0, window=2)
    said(end)
    chunk(end, 1)
    end.take(view, NOW)
    assert "window" not in said(end)[0]
    chunk(end, 2)
    end.take(view, NOW)
    assert said(end)[-1]["window"] == view._wished.limit
