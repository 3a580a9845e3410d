"""Flow control: examples for each sentence of the theory, and properties that hold whatever happens."""

from __future__ import annotations

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsstream.errors import AckOutOfRange
from wsstream.flow import AckPacer, AdaptiveWindow, Pace, SendWindow, WishedWindow


def _totals(sizes: list[int]) -> list[int]:
    """`totals[n]` is the size of the chunks 1 … n together."""
    return list(accumulate(sizes, initial=0))


def _send(window: SendWindow, tail: int, totals: list[int]) -> int:
    """Send what may go, as an attachment does; the number of chunks sent."""
    before = window.sent
    window.sent = window.grant(tail, totals)
    return window.sent - before


ONES = _totals([1] * 100)


# -- SendWindow


def test_a_new_window_is_empty() -> None:
    """A receiver that resumes behind a chunk has nothing in flight."""
    window = SendWindow(5, 100, start=7)
    assert (window.sent, window.acked, window.in_flight, window.limited) == (7, 7, 0, False)


def test_grant_stops_at_the_limit() -> None:
    """No more chunks go than the window is wide."""
    window = SendWindow(5, 1000)
    assert window.grant(100, ONES) == 5


def test_grant_stops_at_the_tail() -> None:
    """No chunk goes that does not exist."""
    window = SendWindow(5, 1000)
    assert window.grant(3, ONES) == 3


def test_grant_changes_nothing_but_limited() -> None:
    """Asking what may go does not count as sending it."""
    window = SendWindow(5, 1000)
    window.grant(100, ONES)
    assert (window.sent, window.acked, window.in_flight) == (0, 0, 0)


@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=30),
    limit=st.integers(1, 12),
    limit_bytes=st.integers(1, 200),
    data=st.data(),
)
def test_the_next_chunk_goes_only_where_it_would_be_granted(
    sizes: list[int], limit: int, limit_bytes: int, data: st.DataObject
) -> None:
    """`send_next` sends the tail where `grant` allows just that, and leaves alone what it does not send."""
    totals, tail = _totals(sizes), len(sizes)
    short, long = SendWindow(limit, limit_bytes), SendWindow(limit, limit_bytes)
    short.sent = long.sent = data.draw(st.integers(0, tail))
    before = short.sent
    short.acked = data.draw(st.integers(0, before))
    short.send_next(
        tail, totals[tail], totals
    )  # what it learns by this of its limits must still be right behind an ack
    short.sent = before
    short.acked = long.acked = data.draw(st.integers(short.acked, before))
    granted = long.grant(tail, totals)
    if short.send_next(tail, totals[tail], totals):
        assert (short.sent, short.sent - before, short.limited) == (granted, 1, long.limited)
    else:
        assert short.sent == before
        assert granted != before + 1 or granted < tail or sizes[-1] > limit_bytes


def test_a_full_window_grants_nothing() -> None:
    """With the window in flight nothing more goes, however often it is asked."""
    window = SendWindow(5, 1000)
    assert _send(window, 100, ONES) == 5
    assert [_send(window, 100, ONES) for _ in range(3)] == [0, 0, 0]


def test_an_ack_lets_as_many_go() -> None:
    """Each acknowledged chunk makes room for one more."""
    window = SendWindow(5, 1000)
    _send(window, 100, ONES)
    assert window.on_ack(2) is True
    assert window.in_flight == 3
    assert _send(window, 100, ONES) == 2
    assert window.in_flight == 5


def test_acks_are_cumulative() -> None:
    """One ack stands for all chunks up to its own."""
    window = SendWindow(5, 1000)
    _send(window, 100, ONES)
    window.on_ack(5)
    assert window.in_flight == 0


@pytest.mark.parametrize("chunk_id", [0, 2, 3])
def test_an_old_ack_changes_nothing(chunk_id: int) -> None:
    """An ack that says what is known already, or less, is ignored."""
    window = SendWindow(5, 1000)
    _send(window, 100, ONES)
    window.on_ack(3)
    assert window.on_ack(chunk_id) is False
    assert (window.sent, window.acked) == (5, 3)


@pytest.mark.parametrize("chunk_id", [6, 7, 2**53])
def test_an_ack_for_what_was_never_sent(chunk_id: int) -> None:
    """An ack beyond the last chunk sent is an error and changes nothing."""
    window = SendWindow(5, 1000)
    _send(window, 100, ONES)
    window.on_ack(3)
    with pytest.raises(AckOutOfRange):
        window.on_ack(chunk_id)
    assert (window.sent, window.acked) == (5, 3)


