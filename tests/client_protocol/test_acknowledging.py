"""Acks mean processed, and come in time."""

from __future__ import annotations

import pytest

from tests.client_protocol.end import ESTABLISHED, NOW, ask, chunk, hear, make, resumed, said, take_all


def test_acks_mean_processed() -> None:
    """What was received but not taken is not acknowledged, however much time passes."""
    end = make()
    view = ask(end)
    chunk(end, 1, 2)
    end.handle_timer(NOW + 1)
    assert said(end) == []
    end.take(view, NOW + 1)
    assert end.get_timer() == pytest.approx(NOW + 1.1)
    end.handle_timer(NOW + 1.2)
    assert said(end) == [{"type": "chunk_ack", "chunk_id": 1, "stream_id": "s"}]


def test_half_a_window_is_acknowledged_at_once() -> None:
    """The server's window decides after how many chunks an ack does not wait."""
    end = make()
    view = ask(end, window=4)
    chunk(end, 1, 2, 3)
    take_all(end, view)
    assert [message["chunk_id"] for message in said(end)] == [2]


def test_the_smallest_window_is_acknowledged_chunk_by_chunk() -> None:
    """With a window of one chunk every ack goes at once, or nothing would move."""
    end = make()
    view = ask(end, window=1)
    chunk(end, 1)
    end.take(view, NOW)
    assert [message["chunk_id"] for message in said(end)] == [1]


def test_a_resume_acknowledges_what_was_processed() -> None:
    """After a resume no ack repeats what it has said."""
    end = make()
    view = ask(end)
    chunk(end, 1)
    end.take(view, NOW)
    chunk(end, 3)
    assert [message["type"] for message in said(end)] == ["resume_stream"]
    assert view.acked == 1
    end.handle_timer(NOW + 5)
    assert said(end) == []


def test_a_resumed_view_keeps_the_new_window_s_pace() -> None:
    """The window that a resume is answered with sets the pace of acks from then on."""
    end = make()
    view = ask(end, window=50)
    chunk(end, 2)
    resumed(end, 0, window=2)
    end.messages_to_send()
    chunk(end, 1)
    end.take(view, NOW)
    assert [message["chunk_id"] for message in said(end)] == [1]


def test_a_lost_view_acknowledges_nothing() -> None:
    """What was processed before a loss is acknowledged by the resume alone."""
    end = make()
    view = ask(end)
    chunk(end, 1)
    end.take(view, NOW)
    end.connection_lost()
    end.connect(NOW)
    end.messages_to_send()
    assert end.get_timer() == pytest.approx(NOW + 0.1)
    end.handle_timer(NOW + 1)
    assert said(end) == []
    hear(end, **ESTABLISHED)
    assert said(end) == [{"type": "resume_stream", "stream_id": "s", "last_chunk_id": 1, "epoch": "e"}]


def test_a_rewind_into_a_batch_ends_in_the_first_window() -> None:
    """After what was left of a batch was fetched, the window is again what it was at first."""
    end = make()
    hear(end, **{**ESTABLISHED, "limits": {"max_message_bytes": 1000, "max_streams": 1, "max_window": 1000}})
    view = ask(end, window=8)
    assert view._wished is not None
    hear(end, type="chunk_batch", stream_id=view.stream_id, first_chunk_id=1, last_chunk_id=4, content="abcd")
    hear(end, type="stream_rewind", stream_id=view.stream_id, chunk_id=5, to_chunk_id=2, reason="retry")
    resumed(end, 0, window=2)
    said(end)
    chunk(end, 1)
    end.take(view, NOW)
    assert "window" not in said(end)[0]
    chunk(end, 2)
    end.take(view, NOW)
    assert said(end)[-1]["window"] == view._wished.limit
