"""What a try puts: empty, giant and endless deltas, halves of characters of several kinds, and shaped chunks."""

from __future__ import annotations

import asyncio

import pytest

from tests.virtual import in_virtual_time, turns
from wsstream.chunklog import ChunkLog
from wsstream.chunks import Delta, Kind
from wsstream.errors import StreamFailure
from wsstream.intake import CHECK_EVERY, MAX_CHUNK_CHARS, MAX_LINE_CHARS, YIELD_EVERY, Intake, Limits
from wsstream.rejections import Clamp
from wsstream.shaping import FIRST_HOLD, HOLD, Shaper
from wsstream.splice import Continuation, Part, Repetition
from wsstream.stores.memory import MemoryStore

HIGH, LOW, SMILE = "\ud83d", "\ude00", "\U0001f600"


class Taken:
    """An intake on a log of its own."""

    def __init__(self, *, chunks: int = 1000, said: str = "", **stages: object) -> None:
        self.log = ChunkLog("s", "e", MemoryStore())
        for text in said:
            self.log.append([Delta(text)])
        self.stops: list[StreamFailure] = []
        self.intake = Intake(self.log, Limits(30, 10, chunks, 1 << 30), self.stops.append, **stages)  # type: ignore[arg-type]

    def put(self, *texts: str, kind: Kind = Kind.TEXT) -> bool:
        """Put these together."""
        return self.intake.put([Delta(text, kind) for text in texts])

    @property
    def chunks(self) -> list[tuple[str, Kind]]:
        """What the log has."""
        return [(chunk.content, chunk.kind) for chunk in self.log.chunks(1, len(self.log))]

    @property
    def texts(self) -> list[str]:
        """What it has, whatever its kind."""
        return [content for content, _ in self.chunks]


# -- odd deltas


@in_virtual_time
async def test_empty_deltas_are_nothing() -> None:
    """They make no chunk, they are no sign of life, and those who put them give way like others."""
    taken = Taken()
    before = taken.intake.deadline
    await asyncio.sleep(5)
    for _ in range(1_000):
        assert taken.put("")
        assert taken.put()
        assert taken.put("", "")
    assert (len(taken.log), taken.intake.deadline, taken.intake.first_at) == (0, before, None)
    assert taken.put("", "a", "")
    assert taken.texts == ["a"]
    assert taken.intake.deadline == before - 30 + 5 + 10


@in_virtual_time
async def test_empty_deltas_do_not_hold_the_loop() -> None:
    """Others have their turn while a provider puts nothing, again and again."""
    taken, seen = Taken(), []

    async def provider() -> None:
        for _ in range(10 * YIELD_EVERY):
            taken.put("")
            await taken.intake.give_way()

    task = asyncio.create_task(provider())
    while not task.done():
        seen.append(1)
        await asyncio.sleep(0)
    assert len(seen) >= 9


@pytest.mark.parametrize("kind", [Kind.TOOL_CALL, Kind.DATA])
@in_virtual_time
async def test_lines_are_not_cut(kind: Kind) -> None:
    """A tool call is one JSON line: it is kept whole, up to a limit that ends the answer."""
    taken = Taken(chunks=100)
    line = "x" * (MAX_CHUNK_CHARS + 1)
    assert taken.put(line, kind=kind)
    assert taken.put("a")
    assert taken.put("", line, "b", kind=kind)
    assert taken.texts == [line, "a", line, "b"]
    assert not taken.put("x" * (MAX_LINE_CHARS + 1), kind=kind)
    assert [stop.error_type for stop in taken.stops] == ["provider_error"]
    assert len(taken.log) == 4


@in_virtual_time
async def test_shorter_pieces_where_that_is_set() -> None:
    """A text is cut as finely as is set, alone or among others, and is counted then; a tool call never is."""
    clamped: list[Clamp] = []
    log = ChunkLog("s", "e", MemoryStore())
    intake = Intake(log, Limits(30, 10, 100, 1 << 30, on_clamp=clamped.append, delta=64), lambda _: None)
    intake.put([Delta("a" * 64)])
    intake.put([Delta("b" * 65)])
    intake.put([Delta("c"), Delta("d" * 130)])
    assert [len(chunk.content) for chunk in log.chunks(1, len(log))] == [64, 64, 1, 1, 64, 64, 2]
    assert clamped == [Clamp.DELTA] * 2
    intake.put([Delta("x" * 65, Kind.TOOL_CALL)])
    assert len(log.chunks(8, 8)[0].content) == 65


@in_virtual_time
async def test_a_line_may_be_the_first() -> None:
    """What comes first is the first token, however large it is."""
    taken = Taken()
    taken.put("x" * (MAX_CHUNK_CHARS + 1), kind=Kind.DATA)
    assert taken.intake.first_at == asyncio.get_running_loop().time()