def test_the_byte_limit_stops_first() -> None:
    """Where the bytes run out before the chunks do, the bytes decide."""
    window = SendWindow(50, 25)
    assert window.grant(10, _totals([10] * 10)) == 2


def test_bytes_are_counted_to_the_last() -> None:
    """Chunks that fill the byte limit exactly may go."""
    window = SendWindow(50, 30)
    assert window.grant(10, _totals([10] * 10)) == 3


def test_bytes_in_flight_count() -> None:
    """What is in flight takes its share of the byte limit until it is acknowledged."""
    window = SendWindow(50, 30)
    totals = _totals([10] * 10)
    _send(window, 10, totals)
    window.on_ack(1)
    assert _send(window, 10, totals) == 1


def test_a_chunk_larger_than_the_limit_goes_alone() -> None:
    """With nothing in flight one chunk goes whatever its size, and nothing goes with it."""
    window = SendWindow(50, 10)
    totals = _totals([1000, 1, 1])
    assert _send(window, 3, totals) == 1
    assert _send(window, 3, totals) == 0
    window.on_ack(1)
    assert _send(window, 3, totals) == 2


def test_a_large_chunk_waits_for_those_before_it() -> None:
    """While anything is in flight a chunk larger than the limit stays."""
    window = SendWindow(50, 10)
    totals = _totals([1, 1000])
    assert _send(window, 2, totals) == 1
    assert _send(window, 2, totals) == 0
    window.on_ack(1)
    assert _send(window, 2, totals) == 1


def test_a_narrowed_window_takes_nothing_back() -> None:
    """A limit moved below what is in flight grants nothing until acks catch up."""
    window = SendWindow(10, 1000)
    _send(window, 100, ONES)
    window.limit = 3
    assert window.grant(100, ONES) == 10
    window.on_ack(7)
    assert window.grant(100, ONES) == 10
    window.on_ack(8)
    assert window.grant(100, ONES) == 11


def test_a_narrowed_byte_limit_takes_nothing_back() -> None:
    """A byte limit moved below what is in flight grants nothing until acks catch up."""
    window = SendWindow(10, 100)
    totals = _totals([10] * 20)
    _send(window, 20, totals)
    window.limit_bytes = 15
    window.limit = 20
    assert window.grant(20, totals) == 10
    window.on_ack(9)
    assert window.grant(20, totals) == 10
    window.on_ack(10)
    assert window.grant(20, totals) == 11


@pytest.mark.parametrize(("tail", "limited"), [(4, False), (5, False), (6, True)])
def test_limited_tells_who_is_waited_for(tail: int, limited: bool) -> None:
    """A window is limited only while it leaves chunks behind that exist."""
    window = SendWindow(5, 1000)
    window.grant(tail, ONES)
    assert window.limited is limited


def test_the_byte_limit_limits_too() -> None:
    """A window that holds a chunk back for its size says so."""
    window = SendWindow(5, 2)
    window.grant(3, ONES)
    assert window.limited is True


def test_repr_shows_the_three_numbers() -> None:
    """A window in a log line tells what is sent, acknowledged and allowed."""
    window = SendWindow(5, 1000, start=2)
    window.sent = 4
    assert repr(window) == "<SendWindow sent=4 acked=2 limit=5/1000B>"


steps = st.lists(
    st.one_of(
        st.tuples(st.just("produce"), st.integers(1, 30)),
        st.tuples(st.just("send"), st.just(0)),
        st.tuples(st.just("ack"), st.integers(0, 60)),
        st.tuples(st.just("limit"), st.integers(1, 20)),
        st.tuples(st.just("limit_bytes"), st.integers(1, 60)),
    ),
    max_size=60,
)


