"""A whole log in one buffer is the list of its bodies, and goes through a store's row as it is."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

import wsstream.bodies as module
from wsstream.bodies import Bodies

BODIES = st.lists(st.binary(max_size=8), max_size=40)


def laid_out(bodies: list[bytes], overhead: int) -> Bodies:
    """As a log has them."""
    totals = array("Q", (0,))
    for body in bodies:
        totals.append(totals[-1] + len(body) + overhead)
    return Bodies(bytearray(b"".join(bodies)), totals, overhead)


@given(BODIES, st.integers(0, 100))
def test_it_is_the_list_of_its_bodies(bodies: list[bytes], overhead: int) -> None:
    """Length, items, slices, iteration and comparison are those of the list."""
    whole = laid_out(bodies, overhead)
    assert (len(whole), list(whole), [whole[place] for place in range(len(bodies))]) == (len(bodies), bodies, bodies)
    assert whole == bodies
    assert whole == Bodies.of(bodies)
    assert (whole != [*bodies, b""], whole == 1) == (True, False)
    assert whole[1:-1] == bodies[1:-1]
    assert whole.joined(1, len(bodies)) == b"".join(bodies)
    with pytest.raises(IndexError):
        whole[len(bodies)]


@given(BODIES, st.integers(0, 100), st.booleans())
def test_sizes_bring_it_back(bodies: list[bytes], overhead: int, large: bool) -> None:
    """Its bytes and sizes make it anew, in two bytes for each chunk, or four where one is large."""
    bodies = [*bodies, b"x" * 70_000] if large else bodies
    whole = laid_out(bodies, overhead)
    sizes = whole.sizes()
    assert len(sizes) == len(bodies) * (4 if large else 2)
    again = Bodies.from_sizes(bytes(whole.data), sizes, len(bodies), overhead)
    assert again == bodies
    assert again.totals == whole.totals


@pytest.mark.parametrize(("data", "sizes", "count"), [(b"ab", b"\1\0", 1), (b"a", b"\1", 1), (b"", b"\0\0", 0)])
def test_what_does_not_fit_is_refused(data: bytes, sizes: bytes, count: int) -> None:
    """Sizes that are not those of the bodies are found before anything is shown."""
    with pytest.raises(ValueError, match=r"sizes|long"):
        Bodies.from_sizes(data, sizes, count, 0)


def test_no_piece_of_the_work_grows_with_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes over all chunks does it in slices of one size, so that whoever shares the interpreter has turns."""
    pieces: list[int] = []
    packed, totals = module._packed, module._totals

    def seen(code: str, sizes: list[int]) -> bytes:
        pieces.append(len(sizes))
        return packed(code, sizes)

    monkeypatch.setattr(module, "_packed", seen)
    whole = Bodies.of([b"token"] * (3 * module.SLICE + 1))
    sizes = whole.sizes()
    assert pieces == [module.SLICE] * 3 + [1]
    monkeypatch.setattr(module, "_totals", lambda slices, _: totals([pieces.append(len(s)) or s for s in slices], 0))  # type: ignore[func-returns-value]
    assert len(Bodies.from_sizes(bytes(whole.data), sizes, len(whole), 0)) == len(whole)
    assert pieces[4:] == pieces[:4]
