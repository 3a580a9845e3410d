"""What all HTTP wires share: the way in, bodies that are bounded, refusals, and responses that read a log.

A wire is a list of `Endpoint`s. Each call has entered the gate before its handler sees it, and the handler has only the
streams that it was given there. A refusal raised before the response has begun becomes the response.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from wsstream.chunklog import ChunkLog
from wsstream.chunks import Outcome
from wsstream.errors import (
    BadRequest,
    Capacity,
    Conflict,
    Draining,
    ErrorType,
    Forbidden,
    InternalFailure,
    LogTrimmed,
    MalformedMessage,
    MessageTooLarge,
    PromptTooLong,
    QueueFull,
    RateLimited,
    RequestError,
    ResumeAhead,
    StoreError,
    Unauthorized,
    UnknownStream,
    WsstreamError,
)
from wsstream.messages import StreamStatus, explain
from wsstream.rejections import Reason, Rejections
from wsstream.wires.base import Gate, LoggedLike, LogsLike, StreamsLike, Visitor, counted_address
from wsstream.wires.reader import LogReader, Span, stored

logger = logging.getLogger(__name__)

T = TypeVar("T")

HEARTBEAT = 15.0
"""Seconds between signs of life on a silent response; proxies close what is silent for 30 or 60."""
FIRST_HEARTBEAT = 1.0
MAX_CALLS = 10_000
"""Calls under way at once, streamed responses among them."""
MAX_DISCARDED = 16 * 1024 * 1024
"""Bytes beyond a limit, of a body that says its length, that are read and thrown away: whoever is still sending would
see a reset instead of the refusal."""

STREAM_HEADERS = {
    "Cache-Control": "no-cache, no-store, no-transform",
    "X-Accel-Buffering": "no",
    "Vary": "Origin, Authorization, Cookie, Last-Event-ID",
}
"""Nothing on the way may keep, change or hold back a stream."""
SENT_HEADERS = (
    *("Authorization", "Content-Type", "Last-Event-ID", "Idempotency-Key", "If-None-Match"),
    *("Stream-TTL", "Stream-Expires-At", "Stream-Closed", "Stream-Seq"),
    *("Stream-Forked-From", "Stream-Fork-Offset", "Stream-Fork-Sub-Offset"),
    *("Producer-Id", "Producer-Epoch", "Producer-Seq"),
)
"""What a page of another origin that may speak to this server may send, beyond what every page may."""
TOLD_HEADERS = (
    *("ETag", "Location", "Retry-After", "Stream-Next-Offset", "Stream-Cursor", "Stream-Up-To-Date", "Stream-Closed"),
    *("Stream-TTL", "Stream-Expires-At", "Stream-SSE-Data-Encoding"),
    *("Producer-Epoch", "Producer-Seq", "Producer-Expected-Seq", "Producer-Received-Seq"),
)
"""And what it may read of an answer."""
DATA_HEADERS = {"Cache-Control": "no-store", "Vary": "Origin, Authorization, Cookie"}


class UnsupportedMedia(BadRequest):
    """The body must be JSON: Content-Type: application/json"""


class BodyTooSlow(BadRequest):
    """The body did not come in time"""


class BodyTooLarge(MessageTooLarge):
    """The body is too large"""


class TooMuch(BadRequest):
    """The request holds more than one may"""


class TooLong(MalformedMessage):
    """A name is longer than it may be"""


class TooManyCalls(Capacity):
    """Too many calls are under way"""


class TooManyCallsFromHere(RateLimited):
    """Too many calls from this address are under way"""


class Stalled(ClientDisconnect):
    """The client takes nothing of what it is sent"""


_REASONS: dict[type[Exception], Reason] = {
    BodyTooLarge: Reason.SIZE,
    BodyTooSlow: Reason.SILENT,
    MalformedMessage: Reason.MALFORMED,
    TooMuch: Reason.PARAMETER,
    TooLong: Reason.PARAMETER,
    TooManyCalls: Reason.CALLS,
    TooManyCallsFromHere: Reason.CONNECTIONS_PER_ADDRESS,
    Stalled: Reason.SLOW,
}
"""What nobody else counts."""


class KeyReused(BadRequest):
    """This idempotency key was used for another request"""


class NoSuchAddress(RequestError):
    """There is nothing at this address"""


class NoSuchMethod(RequestError):
    """This address does not take this method"""


_STATUS: list[tuple[type[WsstreamError], int]] = [
    (UnsupportedMedia, 415),
    (BodyTooSlow, 408),
    (KeyReused, 409),
    (Conflict, 409),
    (PromptTooLong, 422),
    (ResumeAhead, 409),
    (NoSuchAddress, 404),
    (NoSuchMethod, 405),
    (MessageTooLarge, 413),
    (Unauthorized, 401),
    (Forbidden, 403),
    (UnknownStream, 404),
    (LogTrimmed, 410),
    (RateLimited, 429),
    (QueueFull, 429),
    (Capacity, 503),
    (Draining, 503),
    (StoreError, 503),
    (BadRequest, 400),
]

_OUTCOME_STATUS = {
    ErrorType.RATE_LIMIT: 429,
    ErrorType.QUEUE_FULL: 429,
    ErrorType.CAPACITY: 503,
    ErrorType.INTERRUPTED: 503,
    ErrorType.PROVIDER_ERROR: 502,
    ErrorType.INVALID_OUTPUT: 502,
    ErrorType.PROVIDER_TIMEOUT: 504,
    ErrorType.CHUNK_TIMEOUT: 504,
    ErrorType.CONTENT_FILTER: 422,
}


def status_of(error: WsstreamError) -> int:
    """The HTTP status that says the same as ``error``."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def status_of_failure(outcome: Outcome) -> int:
    """The HTTP status of an answer that has ended badly before anything of it was sent."""
    return _OUTCOME_STATUS.get(ErrorType(outcome.error_type), 500) if outcome.error_type else 200