@given(st.integers(1, 20), st.integers(1, 60), st.integers(0, 5), steps)
def test_whatever_happens_to_a_window(limit: int, limit_bytes: int, start: int, done: list[tuple[str, int]]) -> None:
    """New chunks never overfill the window, the order of its numbers holds, and an empty window always moves on."""
    sizes = [1] * start
    window = SendWindow(limit, limit_bytes, start)
    for what, number in done:
        totals = _totals(sizes)
        tail = len(sizes)
        acked = window.acked
        if what == "produce":
            sizes.append(number)
        elif what == "limit":
            window.limit = number
        elif what == "limit_bytes":
            window.limit_bytes = number
        elif what == "ack" and number > window.sent:
            with pytest.raises(AckOutOfRange):
                window.on_ack(number)
        elif what == "ack":
            assert window.on_ack(number) is (number > acked)
            assert window.acked == max(acked, number)
        else:
            idle = window.in_flight == 0 and tail > window.sent
            sent = _send(window, tail, totals)
            assert sent >= 0
            assert not (idle and sent == 0)
            if sent:
                assert window.in_flight <= window.limit
                in_flight = totals[window.sent] - totals[window.acked]
                assert in_flight <= window.limit_bytes or window.in_flight == 1
                assert window.sent == tail or window.limited
        assert start <= acked <= window.acked <= window.sent <= len(sizes)


@given(st.integers(1, 20), st.integers(1, 60), st.lists(st.integers(1, 30), min_size=1, max_size=40), st.data())
def test_a_grant_is_never_smaller_than_it_could_be(
    limit: int, limit_bytes: int, sizes: list[int], data: st.DataObject
) -> None:
    """The window grants the most that the theory allows, as a plain search finds it."""
    totals = _totals(sizes)
    tail = len(sizes)
    window = SendWindow(limit, limit_bytes)
    window.acked = data.draw(st.integers(0, tail))
    window.sent = data.draw(st.integers(window.acked, tail))
    allowed = [
        n
        for n in range(window.sent + 1, tail + 1)
        if n <= window.acked + limit and (totals[n] - totals[window.acked] <= limit_bytes or n == window.acked + 1)
    ]
    assert window.grant(tail, totals) == max(allowed, default=window.sent)


# -- policies


class _Viewer:
    """A viewer that renders `rate` chunks a second a round trip away, fed by a producer that never waits."""

    def __init__(self, policy: AdaptiveWindow, rate: float, round_trip: float | None, limit: int = 50) -> None:
        self.window = SendWindow(limit, 2**40)
        self.policy = policy
        self.rate = rate
        self.round_trip = round_trip
        self.now = 1000.0
        self.limits: list[int] = []

    def run(self, rounds: int) -> int:
        """Whole windows sent, rendered and acknowledged; the limit after that."""
        for _ in range(rounds):
            window = self.window
            window.sent = window.acked + window.limit
            window.limited = True
            self.now += max(self.round_trip or 0.0, window.in_flight / self.rate)
            window.on_ack(window.sent)
            self.policy.on_ack(window, self.now, self.round_trip)
            self.limits.append(window.limit)
        return self.window.limit


def test_a_fast_viewer_far_away_gets_a_wider_window() -> None:
    """A viewer that renders faster than its window lets it is given more, at most doubled per round."""
    viewer = _Viewer(AdaptiveWindow(8, 1000), rate=5000, round_trip=0.5)
    assert viewer.run(12) == 1000
    assert all(after <= 2 * before for before, after in zip([50, *viewer.limits], viewer.limits, strict=False))
    assert viewer.limits == sorted(viewer.limits)


def test_a_slow_renderer_gets_a_narrower_window() -> None:
    """A viewer that renders slowly is not sent more than it shows in a moment."""
    viewer = _Viewer(AdaptiveWindow(8, 1000), rate=40, round_trip=0.05, limit=1000)
    assert viewer.run(6) == 24


def test_the_window_settles_at_twice_what_is_rendered_meanwhile() -> None:
    """The limit is twice the chunks rendered in a round trip and an ack's delay, whatever it was before."""
    for limit in (1, 50, 1000):
        viewer = _Viewer(AdaptiveWindow(8, 1000), rate=100, round_trip=0.25, limit=limit)
        assert viewer.run(15) == 100


def test_the_floor_holds() -> None:
    """A viewer that hardly renders keeps the least window."""
    assert _Viewer(AdaptiveWindow(8, 1000), rate=0.5, round_trip=0.01).run(5) == 8


def test_a_ceiling_below_the_floor_wins() -> None:
    """A server that allows less than the usual floor is obeyed."""
    viewer = _Viewer(AdaptiveWindow(ceiling=5), rate=5000, round_trip=0.5, limit=5)
    assert viewer.run(5) == 5


