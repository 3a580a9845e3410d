"""What the server calls an error is an exception here, of the class that has that name."""

from __future__ import annotations

from collections.abc import Mapping

from wsstream import errors
from wsstream import messages as m
from wsstream.chunks import Outcome
from wsstream.errors import ErrorType, WsstreamError

_FAILURES: Mapping[str, type[WsstreamError]] = {
    failure.error_type: failure
    for failure in (
        errors.ProviderError,
        errors.ProviderRateLimited,
        errors.ProviderTimeout,
        errors.ChunkTimeout,
        errors.ContentFiltered,
        errors.InvalidOutput,
        errors.Interrupted,
        errors.InternalFailure,
    )
}
_REFUSALS: Mapping[str, type[WsstreamError]] = {
    refusal.error_type: refusal
    for refusal in (
        errors.BadRequest,
        errors.UnknownMessage,
        errors.Unauthorized,
        errors.Forbidden,
        errors.UnknownStream,
        errors.LogTrimmed,
        errors.ResumeAhead,
        errors.AckOutOfRange,
        errors.MessageTooLarge,
        errors.Capacity,
        errors.QueueFull,
        errors.RateLimited,
    )
}


def failure_of(outcome: Outcome, *, started: bool = True) -> WsstreamError:
    """The exception for an answer that ended with ``outcome``.

    ``rate_limit`` is the provider's word in an answer that had ``started``, and the server's own before that.
    """
    tables = {**_REFUSALS, **_FAILURES} if started else {**_FAILURES, **_REFUSALS}
    error_type = outcome.error_type or ErrorType.INTERNAL_ERROR
    kind = tables.get(error_type, errors.StreamFailure)
    return kind(outcome.message or "", retry_after=outcome.retry_after, recoverable=outcome.recoverable)


def refusal_of(error: m.Error) -> WsstreamError:
    """The exception for a question that was refused."""
    kind = _REFUSALS.get(error.error_type, errors.RequestError)
    return kind(error.message, retry_after=error.retry_after, recoverable=error.recoverable)
