"""What the policy says to a failure: who is asked again, when, and who is not."""

from __future__ import annotations

import pytest

from wsstream.errors import (
    ContentFiltered,
    InternalFailure,
    InvalidOutput,
    ProviderError,
    ProviderRateLimited,
    ProviderTimeout,
    StreamFailure,
)
from wsstream.recovery import Decision, Fail, FailedTry, Failover, Retry, RetryPolicy, decide, status_of

POLICY = RetryPolicy()
PASSING = ProviderError(recoverable=True)
REFUSED = ProviderError()


def failed(
    failure: StreamFailure, tries: int = 1, *, chunks: int = 0, elapsed: float = 0.0, fallbacks: int = 0
) -> FailedTry:
    """A try that has failed."""
    return FailedTry(failure, tries, "demo", None, chunks, elapsed, fallbacks)


@pytest.mark.parametrize(("tries", "seconds"), [(1, 1.0), (2, 2.0), (3, 4.0), (7, 60.0), (5000, 60.0)])
def test_the_back_off(tries: int, seconds: float) -> None:
    """It doubles up to its limit, and any time up to it may be drawn."""
    assert POLICY.delay(tries, 1.0) == seconds
    assert POLICY.delay(tries, 0.25) == seconds / 4
    assert POLICY.delay(tries, 0.0) == 0.0


@pytest.mark.parametrize(
    ("try_", "decision"),
    [
        (failed(PASSING), Retry(0.5)),
        (failed(PASSING, 3), Retry(2.0)),
        (failed(PASSING, 4), Fail()),
        (failed(PASSING, 4, fallbacks=1), Failover()),
        (failed(REFUSED), Fail()),
        (failed(REFUSED, fallbacks=2), Failover()),
        (failed(REFUSED, chunks=5, fallbacks=2), Fail()),
        (failed(PASSING, chunks=5), Retry(0.5)),
        (failed(InternalFailure()), Fail()),
        (failed(InternalFailure(), fallbacks=1), Failover()),
        (failed(ContentFiltered(), fallbacks=1), Fail()),
        (failed(InvalidOutput(recoverable=True), fallbacks=1), Fail()),
        (failed(ProviderTimeout(), elapsed=59.0), Retry(0.5)),
        (failed(ProviderTimeout(), elapsed=60.0), Fail()),
        (failed(ProviderTimeout(), elapsed=60.0, fallbacks=1), Failover()),
        (failed(ProviderRateLimited(retry_after=7.0)), Retry(7.0)),
        (failed(ProviderRateLimited(retry_after=0.0), 3), Retry(0.0)),
        (failed(ProviderRateLimited(retry_after=60.0)), Retry(60.0)),
        (failed(ProviderRateLimited(retry_after=61.0)), Fail()),
        (failed(ProviderRateLimited(retry_after=61.0), fallbacks=1), Failover()),
        (failed(ProviderRateLimited(retry_after=30.0), elapsed=31.0), Fail()),
    ],
)
def test_decisions(try_: FailedTry, decision: Decision) -> None:
    """What may pass is tried again while there are tries and time; then others are asked; then it has failed."""
    assert decide(try_, POLICY, 0.5) == decision


@pytest.mark.parametrize(
    ("tries", "seconds", "capped"), [(1, 6.0, False), (2, 12.0, False), (3, 20.0, True), (30, 20.0, True)]
)
def test_retry_cap(tries: int, seconds: float, *, capped: bool) -> None:
    """A wait may be as long as the cap; what would be longer, however much, is cut to it."""
    policy = RetryPolicy(base=6.0, cap=20.0)
    assert policy.delay(tries, 1.0) == seconds
    assert policy.is_capped(tries) is capped
    assert not RetryPolicy(base=10.0, cap=20.0).is_capped(2)


def test_what_viewers_are_told() -> None:
    """A limit is told apart from other trouble."""
    assert (status_of(ProviderRateLimited()), status_of(PASSING)) == ("rate_limited", "retrying")