def test_a_producer_s_pace_is_not_measured() -> None:
    """While the window holds nothing back, acks tell nothing about the viewer and the limit stays."""
    policy = AdaptiveWindow(8, 1000)
    window = SendWindow(50, 1000)
    for at in range(1, 20):
        window.sent = at
        window.on_ack(at)
        policy.on_ack(window, float(at), 0.1)
    assert window.limit == 50


def test_a_pause_of_the_producer_starts_a_new_round() -> None:
    """A round in which the window was not always limited is thrown away, so waiting for a producer is no slowness."""
    viewer = _Viewer(AdaptiveWindow(8, 1000), rate=5000, round_trip=0.1)
    viewer.run(1)
    before = viewer.window.limit
    viewer.window.limited = False
    viewer.policy.on_ack(viewer.window, viewer.now, 0.1)
    viewer.now += 3600.0
    assert viewer.run(1) == before
    assert viewer.run(1) == 2 * before


def test_nothing_moves_before_a_round_trip_is_known() -> None:
    """Without a measured round trip the limit stays."""
    assert _Viewer(AdaptiveWindow(), rate=5000, round_trip=None).run(5) == 50


def test_a_round_is_a_whole_window() -> None:
    """Acks within a window's first round change nothing, the one that completes it does."""
    policy = AdaptiveWindow(8, 1000)
    window = SendWindow(10, 1000)
    window.sent, window.limited = 10, True
    window.on_ack(1)
    policy.on_ack(window, 1.0, 0.5)
    for acked in range(2, 11):
        window.on_ack(acked)
        policy.on_ack(window, 1.0 + acked / 1000, 0.5)
        assert window.limit == 10
    window.sent = 11
    window.on_ack(11)
    policy.on_ack(window, 1.02, 0.5)
    assert window.limit == 20


def test_acks_at_the_same_instant_divide_by_nothing() -> None:
    """A whole window acknowledged while the clock stood still is measured with the next ack."""
    policy = AdaptiveWindow(8, 1000)
    window = SendWindow(10, 1000)
    window.sent, window.limited = 10, True
    policy.on_ack(window, 1.0, 0.5)
    window.on_ack(10)
    policy.on_ack(window, 1.0, 0.5)
    assert window.limit == 10
    policy.on_ack(window, 1.1, 0.5)
    assert window.limit == 20


@given(st.floats(0, 1e6))
def test_time_alone_changes_nothing(passed: float) -> None:
    """However long a viewer acknowledges nothing new, its window is never widened."""
    viewer = _Viewer(AdaptiveWindow(8, 1000), rate=1000, round_trip=0.1)
    before = viewer.run(3)
    viewer.window.sent = viewer.window.acked + before
    viewer.policy.on_ack(viewer.window, viewer.now + passed, 0.1)
    assert viewer.window.limit == before


acks = st.lists(
    st.tuples(st.integers(0, 50), st.booleans(), st.floats(0, 100), st.none() | st.floats(0, 60)), max_size=60
)


@given(st.integers(1, 20), st.integers(1, 2000), acks)
def test_the_limit_stays_within_its_bounds(
    floor: int, ceiling: int, done: list[tuple[int, bool, float, float | None]]
) -> None:
    """Whatever acks say and when, the limit stays between floor and ceiling and at most doubles."""
    policy = AdaptiveWindow(floor, ceiling)
    window = SendWindow(ceiling, 2**40)
    now = 1000.0
    for chunks, limited, passed, round_trip in done:
        before = window.limit
        now += passed
        window.sent = max(window.sent, window.acked + window.limit)
        window.limited = limited
        window.on_ack(min(window.sent, window.acked + chunks))
        policy.on_ack(window, now, round_trip)
        assert min(floor, ceiling) <= window.limit <= ceiling
        assert window.limit <= max(2 * before, floor)
        if not limited or round_trip is None:
            assert window.limit == before


# -- AckPacer


def test_a_lone_chunk_is_acknowledged_after_the_delay() -> None:
    """One processed chunk waits for company, and is acknowledged when its delay is over."""
    pacer = AckPacer(Pace(0.1, 25))
    assert pacer.on_processed(1, 5.0) is None
    assert pacer.deadline == pytest.approx(5.1)
    assert pacer.on_time(5.05) is None
    assert pacer.on_time(pacer.deadline) == 1
    assert (pacer.deadline, pacer.acked) == (None, 1)


