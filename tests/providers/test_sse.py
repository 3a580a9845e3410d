"""Server-sent events: the same as the standard's own algorithm, whatever comes, in whatever pieces."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from openai._streaming import SSEDecoder

from wsstream.errors import ProviderError
from wsstream.providers.sse import MAX_EVENT_BYTES, SseParser

BOM = b"\xef\xbb\xbf"


def reference(data: bytes) -> list[bytes]:
    """WHATWG HTML, 9.2.5 and 9.2.6, line by line, for a whole stream."""
    if data.startswith(BOM):
        data = data[3:]
    events: list[bytes] = []
    buffer: list[bytes] = []
    for line in _lines(data):
        if not line:
            if buffer:
                events.append(b"\n".join(buffer))
            buffer = []
            continue
        field, colon, value = line.partition(b":")
        if not field and colon:
            continue
        if field == b"data":
            buffer.append(value[1:] if value[:1] == b" " else value)
    return events


def _lines(data: bytes) -> list[bytes]:
    """The lines of ``data`` that have an end."""
    lines = []
    line = bytearray()
    position = 0
    while position < len(data):
        byte = data[position]
        position += 1
        if byte not in b"\r\n":
            line.append(byte)
            continue
        if byte == 13 and data[position : position + 1] == b"\n":
            position += 1
        lines.append(bytes(line))
        line.clear()
    return lines


def parsed(*pieces: bytes, limit: int = MAX_EVENT_BYTES) -> list[bytes]:
    """What the parser makes of these reads."""
    parser = SseParser(limit)
    return [event for piece in pieces for event in parser.feed(piece)]


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """``data`` in pieces."""
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


STREAMS = st.lists(
    st.sampled_from(
        [
            *(b"\n", b"\r", b"\r\n", b"\n\n", b"\r\n\r\n", b"data: ", b"data:", b"data", b"data: x", b"data:  y"),
            *(b": comment", b":", b"event: e", b"id: 1", b"retry: 5", b"datax: z", b" data: q", b"data: a:b"),
            *(BOM, "日本👋".encode(), b"\xff", b"\x00", b"[DONE]", b'{"a": "\\n"}'),
        ]
    ),
    max_size=25,
).map(b"".join)


@given(STREAMS, st.lists(st.integers(0, 500), max_size=6))
@example(b"data: a\r\n\r\n", [8, 9, 10])
@example(b"data: a\r\n\ndata: b\n\n", [8, 9, 10])
@example(BOM + b"data: a\n\n", [1, 2])
def test_it_agrees_with_the_standard(data: bytes, places: list[int]) -> None:
    """Any stream in any pieces yields the events that the standard's algorithm yields."""
    assert parsed(*cut(data, places)) == reference(data)


@given(STREAMS)
def test_it_agrees_byte_by_byte(data: bytes) -> None:
    """A stream that comes in single bytes yields the same events."""
    assert parsed(*(data[n : n + 1] for n in range(len(data)))) == reference(data)


@given(st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=4))
def test_it_agrees_on_any_bytes(data: bytes, places: list[int]) -> None:
    """No bytes break the parser."""
    assert parsed(*cut(data, places)) == reference(data)


TEXTS = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=12), max_size=4)


def independent(data: bytes) -> list[str]:
    """What a parser that others wrote makes of a whole stream: the openai SDK's."""
    return [event.data for event in SSEDecoder().iter_bytes(iter([data.removeprefix(BOM)]))]


