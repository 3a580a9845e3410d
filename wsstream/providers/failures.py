"""What goes wrong upstream, in our words: the one seam between the SDKs' exceptions, error events, and `StreamFailure`.

Users never read a provider's own words. Logs say what failed, the status, the code and the upstream's request id, and
of those only what looks like a name: a provider may repeat the question, or a key, in whatever it says.
"""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2

from wsstream.errors import (
    ContentFiltered,
    Interrupted,
    ProviderError,
    ProviderRateLimited,
    ProviderTimeout,
    StreamFailure,
)

logger = logging.getLogger(__name__)

LONGEST_WAIT = 86_400.0
"""Seconds. Nobody waits longer for an answer, whatever a provider says."""

_FILTER = {"content_filter", "content_policy_violation", "responsibleaipolicyviolation", "moderation_blocked"}
_QUOTA = {
    *("insufficient_quota", "quota_exceeded", "billing_error", "billing_hard_limit_reached", "billing_not_active"),
    *("insufficient_user_quota", "exceeded_current_quota_error", "budget_exceeded", "insufficient_balance"),
}
_RATE = {"rate_limit_exceeded", "rate_limit_error", "rate_limit", "too_many_requests", "requests", "tokens"}
_TIMEOUT = {"timeout", "timeout_error", "request_timeout", "deadline_exceeded"}
_CREDENTIALS = {"authentication_error", "invalid_api_key", "invalid_authentication"}
_PERMISSION = {"permission_error", "permission_denied", "forbidden"}
_UNKNOWN = {"not_found_error", "model_not_found", "not_found"}
_TOO_LONG = {"context_length_exceeded", "request_too_large", "string_above_max_length"}
_REFUSED = {"invalid_request_error", "invalid_prompt", "bad_request", "invalid_argument"}

_NAME = re.compile(r"[a-z][a-z0-9_]{0,47}|[0-9]{3}")
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SECRET = re.compile(r"sk-|key|secret|token", re.IGNORECASE)


@contextmanager
def translated(sdk: Any) -> Iterator[None]:
    """Let nothing of ``sdk`` (openai or anthropic) or of the transport out but a `StreamFailure`."""
    try:
        yield
    except sdk.APIStatusError as error:
        failure = of_status(error.status_code, error.response.headers, error.body)
        failure.upstream_request_id = request_id(error.response.headers)
        _note(type(error).__name__, failure, error.status_code)
    except sdk.APITimeoutError:
        failure = ProviderTimeout("The model provider cannot be reached in time")
        _note("APITimeoutError", failure)
    except sdk.APIConnectionError as error:
        failure = ProviderError("The model provider cannot be reached", recoverable=True)
        _note(type(error.__cause__ or error).__name__, failure)
    except httpx2.HTTPError as error:
        failure = Interrupted("The connection to the model provider was lost")
        _note(type(error).__name__, failure)
    except (sdk.APIError, httpx2.InvalidURL) as error:
        failure = ProviderError("The model provider refused the request")
        _note(type(error).__name__, failure)
    else:
        return
    # Not `from error`: its text holds the provider's words, and tracebacks are printed with all causes.
    raise failure from None


def noted(failure: StreamFailure, headers: Mapping[str, str]) -> StreamFailure:
    """``failure`` of an answer that had begun, with the upstream's request id, and a line in the log."""
    failure.upstream_request_id = request_id(headers)
    _note("in the answer", failure)
    return failure


def _note(kind: str, failure: StreamFailure, status: int | None = None) -> None:
    logger.warning(
        "upstream failed: %s, status %s, code %s, request %s: %s",
        kind,
        status or "-",
        failure.upstream_code or "-",
        failure.upstream_request_id or "-",
        failure.error_type,
    )


