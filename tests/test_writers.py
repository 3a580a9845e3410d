"""What becomes of an append, by what its writer says; and when a stream is the one that was asked for."""

from __future__ import annotations

import pytest

from wsstream.writers import MAX_WRITERS, Claim, FeedConfig, FeedState, Fork, Ruling, Verdict, Writer, judge

STATE = FeedState("f", "", "n", FeedConfig("text/plain"), writers={"w": Writer(2, 5)}, order="b")


@pytest.mark.parametrize(
    ("claim", "verdict"),
    [
        (Claim("w", 2, 6), Verdict.TAKEN),
        (Claim("w", 2, 5), Verdict.DUPLICATE),
        (Claim("w", 2, 0), Verdict.DUPLICATE),
        (Claim("w", 2, 7), Verdict.GAP),
        (Claim("w", 3, 0), Verdict.TAKEN),
        (Claim("w", 3, 1), Verdict.LATE),
        (Claim("w", 1, 6), Verdict.STALE),
        (Claim("new", 7, 0), Verdict.TAKEN),
        (Claim("new", 0, 1), Verdict.GAP),
        (None, Verdict.TAKEN),
    ],
)
def test_claims(claim: Claim | None, verdict: Verdict) -> None:
    """The next append of a writer's life is taken, an earlier one was, a later one waits, and old lives are over."""
    assert judge(STATE, claim, None, has_content=True, close=False).verdict is verdict


def test_a_ruling_says_what_is_expected() -> None:
    """Whoever has skipped an append learns which one is missing."""
    assert judge(STATE, Claim("w", 2, 9), None, has_content=True, close=False).expected == 6
    assert Ruling(Verdict.GAP).expected == 0


@pytest.mark.parametrize(("order", "taken"), [("c", True), ("b", False), ("a", False), ("ba", True), ("B", False)])
def test_order(order: str, taken: bool) -> None:
    """An order of the clients' own is compared byte by byte, and must grow."""
    ruling = judge(STATE, None, order, has_content=True, close=False)
    assert (ruling.verdict is Verdict.TAKEN) is taken


def test_a_closed_stream() -> None:
    """It takes nothing; but what it has taken before it knows again, and closing it again is fine."""
    closed = STATE.after(Claim("w", 2, 6), None, close=True)
    for claim, content, close, verdict in [
        (None, True, False, Verdict.CLOSED),
        (None, True, True, Verdict.CLOSED),
        (None, False, True, Verdict.DUPLICATE),
        (Claim("w", 2, 6), True, True, Verdict.DUPLICATE),
        (Claim("w", 2, 7), True, False, Verdict.CLOSED),
        (Claim("w", 1, 0), True, False, Verdict.STALE),
        (Claim("x", 0, 0), False, True, Verdict.CLOSED),
    ]:
        assert judge(closed, claim, None, has_content=content, close=close).verdict is verdict


def test_writers_are_not_remembered_without_end() -> None:
    """The one that has been silent longest is forgotten first."""
    state = STATE
    for number in range(MAX_WRITERS - 1):
        state = state.after(Claim(f"w{number}", 0, 0), None, close=False)
    state = state.after(Claim("w", 2, 6), None, close=False)
    state = state.after(Claim("another", 0, 0), None, close=False)
    assert len(state.writers) == MAX_WRITERS
    assert state.writers["w"] == Writer(2, 6)
    assert "w0" not in state.writers


@pytest.mark.parametrize("remembered", [1, 2, 5])
def test_how_many_writers_are_remembered(remembered: int) -> None:
    """As many as are asked for, the latest; where there were more before, those are forgotten at once."""
    state = STATE
    for number in range(10):
        state = state.after(Claim(f"w{number}", 0, 0), None, close=False)
    for number in (10, 11, 9):
        state = state.after(Claim(f"w{number}", 0, 1), None, close=False, remembered=remembered)
    assert list(state.writers) == ["w7", "w8", "w10", "w11", "w9"][-remembered:]


@pytest.mark.parametrize(
    ("wish", "meets"),
    [
        (FeedConfig("text/plain", ttl=5), True),
        (FeedConfig("TEXT/plain; charset=utf-8", ttl=5), True),
        (FeedConfig("text/plain"), False),
        (FeedConfig("text/plain", ttl=6), False),
        (FeedConfig("text/html", ttl=5), False),
        (FeedConfig("text/plain", ttl=5, fork=Fork("a")), False),
    ],
)
def test_the_same_again(wish: FeedConfig, meets: bool) -> None:
    """Who asks for what there is gets it."""
    assert FeedConfig("text/plain", ttl=5).meets(wish) is meets


def test_forks_inherit_what_they_do_not_say() -> None:
    """Type and expiry are the source's, and asking for the same fork again is the same wish."""
    source, wish = FeedConfig("text/plain", ttl=5), FeedConfig(fork=Fork("a", 3))
    made = source.inherited(wish)
    assert (made.content_type, made.ttl, made.fork) == ("text/plain", 5, Fork("a", 3))
    assert made.meets(wish)
    assert source.inherited(FeedConfig(expires_at="t", fork=Fork("a"))).ttl is None
    assert not made.meets(FeedConfig(fork=Fork("a", 4)))
