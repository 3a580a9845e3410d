"""The task that drains one provider run into one log.

One task per running answer; it ends when the provider ends, fails, stalls or is cancelled, and leaves exactly one
outcome in the log. It meets viewers nowhere but in the log: where that has no room, it reads the provider no further.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from wsstream.chunklog import ChunkLog
from wsstream.chunks import ChatRequest, Delta, Finish, Outcome, Receipt, StreamState
from wsstream.errors import ChunkTimeout, InternalFailure, Interrupted, ProviderTimeout, StreamFailure
from wsstream.providers.base import Provider
from wsstream.text import SurrogateRepair

logger = logging.getLogger(__name__)

YIELD_EVERY = 64
"""Chunks after which the loop gets its turn, however eager the provider: acks and other streams must not wait."""

MAX_CHUNK_CHARS = 16 * 1024
"""A larger delta is cut, so that a byte window can hold it."""

CHECK_EVERY = 16
"""Puts after which an answer's size is looked at; it may be exceeded by that much."""

CLOSE_TIMEOUT = 5.0
"""Seconds a provider gets to close its upstream connection before its task is cancelled again."""


Prepare = Callable[[], Awaitable[ChatRequest]]


class Limits:
    """What one answer may take."""

    __slots__ = ("between", "chunks", "first_token", "weight")

    def __init__(self, first_token: float, between: float, chunks: int, weight: int) -> None:
        self.first_token = first_token
        self.between = between
        self.chunks = chunks
        self.weight = weight


