"""Chunks of a wished size: no cluster or word is cut, nothing is lost, nothing is held for long."""

from __future__ import annotations

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from wsstream.chunks import Delta, Kind
from wsstream.shaping import (
    FIRST_HOLD,
    HOLD,
    MAX_HELD,
    OPEN_HOLD,
    Shaper,
    clusters_meet,
    last_cluster,
    last_word_end,
)

COOK = "\U0001f469\u200d\U0001f373"
GERMANY = "\U0001f1e9\U0001f1ea"
ACUTE = "e\u0301"
SYLLABLE = "\u0915\u094d\u0937\u093f"
WHOLE = [
    COOK,
    GERMANY,
    ACUTE,
    SYLLABLE,
    "\r\n",
    "\U0001f44d\U0001f3fd",
    "\u1112\u1161\u11ab",
    "\U0001f3f4\U000e0067\U000e007f",
]

pieces = st.lists(
    st.text(st.sampled_from([*"".join(WHOLE), *"ab ,.'3\n\u4f60\u30ab"]), min_size=1, max_size=5), max_size=30
)


def shaped(texts: list[str], size: int = 1, *, by_word: bool = False, kind: Kind = Kind.TEXT) -> list[str]:
    """The chunks that these tokens make when no time passes."""
    shaper = Shaper(size, by_word=by_word)
    out = shaper.feed([Delta(text, kind) for text in texts], 0.0)
    return [delta.content for delta in out + shaper.flush()]


@pytest.mark.parametrize("cluster", WHOLE)
def test_clusters_are_not_cut(cluster: str) -> None:
    """A cluster whose characters come one by one is in one chunk, between other text and alone."""
    assert shaped(["a", *cluster, "b"], 2)[-2:] in ([cluster, "b"], ["a" + cluster, "b"])
    assert shaped(list(cluster), 2) == [cluster]
    assert any(cluster in chunk for chunk in shaped(["a ", *cluster, " b"], by_word=True))


@given(pieces, st.integers(1, 5), st.booleans())
def test_nothing_is_lost_or_cut(texts: list[str], size: int, by_word: bool) -> None:
    """Whatever the tokens: the chunks are the same text, none is empty, and each ends where a cluster does."""
    chunks = shaped(texts, size, by_word=by_word)
    whole = "".join(texts)
    assert "".join(chunks) == whole
    assert all(chunks)
    ends = {match.end() for match in regex.finditer(r"\X", whole)}
    at = 0
    for chunk in chunks:
        at += len(chunk)
        assert at in ends


def test_tokens_are_gathered() -> None:
    """A chunk has as many tokens as were asked for, the last one what is left."""
    assert shaped(["The", " quick", " brown", " fox", " jumps"], 2) == ["The quick", " brown fox", " jumps"]


def test_a_line_ends_a_chunk_at_once() -> None:
    """Behind a newline nothing has to be waited for."""
    shaper = Shaper(2, by_word=False)
    assert shaper.feed([Delta("a"), Delta("b\n")], 0.0) == [Delta("ab\n")]
    assert shaper.deadline is None


@pytest.mark.parametrize(
    ("tokens", "chunks"),
    [
        (["Hel", "lo", " wor", "ld"], ["Hello", " ", "world"]),
        (["I can", "'", "t pay", " 3", ".", "14", " now"], ["I ", "can't ", "pay", " ", "3.14", " ", "now"]),
        (["one", ",", " two", "!", "\n", "three"], ["one", ", ", "two", "!\n", "three"]),
        (["def f", "oo_", "bar(x", ")", ":\n", "  pass"], ["def ", "foo_bar(", "x", "):\n", "  ", "pass"]),
        (["\u4f60", "\u597d\u4e16", "\u754c"], ["\u4f60", "\u597d", "\u4e16", "\u754c"]),
        (["\u30ab\u30bf", "\u30ab\u30ca"], ["\u30ab\u30bf\u30ab\u30ca"]),
    ],
)
def test_words_are_not_cut(tokens: list[str], chunks: list[str]) -> None:
    """Words, numbers, names in code and ideographs stay whole, and what stands between them ends them."""
    found = shaped(tokens, by_word=True)
    assert "".join(found) == "".join(chunks)
    ends, allowed = set(_ends(found)), set(_ends(chunks))
    assert ends <= allowed, found
    assert len(found) > 1 or len(chunks) == 1


