"""Answers that nobody follows: what their policies say is done, one by one; and which of them wait for memory."""

from __future__ import annotations

import asyncio
import logging
from collections import deque

from wsstream.chunks import Outcome, StreamState
from wsstream.errors import Interrupted
from wsstream.orphans import Pause, StopAfter, StopAfterChunks
from wsstream.streams.places import Places
from wsstream.streams.stream import Stream

logger = logging.getLogger(__name__)

STOP_EVERY = 0.01
"""Seconds between two orphans that are stopped."""

DESERTED = "Nobody was following the answer any more"


class Orphanage:
    """Carries out the policies of orphans."""

    def __init__(self, places: Places, max_pause: float = 3600.0) -> None:
        """Begin with none.

        Args:
            places: where those wait that have not begun.
            max_pause: seconds an answer may be paused; it holds a place among the running ones, and a connection to its
                provider.
        """
        self._places = places
        self._max_pause = max_pause
        self._loop = asyncio.get_running_loop()
        self._held: list[Stream] = []
        self._to_stop: deque[Stream] = deque()
        self._stopping: asyncio.TimerHandle | None = None

    def on_deserted(self, stream: Stream) -> None:
        """Nobody follows ``stream`` any more: its policy says what becomes of it."""
        if stream.orphan_timer is not None or not self._is_live(stream):
            return
        if self._places.pressed and stream in self._places.running:
            self.hold(stream)  # who waits for a turn holds nothing, and none is given meanwhile
        policy = stream.policy
        if isinstance(policy, StopAfter):
            stream.orphan_timer = self._loop.call_later(policy.seconds, self._stop_orphan, stream)
        elif isinstance(policy, StopAfterChunks):
            stream.log.stop_after(policy.chunks, lambda: self._stop_orphan(stream))
        elif isinstance(policy, Pause):
            stream.log.pause()
            stream.orphan_timer = self._loop.call_later(self._max_pause, self._stop_orphan, stream)

    def _is_live(self, stream: Stream) -> bool:
        return stream in self._places.running or self._places.is_waiting(stream)

    def _stop_orphan(self, stream: Stream) -> None:
        stream.orphan_timer = None
        if self._places.is_waiting(stream) and not stream.log.attachments:
            self._places.dismiss(stream, unbegun(DESERTED))
            return
        self._to_stop.append(stream)
        if self._stopping is None:
            self._stop_next()

    def _stop_next(self) -> None:
        """Stop one orphan. A crowd that has left at once is stopped one by one: each end takes memory to be stored."""
        self._stopping = None
        while self._to_stop:
            stream = self._to_stop.popleft()
            if stream.producer is not None and not stream.log.attachments and stream.orphan_timer is None:
                logger.info("an orphan is stopped, as its policy says", extra={"stream_id": stream.stream_id})
                stream.producer.cancel(Interrupted(DESERTED))
                self._stopping = self._loop.call_later(STOP_EVERY, self._stop_next)
                return

    def hold(self, stream: Stream) -> None:
        """Read an orphan's provider no further: without a viewer nothing else would hold it back."""
        if not isinstance(stream.policy, Pause):
            self._held.append(stream)
            stream.log.pause()

    def let_one_go_on(self) -> None:
        """One of the answers that wait because memory was short. All at once would make it short again."""
        while self._held:
            stream = self._held.pop()
            if stream in self._places.running and stream.log.paused:
                stream.log.go_on()
                return

    def stop_one_held(self) -> None:
        """End the one that has waited longest because memory was short, and with it what it holds."""
        while self._held:
            stream = self._held.pop(0)
            if stream.producer is not None and stream.log.paused and not stream.log.attachments:
                logger.info("an orphan is stopped, as memory is short", extra={"stream_id": stream.stream_id})
                stream.producer.cancel(Interrupted("Memory was short, and nobody was following the answer"))
                return

    def close(self) -> None:
        """Stop nobody any more."""
        if self._stopping is not None:
            self._stopping.cancel()


def unbegun(message: str) -> Outcome:
    """The end of an answer that never ran."""
    return Outcome(StreamState.INTERRUPTED, 0, error_type="interrupted", message=message, recoverable=True)