@given(
    st.lists(st.tuples(TEXTS, st.sampled_from(["", "event: e", ": ping", "id: 7", "retry: 5"])), max_size=5),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.booleans(),
    st.lists(st.integers(0, 2000), max_size=8),
)
@example([(["日本", "👋", ""], ": ping")], "\r\n", True, [1, 2, 5, 9, 12, 13, 14, 15, 16, 17, 18])
@example([(["x" * 70_000], "")], "\r", False, [65_536])
def test_it_agrees_with_a_parser_of_others(
    events: list[tuple[list[str], str]], end: str, marked: bool, places: list[int]
) -> None:
    """The SDK reads the same from any text, whatever its line ends, comments and marks, wherever it is cut."""
    blocks = [[*([other] if other else []), *(f"data: {text}" for text in texts), ""] for texts, other in events]
    data = ("\ufeff" * marked + "".join(line + end for block in blocks for line in block)).encode()
    found = [event.decode() for event in parsed(*cut(data, places))]
    # A block without any data is an event for the SDK if it has a name or an id; the standard drops it.
    assert [text for text in found if text] == [text for text in independent(data) if text]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_every_split_point(end: bytes) -> None:
    """A stream cut at any one place, or into single bytes, is the same stream."""
    lines = [
        b": hello",
        b"data: one",
        b"",
        b"event: x",
        b"data: two",
        b"data: lines",
        b"",
        b"",
        b"data:\xf0\x9f\x91\x8b",
        b"",
    ]
    data = BOM + b"".join(line + end for line in lines)
    expected = [b"one", b"two\nlines", "👋".encode()]
    assert reference(data) == expected
    for place in range(len(data) + 1):
        assert parsed(data[:place], data[place:]) == expected
    assert parsed(*(data[n : n + 1] for n in range(len(data)))) == expected


def test_an_event_is_not_waited_for() -> None:
    """An event comes with the byte that ends it, not with the next one."""
    parser = SseParser()
    assert parser.feed(b"data: a\n") == []
    assert parser.feed(b"\n") == [b"a"]
    assert parser.feed(b"data: b\r\n") == []
    assert parser.feed(b"\r") == [b"b"]
    assert parser.feed(b"\ndata: c\n\n") == [b"c"]


def test_an_event_that_is_cut_off_is_none() -> None:
    """What the end of the stream cuts off yields nothing."""
    assert parsed(b"data: a\n\ndata: b") == [b"a"]
    assert parsed(b"data: a\n\ndata: b\n") == [b"a"]


def test_nothing_fed_is_nothing() -> None:
    """Empty reads change nothing, wherever they come."""
    assert parsed(b"", b"data: a\r", b"", b"\n", b"", b"\r\n", b"") == [b"a"]


@pytest.mark.parametrize("step", [1000, 65536, 1 << 22])
def test_huge_lines(step: int) -> None:
    """A line of millions of bytes is read whole, without looking at it again and again."""
    line = b"x" * (3 * 1024 * 1024)
    data = b"data: " + line + b"\n\ndata: next\n\n"
    assert parsed(*(data[n : n + step] for n in range(0, len(data), step))) == [line, b"next"]


@pytest.mark.parametrize("lines", [b"", b"\ndata: "])
def test_an_event_beyond_the_limit_is_refused(lines: bytes) -> None:
    """An event that never ends does not fill the memory: beyond the limit the answer is broken off."""
    parser = SseParser(10_000)

    def feed() -> None:
        for _ in range(1000):
            assert parser.feed(b"data: " + b"x" * 100 + lines) == []

    with pytest.raises(ProviderError):
        feed()
    assert len(parser._rest) < 20_000


def test_the_limit_is_of_one_event() -> None:
    """A long answer of small events is no large event."""
    assert len(parsed(*[b"data: " + b"x" * 90 + b"\n\nda", b"ta: y\n\n"] * 500, limit=1000)) == 1000


@pytest.mark.parametrize(("size", "taken"), [(1000, True), (1001, False), (10_000, False)])
def test_max_event_bytes(size: int, *, taken: bool) -> None:
    """An event of as many bytes as may be is read; one byte more, or ten times as many, are refused."""
    pieces = (b"data: " + b"x" * (size - 6), b"\n\n")
    if taken:
        assert parsed(*pieces, limit=1000) == [b"x" * (size - 6)]
    else:
        with pytest.raises(ProviderError):
            parsed(*pieces, limit=1000)