def _ends(chunks: list[str]) -> list[int]:
    return [sum(map(len, chunks[: n + 1])) for n in range(len(chunks))]


def test_words_are_gathered_too() -> None:
    """With both wishes a chunk has the wished number of tokens and ends with a word."""
    assert shaped(["a ", "b ", "c ", "d ", "e ", "f"], 3, by_word=True) == ["a b c", " d e ", "f"]


def test_a_word_without_end_is_cut() -> None:
    """What would be held for ever goes when it is too long."""
    shaper = Shaper(1, by_word=True)
    out = shaper.feed([Delta("x" * 100)] * (MAX_HELD // 100 + 1), 0.0)
    assert sum(len(delta.content) for delta in out) >= MAX_HELD - 1


def test_other_kinds_keep_their_place() -> None:
    """What is not shaped goes at once, behind what is held; reasoning is shaped for itself."""
    shaper = Shaper(10, by_word=False)
    call = Delta("{}", Kind.TOOL_CALL)
    out = shaper.feed([Delta("hm", Kind.REASONING), Delta("a"), Delta("b"), call, call, Delta("c")], 0.0)
    assert out == [Delta("hm", Kind.REASONING), Delta("ab"), call, call]
    assert shaper.flush() == [Delta("c")]


def test_the_first_text_does_not_wait() -> None:
    """The first text goes when its time is over, later text has longer, and nothing goes early."""
    shaper = Shaper(100, by_word=True)
    assert shaper.on_time(0.0) == []
    assert shaper.feed([Delta("Hel")], 1.0) == []
    assert shaper.deadline == 1.0 + FIRST_HOLD
    assert shaper.on_time(1.0) == []
    assert shaper.on_time(1.0 + FIRST_HOLD) == [Delta("Hel")]
    assert shaper.deadline is None
    assert shaper.feed([Delta("lo")], 2.0) == []
    assert shaper.feed([Delta("!")], 2.1) == []
    assert shaper.deadline == 2.0 + HOLD
    assert shaper.on_time(2.0 + HOLD) == [Delta("lo!")]


def test_an_open_cluster_waits_longer() -> None:
    """An emoji that may go on is held beyond the rest, and not for ever."""
    shaper = Shaper(100, by_word=False)
    shaper.feed([Delta("x")], 0.0)
    shaper.on_time(1.0)
    assert shaper.feed([Delta("so " + COOK[0])], 2.0) == []
    assert shaper.on_time(2.0 + HOLD) == [Delta("so ")]
    assert shaper.deadline == 2.0 + OPEN_HOLD
    assert shaper.on_time(2.0 + OPEN_HOLD) == [Delta(COOK[0])]


@pytest.mark.parametrize("size", [5, 500])
def test_flags_are_told_apart(size: int) -> None:
    """Where the next flag begins depends on all those before it."""
    flags = GERMANY * (size // 5)
    assert clusters_meet(flags, GERMANY)
    assert not clusters_meet(flags + GERMANY[0], GERMANY[1])


def test_edges() -> None:
    """The ends of text are boundaries, and a text without a certain end has none."""
    assert clusters_meet("", "a")
    assert clusters_meet("a", "")
    assert not clusters_meet("e", "\u0301" * 20)
    assert (last_cluster(""), last_cluster("ab"), last_cluster("a" + COOK)) == (0, 1, 1)
    assert (last_word_end("\u0601\U0001f373"), last_word_end("a \u0601\U0001f373")) == (0, 2)
    assert (last_word_end(""), last_word_end("abc"), last_word_end("a 3."), last_word_end("a b")) == (0, 0, 2, 2)
