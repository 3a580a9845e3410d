"""Every error of the project, and what each says on the wire.

::

    WsstreamError
    ├── ConfigError                 a flag, variable or file is wrong: one clear line, exit 2
    ├── LocalError                  our own side used the protocol core wrongly; nothing was changed
    ├── RequestError                a message cannot be served: an `error` message, the connection goes on
    │   ├── BadRequest
    │   │   ├── PromptTooLong       the newest message is longer than this server takes
    │   │   ├── Conflict            there is something else already
    │   │   └── MalformedMessage    not even a message; several in a row close the connection
    │   ├── UnknownMessage
    │   ├── Unauthorized            closes 3000
    │   ├── Forbidden               closes 3003
    │   ├── UnknownStream           also what a stranger's stream looks like
    │   ├── LogTrimmed
    │   ├── ResumeAhead
    │   ├── AckOutOfRange           closes 4400
    │   ├── MessageTooLarge         closes 1009
    │   ├── Capacity                closes 1013
    │   ├── TooManyStreams          `capacity` too, but of one connection: it goes on
    │   ├── Draining                `capacity` too: this server is about to go, ask the next one
    │   ├── QueueFull
    │   └── RateLimited
    │       └── Flood               closes 4429
    ├── StreamFailure               the answer ended badly: a `stream_error` message ends the stream
    │   ├── ProviderError           ├── ProviderTimeout     ├── ChunkTimeout
    │   ├── ProviderRateLimited     ├── ContentFiltered     ├── InvalidOutput
    │   └── Interrupted             └── InternalFailure
    ├── StoreError                  the store cannot be used
    │   ├── StoreLocked             another process is using it
    │   └── StoreCorrupt            what it holds is not what was written
    └── ConnectionFailed            client side: the server cannot be reached, or told us to stay away

Each class knows its ``error_type`` on the wire, whether trying again can help (``recoverable``), after how many
seconds (``retry_after``), and the close code where the error ends the connection.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import ClassVar


class ErrorType(StrEnum):
    """The closed set of ``error_type`` values on the wire (docs/protocol.md, "Error types")."""

    BAD_REQUEST = "bad_request"
    UNKNOWN_MESSAGE = "unknown_message"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    UNKNOWN_STREAM = "unknown_stream"
    LOG_TRIMMED = "log_trimmed"
    RESUME_AHEAD = "resume_ahead"
    ACK_OUT_OF_RANGE = "ack_out_of_range"
    MESSAGE_TOO_LARGE = "message_too_large"
    CAPACITY = "capacity"
    QUEUE_FULL = "queue_full"
    RATE_LIMIT = "rate_limit"
    PROVIDER_ERROR = "provider_error"
    PROVIDER_TIMEOUT = "provider_timeout"
    CHUNK_TIMEOUT = "chunk_timeout"
    CONTENT_FILTER = "content_filter"
    INVALID_OUTPUT = "invalid_output"
    INTERRUPTED = "interrupted"
    INTERNAL_ERROR = "internal_error"


class CloseCode(IntEnum):
    """WebSocket close codes the server and client use (docs/protocol.md, "Close codes")."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    ABNORMAL = 1006
    INVALID_DATA = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013
    UNAUTHORIZED = 3000
    FORBIDDEN = 3003
    TIMEOUT = 3008
    BROKEN_MESSAGE = 4400
    UNKNOWN_VERSION = 4406
    REPLACED = 4409
    TOO_SLOW = 4429


# What a client must not come back from: the mistake would only repeat itself (docs/protocol.md, "Close codes").
FINAL_CLOSE_CODES = frozenset(
    {
        CloseCode.NORMAL,
        CloseCode.PROTOCOL_ERROR,
        CloseCode.UNSUPPORTED_DATA,
        CloseCode.INVALID_DATA,
        CloseCode.POLICY_VIOLATION,
        CloseCode.MESSAGE_TOO_BIG,
        CloseCode.FORBIDDEN,
        CloseCode.BROKEN_MESSAGE,
        CloseCode.UNKNOWN_VERSION,
        CloseCode.REPLACED,
    }
)


