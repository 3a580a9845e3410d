"""What becomes of an answer whose provider fails: a policy as data, and decisions. No clock and no dice.

Before the first chunk another try costs nobody anything: it is made where the failure may pass, and other providers
are turned to where there are any. Behind the first chunk, viewers have read something, and `OnInterrupt` decides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import NamedTuple

import msgspec

from wsstream.errors import (
    ContentFiltered,
    ErrorType,
    InternalFailure,
    InvalidOutput,
    ProviderRateLimited,
    StreamFailure,
)


class OnInterrupt(StrEnum):
    """What becomes of an answer that breaks off after its first chunk."""

    FAIL = "fail"
    """It ends; its text is kept."""
    CONTINUE = "continue"
    """A provider that can go on behind a text is asked to; with any other it ends."""
    RESTART = "restart"
    """Any other is asked for the answer anew: what it repeats is skipped, what it says otherwise replaces the text."""


class RetryPolicy(msgspec.Struct, frozen=True):
    """How often, and for how long, a provider is asked again. Times are seconds."""

    retries: int = 3
    base: float = 1.0
    cap: float = 60.0
    budget: float = 60.0

    def delay(self, tries: int, jitter: float) -> float:
        """The time before the try behind ``tries`` failed ones: exponential, with full jitter in [0, 1)."""
        return jitter * min(self.cap, self._uncapped(tries))

    def is_capped(self, tries: int) -> bool:
        """Whether it might be longer, but for the cap."""
        return self._uncapped(tries) > self.cap

    def _uncapped(self, tries: int) -> float:
        return self.base * 2.0 ** min(tries - 1, 30)


class Retry(NamedTuple):
    """Ask the same provider again, after ``delay`` seconds; None leaves that to the policy."""

    delay: float | None = None


class Failover(NamedTuple):
    """Ask the next provider of the list."""


class Fail(NamedTuple):
    """End the answer with this failure."""


Decision = Retry | Failover | Fail


class FailedTry(NamedTuple):
    """A try that has failed, as recovery callbacks see it."""

    failure: StreamFailure
    tries: int
    """Tries of this provider so far; 1 after the first."""
    provider: str
    model: str | None
    chunks: int
    """Chunks that the answer has."""
    elapsed: float
    """Seconds without progress: since the first try of this provider began, or its last one with chunks failed."""
    fallbacks: int
    """Providers left to turn to."""


OnFailure = Mapping[ErrorType, Callable[[FailedTry], Decision | None]]
"""Callbacks by the type of the failure. One that answers None leaves it to the policy."""

NO_CALLBACKS: OnFailure = {}

_LAST_WORDS = (ContentFiltered, InvalidOutput)
"""Failures that are the answer: to ask somebody else would be to look for one who says it all the same."""


def decide(failed: FailedTry, policy: RetryPolicy, jitter: float) -> Decision:
    """What the policy says to a failure that may be recovered from: a retry whose delay is set, or what else is left.

    A provider's own ``retry_after`` wins over the back-off. Where the time is not left for it, nobody is kept waiting.
    """
    failure = failed.failure
    if isinstance(failure, _LAST_WORDS) or (failed.chunks and not failure.recoverable):
        return Fail()
    if failure.recoverable and not isinstance(failure, InternalFailure) and failed.tries <= policy.retries:
        delay = policy.delay(failed.tries, jitter) if failure.retry_after is None else failure.retry_after
        if failed.elapsed + delay <= policy.budget:
            return Retry(delay)
    return Failover() if failed.fallbacks else Fail()


def status_of(failure: StreamFailure) -> str:
    """The status that tells viewers why they wait for another try."""
    return "rate_limited" if isinstance(failure, ProviderRateLimited) else "retrying"
