"""Short frames are opened without the library, exactly when and as it would."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol

from wsstream.inbound import Alignment, short_text

FRAMES = st.builds(
    Frame,
    st.sampled_from([Opcode.TEXT, Opcode.BINARY, Opcode.PING, Opcode.PONG]),
    st.binary(max_size=125) | st.binary(min_size=125, max_size=70_000).filter(lambda data: len(data) > 125),
).filter(lambda frame: frame.opcode in (Opcode.TEXT, Opcode.BINARY) or len(frame.data) <= 125)


def masked(frame: Frame) -> bytes:
    return frame.serialize(mask=True)


@given(st.binary(max_size=125))
def test_a_short_text_frame_is_opened(payload: bytes) -> None:
    """What was masked into a short text frame comes out of it."""
    assert short_text(masked(Frame(Opcode.TEXT, payload))) == payload


@given(st.binary(max_size=140))
def test_nothing_else_is_taken_for_one(data: bytes) -> None:
    """Whatever is opened, the library reads as the same one text frame."""
    payload = short_text(data)
    if payload is not None:
        library = ServerProtocol(state=State.OPEN)
        library.receive_data(data)
        assert library.events_received() == [Frame(Opcode.TEXT, payload)]


@given(st.lists(FRAMES, min_size=1, max_size=4), st.data())
def test_frames_are_followed_at_every_cut(frames: list[Frame], data: st.DataObject) -> None:
    """However the bytes are cut, the alignment is known to be there exactly between two frames."""
    wire = b"".join(map(masked, frames))
    ends = set()
    for frame in frames:
        ends.add(max(ends, default=0) + len(masked(frame)))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(wire)), max_size=8)) | ends)
    alignment, before = Alignment(), 0
    for cut in cuts:
        alignment.advance(wire[before:cut])
        assert alignment.aligned == (cut in ends)
        before = cut


def test_a_head_in_single_bytes_is_followed() -> None:
    """A long frame whose head comes byte by byte ends where it ends."""
    wire = masked(Frame(Opcode.TEXT, b"x" * 70_000)) + masked(Frame(Opcode.TEXT, b"y"))
    alignment = Alignment()
    for i in range(14):
        alignment.advance(wire[i : i + 1])
        assert not alignment.aligned
    alignment.advance(wire[14:-7])
    assert alignment.aligned
    alignment.advance(wire[-7:])
    assert alignment.aligned
