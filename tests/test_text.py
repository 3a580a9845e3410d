"""Surrogate pairs that were cut in two."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsstream.text import SurrogateRepair

HIGH, LOW = "\ud83d", "\ude00"
SMILE = "\U0001f600"
LOST = "\ufffd"

# Text as a careless server may cut it: plain characters, whole emoji, and halves of any kind.
code_units = st.text(st.sampled_from(["a", "é", "語", SMILE, HIGH, LOW, "\ud800", "\udfff"]), max_size=30)


def _all(pieces: list[str]) -> str:
    repair = SurrogateRepair()
    return "".join(repair.feed(piece) for piece in pieces) + repair.flush()


@pytest.mark.parametrize("text", ["", "plain", "naïve 日本語", SMILE, "e\u0301", "\x00\ufffe"])
def test_sound_text_passes(text: str) -> None:
    """Text without halves goes through at once and unchanged."""
    repair = SurrogateRepair()
    assert repair.feed(text) == text
    assert repair.flush() == ""


def test_a_split_pair_is_joined() -> None:
    """A pair cut between two pieces comes out whole, in the second."""
    repair = SurrogateRepair()
    assert repair.feed("so " + HIGH) == "so "
    assert repair.feed(LOW + "!") == SMILE + "!"
    assert repair.flush() == ""


def test_a_pair_in_one_piece_is_joined() -> None:
    """Two halves that arrive together become their character."""
    assert _all([HIGH + LOW]) == SMILE


def test_an_empty_piece_keeps_the_half() -> None:
    """A piece without text between the halves changes nothing."""
    repair = SurrogateRepair()
    assert [repair.feed(HIGH), repair.feed(""), repair.feed(LOW)] == ["", "", SMILE]


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        ([LOW], LOST),
        ([LOW + "a"], LOST + "a"),
        ([HIGH + "a"], LOST + "a"),
        ([HIGH, "a"], LOST + "a"),
        ([HIGH, HIGH, LOW], LOST + SMILE),
        ([HIGH + HIGH], LOST + LOST),
        ([LOW + HIGH, LOW], LOST + SMILE),
    ],
)
def test_halves_that_never_meet_are_replaced(pieces: list[str], text: str) -> None:
    """A half without its partner becomes one replacement character, in its place."""
    assert _all(pieces) == text


def test_the_end_releases_a_held_half_once() -> None:
    """What was still held when the answer ended is replaced, and then forgotten."""
    repair = SurrogateRepair()
    assert repair.feed("a" + HIGH) == "a"
    assert repair.flush() == LOST
    assert repair.flush() == ""


@given(st.lists(code_units))
def test_what_comes_out_is_always_utf8(pieces: list[str]) -> None:
    """Whatever goes in, what comes out can be sent."""
    _all(pieces).encode()


@given(st.lists(code_units))
def test_cuts_make_no_difference(pieces: list[str]) -> None:
    """The text is the same however it was cut into pieces."""
    assert _all(pieces) == _all(["".join(pieces)])


@given(st.lists(code_units))
def test_at_most_one_unit_is_held(pieces: list[str]) -> None:
    """No text waits for later, but for a single half at the very end."""
    repair = SurrogateRepair()
    sent = "".join(repair.feed(piece) for piece in pieces)
    whole = _all(pieces)
    assert whole in (sent, sent + LOST)
