"""Two real ends, joined to each other."""

from __future__ import annotations

import pytest

from tests.pair import QUESTION, Pair
from wsstream.chunks import Kind, StreamState
from wsstream.client_protocol import ClientProtocol, ClientSettings, Dead
from wsstream.protocol import ServerSettings
from wsstream.states import ViewState


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