def test_the_delay_counts_from_the_first_chunk() -> None:
    """Later chunks do not push the ack of the first one away, and share it."""
    pacer = AckPacer(Pace(0.1, 25))
    pacer.on_processed(1, 5.0)
    pacer.on_processed(2, 5.09)
    assert pacer.deadline == pytest.approx(5.1)
    assert pacer.on_time(5.11) == 2


def test_half_a_window_is_acknowledged_at_once() -> None:
    """As soon as enough chunks are due one ack goes for all of them."""
    pacer = AckPacer(Pace(0.1, 3))
    assert [pacer.on_processed(n, 0.0) for n in range(1, 8)] == [None, None, 3, None, None, 6, None]


def test_a_batch_counts_as_its_chunks() -> None:
    """A batch that holds half a window is acknowledged at once."""
    pacer = AckPacer(Pace(0.1, 3), start=10)
    assert pacer.on_processed(15, 0.0) == 15


@pytest.mark.parametrize("chunk_id", [0, 4, 5])
def test_what_was_processed_before_is_not_due(chunk_id: int) -> None:
    """Processing a chunk again makes nothing due."""
    pacer = AckPacer(Pace(0.1, 1), start=5)
    assert pacer.on_processed(chunk_id, 0.0) is None
    assert (pacer.deadline, pacer.processed) == (None, 5)


def test_take_acknowledges_at_once_and_once() -> None:
    """What is due can be taken early, and is then due no more."""
    pacer = AckPacer(Pace(0.1, 25))
    pacer.on_processed(3, 0.0)
    assert pacer.take() == 3
    assert pacer.take() is None
    assert pacer.on_time(100.0) is None


def test_nothing_is_due_at_first() -> None:
    """A receiver that has processed nothing has nothing to say."""
    pacer = AckPacer(Pace(), start=5)
    assert pacer.take() is None
    assert pacer.on_time(1e9) is None


def test_the_default_pace_keeps_the_protocol_s_promise() -> None:
    """Without other settings an ack waits less than the 250 ms and half a window that rule 4 allows."""
    assert Pace().delay <= 0.25
    assert Pace().chunks <= 25


@given(
    st.floats(0.001, 0.25),
    st.integers(1, 20),
    st.lists(st.tuples(st.integers(0, 5), st.floats(0, 0.2), st.booleans()), max_size=60),
)
def test_no_ack_is_dropped_or_late(delay: float, most: int, done: list[tuple[int, float, bool]]) -> None:
    """With a timer that fires when asked to, no chunk waits longer than the delay and none is forgotten."""
    pacer = AckPacer(Pace(delay, most))
    now = 0.0
    processed = 0
    said: list[int] = []
    first_due: float | None = None

    def on_said(chunk_id: int | None) -> None:
        nonlocal first_due
        if chunk_id is not None:
            assert first_due is not None
            assert now - first_due <= delay + 1e-9
            said.append(chunk_id)
            first_due = None

    for chunks, passed, take in done:
        until = now + passed
        if pacer.deadline is not None and pacer.deadline <= until:
            now = pacer.deadline
            on_said(pacer.on_time(now))
            assert first_due is None
        now = until
        processed += chunks
        if chunks and first_due is None:
            first_due = now
        on_said(pacer.on_processed(processed, now))
        if take:
            on_said(pacer.take())
        assert pacer.processed == processed
        assert processed - pacer.acked < most
        assert (pacer.deadline is None) == (processed == pacer.acked)
    if pacer.deadline is not None:
        now = pacer.deadline
        on_said(pacer.on_time(now))
    assert said == sorted(set(said))
    assert pacer.acked == processed == (said[-1] if said else 0)


def test_an_ack_of_what_an_earlier_window_sent() -> None:
    """A receiver that has chunks from an earlier window may acknowledge them; they are still sent in order."""
    window = SendWindow(5, 10_000)
    window.known = 20
    assert window.on_ack(20)
    assert (window.sent, window.acked, window.in_flight) == (0, 20, 0)
    assert window.grant(30, range(0, 31)) == 25
    with pytest.raises(AckOutOfRange):
        window.on_ack(21)


