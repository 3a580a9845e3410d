"""What becomes of the text: halves of pairs, giants, JSON, and wished shapes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from tests.producer.runs import Run, Scripted, Tries, forever, put, saying
from tests.virtual import in_virtual_time, turns
from wsstream.chunks import ChatMessage, ChatRequest, Delta, Finish, Kind
from wsstream.errors import ContentFiltered, Interrupted
from wsstream.producer import MAX_CHUNK_CHARS
from wsstream.providers.base import Sink


@pytest.mark.parametrize("together", [True, False])
@in_virtual_time
async def test_split_surrogates_are_joined(together: bool) -> None:
    """A pair that a provider cut in two comes out as the one character it is."""

    async def answer(sink: Sink) -> Finish:
        pieces = ["a\ud83d", "\ude00b", "c"]
        for part in [pieces] if together else [[piece] for piece in pieces]:
            put(sink, *part)
        return Finish()

    run = Run(answer)
    await run.end()
    assert "".join(run.texts) == "a😀bc"


@in_virtual_time
async def test_orphans_become_replacement_characters() -> None:
    """Half a pair that never finds its other half is U+FFFD, at the end of an answer too."""

    async def answer(sink: Sink) -> Finish:
        put(sink, "a\ud83d", "b", "\ude00c", "\ud83d")
        return Finish()

    run = Run(answer)
    await run.end()
    assert "".join(run.texts) == "a\ufffdb\ufffdc\ufffd"


@in_virtual_time
async def test_a_cancel_behind_half_a_pair() -> None:
    """The receipt counts the character that replaces a half as well."""

    async def answer(sink: Sink) -> Finish:
        put(sink, "a\ud83d")
        return await forever()

    run = Run(answer)
    await turns()
    run.producer.cancel()
    outcome = await run.end()
    assert run.texts == ["a", "\ufffd"]
    assert outcome.receipt is not None
    assert outcome.receipt.generated_chunks == outcome.final_chunk_id == 2


@in_virtual_time
async def test_giant_deltas_are_cut() -> None:
    """A delta too large for any window becomes several chunks of its kind, cut between characters."""
    text = "a" + "😀日" * MAX_CHUNK_CHARS

    async def answer(sink: Sink) -> Finish:
        sink.put([Delta("before"), Delta(text, Kind.REASONING), Delta("behind")])
        return Finish()

    run = Run(answer)
    await run.end()
    chunks = run.log.chunks(1, len(run.log))
    assert all(len(chunk.content) <= MAX_CHUNK_CHARS for chunk in chunks)
    assert "".join(chunk.content for chunk in chunks if chunk.kind is Kind.REASONING) == text
    assert (chunks[0].content, chunks[-1].content, len(chunks)) == ("before", "behind", 5)


@pytest.mark.parametrize("failure", [ContentFiltered(), Interrupted("cut")])
@in_virtual_time
async def test_failures_bring_held_text_out(failure: Exception) -> None:
    """What was held back for the second half of a pair is written before any end."""

    async def answer(sink: Sink) -> Finish:
        put(sink, "a\ud83d")
        raise failure

    run = Run(answer)
    await run.end()
    assert run.texts == ["a", "\ufffd"]


def test_deltas_are_any_sequence() -> None:
    """A tuple of deltas is as good as a list."""

    async def answer(sink: Sink) -> Finish:
        deltas: Sequence[Delta] = (Delta("a"), Delta("b"))
        sink.put(deltas)
        return Finish()

    @in_virtual_time
    async def scenario() -> None:
        run = Run(answer)
        await run.end()
        assert run.texts == ["a", "b"]

    scenario()


# -- structured output, shape


@in_virtual_time
async def test_json_is_read() -> None:
    """An answer that was asked for as JSON is told parsed, or is not of the requested form; its text stays."""
    for text, parsed, error_type in (('{"a": [1]}', {"a": [1]}, None), ('{"a": [1', None, "invalid_output")):
        run = Run(saying(text[:4], text[4:]))
        run.producer._request = ChatRequest([ChatMessage("user", "hi")], response_format={"type": "json_object"})
        outcome = await run.end()
        assert (outcome.parsed, outcome.error_type, run.log.text()) == (parsed, error_type, text)
        assert outcome.recoverable is (error_type is not None)


@in_virtual_time
async def test_chunks_have_the_wished_shape() -> None:
    """Tokens count in the pace even where several make one chunk."""

    async def answer(sink: Sink) -> Finish:
        put(sink, "The", " quick", " brown", " fox")
        await asyncio.sleep(1)
        return Finish()

    run = Tries(Scripted(answer), buffer_size=2)
    outcome = await run.end()
    assert (run.texts, outcome.tokens_per_second) == (["The quick", " brown fox"], 4.0)
    words = Tries(Scripted(saying("Hel", "lo wor", "ld")), by_word=True)
    await words.end()
    assert words.texts == ["Hello ", "world"]