def retry_after(seconds: float | None) -> dict[str, str]:
    """The header that says when to come back: whole seconds, at least one."""
    return {} if seconds is None else {"Retry-After": str(max(1, math.ceil(seconds)))}


# -- the way in ------------------------------------------------------------------------------------------------------


class Call(NamedTuple):
    """One request of somebody who has been let in."""

    request: Request
    streams: StreamsLike


class Patience(NamedTuple):
    """How long clients are waited for; seconds."""

    body: float = 8.0
    """For a request's body."""
    stall: float = 60.0
    """A client may take nothing of what it is sent; it can come back and go on where it was."""


_PATIENCE = "wsstream.patience"


def patience_of(scope: Scope) -> Patience:
    """That of the server that a call has come to."""
    found: Patience = scope.get(_PATIENCE) or Patience()
    return found


Handler = Callable[[Call], Awaitable[Response]]
Refuse = Callable[[WsstreamError], Response]


class Endpoint(NamedTuple):
    """One address of a wire. ``refuse`` says an error in the wire's own words."""

    method: str
    path: str
    handle: Handler
    refuse: Refuse


def visitor(request: Request) -> Visitor:
    """Who is there, before anything is known of them."""
    return Visitor(dict(request.headers), request.client.host if request.client else "local")


class Turnstile:
    """Counts who is in, and how many of them come from one address."""

    __slots__ = ("_addresses", "inside", "limit", "per_address")

    def __init__(self, limit: int, per_address: int | None = None) -> None:
        self.limit = limit
        self.per_address = per_address
        self.inside = 0
        self._addresses: Counter[str] = Counter()

    @contextmanager
    def one(self, remote: str) -> Iterator[None]:
        """Let a caller in while the block runs.

        Raises:
            TooManyCalls: too many are in.
            TooManyCallsFromHere: so are too many from where this one comes.
        """
        if self.inside >= self.limit:
            raise TooManyCalls(retry_after=1.0)
        address = counted_address(remote)
        if address and self.per_address is not None and self._addresses[address] >= self.per_address:
            raise TooManyCallsFromHere(retry_after=1.0)
        self.inside += 1
        self._addresses[address] += 1
        try:
            yield
        finally:
            self.inside -= 1
            self._addresses[address] -= 1
            if not self._addresses[address]:
                del self._addresses[address]


