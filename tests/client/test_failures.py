"""Every word of the server for a failure has its exception."""

from __future__ import annotations

import pytest

from tests.client.serving import FAST, connect, read, serving, talking, url_of
from wsstream import errors
from wsstream.chunks import Outcome, StreamState
from wsstream.client import failure_of
from wsstream.errors import ErrorType


@pytest.mark.parametrize("error_type", list(ErrorType))
def test_every_error_type_has_its_exception(error_type: ErrorType) -> None:
    """Whatever error type ends an answer, the exception raised has the same."""
    outcome = Outcome(StreamState.FAILED, 0, error_type=error_type, message="No", recoverable=True, retry_after=3.0)
    failure = failure_of(outcome)
    assert failure.error_type == error_type
    assert (str(failure), failure.recoverable, failure.retry_after) == ("No", True, 3.0)


def test_unknown_error_types_are_failures() -> None:
    """An error type of a newer server is a plain StreamFailure."""
    failure = failure_of(Outcome(StreamState.FAILED, 0, error_type="new_one", message="No"))
    assert type(failure) is errors.StreamFailure


def test_rate_limits_of_the_server_and_of_the_provider() -> None:
    """The same word before and after the start of an answer means two things."""
    outcome = Outcome(StreamState.FAILED, 0, error_type="rate_limit")
    assert type(failure_of(outcome)) is errors.ProviderRateLimited
    assert type(failure_of(outcome, started=False)) is errors.RateLimited


async def test_failures_raise_their_class_and_keep_the_text() -> None:
    """A failed answer raises the class of its error type after everything that had come."""
    async with serving(provider="tests.client.serving:scripted") as server, connect(url_of(server)) as client:
        stream = await client.chat("fail")
        with pytest.raises(errors.ContentFiltered, match="Not this"):
            await read(stream)
        assert stream.text == "1 messages: "
        assert stream.outcome is not None
        assert stream.outcome.error_type == "content_filter"


async def test_refused_requests_raise_at_once() -> None:
    """A request that the server refuses raises from chat(), and the client goes on."""
    async with talking() as (_, client):
        with pytest.raises(errors.BadRequest, match="no such provider"):
            await client.chat("hello", config={"provider": "nobody"})
        with pytest.raises(errors.BadRequest, match="config"):
            await client.chat("hello", config={"temperature": "hot"})
        assert await read(await client.chat("hello", model=FAST))
