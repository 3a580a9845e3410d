"""The task that drains providers into one log.

One task per running answer; it ends when the answer ends, fails for good, stalls or is cancelled, and leaves exactly
one outcome in the log. It meets viewers nowhere but in the log: where that has no room, it reads the provider no
further. Each try of a provider has an `Intake` of its own, so that nothing a failed one still says is taken for the
answer; what becomes of a failed try, `wsstream.recovery` says.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from wsstream.chunklog import ChunkLog
from wsstream.chunks import ChatRequest, Finish, Kind, Outcome, Receipt, StreamState
from wsstream.errors import (
    ChunkTimeout,
    InternalFailure,
    Interrupted,
    InvalidOutput,
    ProviderTimeout,
    StreamFailure,
)
from wsstream.intake import CHECK_EVERY, MAX_CHUNK_CHARS, REWIND_REASON, YIELD_EVERY, Intake, Limits
from wsstream.messages import StreamStatus
from wsstream.providers.base import Provider
from wsstream.recovery import (
    NO_CALLBACKS,
    Decision,
    Fail,
    FailedTry,
    Failover,
    OnFailure,
    OnInterrupt,
    Retry,
    RetryPolicy,
    decide,
    status_of,
)
from wsstream.rejections import Clamp
from wsstream.shaping import Shaper
from wsstream.splice import Continuation, Part, Repetition, Splice
from wsstream.structured import parse_answer, wants_json

logger = logging.getLogger(__name__)

CLOSE_TIMEOUT = 5.0
"""Seconds a provider gets to close its upstream connection before its task is cancelled again."""

PATIENCE = 10.0
"""Seconds of a provider's silence after which viewers are told that it is not forgotten."""

Prepare = Callable[[], Awaitable[ChatRequest]]


class Target(NamedTuple):
    """Whom to ask, and for which model (None: as the request says)."""

    provider: Provider
    name: str = "provider"
    model: str | None = None

    def is_same(self, other: Target) -> bool:
        """Whether it is the same model of the same provider, by whatever name."""
        return self.provider is other.provider and self.model == other.model

    @property
    def continues(self) -> bool:
        """Whether this model of the provider can be asked to go on behind a text."""
        if getattr(self.provider, "continues", False) is not True:
            return False
        suits: Callable[[str | None], bool] | None = getattr(self.provider, "suits", None)
        return suits is None or suits(self.model)


class Plan(NamedTuple):
    """What one answer is to be like, beyond its request."""

    fallbacks: Sequence[Target] = ()
    retry: RetryPolicy = RetryPolicy(retries=0)
    on_interrupt: OnInterrupt = OnInterrupt.FAIL
    on_failure: OnFailure = NO_CALLBACKS
    buffer_size: int = 1
    by_word: bool = False

    def shaper(self) -> Shaper | None:
        """What shapes a try's chunks; None where they are to be as they come."""
        if self.buffer_size == 1 and not self.by_word:
            return None
        return Shaper(self.buffer_size, by_word=self.by_word)


PLAIN = Plan()
"""One try, chunks as they come."""


