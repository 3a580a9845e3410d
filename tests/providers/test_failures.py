"""What statuses, codes and headers mean, whoever says them."""

from __future__ import annotations

import email.utils
import logging
import time
from typing import Any

import pytest

from wsstream.errors import ContentFiltered, ProviderError, ProviderRateLimited, ProviderTimeout, StreamFailure
from wsstream.providers.failures import LONGEST_WAIT, of_event, of_status, quiet, request_id, retry_after


@pytest.mark.parametrize(
    ("status", "body", "kind", "recoverable", "words"),
    [
        (400, {"code": "context_length_exceeded"}, ProviderError, False, "too long"),
        (400, {"error": {"code": "content_filter"}}, ContentFiltered, False, "withheld"),
        (400, {"innererror": {"code": "ResponsibleAIPolicyViolation"}}, ContentFiltered, False, "withheld"),
        (400, {"error": {"type": "invalid_request_error"}}, ProviderError, False, "refused"),
        (401, {}, ProviderError, False, "credentials"),
        (402, {}, ProviderRateLimited, False, "quota"),
        (403, {}, ProviderError, False, "allow"),
        (404, {"code": "model_not_found"}, ProviderError, False, "know this model"),
        (409, {}, ProviderError, True, "trouble"),
        (413, {}, ProviderError, False, "too long"),
        (429, {"error": {"type": "insufficient_quota"}}, ProviderRateLimited, False, "quota"),
        (429, {"error": {"type": "tokens", "code": "rate_limit_exceeded"}}, ProviderRateLimited, True, "limiting"),
        (504, {}, ProviderTimeout, True, "in time"),
        (529, {"error": {"type": "overloaded_error"}}, ProviderError, True, "trouble"),
    ],
)
def test_statuses(status: int, body: Any, kind: type[StreamFailure], recoverable: bool, words: str) -> None:
    """Status and code together say what it is, and whether another try can help."""
    failure = of_status(status, {}, body)
    assert (type(failure), failure.recoverable) == (kind, recoverable)
    assert words in str(failure)


@pytest.mark.parametrize(
    ("error", "kind", "recoverable"),
    [
        ({"type": "overloaded_error"}, ProviderError, True),
        ({"code": "server_error"}, ProviderError, True),
        ({"code": 502}, ProviderError, True),
        ({"code": "429"}, ProviderRateLimited, True),
        ({"type": "insufficient_quota"}, ProviderRateLimited, False),
        ({"code": "invalid_prompt"}, ProviderError, False),
        ({"code": "timeout"}, ProviderTimeout, True),
        ({"error": {"error": {"error": {"error": {"error": {"code": "timeout"}}}}}}, ProviderError, True),
        ({}, ProviderError, True),
        (None, ProviderError, True),
        ("text", ProviderError, True),
        ({"code": ["list"], "type": {"a": 1}}, ProviderError, True),
    ],
)
def test_errors_in_the_stream(error: Any, kind: type[StreamFailure], recoverable: bool) -> None:
    """An error event is judged by its code alone; one that says nothing may be over next time."""
    failure = of_event(error)
    assert (type(failure), failure.recoverable) == (kind, recoverable)


def test_a_provider_may_know_better() -> None:
    """Where a provider says whether another try can help, it is believed."""
    assert not of_status(500, {"x-should-retry": "false"}, {}).recoverable
    assert of_status(400, {"x-should-retry": "true"}, {}).recoverable
    assert not of_status(429, {"x-should-retry": "true"}, {"code": "insufficient_quota"}).recoverable


NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "7"}, 7.0),
        ({"retry-after": "1e300"}, LONGEST_WAIT),
        *[({"retry-after": value}, None) for value in ("soon", "", "nan", "inf", "1e999", "Fri, 99 Nov")],
        (
            {
                "retry-after": email.utils.formatdate(NOW + 30, usegmt=True),
                "date": email.utils.formatdate(NOW, usegmt=True),
            },
            30.0,
        ),
        (
            {
                "retry-after": email.utils.formatdate(NOW - 30, usegmt=True),
                "date": email.utils.formatdate(NOW, usegmt=True),
            },
            0.0,
        ),
        ({}, None),
    ],
)
def test_when_to_come_back(headers: dict[str, str], seconds: float | None) -> None:
    """Seconds, milliseconds and dates are understood, the date by the provider's own clock; what is neither is not."""
    assert retry_after(headers) == seconds


def test_a_date_without_the_providers_clock() -> None:
    """A provider that does not tell its time is taken to have ours."""
    found = retry_after({"retry-after": email.utils.formatdate(time.time() + 60, usegmt=True)})
    assert found is not None
    assert 55 < found <= 60


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ({"x-request-id": "req_abc-1"}, "req_abc-1"),
        ({"request-id": "req_011C"}, "req_011C"),
        ({"x-request-id": "has spaces", "cf-ray": "8e1-FRA"}, "8e1-FRA"),
        ({"x-request-id": "sk-proj-abc"}, None),
        ({"x-request-id": "x" * 100}, None),
        ({}, None),
    ],
)
def test_request_ids(headers: dict[str, str], found: str | None) -> None:
    """A request's id is shown where it looks like one, and not like a key."""
    assert request_id(headers) == found


def test_libraries_are_kept_quiet_unless_somebody_wants_them_loud() -> None:
    """A logger that nobody has set prints no requests; one that somebody has set is left alone."""
    logging.getLogger("test.unset").setLevel(logging.NOTSET)
    logging.getLogger("test.loud").setLevel(logging.DEBUG)
    quiet("test.unset", "test.loud")
    assert logging.getLogger("test.unset").level == logging.WARNING
    assert logging.getLogger("test.loud").level == logging.DEBUG