def routes(
    gate: Gate,
    endpoints: Sequence[Endpoint],
    max_calls: int = MAX_CALLS,
    rejections: Rejections | None = None,
    patience: Patience | None = None,
    per_address: int | None = None,
) -> list[Route]:
    """The endpoints behind the gate, for Starlette; no more than ``max_calls`` are under way at once, and no more than
    ``per_address`` from one address.

    ``rejections`` counts what is refused here.
    """
    turnstile, counted, patience = Turnstile(max_calls, per_address), rejections or Rejections(), patience or Patience()
    paths: dict[str, dict[str, Endpoint]] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method] = endpoint
    return [Route(path, _Door(gate, turnstile, methods, counted, patience)) for path, methods in paths.items()]


def nowhere(prefix: str, refuse: Refuse) -> Route:
    """What is said of addresses below ``prefix`` that there are not, in the words of the wire that has the others."""

    async def answer(_: Request) -> Response:
        return refuse(NoSuchAddress())

    return Route(prefix + "{rest:path}", answer, methods=["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])


class _Door:
    """All endpoints of one path."""

    def __init__(
        self,
        gate: Gate,
        turnstile: Turnstile,
        methods: Mapping[str, Endpoint],
        rejections: Rejections,
        patience: Patience,
    ) -> None:
        self._patience = patience
        self._rejections = rejections
        self._gate = gate
        self._turnstile = turnstile
        self._methods = methods

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[_PATIENCE] = self._patience
        request = Request(scope, receive)
        endpoint = self._methods.get(request.method) or (self._methods.get("GET") if request.method == "HEAD" else None)
        if endpoint is None:
            await self._refuse_method()(scope, receive, send)
            return
        response: Response | None = None
        try:
            who = visitor(request)
            with self._turnstile.one(who.remote):
                streams = await self._gate.enter(who)
                response = await endpoint.handle(Call(request, streams))
                await response(scope, receive, send)
        except WsstreamError as error:
            self._count(error)
            await endpoint.refuse(error)(scope, receive, send)
        except ClientDisconnect as error:
            self._count(error)  # nobody is left to be told anything
        except Exception:
            if response is not None:  # of which something may be sent: the server beneath logs it, and cuts it off
                raise
            logger.exception("%s %s failed unexpectedly", endpoint.method, endpoint.path)
            await endpoint.refuse(InternalFailure())(scope, receive, send)

    def _refuse_method(self) -> Response:
        """Said before anybody is let in: it is about the address alone."""
        response = next(iter(self._methods.values())).refuse(NoSuchMethod())
        heads = ["HEAD"] if "GET" in self._methods else []
        response.headers["Allow"] = ", ".join([*self._methods, *heads])
        return response

    def _count(self, error: Exception) -> None:
        reason = _REASONS.get(type(error))
        if reason is not None:
            self._rejections.count(reason)


# -- bodies ----------------------------------------------------------------------------------------------------------


async def read_body(request: Request, limit: int) -> bytes:
    """The request's body.

    Raises:
        BodyTooLarge: it is longer than ``limit``; no more than that was kept.
        BodyTooSlow: it did not come in time.
    """
    parts: list[bytes] = []
    size = 0
    declared = _declared(request)
    if declared > limit and (declared > limit + MAX_DISCARDED or "expect" in request.headers):
        raise BodyTooLarge(f"The body is larger than {limit} bytes")
    try:
        async with asyncio.timeout(patience_of(request.scope).body):
            async for part in request.stream():
                size += len(part)
                if size > limit >= declared:
                    break
                if declared <= limit:
                    parts.append(part)
    except TimeoutError:
        raise BodyTooSlow from None
    if size > limit:
        raise BodyTooLarge(f"The body is larger than {limit} bytes")
    return b"".join(parts)


def _declared(request: Request) -> int:
    """The length that a body is said to have; 0 where nothing is said."""
    length = request.headers.get("content-length", "")
    return int(length) if length.isascii() and length.isdigit() else 0


async def read_json(request: Request, shape: type[T], limit: int) -> T:
    """The request's body as ``shape``; unknown fields are ignored.

    Raises:
        UnsupportedMedia: it does not say that it is JSON.
        MalformedMessage: it is not, or not of this shape.
    """
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "application/json" and not media.endswith("+json"):
        raise UnsupportedMedia
    body = await read_body(request, limit)
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise MalformedMessage(explain(error, body)) from None


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """``value`` as JSON, for nobody else's eyes."""
    return Response(
        msgspec.json.encode(value),
        status_code=status,
        media_type="application/json",
        headers={**DATA_HEADERS, **(headers or {})},
    )


def error_fields(error: WsstreamError) -> dict[str, Any]:
    """An error as this server's own wires say it: the members of the JSON object."""
    told: dict[str, Any] = {
        "type": "error",
        "error_type": error.error_type.value,
        "message": str(error),
        "recoverable": error.recoverable,
    }
    return told if error.retry_after is None else {**told, "retry_after": error.retry_after}


def refuse(error: WsstreamError) -> Response:
    """An error as this server's own wires say it."""
    body = error_fields(error)
    headers = retry_after(error.retry_after)
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, MessageTooLarge | BodyTooSlow):
        headers["Connection"] = "close"  # the rest of the body is not read
    return json_response(body, status_of(error), headers)


def new_session() -> str:
    """The name of a session that begins with this request."""
    return "ses_" + secrets.token_urlsafe(16)


# -- responses that read a log ----------------------------------------------------------------------------------------


class Line(Protocol):
    """What a server's HTTP connection offers beyond ASGI, in the scope's extension `wsstream.line`."""

    def when_gone(self, tell: Callable[[], None]) -> Callable[[], None]:
        """Have ``tell`` called when the client has left; the answer takes that back."""

    def bound(self) -> None:
        """Hold back in the log, and not in buffers below, what the client does not read."""


@asynccontextmanager
async def watched(scope: Scope, receive: Receive, on_gone: Callable[[], None]) -> AsyncIterator[None]:
    """Have ``on_gone`` called if the client leaves within the block; the request was read to its end."""
    line: Line | None = scope.get("extensions", {}).get("wsstream.line")
    if line is not None:
        line.bound()
        unwatch = line.when_gone(on_gone)
        try:
            yield
        finally:
            unwatch()
        return
    watching = asyncio.get_running_loop().create_task(_watch(receive, on_gone))  # somebody else's server
    try:
        yield
    finally:
        watching.cancel()


async def _watch(receive: Receive, on_gone: Callable[[], None]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    on_gone()


@contextmanager
def welcome(streams: StreamsLike, end: Callable[[RequestError], None]) -> Iterator[None]:
    """Have ``end`` called if who asked ceases to be welcome within the block."""
    leave = streams.while_welcome(end)
    try:
        yield
    finally:
        leave()


class Script(Protocol):
    """How a wire tells a log: the bytes for each thing there is to tell."""

    def begin(self) -> bytes: ...

    def span(self, span: Span) -> bytes: ...

    def end(self, outcome: Outcome) -> bytes: ...

    def beat(self) -> bytes: ...

    def refuse(self, error: RequestError) -> bytes:
        """That no more is told, and why; it is no part of the log, and moves no position."""


class LogResponse(Response):
    """Follows a stream from behind a chunk to its end, as ``script`` tells it.

    A client that leaves is a viewer who leaves; with ``cancel_on_close`` the last one to leave stops the answer. One
    that takes nothing for long (`Patience`) is left. One whose token has run out or was revoked is told so, and
    no more: the answer goes on. Raises what `LogReader` raises, before anything was sent.
    """

    def __init__(
        self,
        streams: StreamsLike,
        stream: LoggedLike,
        script: Script,
        after: int = 0,
        *,
        cancel_on_close: bool = False,
        headers: Mapping[str, str] | None = None,
        media_type: str = "text/event-stream",
        heartbeat: float = HEARTBEAT,
        logs: LogsLike | None = None,
        early: Callable[[Outcome], Response] | None = None,
        tell_status: Callable[[StreamStatus], bytes] | None = None,
    ) -> None:
        """A response to whoever ``streams`` were handed to.

        Args:
            logs: what ``stream`` is one of, where it is none of these.
            early: makes the whole response of a failure that comes within a second, before any chunk.
            tell_status: writes why people wait.
        """
        super().__init__(None, 200, {**STREAM_HEADERS, **(headers or {})}, media_type)
        del self.headers["content-length"]
        self._streams = streams
        self._logs = logs or streams
        self._stream = stream
        self._script = script
        self._after = after
        self._cancel_on_close = cancel_on_close
        self._heartbeat = heartbeat
        self._early = early
        self._tell_status = tell_status

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Tell everything."""
        if scope["method"] == "HEAD":
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": b""})
            return
        reader = LogReader(self._logs, self._stream, self._after, statuses=self._tell_status is not None)
        told = False
        try:
            async with reader, watched(scope, receive, reader.close):
                with welcome(self._streams, reader.end):
                    told = await self._respond(reader, scope, receive, send)
        except StopAsyncIteration:
            raise ClientDisconnect from None
        finally:
            if self._cancel_on_close and not told and not self._stream.log.attachments:
                self._logs.cancel(self._stream)
            if self.background is not None:
                await self.background()

    async def _respond(self, reader: LogReader, scope: Scope, receive: Receive, send: Send) -> bool:
        """Send it all; False where the client has left before the end."""
        await stored(self._stream)
        first = None if self._early is None else await reader.next(FIRST_HEARTBEAT)
        if self._early is not None and isinstance(first, Outcome) and first.error_type is not None:
            await self._early(first)(scope, receive, send)
            return True
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        return await self._tell(reader, send, first, patience_of(scope).stall)

    async def _tell(self, reader: LogReader, send: Send, first: Span | Outcome | None, stall: float) -> bool:
        """Send it all, ``first`` first; False where the client has left before the end."""
        await write(send, self._script.begin(), stall)
        patience = min(FIRST_HEARTBEAT, self._heartbeat)
        while True:
            try:
                item, first = first or await reader.next(patience), None
            except StopAsyncIteration:
                return False
            except RequestError as error:
                await write(send, self._script.refuse(error), stall, more=False)
                return True
            patience = self._heartbeat
            if self._tell_status is not None and (statuses := reader.taken_statuses()):
                await write(send, b"".join(map(self._tell_status, statuses)), stall)
            elif item is None:
                await write(send, self._script.beat(), stall)
            if item is None:
                continue
            if isinstance(item, Outcome):
                await write(send, self._script.end(item), stall, more=False)
                return True
            else:
                await write(send, self._script.span(item), stall)


async def write(send: Send, data: bytes, stall: float, *, more: bool = True) -> None:
    """Send part of a response.

    Raises:
        Stalled: the client has taken nothing for ``stall`` seconds.
    """
    try:
        async with asyncio.timeout(stall):
            await send({"type": "http.response.body", "body": data, "more_body": more})
    except TimeoutError:
        raise Stalled from None


async def loaded(streams: StreamsLike, stream: LoggedLike) -> ChunkLog:
    """The log of a stream with its chunks in memory, from the store where they are not; use it before waiting again."""
    while (loading := streams.load(stream)) is not None:
        await asyncio.shield(loading)
    return stream.log


async def wait_outcome(call: Call, stream: LoggedLike, after: int = 0) -> Outcome | None:
    """Follow a stream to its end for a response that tells it as a whole; None where the client has left before.

    Raises:
        Unauthorized, Forbidden: who asks is not welcome any more.
    """
    reader = LogReader(call.streams, stream, after)
    request = call.request
    async with reader, watched(request.scope, request.receive, reader.close):
        with welcome(call.streams, reader.end):
            async for item in reader:
                if isinstance(item, Outcome):
                    return item
    return None