class WsstreamError(Exception):
    """Root of the tree. ``str(error)`` is fit for a user's eyes: no provider text, no secrets."""

    error_type: ClassVar[ErrorType] = ErrorType.INTERNAL_ERROR
    close_code: ClassVar[CloseCode | None] = None
    recoverable: bool = False

    def __init__(self, message: str = "", *, retry_after: float | None = None, recoverable: bool | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").split("\n", 1)[0])
        self.retry_after = retry_after
        if recoverable is not None:
            self.recoverable = recoverable


class ConfigError(WsstreamError):
    """A setting is wrong."""


class LocalError(WsstreamError):
    """The protocol core was asked for something its state does not allow."""


class RequestError(WsstreamError):
    """A message cannot be served."""

    error_type = ErrorType.BAD_REQUEST


class BadRequest(RequestError):
    """The message is understood but cannot be served as it is."""


class PromptTooLong(BadRequest):
    """The message is longer than this server takes."""


class Conflict(BadRequest):
    """There is something else already."""


class MalformedMessage(BadRequest):
    """The message is not a JSON object of the documented shape."""


class UnknownMessage(RequestError):
    """No message has this type."""

    error_type = ErrorType.UNKNOWN_MESSAGE


class Unauthorized(RequestError):
    """A valid token is needed."""

    error_type = ErrorType.UNAUTHORIZED
    close_code = CloseCode.UNAUTHORIZED


class Forbidden(RequestError):
    """This is not allowed."""

    error_type = ErrorType.FORBIDDEN
    close_code = CloseCode.FORBIDDEN


class UnknownStream(RequestError):
    """There is no such stream."""

    error_type = ErrorType.UNKNOWN_STREAM


class LogTrimmed(RequestError):
    """The chunks asked for are no longer kept."""

    error_type = ErrorType.LOG_TRIMMED


class ResumeAhead(RequestError):
    """The stream has no chunk with that id yet."""

    error_type = ErrorType.RESUME_AHEAD


class AckOutOfRange(RequestError):
    """A chunk was acknowledged that was never sent."""

    error_type = ErrorType.ACK_OUT_OF_RANGE
    close_code = CloseCode.BROKEN_MESSAGE


class MessageTooLarge(RequestError):
    """The message is larger than this server reads."""

    error_type = ErrorType.MESSAGE_TOO_LARGE
    close_code = CloseCode.MESSAGE_TOO_BIG


class Capacity(RequestError):
    """Server at capacity"""

    error_type = ErrorType.CAPACITY
    close_code = CloseCode.TRY_AGAIN_LATER
    recoverable = True


class TooManyStreams(RequestError):
    """This connection follows as many running streams as it may."""

    error_type = ErrorType.CAPACITY


class Draining(RequestError):
    """The server is going away and takes no new requests."""

    error_type = ErrorType.CAPACITY
    recoverable = True


class QueueFull(RequestError):
    """Too many requests are waiting already."""

    error_type = ErrorType.QUEUE_FULL
    recoverable = True


class RateLimited(RequestError):
    """Too many requests."""

    error_type = ErrorType.RATE_LIMIT
    recoverable = True


class Flood(RateLimited):
    """Too many messages on this connection."""

    close_code = CloseCode.TOO_SLOW


class StreamFailure(WsstreamError):
    """The answer ended before its end."""

    error_type = ErrorType.INTERNAL_ERROR
    upstream_request_id: str | None = None
    upstream_code: str | None = None
    """The provider's own names of the request that failed and of the reason, for the log: no client is told."""


class ProviderError(StreamFailure):
    """The model provider refused or failed."""

    error_type = ErrorType.PROVIDER_ERROR


class ProviderRateLimited(StreamFailure):
    """The model provider is limiting requests."""

    error_type = ErrorType.RATE_LIMIT
    recoverable = True


class ProviderTimeout(StreamFailure):
    """The model provider did not start to answer in time."""

    error_type = ErrorType.PROVIDER_TIMEOUT
    recoverable = True


class ChunkTimeout(StreamFailure):
    """The model provider stopped sending in the middle of the answer."""

    error_type = ErrorType.CHUNK_TIMEOUT
    recoverable = True


class ContentFiltered(StreamFailure):
    """The model provider withheld the answer."""

    error_type = ErrorType.CONTENT_FILTER


class InvalidOutput(StreamFailure):
    """The answer is not of the requested form."""

    error_type = ErrorType.INVALID_OUTPUT


class Interrupted(StreamFailure):
    """The answer was cut off."""

    error_type = ErrorType.INTERRUPTED
    recoverable = True


class InternalFailure(StreamFailure):
    """Something went wrong on our side."""

    error_type = ErrorType.INTERNAL_ERROR
    recoverable = True


class StoreError(WsstreamError):
    """The store cannot be used."""

    recoverable = True


class StoreLocked(StoreError):
    """Another process is using the store."""


class StoreCorrupt(StoreError):
    """What the store holds is not what was written."""

    recoverable = False


class ConnectionFailed(WsstreamError):
    """The server cannot be reached, or asked not to be contacted again."""

    def __init__(self, message: str = "", *, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code
