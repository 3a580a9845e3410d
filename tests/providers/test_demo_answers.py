"""What the demo says: texts that show a chat page everything it has to show."""

from __future__ import annotations

import re

import pytest

from tests.virtual import in_virtual_time
from wsstream.providers.demo import DemoProvider
from wsstream.providers.demo_answers import ANSWERS, WORDS
from wsstream.testing.sinks import ListSink, ask


@pytest.mark.parametrize(
    ("question", "has"),
    [
        ("How does the WINDOW work?", "credit window"),
        ("write python", "```python"),
        ("hello in many languages", "日本語"),
        ("你好，中文？", "日本語"),
        ("who are you?", "demo model"),
    ],
)
@in_virtual_time
async def test_questions_find_their_answers(question: str, has: str) -> None:
    """A question is answered by the text that it is about."""
    sink = ListSink()
    await DemoProvider().answer(ask(question), sink)
    assert has in sink.text
    assert sink.text in [answer for _, answer in ANSWERS]


def test_together_they_hold_every_kind_of_text() -> None:
    """Headings, tables, quotes, nested lists, code and scripts beyond ASCII all occur."""
    text = "\n".join(answer for _, answer in ANSWERS)
    for pattern in (r"^#{2,3} ", r"^\|---\|", r"^> ", r"^    - ", r"^```\w+$", "👩\u200d👩", "[א-ي]", "[぀-ヿ]"):
        assert re.search(pattern, text, re.MULTILINE), pattern


@pytest.mark.parametrize("answer", [answer for _, answer in ANSWERS])
def test_every_code_block_is_closed(answer: str) -> None:
    """Each answer is whole: what it opens it closes, and it ends with a newline."""
    assert answer.count("```") % 2 == 0
    assert answer.endswith("\n")


def test_the_last_answer_takes_everything() -> None:
    """There is an answer to any question."""
    assert re.search(ANSWERS[-1][0], "") is not None


def test_words_are_plain() -> None:
    """The words of a measured load are short and need no escaping, so that its bytes can be counted."""
    assert all(re.fullmatch(r"[a-z]+", word) for word in WORDS)
