"""Where a broken answer goes on: nothing is said twice, nothing is lost, and what stands is one text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsstream.chunks import Delta, Kind
from wsstream.splice import MAX_OVERLAP, MIN_OVERLAP, Continuation, Part, Repetition, Splice, Step

words = st.lists(st.text("ab \u0301\U0001f469\u200d\U0001f373", min_size=1, max_size=4), min_size=1, max_size=12)
CALL = Delta("{}", Kind.TOOL_CALL)
THOUGHT = Delta("hm", Kind.REASONING)


def fed(splice: Splice, texts: list[str]) -> tuple[str, int | None]:
    """What these texts come out as, and where they made it rewind to."""
    out, to = "", None
    for text in texts:
        if splice.done:
            out += text
            continue
        step = splice.feed(Delta(text))
        out, to = out + _text(step), step.rewind_to if to is None else to
    if not splice.done:
        step = splice.finish()
        out, to = out + _text(step), step.rewind_to if to is None else to
    assert splice.done
    return out, to


def _text(step: Step) -> str:
    return "".join(delta.content for delta in step.deltas)


def parts(*texts: str) -> list[Part]:
    """Chunks 1, 2, 3 …"""
    return [Part(n, text) for n, text in enumerate(texts, 1)]


# -- a provider that goes on


@pytest.mark.parametrize(
    ("known", "new", "left"),
    [
        ("Hello wor", ["ld", "."], "ld."),
        ("aha", ["ha", "ha"], "haha"),
        ("ha", ["ha", "ha"], "ha"),
        ("Hello ", [" world"], "world"),
        ("Hello\n\n", ["\n", "\n", "world"], "world"),
        ("The quick brown fox", ["The quick", " brown", " fox", " jumps"], " jumps"),
        ("So. The quick brown fox", ["The quick brow", "n fox jumps"], " jumps"),
        ("So. The quick brown fox", ["brown fox", " jumps"], "brown fox jumps"),
        ("The quick brown fox", ["The quick brown f"], "The quick brown f"),
        ("The quick brown fox", ["The quick brown fox"], ""),
        ("abcabcabcabcabcabcabc", ["abcabcabcabcabcabcabc", "d"], "d"),
        ("x" * 30, ["x" * 20, "y"], "y"),
    ],
)
def test_what_is_repeated_is_left_out(known: str, new: list[str], left: str) -> None:
    """The longest repetition goes, as far as it is long enough to be one; what is new stays whole."""
    assert fed(Continuation(known), new) == (left, None)


@given(words, words)
def test_however_it_is_cut(known: list[str], new: list[str]) -> None:
    """How the new text is cut into pieces makes no difference."""
    text = "".join(known)
    assert fed(Continuation(text), new) == fed(Continuation(text), ["".join(new)])


def test_a_shorter_repetition_counts_where_a_longer_was_none() -> None:
    """What came behind the shorter one, while the longer was still possible, is not lost."""
    known = "y" + "ab" * 10 + "c" + "ab" * 10
    assert fed(Continuation(known), [*["ab"] * 10, "c", "ab", "!"]) in (("cab!", None), ("c" + "ab!", None))


def test_reasoning_passes_a_continuation() -> None:
    """Reasoning is not compared; a tool call ends the comparing, behind what was held."""
    splice = Continuation("The quick brown fox")
    assert splice.feed(Delta("The quick")) == Step(())
    assert splice.feed(THOUGHT) == Step((THOUGHT,))
    assert splice.feed(CALL) == Step((Delta("The quick"), CALL))
    assert splice.done


def test_a_long_text_is_searched_near_its_end() -> None:
    """A repetition may begin in the last few thousand characters, or at the very start."""
    known = " ".join(f"{n}" for n in range(5000))
    near, far = known[-MAX_OVERLAP:], known[-MAX_OVERLAP - 9 :]
    assert fed(Continuation(known), [near, "x"]) == ("x", None)
    assert fed(Continuation(known), [far, "x"]) == (far + "x", None)
    assert fed(Continuation(known), [known[:100], known[100:], "x"]) == ("x", None)
    assert fed(Continuation("z" + "a" * MIN_OVERLAP), ["a" * MIN_OVERLAP, "b"]) == ("b", None)


# -- a provider that starts over


@pytest.mark.parametrize(
    ("known", "new", "left", "to"),
    [
        (["The ", "quick"], ["The quick", " fox"], " fox", None),
        (["The ", "quick"], ["Th", "e qu", "ick fox"], " fox", None),
        (["The ", "quick"], ["The slow", " fox"], "slow fox", 1),
        (["The ", "quick"], ["The quiet"], "quiet", 1),
        (["The ", "quick"], ["A quick"], "A quick", 0),
        (["The ", "quick"], ["The "], "", 1),
        (["The ", "quick"], ["The qu"], "qu", 1),
        (["The ", "quick"], ["The quick"], "", None),
        (["caf", "e", "s"], ["cafe\u0301"], "e\u0301", 1),
        (["\U0001f469", "\u200d", "\U0001f373"], ["\U0001f469\u200d\U0001f52c"], "\U0001f469\u200d\U0001f52c", 0),
    ],
)
def test_what_differs_replaces_the_text(known: list[str], new: list[str], left: str, to: int | None) -> None:
    """What is the same is skipped; where it is not, the text goes back to the end of a chunk, between clusters."""
    assert fed(Repetition(parts(*known)), new) == (left, to)


@given(words, words)
def test_the_new_answer_stands(known: list[str], new: list[str]) -> None:
    """Whatever both say, in the end the new answer stands, whole."""
    left, to = fed(Repetition(parts(*known)), new)
    kept = "".join(known if to is None else known[:to])
    assert kept + left == "".join(new)


def test_reasoning_of_what_is_repeated_is_skipped() -> None:
    """Reasoning that leads to text which viewers have is left out, a tool call in its place is a difference."""
    splice = Repetition(parts("The ", "quick"))
    assert splice.feed(THOUGHT) == Step(())
    assert splice.feed(Delta("The ")) == Step(())
    assert splice.feed(CALL) == Step((CALL,), 1)


def test_rewinds_name_chunks_of_the_log() -> None:
    """Chunks of other kinds, and what was withdrawn before, lie between the chunks of the text that stands."""
    assert fed(Repetition([Part(3, "a"), Part(7, "b")]), ["ac"]) == ("c", 3)
    assert fed(Repetition([Part(3, "a"), Part(7, "b")]), ["c"]) == ("c", 2)
