"""The exception tree: what each error says on the wire, and that the page about it is complete."""

from __future__ import annotations

import inspect

import pytest

from wsstream import errors
from wsstream.errors import (
    FINAL_CLOSE_CODES,
    AckOutOfRange,
    BadRequest,
    Capacity,
    ChunkTimeout,
    CloseCode,
    ConfigError,
    Conflict,
    ConnectionFailed,
    ContentFiltered,
    Draining,
    ErrorType,
    Flood,
    Forbidden,
    InternalFailure,
    Interrupted,
    InvalidOutput,
    LocalError,
    LogTrimmed,
    MalformedMessage,
    MessageTooLarge,
    PromptTooLong,
    ProviderError,
    ProviderRateLimited,
    ProviderTimeout,
    QueueFull,
    RateLimited,
    RequestError,
    ResumeAhead,
    StoreCorrupt,
    StoreError,
    StoreLocked,
    StreamFailure,
    TooManyStreams,
    Unauthorized,
    UnknownMessage,
    UnknownStream,
    WsstreamError,
)

# Every concrete error: its `error_type`, the close code it ends a connection with, and whether trying again can help.
ON_THE_WIRE = {
    BadRequest: ("bad_request", None, False),
    Conflict: ("bad_request", None, False),
    PromptTooLong: ("bad_request", None, False),
    MalformedMessage: ("bad_request", None, False),
    UnknownMessage: ("unknown_message", None, False),
    Unauthorized: ("unauthorized", 3000, False),
    Forbidden: ("forbidden", 3003, False),
    UnknownStream: ("unknown_stream", None, False),
    LogTrimmed: ("log_trimmed", None, False),
    ResumeAhead: ("resume_ahead", None, False),
    AckOutOfRange: ("ack_out_of_range", 4400, False),
    MessageTooLarge: ("message_too_large", 1009, False),
    Capacity: ("capacity", 1013, True),
    TooManyStreams: ("capacity", None, False),
    Draining: ("capacity", None, True),
    QueueFull: ("queue_full", None, True),
    RateLimited: ("rate_limit", None, True),
    Flood: ("rate_limit", 4429, True),
    ProviderError: ("provider_error", None, False),
    ProviderRateLimited: ("rate_limit", None, True),
    ProviderTimeout: ("provider_timeout", None, True),
    ChunkTimeout: ("chunk_timeout", None, True),
    ContentFiltered: ("content_filter", None, False),
    InvalidOutput: ("invalid_output", None, False),
    Interrupted: ("interrupted", None, True),
    InternalFailure: ("internal_error", None, True),
}

# These never travel: they are for whoever runs the server or calls the library.
LOCAL = {
    *(WsstreamError, ConfigError, LocalError, RequestError, StreamFailure, ConnectionFailed),
    *(StoreError, StoreLocked, StoreCorrupt),
}


def _all_errors() -> list[type[WsstreamError]]:
    return [c for c in vars(errors).values() if inspect.isclass(c) and issubclass(c, WsstreamError)]


@pytest.mark.parametrize(("error", "said"), ON_THE_WIRE.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_wire_form(error: type[WsstreamError], said: tuple[str, int | None, bool]) -> None:
    """Each error has the type, close code and recoverability that the protocol gives it."""
    assert (error.error_type, error.close_code, error.recoverable) == said
    assert error().recoverable is said[2]


def test_no_error_is_forgotten() -> None:
    """Every class of the tree is either in the table above or known to stay at home."""
    assert set(_all_errors()) == set(ON_THE_WIRE) | LOCAL


def test_every_error_type_can_be_said() -> None:
    """No `error_type` of the protocol is without an error that carries it."""
    assert {said[0] for said in ON_THE_WIRE.values()} == set(ErrorType)


def test_the_tree_in_the_module_docstring_is_complete() -> None:
    """A reader of the module's first page finds every class there."""
    page = errors.__doc__ or ""
    assert [error.__name__ for error in _all_errors() if error.__name__ not in page] == []


@pytest.mark.parametrize("error", ON_THE_WIRE, ids=lambda error: error.__name__)
def test_families(error: type[WsstreamError]) -> None:
    """An error is about a message or about a stream, never both and never neither."""
    assert issubclass(error, RequestError) != issubclass(error, StreamFailure)


@pytest.mark.parametrize("error", [*ON_THE_WIRE, *LOCAL], ids=lambda error: error.__name__)
def test_default_text_is_the_first_line_of_the_docstring(error: type[WsstreamError]) -> None:
    """An error raised without a text still tells a user one line of plain English."""
    text = str(error())
    assert text == inspect.getdoc(error).splitlines()[0]  # type: ignore[union-attr]
    assert text


def test_own_text_wins() -> None:
    """A text given by the raiser replaces the default one."""
    assert str(UnknownStream("No stream here")) == "No stream here"


def test_retry_after_is_kept() -> None:
    """`retry_after` is None unless given, and is kept where it is."""
    assert RateLimited().retry_after is None
    assert RateLimited(retry_after=1.5).retry_after == 1.5


def test_recoverable_is_set_for_one_error_only() -> None:
    """An error may differ from its class in being recoverable, without changing the class."""
    assert ProviderError(recoverable=True).recoverable is True
    assert ProviderTimeout(recoverable=False).recoverable is False
    assert ProviderError.recoverable is False
    assert ProviderError().recoverable is False
    assert ProviderTimeout().recoverable is True


def test_connection_failed_knows_the_close_code() -> None:
    """A client that gave up can say with which code it was told to."""
    assert ConnectionFailed("refused").code is None
    error = ConnectionFailed("replaced", code=4409)
    assert (str(error), error.code, error.retry_after) == ("replaced", 4409, None)


def test_close_codes_are_those_of_the_protocol() -> None:
    """The close codes on the wire are exactly the documented numbers."""
    registered = {1000, 1001, 1002, 1003, 1006, 1007, 1008, 1009, 1011, 1012, 1013, 3000, 3003, 3008}
    assert {int(code) for code in CloseCode} == registered | {4400, 4406, 4409, 4429}


def test_final_close_codes() -> None:
    """A client stays away after its own mistakes and comes back after everything else."""
    come_back = {1001, 1006, 1011, 1012, 1013, 3000, 3008, 4429}
    assert {int(code) for code in CloseCode} - come_back == {int(code) for code in FINAL_CLOSE_CODES}


def test_errors_that_close_for_good_are_not_recoverable() -> None:
    """No error says "try again" while closing with a code that says "stay away"."""
    assert [e for e in ON_THE_WIRE if e.close_code in FINAL_CLOSE_CODES and e.recoverable] == []