class Producer:
    """Drains ``provider`` into ``log``. Owned by `wsstream.streams.Streams`, which starts and cancels it."""

    __slots__ = (
        "_begun",
        "_cancelled_at",
        "_deadline",
        "_limits",
        "_log",
        "_loop",
        "_over",
        "_provider",
        "_reason",
        "_repair",
        "_request",
        "_since_yield",
        "_started",
        "_task",
        "_timed_out",
        "_timer",
        "_ttft",
        "_unchecked",
    )

    def __init__(self, provider: Provider, request: ChatRequest | Prepare, log: ChunkLog, limits: Limits) -> None:
        """``request`` may still have to be prepared: the conversation so far is read from the store."""
        self._provider = provider
        self._request = request
        self._log = log
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._repair: SurrogateRepair | None = None
        self._started = time.monotonic()
        self._ttft: float | None = None
        self._deadline = self._started + limits.first_token
        self._timer = self._loop.call_at(min(self._deadline, self._started + limits.between), self._on_timer)
        self._timed_out = False
        self._cancelled_at: float | None = None
        self._reason: StreamFailure | None = None
        self._since_yield = 0
        self._unchecked = 0
        self._begun = False
        self._over = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> asyncio.Task[None]:
        """Begin. The task never raises; how it ended is in the log."""
        self._task = self._loop.create_task(self._run())
        return self._task

    def cancel(self, reason: StreamFailure | None = None) -> None:
        """Stop reading and close the upstream connection at once. Idempotent.

        With a ``reason`` the stream ends as that failure (an orphan, a shutdown), without as cancelled by its user.
        """
        if self._cancelled_at is None and self._task is not None and not self._task.done():
            self._cancelled_at = time.monotonic()
            self._over = True
            self._reason = reason
            self._deadline = self._cancelled_at + CLOSE_TIMEOUT
            self._rearm(self._deadline)
            if self._begun:  # a task cancelled before its first step would never write an outcome
                self._task.cancel()

    async def _run(self) -> None:
        self._begun = True
        try:
            if self._cancelled_at is not None:
                raise asyncio.CancelledError
            if not isinstance(self._request, ChatRequest):
                self._request = await self._request()
            finish = await self._provider.answer(self._request, self)
            outcome = self._stopped() if self._over else self._ended(finish)  # its last puts may have been dropped
        except asyncio.CancelledError:
            outcome = self._stopped()
        except StreamFailure as failure:
            outcome = self._stopped() if self._over else self._failed(failure)
        except Exception:
            # A provider's bug ends its own stream and nothing else.
            logger.exception("stream %s: the provider failed unexpectedly", self._log.stream_id)
            outcome = self._stopped() if self._over else self._failed(InternalFailure())
        finally:
            self._over = True
            self._timer.cancel()
        self._log.finish(outcome)

    # -- the sink

    def put(self, deltas: Sequence[Delta]) -> bool:
        """Append ``deltas`` to the log. After a cancel they are dropped: nobody is to be billed for more."""
        if self._over:
            return False
        now = time.monotonic()
        self._deadline = now + self._limits.between
        if self._ttft is None:
            self._ttft = now - self._started
        for delta in deltas:
            if len(delta.content) > MAX_CHUNK_CHARS:
                deltas = [part for whole in deltas for part in _cut(whole)]
                break
        if self._repair is None:
            try:
                self._log.append(deltas)
            except UnicodeEncodeError:
                # Half a surrogate pair: from here on text goes through the repair, which holds and joins the halves.
                self._repair = SurrogateRepair()
        if self._repair is not None:
            self._append_repaired(self._repair, deltas)
        self._since_yield += len(deltas)
        self._unchecked += 1
        if self._unchecked == CHECK_EVERY:
            self._check_limits()
        return self._log.has_room()

    def _append_repaired(self, repair: SurrogateRepair, deltas: Sequence[Delta]) -> None:
        whole = [Delta(text, delta.kind) for delta in deltas if (text := repair.feed(delta.content))]
        if whole:
            self._log.append(whole)

    def _check_limits(self) -> None:
        self._unchecked = 0
        if len(self._log) > self._limits.chunks or self._log.weight > self._limits.weight:
            self.cancel(Interrupted("The answer is longer than this server allows", recoverable=False))

    def has_room(self) -> bool:
        """Whether the slowest viewer is near enough."""
        return self._log.has_room()

    async def wait_room(self) -> None:
        """Wait for the slowest viewer. The upstream's silence proves nothing meanwhile: nobody reads it."""
        if self._over:
            await asyncio.sleep(0)  # where a cancel that came of a put takes effect
            return
        self._since_yield = 0
        self._deadline = float("inf")
        await self._log.wait_room()
        self._deadline = time.monotonic() + self._limits.between

    async def give_way(self) -> None:
        """Wait for room, or for one turn of the loop after every `YIELD_EVERY` chunks."""
        if self._over or not self._log.has_room():
            await self.wait_room()
        elif self._since_yield >= YIELD_EVERY:
            self._since_yield = 0
            await asyncio.sleep(0)

    def _flush_repair(self) -> None:
        if self._repair is not None and (rest := self._repair.flush()):
            self._log.append([Delta(rest)])

    def _on_timer(self) -> None:
        """A real timer, that looks at the deadline: moving that for every token costs next to nothing."""
        now = time.monotonic()
        if now >= self._deadline and self._task is not None:
            self._timed_out = self._over = True
            self._deadline = now + CLOSE_TIMEOUT  # and again, should the provider not heed it
            self._task.cancel()
        self._rearm(min(self._deadline, now + self._limits.between))

    def _rearm(self, when: float) -> None:
        self._timer.cancel()
        self._timer = self._loop.call_at(when, self._on_timer)

    # -- endings

    def _ended(self, finish: Finish) -> Outcome:
        return self._outcome(StreamState.COMPLETE, finish_reason=finish.reason, usage=finish.usage)

    def _stopped(self) -> Outcome:
        if self._reason is not None:
            return self._failed(self._reason)
        if self._cancelled_at is None:
            if not self._timed_out:
                return self._failed(Interrupted("The server is stopping"))
            return self._failed(ProviderTimeout() if self._ttft is None else ChunkTimeout())
        closed = (time.monotonic() - self._cancelled_at) * 1000
        self._flush_repair()
        receipt = Receipt(
            generated_chunks=len(self._log),
            delivered_chunk_id=self._log.delivered,
            upstream_closed_ms=round(closed, 3),
        )
        return self._outcome(StreamState.CANCELLED, finish_reason="cancelled", receipt=receipt)

    def _failed(self, failure: StreamFailure) -> Outcome:
        logger.info("stream %s failed: %s", self._log.stream_id, failure.error_type)
        state = StreamState.INTERRUPTED if isinstance(failure, Interrupted) else StreamState.FAILED
        return self._outcome(
            state,
            error_type=failure.error_type.value,
            message=str(failure),
            recoverable=failure.recoverable,
            retry_after=failure.retry_after,
        )

    def _outcome(self, state: StreamState, **rest: Any) -> Outcome:
        self._flush_repair()
        elapsed = time.monotonic() - self._started
        return Outcome(
            state=state,
            final_chunk_id=len(self._log),
            ttft_ms=None if self._ttft is None else round(self._ttft * 1000, 3),
            elapsed_seconds=round(elapsed, 6),
            tokens_per_second=round(len(self._log) / elapsed, 3) if elapsed > 0 else 0.0,
            **rest,
        )


def _cut(delta: Delta) -> list[Delta]:
    text = delta.content
    return [Delta(text[i : i + MAX_CHUNK_CHARS], delta.kind) for i in range(0, len(text), MAX_CHUNK_CHARS)]