@in_virtual_time
async def test_endless_lines_stop() -> None:
    """Large lines count towards an answer's limits at once."""
    taken = Taken(chunks=2)
    for _ in range(3):
        taken.put("x" * (MAX_CHUNK_CHARS + 1), kind=Kind.DATA)
    assert [stop.error_type for stop in taken.stops] == ["interrupted"]


@in_virtual_time
async def test_the_size_is_looked_at_now_and_then() -> None:
    """A limit is exceeded by a few puts at most."""
    taken = Taken(chunks=1)
    for _ in range(CHECK_EVERY):
        taken.put("x")
    assert len(taken.stops) == 1


@in_virtual_time
async def test_what_comes_too_late_is_counted() -> None:
    """Nothing is taken when the try is over, and it is known how much that was."""
    taken = Taken()
    taken.intake.finish()
    assert not taken.put("a", "b")
    assert (taken.texts, taken.intake.dropped) == ([], 2)


# -- halves of characters


@in_virtual_time
async def test_kinds_are_repaired_apart() -> None:
    """Half a character waits for the other half of its own kind, and comes out as its own kind."""
    taken = Taken()
    taken.put("a" + HIGH)
    taken.put("b" + HIGH, kind=Kind.REASONING)
    taken.put(LOW + "c")
    taken.put(LOW + "d", kind=Kind.REASONING)
    taken.put(HIGH, kind=Kind.REASONING)
    taken.intake.finish()
    assert taken.chunks == [
        ("a", Kind.TEXT),
        ("b", Kind.REASONING),
        (SMILE + "c", Kind.TEXT),
        (SMILE + "d", Kind.REASONING),
        ("\ufffd", Kind.REASONING),
    ]


@in_virtual_time
async def test_the_next_try_brings_the_other_half() -> None:
    """Half a character is not made up for where another try will say it whole."""
    taken = Taken()
    taken.put("a" + HIGH)
    taken.intake.finish(last=False)
    assert taken.texts == ["a"]


# -- shaped chunks


@in_virtual_time
async def test_chunks_are_shaped() -> None:
    """Tokens are gathered, the first text goes soon, later text in bounded time, and the end brings out the rest."""
    taken = Taken(shaper=Shaper(3, by_word=False))
    taken.put("The")
    await asyncio.sleep(FIRST_HOLD)
    assert taken.texts == ["The"]
    taken.put(" quick", " brown")
    await asyncio.sleep(HOLD / 2)
    assert taken.texts == ["The"]
    await asyncio.sleep(HOLD)
    assert taken.texts == ["The", " quick brown"]
    taken.put(" fox", " jumps", " over", " the")
    assert taken.texts[2:] == [" fox jumps over"]
    taken.intake.finish(complete=True)
    assert taken.texts[3:] == [" the"]
    assert taken.intake.merged == 3


@in_virtual_time
async def test_a_timer_looks_again() -> None:
    """The one timer of a try is set anew where what it waited for has gone meanwhile."""
    taken = Taken(shaper=Shaper(2, by_word=False))
    taken.put("a")
    await asyncio.sleep(FIRST_HOLD / 2)
    taken.put("b", "c")
    await asyncio.sleep(FIRST_HOLD / 2)
    assert taken.texts == ["ab"]
    await asyncio.sleep(HOLD)
    assert taken.texts == ["ab", "c"]
    await turns()
    live = [h for h in asyncio.get_running_loop()._scheduled if not h.cancelled()]  # type: ignore[attr-defined]
    assert live == []


# -- tries that go on


@in_virtual_time
async def test_a_continuation_is_joined() -> None:
    """What repeats the text is dropped and counted, what follows is taken, shaped where that was asked for."""
    said = "The quick brown fox"
    taken = Taken(said=said, splice=Continuation(said), shaper=Shaper(2, by_word=False))
    taken.put("The quick", " brown fox", " jumps", " over", ".")
    taken.intake.finish(complete=True)
    assert taken.log.text() == said + " jumps over."
    assert taken.texts[-2:] == [" jumps over", "."]
    assert taken.intake.dropped == 2


@in_virtual_time
async def test_a_restart_replaces_the_text() -> None:
    """Where a second answer differs, the log says what is withdrawn and what stands instead."""
    taken = Taken(said="The quick", splice=Repetition([Part(n, text) for n, text in enumerate("The quick", 1)]))
    taken.put("The slow", " fox")
    taken.intake.finish(complete=True)
    assert [kind for _, kind in taken.chunks[-3:]] == [Kind.REWIND, Kind.TEXT, Kind.TEXT]
    assert taken.log.text() == "The slow fox"


@pytest.mark.parametrize(("complete", "text"), [(True, "The"), (False, "The quick")])
@in_virtual_time
async def test_a_try_that_ends_early(complete: bool, text: str) -> None:
    """A second answer that has come to its end is the answer; one that was cut off proves nothing."""
    taken = Taken(said="The quick", splice=Repetition([Part(n, text) for n, text in enumerate("The quick", 1)]))
    taken.put("The")
    taken.intake.finish(complete=complete)
    assert taken.log.text() == text
