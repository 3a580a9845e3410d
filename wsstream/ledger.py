"""What became of the answers, in numbers and in two log lines each.

Nothing here runs per token: figures are taken when an answer begins and ends, and once a second, by `sample`, from what
the logs know anyway.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import NamedTuple

from wsstream.chunklog import Attachment
from wsstream.messages import ChatRequested
from wsstream.streams import Stream
from wsstream.tally import Histogram

logger = logging.getLogger(__name__)

# The bounds that OpenTelemetry's conventions for generative AI clients name.
DURATIONS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
TOKENS = tuple(float(4**n) for n in range(14))
PACES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
LAGS = (0.0, 1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0)

QUIET = 2.0
"""Seconds without a chunk after which a running answer counts as quiet."""

MAX_VIEWERS = 4096
"""Viewers looked at in one sample: they stand for all."""
SLICE = 64
"""Answers looked at in a row."""


class _Pace:
    """How far an answer was when it was last looked at."""

    __slots__ = ("at", "begun", "chunks")

    def __init__(self) -> None:
        self.begun = time.monotonic()
        self.chunks = 0
        self.at: float | None = None  # of the first sample that found a chunk, then of the last that found a new one


class Viewers(NamedTuple):
    """The viewers of running answers, at the last sample."""

    following: int
    stalled: int
    """Those whose window is full while there is more to send."""
    max_lag: int
    """Chunks that the slowest has not acknowledged."""


class Ledger:
    """Watches `wsstream.streams.Streams`."""

    def __init__(self, running: Callable[[], Iterable[Stream]], default_provider: str) -> None:
        """``running`` lists the running streams; ``default_provider`` answers requests that name none."""
        self._running = running
        self._default_provider = default_provider
        self._paces: dict[Stream, _Pace] = {}
        self._providers: dict[Stream, str] = {}
        self._stalled: set[Attachment] = set()
        self._chunks = 0
        self._bytes = 0
        self._uncommitted = 0
        self.started: Counter[str] = Counter()
        """Answers begun, by provider."""
        self.ended: Counter[tuple[str, str]] = Counter()
        """Answers ended, by provider and state."""
        self.errors: Counter[str] = Counter()
        """Answers that ended badly, by error type."""
        self.stalls = 0
        """Times that a viewer's window was found full, while it was not the second before."""
        self.first_chunk: dict[str, Histogram] = {}
        self.durations: dict[str, Histogram] = {}
        self.input_tokens: dict[str, Histogram] = {}
        self.output_tokens: dict[str, Histogram] = {}
        self.pace = Histogram(PACES)
        """Seconds between chunks."""
        self.lag = Histogram(LAGS)
        """Chunks that viewers had not acknowledged, one value per viewer and second."""
        self.viewers = Viewers(0, 0, 0)
        self.quiet = 0
        """Running answers without a new chunk for `QUIET` seconds, their first one included."""

    # -- what streams tell

    def on_started(self, stream: Stream, asked: ChatRequested) -> None:
        """An answer begins."""
        provider = (asked.config.provider if asked.config is not None else None) or self._default_provider
        self._providers[stream] = provider
        self._paces[stream] = _Pace()
        self.started[provider] += 1
        record = stream.record
        logger.info(
            "stream started",
            extra={
                "stream_id": record.stream_id,
                "request_id": record.request_id,
                "session_id": record.session_id,
                "provider": provider,
                "model": record.model,
            },
        )

    def on_ended(self, stream: Stream) -> None:
        """Its outcome is stored."""
        provider = self._providers.pop(stream, self._default_provider)
        self._end_pace(stream)
        log = stream.log
        self._chunks += log.tail
        self._bytes += log.weight
        outcome = log.outcome
        assert outcome is not None
        self.ended[provider, outcome.state.value] += 1
        _of(self.durations, provider, DURATIONS).observe(outcome.elapsed_seconds)
        if outcome.ttft_ms is not None:
            _of(self.first_chunk, provider, DURATIONS).observe(outcome.ttft_ms / 1000)
        if outcome.error_type is not None:
            self.errors[outcome.error_type] += 1
        if outcome.usage is not None:
            _of(self.input_tokens, provider, TOKENS).observe(outcome.usage.input_tokens)
            _of(self.output_tokens, provider, TOKENS).observe(outcome.usage.output_tokens)
        logger.info(
            "stream ended",
            extra={
                "stream_id": stream.stream_id,
                "request_id": stream.record.request_id,
                "provider": provider,
                "state": outcome.state.value,
                "reason": outcome.finish_reason or outcome.error_type,
                "chunks": outcome.final_chunk_id,
                "bytes": log.weight,
                "ttft_ms": outcome.ttft_ms,
                "seconds": outcome.elapsed_seconds,
                "viewers": len(log.attachments),
            },
        )

    # -- once a second

    def sample(self, now: float) -> None:
        """Look at every running answer and its viewers."""
        for _ in self.sampling(now):
            pass

    def sampling(self, now: float) -> Iterator[None]:
        """The same in slices of a fraction of a millisecond, for a loop that has others to serve in between."""
        stalled: set[Attachment] = set()
        count = max_lag = quiet = uncommitted = 0
        for number, stream in enumerate(list(self._running()), 1):
            quiet += self._sample_pace(stream, now)
            log = stream.log
            uncommitted += len(log) - log.tail
            for attachment in islice(log.attachments, max(0, MAX_VIEWERS - count)):
                count += 1
                lag = max(0, log.tail - attachment.window.acked)
                self.lag.observe(lag)
                max_lag = max(max_lag, lag)
                if attachment.window.limited and attachment.window.in_flight:
                    stalled.add(attachment)
            if not number % SLICE:
                yield
        self.quiet, self._uncommitted = quiet, uncommitted
        self.stalls += len(stalled - self._stalled)
        self._stalled = stalled
        self.viewers = Viewers(count, len(stalled), max_lag)

    def _sample_pace(self, stream: Stream, now: float) -> bool:
        """Whether it is quiet."""
        pace = self._paces.get(stream)
        if pace is None:
            return False
        chunks = len(stream.log)
        if chunks > pace.chunks:
            if pace.at is not None:
                self.pace.observe((now - pace.at) / (chunks - pace.chunks), chunks - pace.chunks)
            pace.chunks, pace.at = chunks, now
            return False
        return now - (pace.begun if pace.at is None else pace.at) > QUIET

    def _end_pace(self, stream: Stream) -> None:
        """The chunks since the last sample; all of a short answer, as its outcome has them."""
        pace = self._paces.pop(stream, None)
        outcome = stream.log.outcome
        if pace is None or outcome is None:
            return
        if pace.at is not None:
            chunks, seconds = len(stream.log) - pace.chunks, time.monotonic() - pace.at
        else:
            chunks, seconds = len(stream.log) - 1, outcome.elapsed_seconds - (outcome.ttft_ms or 0.0) / 1000
        if chunks > 0:
            self.pace.observe(max(0.0, seconds) / chunks, chunks)

    # -- totals

    @property
    def chunks(self) -> int:
        """Chunks that viewers may have seen, since the start."""
        return self._chunks + sum(stream.log.tail for stream in self._paces)

    @property
    def bytes(self) -> int:
        """Their bytes, as byte windows weigh them."""
        return self._bytes + sum(stream.log.weight for stream in self._paces)

    @property
    def uncommitted(self) -> int:
        """Chunks that waited for their commit, at the last sample."""
        return self._uncommitted


def _of(table: dict[str, Histogram], provider: str, bounds: tuple[float, ...]) -> Histogram:
    found = table.get(provider)
    if found is None:
        found = table[provider] = Histogram(bounds)
    return found
