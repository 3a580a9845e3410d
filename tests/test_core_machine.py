"""A machine that does everything to two joined ends, in any order, and checks the promises after each step."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.pair import QUESTION, Pair, read, wire
from wsstream.chunks import StreamState
from wsstream.client_protocol import MAX_GAPS, Dead, View
from wsstream.protocol import ServerSettings
from wsstream.states import ViewState

WINDOW, WINDOW_BYTES, MAX_WINDOW = 6, 40, 24


class TwoEnds(RuleBasedStateMachine):
    """One answer, read by one client, over any number of connections that break at any moment."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = Pair(ServerSettings(window=WINDOW, window_bytes=WINDOW_BYTES, max_window=MAX_WINDOW))
        self.widest = WINDOW
        self.pair.connect()
        self.view: View = self.pair.client.chat("r1", QUESTION)
        self.acks: list[bytes] = []
        self.cancelled = False
        self.swallowed = 0

    @property
    def connected(self) -> bool:
        """Whether there is a connection."""
        return self.pair.server is not None

    @property
    def log(self) -> str:
        """The text of the answer so far."""
        log = self.pair.logs.get("str_1")
        return "" if log is None else log.text

    @initialize(quietly=st.booleans())
    def begin(self, quietly: bool) -> None:
        """The stream starts, or the first connection may break even before that."""
        if quietly:
            self.pair.settle()

    # -- the producer

    @precondition(lambda self: self.pair.logs)
    @rule(texts=st.lists(st.text('ab"é😀', min_size=1, max_size=12), min_size=1, max_size=5))
    def produce(self, texts: list[str]) -> None:
        """The answer grows."""
        log = self.pair.logs["str_1"]
        if log.outcome is None:
            log.append(*texts)

    @precondition(lambda self: self.pair.logs)
    @rule()
    def produce_a_large_chunk(self) -> None:
        """One chunk is larger than the byte window."""
        self.produce(["x" * (WINDOW_BYTES + 5)])

    @precondition(lambda self: self.pair.logs)
    @rule()
    def finish(self) -> None:
        """The answer ends."""
        if self.pair.logs["str_1"].outcome is None:
            self.pair.logs["str_1"].finish()

    # -- the network

    @precondition(lambda self: self.connected)
    @rule(count=st.integers(1, 4))
    def deliver_to_server(self, count: int) -> None:
        """Some of what the client said arrives."""
        self.pair.to_server.extend(self.pair.client.messages_to_send())
        self.acks += [data for data in list(self.pair.to_server)[:count] if b'"chunk_ack"' in data]
        self.pair.deliver_to_server(count)

    @precondition(lambda self: self.connected)
    @rule(count=st.integers(1, 4))
    def deliver_to_client(self, count: int) -> None:
        """Some of what the server said arrives."""
        self.pair.deliver_to_client(count)

    @precondition(lambda self: self.connected)
    @rule()
    def deliver_all(self) -> None:
        """Everything that was said arrives, and what it brings about too."""
        self.pair.settle(take=False)

    @precondition(lambda self: self.connected)
    @rule(text=st.text("abc", min_size=1, max_size=5))
    def produce_and_deliver(self, text: str) -> None:
        """The answer grows, and the reader's end has it at once."""
        self.pair.settle(take=False)
        if self.pair.logs:  # not where it was cancelled before anybody was asked
            self.produce([text])
        self.pair.settle(take=False)

    @precondition(lambda self: self.connected and self.pair.to_client and self.swallowed < MAX_GAPS)
    @rule()
    def lose_a_message(self) -> None:
        """A middlebox swallows a chunk, as no socket should."""
        if b'"content_chunk"' in self.pair.to_client[0]:
            self.pair.to_client.popleft()
            self.swallowed += 1

    @precondition(lambda self: self.connected and self.pair.to_client)
    @rule()
    def repeat_a_message(self) -> None:
        """A middlebox delivers a chunk twice."""
        if b'"content_chunk"' in self.pair.to_client[0]:
            self.pair.to_client.appendleft(self.pair.to_client[0])

    @precondition(lambda self: self.connected and self.acks)
    @rule(data=st.data())
    def repeat_an_ack(self, data: st.DataObject) -> None:
        """An ack arrives again, at once or much later, on whatever connection there is now."""
        assert self.pair.server is not None
        window = self.pair._windows.get("str_1")
        ack = data.draw(st.sampled_from(self.acks))
        if window is not None and read([ack])[0]["chunk_id"] <= window.sent:
            before = window.acked
            self.pair.server.receive_message(ack, self.pair.now)
            assert self.pair.server.close is None
            assert window.acked >= before

    @precondition(lambda self: self.connected)
    @rule()
    def drop(self) -> None:
        """The connection breaks, and all that was under way is lost."""
        self.pair.drop()

    @precondition(lambda self: not self.connected)
    @rule()
    def reconnect(self) -> None:
        """The client comes back; it resumes by itself."""
        self.pair.connect()

    # -- the reader

    @rule(count=st.integers(1, 10))
    def take(self, count: int) -> None:
        """The reader renders some of what waits."""
        for _ in range(count):
            self.pair.take(self.view)

    @rule()
    def cancel(self) -> None:
        """The reader has had enough."""
        self.cancelled = True
        self.pair.client.cancel(self.view)

    @rule(seconds=st.sampled_from([0.05, 0.2, 3.0]))
    def wait(self, seconds: float) -> None:
        """Time passes, and timers fire; an end that has heard nothing for too long gives the connection up."""
        self.pair.now += seconds
        self.pair.client.handle_timer(self.pair.now)
        gone = Dead() in self.pair.client.events_received()
        if self.pair.server is not None:
            self.pair.server.handle_timer(self.pair.now)
            gone = gone or self.pair.server.close is not None
        if gone:
            self.pair.drop()

    @precondition(lambda self: self.connected and "str_1" in self.pair._windows)
    @rule(beyond=st.integers(1, 100))
    def forge_an_ack(self, beyond: int) -> None:
        """Somebody acknowledges what was never sent; the connection closes with 4400 and no window has moved."""
        server, window = self.pair.server, self.pair._windows["str_1"]
        assert server is not None
        before = (window.sent, window.acked, window.limit)
        server.receive_message(wire(type="chunk_ack", stream_id="str_1", chunk_id=window.sent + beyond), self.pair.now)
        assert server.close is not None
        assert server.close.code == 4400
        assert read(server.messages_to_send())[-1]["error_type"] == "ack_out_of_range"
        assert (window.sent, window.acked, window.limit) == before
        self.pair.drop()

    # -- the promises

    @invariant()
    def text_is_a_prefix_in_order_and_once(self) -> None:
        """What the reader has is the beginning of the answer, nothing twice and nothing left out."""
        assert self.log.startswith(self.pair.text.get("str_1", ""))

    @invariant()
    def positions_are_in_order(self) -> None:
        """On both sides what is acknowledged was processed, what was processed was sent, and what was sent exists."""
        tail = self.pair.logs["str_1"].tail if self.pair.logs else 0
        view = self.view
        assert view.acked <= view.processed <= view.received <= tail
        window = self.pair._windows.get("str_1")
        if window is not None:
            assert window.acked <= window.sent <= tail
            assert window.acked <= view.processed

    @property
    def never_asked(self) -> bool:
        """Whether it was cancelled before anybody was asked."""
        return self.cancelled and not self.view._sent

    @invariant()
    def no_more_in_flight_than_allowed(self) -> None:
        """The window holds in chunks and in bytes, but for a large chunk that goes alone."""
        window = self.pair._windows.get("str_1")
        if window is not None:
            totals = self.pair.logs["str_1"].totals
            self.widest = max(self.widest, window.limit)  # a client that renders quickly asks for more
            assert window.in_flight <= self.widest <= MAX_WINDOW
            assert window.in_flight <= 1 or totals[window.sent] - totals[window.acked] <= WINDOW_BYTES

    @invariant()
    def an_outcome_follows_the_whole_text(self) -> None:
        """A view has an outcome only when it has received everything before it."""
        if self.view.outcome is not None and self.never_asked:
            assert self.view.outcome.state is StreamState.CANCELLED
        elif self.view.outcome is not None:
            assert self.view.outcome == self.pair.logs["str_1"].outcome
            assert self.view.state is ViewState.ENDED
            assert self.view.received == self.view.outcome.final_chunk_id

    @invariant()
    def one_request_is_one_stream(self) -> None:
        """However often the request was sent, one stream was started, and nobody closed an honest connection."""
        assert len(self.pair.logs) <= 1
        assert self.pair.server is None or self.pair.server.close is None

    def teardown(self) -> None:
        """Whatever has happened, a working connection brings everything home."""
        if not self.connected:
            self.pair.connect()
        self.pair.settle()
        if self.never_asked:
            assert self.pair.requests == {}
            return
        if self.pair.logs["str_1"].outcome is None:
            assert not self.cancelled
            self.pair.logs["str_1"].finish()
        self.run_out()
        if self.view.outcome is None and self.swallowed:
            # Where a lone large chunk was swallowed, nothing follows that could show it, until the next connection.
            self.pair.drop()
            self.pair.connect()
            self.run_out()
        self.take(self.view.waiting)  # of a view that had ended before its connection was lost
        assert self.pair.text.get("str_1", "") == self.log
        assert self.view.outcome == self.pair.logs["str_1"].outcome

    def run_out(self) -> None:
        """Let the ends talk until the answer has come, or until it clearly does not."""
        self.pair.settle()
        for _ in range(self.pair.logs["str_1"].tail + 1):
            if self.view.outcome is not None:
                return
            self.pair.pass_time(0.25)


TestTwoEnds = TwoEnds.TestCase
TestTwoEnds.settings = settings(
    max_examples=250, stateful_step_count=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