class Producer:
    """Drains providers into ``log``. Owned by `wsstream.streams.Streams`, which starts and cancels it."""

    __slots__ = (
        "_begun",
        "_behind",
        "_cancelled_at",
        "_first_at",
        "_intake",
        "_limits",
        "_log",
        "_loop",
        "_merged",
        "_open",
        "_over",
        "_plan",
        "_primary",
        "_progress_at",
        "_reason",
        "_request",
        "_started",
        "_target",
        "_targets",
        "_task",
        "_timed_out",
        "_timer",
        "_told_at",
        "_tries",
        "_waited",
        "dropped",
        "on_retry",
        "retries",
    )

    def __init__(
        self,
        provider: Provider | Target,
        request: ChatRequest | Prepare,
        log: ChunkLog,
        limits: Limits,
        plan: Plan = PLAIN,
        *,
        age: float = 0.0,
        tries: int = 0,
        begins_at: Target | None = None,
        on_retry: Callable[[int, Target | None], None] | None = None,
    ) -> None:
        """A producer that is to be started. Where ``log`` holds something already, it goes on behind that.

        Args:
            provider: whom to ask.
            request: may still have to be prepared: the conversation so far is read from the store.
            log: where the answer goes.
            limits: what it may take.
            plan: what it is to be like.
            age: seconds since it was asked for, in processes before this one.
            tries: how often it was tried again there, and begun behind another process.
            begins_at: whom to ask first, where they had turned to somebody else already; ``plan`` says who comes then.
            on_retry: called as another try begins: with the number of those after the first, ``tries`` among them,
                and whoever is turned to, if somebody else is.
        """
        self._primary = provider if isinstance(provider, Target) else Target(provider)
        self._target = begins_at or self._primary
        self._targets = list(plan.fallbacks)
        self._plan = plan
        self._request = request
        self._log = log
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._progress_at = time.monotonic()
        self._started = self._progress_at - age
        self._behind = len(log)
        self._first_at: float | None = None
        self._intake = Intake(log, limits, self.cancel, shaper=plan.shaper())
        self._open = True
        self._over = self._timed_out = False
        self._told_at = -1
        self._cancelled_at: float | None = None
        self._reason: StreamFailure | None = None
        self._tries = 0
        self._waited = 0.0
        self._merged = 0
        self._begun = False
        self._task: asyncio.Task[None] | None = None
        self.retries = tries
        """Tries after the first."""
        self.dropped = 0
        """Deltas that were generated and that nobody will see."""
        self.on_retry = on_retry
        self._timer = self._loop.call_at(self._due(self._progress_at), self._on_timer)

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
            self._over = self._intake.over = True
            self._reason = reason
            self._intake.deadline = self._cancelled_at + CLOSE_TIMEOUT
            self._rearm(self._intake.deadline)
            if self._begun:  # a task cancelled before its first step would never write an outcome
                self._task.cancel()

    def has_room(self) -> bool:
        """Whether the slowest viewer is near enough."""
        return self._log.has_room()

    async def _run(self) -> None:
        self._begun = True
        try:
            if self._cancelled_at is not None:
                raise asyncio.CancelledError
            outcome = self._ended(await self._answer())
        except asyncio.CancelledError:
            outcome = self._stopped()
        except StreamFailure as failure:
            outcome = self._stopped() if self._over else self._failed(failure)
            failure.with_traceback(None)  # its frames hold the failure: the conversation would wait for the collector
        except Exception:
            logger.exception("stream %s: its producer failed unexpectedly", self._log.stream_id)
            outcome = self._stopped() if self._over else self._failed(InternalFailure())
        finally:
            self._over = True
            self._timer.cancel()
        self._log.finish(outcome)

    # -- tries

    async def _answer(self) -> Finish:
        """Try until there is an answer.

        Raises:
            StreamFailure: there is none, and no other try is to be made.
        """
        if not isinstance(self._request, ChatRequest):
            self._request = await self._request()
        asked = self._begin_try(self._request) if self._behind else self._request_to(self._target, self._request)
        while True:
            try:
                return await self._try(asked)
            except StreamFailure as failure:
                if self._over:
                    raise
                asked = await self._recover(failure, self._request)

    async def _try(self, asked: ChatRequest) -> Finish:
        """Ask once.

        Raises:
            StreamFailure: the try has failed, or was silent for too long.
            CancelledError: the answer is cancelled.
        """
        self._tries += 1
        try:
            finish = await self._target.provider.answer(asked, self._intake)
            if not self._timed_out:  # its last puts may have been dropped
                return finish
        except asyncio.CancelledError:
            if not self._timed_out:
                if self._is_stopping():
                    raise
                logger.error("stream %s: the provider gave up: something of its own was cancelled", self._log.stream_id)
                raise InternalFailure from None
        except StreamFailure:
            if not self._timed_out:
                raise
        except (Exception, SystemExit):
            # A provider's bug ends its own try and nothing else; nor does a library that would rather exit.
            if not self._timed_out:
                logger.exception("stream %s: the provider failed unexpectedly", self._log.stream_id)
                raise InternalFailure from None
        if self._over or self._task is None:
            raise asyncio.CancelledError
        while self._task.uncancel():  # what was cancelled is this try alone
            pass
        raise ProviderTimeout if self._intake.first_at is None else ChunkTimeout

    def _is_stopping(self) -> bool:
        """Whether a cancel is ours: of the answer, or of the task by whoever ends the process."""
        return self._over or self._task is None or self._task.cancelling() > 0

    async def _recover(self, failure: StreamFailure, request: ChatRequest) -> ChatRequest:
        """Wait as long as is to be waited, and give the request for the next try.

        Raises:
            StreamFailure: there is to be none.
        """
        failed = self._describe(failure)
        decision = self._decide(failed)
        if isinstance(decision, Fail):
            raise failure
        self._end_try(complete=False, last=False)
        logger.info("stream %s: %s after try %d: %s", self._log.stream_id, failure.error_type, self._tries, decision)
        self.retries += 1
        if isinstance(decision, Failover):
            self._switch()
            self._say("failover", f"{_words(failure)}; another provider is asked", None)
        else:
            await self._back_off(failure, decision.delay or 0.0)
        if self.on_retry is not None:
            self.on_retry(self.retries, self._target if isinstance(decision, Failover) else None)
        return self._begin_try(request)

    def _switch(self) -> None:
        """The next of the list is asked from now on."""
        self._target = self._targets.pop(0)
        self._tries = 0
        self._progress_at = time.monotonic()

    def _describe(self, failure: StreamFailure) -> FailedTry:
        now = time.monotonic()
        if self._intake.first_at is not None:
            self._progress_at = now
        return FailedTry(
            failure,
            self._tries,
            self._target.name,
            self._target.model,
            len(self._log),
            now - self._progress_at,
            len(self._fallbacks()),
        )

    def _fallbacks(self) -> list[Target]:
        """Those of the list that could go on from here."""
        return [target for target in self._targets if self._can_go_on(target)]

    def _decide(self, failed: FailedTry) -> Decision:
        """What to do; nothing that would repeat what viewers have read without being allowed to."""
        callback = self._plan.on_failure.get(failed.failure.error_type)
        decision: Decision | None = None
        if callback is not None:
            try:
                decision = callback(failed)
            except Exception:
                logger.exception("on_failure failed for %s", failed.failure.error_type)
        retry = decide(failed, self._plan.retry, random.random())
        if decision is None:
            decision = retry
        elif isinstance(decision, Retry) and decision.delay is None:
            jitter = self._plan.retry.delay(failed.tries, random.random())
            decision = Retry(jitter if failed.failure.retry_after is None else failed.failure.retry_after)
        if isinstance(decision, Retry) and not self._can_go_on(self._target):
            decision = Failover()
        if isinstance(decision, Failover):
            self._targets = self._fallbacks()
            return decision if self._targets else Fail()
        if isinstance(decision, Retry) and decision == retry:
            self._count_capped(failed)
        return decision

    def _count_capped(self, failed: FailedTry) -> None:
        policy = self._plan.retry
        if failed.failure.retry_after is None and policy.is_capped(failed.tries):
            self._limits.on_clamp(Clamp.RETRY_DELAY)

    def _can_go_on(self, target: Target) -> bool:
        """Whether ``target`` may be asked, now that the log is as it is."""
        if not len(self._log):
            return True
        policy = self._plan.on_interrupt
        if policy is OnInterrupt.FAIL or self._log.holds(Kind.TOOL_CALL, Kind.DATA):
            return False  # somebody may have done already what a tool call asks for
        return policy is OnInterrupt.RESTART or target.continues or not self._log.parts()

    async def _back_off(self, failure: StreamFailure, delay: float) -> None:
        self._say(status_of(failure), f"{_words(failure)}; it is asked again", round(delay, 3))
        await asyncio.sleep(delay)

    def _say(self, status: str, message: str, retry_after: float | None) -> None:
        self._log.tell_status(StreamStatus(self._log.stream_id, status, message, self.retries, retry_after))

    def _begin_try(self, request: ChatRequest) -> ChatRequest:
        """A new intake, and the request that goes on where the log ends."""
        parts = [Part(*part) for part in self._log.parts()]
        splice: Splice | None = None
        asked = self._request_to(self._target, request)
        if parts and self._target.continues:
            text = "".join([part.text for part in parts])
            asked = msgspec.structs.replace(asked, prefix=text)
            splice = Continuation(text)
        elif parts:
            splice = Repetition(parts)
        elif len(self._log):
            self._log.rewind(0, REWIND_REASON)  # reasoning alone: the new try's takes its place
        self._timed_out = False
        self._open = True
        self._told_at = -1
        self._intake = Intake(self._log, self._limits, self.cancel, splice=splice, shaper=self._plan.shaper())
        self._rearm(self._due(time.monotonic()))
        return asked

    def _request_to(self, target: Target, request: ChatRequest) -> ChatRequest:
        return request if target is self._primary else msgspec.structs.replace(request, model=target.model)

    def _end_try(self, *, complete: bool, last: bool) -> None:
        if not self._open:
            return
        self._open = False
        intake = self._intake
        intake.finish(complete=complete, last=last)
        intake.deadline = float("inf")
        self._waited += intake.waited
        self._merged += intake.merged
        self.dropped += intake.dropped
        if self._first_at is None:
            self._first_at = intake.first_at

    # -- time

    def _due(self, now: float) -> float:
        """When to look again. Deadlines move with every token, which costs next to nothing; timers do not."""
        patience = PATIENCE - self._intake.silence(now)
        end = float("inf") if self._over else self._started + self._limits.seconds + self._idle(now)
        return min(
            self._intake.deadline,
            now + self._limits.between,
            now + (patience if patience > 0 else PATIENCE),
            max(now, end),
        )

    def _idle(self, now: float) -> float:
        """Seconds for which the provider was not read, which are not its own."""
        return self._waited + (self._intake.idle(now) if self._open else 0.0)

    def _on_timer(self) -> None:
        now = time.monotonic()
        intake = self._intake
        if now >= intake.deadline and self._task is not None:
            self._timed_out = intake.over = True
            intake.deadline = now + CLOSE_TIMEOUT  # and again, should the provider not heed it
            self._task.cancel()
        elif not self._over and now >= self._started + self._limits.seconds + self._idle(now):
            self.cancel(Interrupted("The answer took longer than this server allows", recoverable=False))
            return
        elif not intake.over and intake.silence(now) >= PATIENCE and self._told_at != len(self._log):
            self._told_at = len(self._log)
            self._say("waiting", "The model provider is silent", None)
        self._rearm(self._due(now))

    def _rearm(self, when: float) -> None:
        self._timer.cancel()
        self._timer = self._loop.call_at(when, self._on_timer)

    # -- endings

    def _ended(self, finish: Finish) -> Outcome:
        if self._over:
            return self._stopped()
        self._end_try(complete=True, last=True)
        request = self._request
        parsed = None
        if isinstance(request, ChatRequest) and wants_json(request.response_format) and finish.reason in _WHOLE:
            try:
                parsed = parse_answer(self._log.whole_text(), request.response_format)
            except InvalidOutput as failure:
                return self._failed(failure, usage=finish.usage)
        reason = finish.reason if finish.reason in _REASONS else "stop"
        return self._outcome(StreamState.COMPLETE, finish_reason=reason, usage=finish.usage, parsed=parsed)

    def _stopped(self) -> Outcome:
        if self._reason is not None:
            return self._failed(self._reason)
        if self._timed_out and self._cancelled_at is None:
            return self._failed(ProviderTimeout())  # before the provider could be asked at all
        if self._cancelled_at is None:
            return self._failed(Interrupted("The server is stopping"))
        closed = (time.monotonic() - self._cancelled_at) * 1000
        self._end_try(complete=False, last=True)
        receipt = Receipt(
            generated_chunks=len(self._log),
            delivered_chunk_id=self._log.delivered,
            upstream_closed_ms=round(closed, 3),
        )
        return self._outcome(StreamState.CANCELLED, finish_reason="cancelled", receipt=receipt)

    def _failed(self, failure: StreamFailure, **rest: Any) -> Outcome:
        logger.info("stream %s failed: %s", self._log.stream_id, failure.error_type)
        state = StreamState.INTERRUPTED if isinstance(failure, Interrupted) else StreamState.FAILED
        return self._outcome(
            state,
            error_type=failure.error_type.value,
            message=str(failure),
            recoverable=failure.recoverable,
            retry_after=failure.retry_after,
            **rest,
        )

    def _outcome(self, state: StreamState, **rest: Any) -> Outcome:
        self._end_try(complete=False, last=True)
        elapsed = time.monotonic() - self._started
        tokens = len(self._log) + self._merged
        return Outcome(
            state=state,
            final_chunk_id=len(self._log),
            ttft_ms=self._ttft_ms(),
            elapsed_seconds=round(elapsed, 6),
            tokens_per_second=round(tokens / elapsed, 3) if elapsed > 0 else 0.0,
            retry_count=self.retries,
            model=self._model(),
            **rest,
        )

    def _ttft_ms(self) -> float | None:
        """Milliseconds to the first chunk; None where there is none, or where another process had it."""
        if self._first_at is None or self._behind:
            return None
        return round((self._first_at - self._started) * 1000, 3)

    def _model(self) -> str | None:
        """The model that answered, as far as anybody has named it."""
        if self._target is not self._primary:
            return self._target.model or self._target.name
        return self._request.model if isinstance(self._request, ChatRequest) else None


_WHOLE = ("stop", "length")
"""The ends of an answer that is meant to be whole."""

_REASONS = ("stop", "length", "content_filter", "tool_calls")
"""What viewers are told; whatever else a provider calls its end is one like `stop`."""


def _words(failure: StreamFailure) -> str:
    return str(failure).rstrip(".")


__all__ = [
    "CHECK_EVERY",
    "CLOSE_TIMEOUT",
    "MAX_CHUNK_CHARS",
    "PLAIN",
    "YIELD_EVERY",
    "Limits",
    "Plan",
    "Prepare",
    "Producer",
    "Target",
]