def test_half_of_the_bytes_is_acknowledged_at_once() -> None:
    """Few large chunks fill a window as many small ones do."""
    pacer = AckPacer(Pace(0.1, 25, size=100))
    assert pacer.on_processed(1, 0.0, 60) is None
    assert pacer.on_processed(2, 0.0, 60) == 2
    assert pacer.on_processed(3, 0.0, 60) is None
    assert pacer.take() == 3
    assert pacer.on_processed(4, 0.0, 60) is None


def test_half_a_window_waits_for_its_moment() -> None:
    """Before `not_before` not even half a window is acknowledged, and from then on it is."""
    pacer = AckPacer(Pace(0.1, 3))
    pacer.not_before = 5.0
    assert pacer.on_processed(1, 4.96) is None
    assert pacer.deadline == pytest.approx(5.06)
    assert pacer.on_processed(3, 4.97) is None
    assert pacer.deadline == 5.0
    assert pacer.on_processed(4, 4.98) is None
    assert pacer.deadline == 5.0
    assert pacer.on_time(5.0) == 4


# -- WishedWindow


def _acked(window: WishedWindow, *acks: tuple[int, float]) -> list[int | None]:
    return [window.on_ack(chunk_id, now) for chunk_id, now in acks]


def test_a_window_that_is_rendered_too_soon_is_doubled() -> None:
    """The third ack within the span asks for twice as much, and so on to the widest."""
    window = WishedWindow(50, 300, round_trip=0.0)
    acks = [(25, 1.0), (50, 1.05), (75, 1.1), (125, 1.15), (225, 1.2), (375, 1.25)]
    assert _acked(window, *acks) == [None, None, 100, 200, 300, None]
    assert window.is_widest


def test_a_window_that_lasts_its_time_stays() -> None:
    """Exactly as much as is needed is enough."""
    window = WishedWindow(50, 1000, round_trip=0.0)
    assert _acked(window, *[(25 * n, 1.0 + 0.125 * n) for n in range(1, 20)]) == [None] * 19


def test_a_far_server_needs_a_wider_window() -> None:
    """What is rendered while an ack is on its way, there and back and twice, is added."""
    window = WishedWindow(50, 1000, round_trip=0.25)
    assert _acked(window, (25, 1.0), (50, 1.25), (75, 1.5)) == [None, None, 100]


def test_a_window_that_is_too_wide_is_halved_after_a_while() -> None:
    """Only a second without need narrows it, and never below what it was at first."""
    window = WishedWindow(50, 1000, round_trip=0.0)
    _acked(window, (25, 1.0), (50, 1.0), (75, 1.0), (125, 1.0))
    assert window.limit == 200
    assert _acked(window, (130, 1.5), (135, 1.99), (140, 2.0), (141, 2.9), (142, 3.0), (143, 9.0)) == [
        None,
        None,
        100,
        None,
        50,
        None,
    ]


def test_a_need_that_comes_back_keeps_it() -> None:
    """A busy moment within the second begins it anew."""
    window = WishedWindow(50, 1000, round_trip=0.0)
    _acked(window, (25, 1.0), (50, 1.0), (75, 1.0))
    assert window.limit == 100
    assert _acked(window, (80, 1.5), (300, 1.9), (305, 2.4), (310, 2.8)) == [None] * 4


def test_a_ceiling_below_the_first_window_is_none() -> None:
    """A server that says less than it grants is not asked for less."""
    window = WishedWindow(50, 10, round_trip=0.0)
    assert _acked(window, (25, 1.0), (50, 1.0), (75, 1.0)) == [None] * 3
    assert (window.limit, window.is_widest) == (50, True)


@given(st.integers(1, 100), st.integers(1, 2000), st.lists(st.tuples(st.integers(1, 500), st.floats(0, 3))))
def test_a_wish_stays_within_its_bounds(least: int, most: int, acks: list[tuple[int, float]]) -> None:
    """Whatever is acknowledged and when, a wish is between the first window and the ceiling, and at most doubles."""
    window = WishedWindow(least, most, 0.05)
    now, chunk_id = 1000.0, 0
    for chunks, passed in acks:
        before = window.limit
        chunk_id, now = chunk_id + chunks, now + passed
        wish = window.on_ack(chunk_id, now)
        assert wish in (None, window.limit)
        assert (wish is None) == (window.limit == before)
        assert least <= window.limit <= max(least, most)
        assert before // 2 <= window.limit <= 2 * before