def of_status(status: int, headers: Mapping[str, str], body: object) -> StreamFailure:
    """What an HTTP status and an error's body mean."""
    words = _words(body)
    failure = _coded(_judged(status, set(words)), words)
    failure.retry_after = retry_after(headers) if failure.recoverable else None
    advice = headers.get("x-should-retry")
    if type(failure) is ProviderError and advice in ("true", "false"):
        failure.recoverable = advice == "true"
    return failure


def of_event(error: object) -> StreamFailure:
    """What an error means that comes inside an answer which had begun well."""
    words = _words(error)
    status = next((int(word) for word in words if word.isdecimal() and len(word) == 3), None)
    return _coded(_judged(status, set(words)), words)


def _coded(failure: StreamFailure, words: Sequence[str]) -> StreamFailure:
    failure.upstream_code = next((word for word in words if _NAME.fullmatch(word)), None)
    return failure


def _judged(status: int | None, words: set[str]) -> StreamFailure:
    if words & _FILTER:
        return ContentFiltered()
    if words & _QUOTA or status == 402:
        return ProviderRateLimited("The model provider's quota for this server is used up", recoverable=False)
    if words & _RATE or status == 429:
        return ProviderRateLimited()
    if words & _TIMEOUT or status in (408, 504):
        return ProviderTimeout("The model provider did not answer in time")
    if words & _CREDENTIALS or status == 401:
        return ProviderError("The model provider does not accept this server's credentials")
    if words & _PERMISSION or status == 403:
        return ProviderError("The model provider does not allow this")
    if words & _TOO_LONG or status == 413:
        return ProviderError("The conversation is too long for this model")
    if words & _UNKNOWN or status == 404:
        return ProviderError("The model provider does not know this model")
    if words & _REFUSED and (status is None or status < 500):
        return ProviderError("The model provider refused the request")
    if status is None:
        return ProviderError("The model provider failed in the middle of its answer", recoverable=True)
    if status in (409, 425) or status >= 500:
        return ProviderError("The model provider is having trouble", recoverable=True)
    return ProviderError("The model provider refused the request")


def _words(body: object, depth: int = 4) -> list[str]:
    """The codes and types in an error's body, the most telling first, wherever a provider puts them."""
    if not isinstance(body, dict) or not depth:
        return []
    found = [str(body[name]).lower() for name in ("code", "type") if isinstance(body.get(name), str | int)]
    inner = [_words(body[name], depth - 1) for name in ("error", "innererror") if name in body]
    return [word for words in [*inner, found] for word in words if word != "error"]


def request_id(headers: Mapping[str, str]) -> str | None:
    """The upstream's own name of a request, where it has one that can be shown."""
    for name in ("x-request-id", "request-id", "cf-ray"):
        value = headers.get(name, "")
        if _ID.fullmatch(value) and not _SECRET.search(value):
            return value
    return None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds until a provider wants to be asked again: ``retry-after-ms``, or ``Retry-After`` (RFC 9110, 10.2.3)."""
    seconds = _number(headers.get("retry-after-ms"), 1000)
    if seconds is None:
        text = headers.get("retry-after")
        seconds = _number(text, 1)
        if seconds is None and text:
            seconds = _until(text, headers.get("date"))
    return None if seconds is None else min(max(0.0, seconds), LONGEST_WAIT)


def _number(text: str | None, unit: int) -> float | None:
    try:
        number = float(text or "nan") / unit
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _until(text: str, now: str | None) -> float | None:
    """The time until a date, by the provider's own clock where it tells."""
    try:
        then = parsedate_to_datetime(text).timestamp()
    except ValueError:
        return None
    try:
        return then - parsedate_to_datetime(now or "").timestamp()
    except ValueError:
        return then - time.time()


def quiet(*loggers: str) -> None:
    """Keep libraries from logging requests: at level debug they print questions and answers.

    A logger that somebody has given a level is left alone.
    """
    for name in loggers:
        if logging.getLogger(name).level == logging.NOTSET:
            logging.getLogger(name).setLevel(logging.WARNING)
