"""The native wire's messages, one struct each; the only module that knows their JSON (docs/protocol.md, "Messages").

What is sent and what is received are the same classes. ``type`` comes first in every encoded message, absent optional
fields are left out, unknown fields of a received message are ignored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

import msgspec
import regex

from wsstream.bodies import Bodies
from wsstream.chunks import (
    MAX_NAME_CHARS,
    MAX_PAGE,
    MAX_TITLE_CHARS,
    ChatMessage,
    Kind,
    Outcome,
    Receipt,
    StreamInfo,
    ToolCall,
    Usage,
)
from wsstream.errors import BadRequest, MalformedMessage, UnknownMessage, WsstreamError

MAX_ID = 2**53 - 1
"""The largest integer that every JSON reader keeps exact (RFC 8259, section 6)."""

ChunkId = Annotated[int, msgspec.Meta(ge=0, le=MAX_ID)]
Size = Annotated[int, msgspec.Meta(ge=1, le=MAX_ID)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME_CHARS)]
_SESSION_ID = rf"^[A-Za-z0-9_.:~-]{{1,{MAX_NAME_CHARS}}}\Z"
SessionId = Annotated[str, msgspec.Meta(pattern=_SESSION_ID)]
PageSize = Annotated[int, msgspec.Meta(ge=1, le=MAX_PAGE)]
Title = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_TITLE_CHARS)]
Timestamp = int | float | str | None


class _Message(msgspec.Struct, tag_field="type", omit_defaults=True, gc=False):
    """Base of every message; the tag is the ``type`` on the wire."""


# -- client to server ------------------------------------------------------------------------------------------------


class Hello(_Message, tag="hello"):
    """Opens the conversation. ``batch`` left out means: yes if the subprotocol was offered."""

    token: str | None = None
    user_id: str | None = None
    session_id: SessionId | None = None
    window: Size | None = None
    window_bytes: Size | None = None
    batch: bool | None = None
    client: Any = None


class ChatConfig(msgspec.Struct, frozen=True, omit_defaults=True):
    """The ``config`` of a chat_request."""

    provider: str | None = None
    model: str | None = None
    temperature: float | None = None
    max_tokens: Size | None = None
    buffer_size: Size = 1
    boundary: Literal["token", "word"] = "token"
    response_format: dict[str, Any] | None = None
    on_orphan: Any = None
    on_interrupt: Literal["fail", "continue", "restart"] | None = None
    fallback: list[Name] | None = None
    system_prompt: str | None = None
    options: dict[str, Any] | None = None
    priority: int | None = None


class ChatRequested(_Message, tag="chat_request"):
    """Asks for an answer. The same ``request_id`` again attaches to the same stream and starts nothing."""

    request_id: Name
    session_id: SessionId | None = None
    messages: list[ChatMessage] | None = None
    message: str | None = None
    config: ChatConfig | None = None
    model: str | None = None


class ChunkAck(_Message, tag="chunk_ack"):
    """Everything up to and including ``chunk_id`` has been rendered. ``window`` moves the client's own window."""

    chunk_id: ChunkId
    stream_id: str | None = None
    window: Size | None = None
    queue_length: int | None = None
    client_time: Timestamp = None


class RequestChunks(_Message, tag="request_chunks"):
    """Asks for a range of already sent chunks again; both ends are included."""

    from_chunk_id: Size
    to_chunk_id: Size
    stream_id: str | None = None


class ResumeStream(_Message, tag="resume_stream"):
    """Continues behind ``last_chunk_id``, which is thereby acknowledged. 0 means from the start."""

    last_chunk_id: ChunkId
    stream_id: str | None = None
    epoch: str | None = None
    window: Size | None = None
    snapshot: bool = False


class CancelStream(_Message, tag="cancel_stream"):
    """Stops an answer for everybody. Idempotent."""

    stream_id: str | None = None


class ListStreams(_Message, tag="list_streams"):
    """Asks for the session's streams."""


class GetHistory(_Message, tag="get_history"):
    """Asks for the session's messages: the newest ones older than ``before``."""

    session_id: SessionId | None = None
    before: Name | None = None
    limit: PageSize | None = None


class RenameSession(_Message, tag="rename_session"):
    """Gives the session a title."""

    title: Title
    session_id: SessionId | None = None


class DeleteSession(_Message, tag="delete_session"):
    """Forgets the session: its messages, its logs, and what still runs in it."""

    session_id: SessionId | None = None


class RenewToken(_Message, tag="renew_token"):
    """Shows a new credential of the same user, before the old one runs out."""

    token: str


class Heartbeat(_Message, tag="heartbeat"):
    """A sign of life, from either side."""

    timestamp: Timestamp = None


class HeartbeatAck(_Message, tag="heartbeat_ack"):
    """The answer to a heartbeat, with its ``timestamp``."""

    timestamp: Timestamp = None


# -- server to client ------------------------------------------------------------------------------------------------


class Limits(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the server bounds, so that a client need not find out by breaking it."""

    max_message_bytes: int
    max_streams: int
    max_window: int | None = None
    """The widest window of chunks that a client may ask for; None where the server does not say."""


class ConnectionEstablished(_Message, tag="connection_established"):
    """The answer to hello."""

    connection_id: str
    session_id: str
    heartbeat_interval: float
    heartbeat_timeout: float
    window: int
    window_bytes: int
    limits: Limits
    active_streams: list[StreamInfo]
    expires_in: float | None = None


class TokenRenewed(_Message, tag="token_renewed"):
    """The answer to renew_token. ``expires_in``: seconds for which the new one is good."""

    expires_in: float | None = None


class StreamQueued(_Message, tag="stream_queued"):
    """The request waits for its turn."""

    request_id: str
    stream_id: str
    position: int


class StreamStart(_Message, tag="stream_start"):
    """The answer to chat_request: chunks of this stream follow."""

    request_id: str
    stream_id: str
    session_id: str
    epoch: str
    model: str | None
    window: int
    timestamp: float


class ContentChunk(_Message, tag="content_chunk"):
    """One chunk."""

    stream_id: str
    chunk_id: ChunkId
    content: str
    kind: str = "text"


class ChunkBatch(_Message, tag="chunk_batch"):
    """Several chunks of one kind, merged in order; acknowledged by ``last_chunk_id``."""

    stream_id: str
    first_chunk_id: ChunkId
    last_chunk_id: ChunkId
    content: str
    kind: str = "text"


class StreamRewind(_Message, tag="stream_rewind"):
    """Withdraws what came behind ``to_chunk_id``, of which ``withdrawn`` code points of text. Takes a chunk id."""

    stream_id: str
    chunk_id: ChunkId
    to_chunk_id: ChunkId
    reason: str
    withdrawn: int | None = None


class StreamStatus(_Message, tag="stream_status"):
    """Advice for people: why they wait. Outside log and window."""

    stream_id: str
    status: str
    message: str
    retry_count: int | None = None
    retry_after: float | None = None


class StreamResumed(_Message, tag="stream_resumed"):
    """The answer to resume_stream: chunks up to ``tail_chunk_id`` are replay."""

    stream_id: str
    last_chunk_id: ChunkId
    tail_chunk_id: ChunkId
    epoch: str
    state: str
    window: int


class StreamComplete(_Message, tag="stream_complete"):
    """The answer has ended well, or was cancelled. Stands behind the last chunk."""

    stream_id: str
    final_chunk_id: ChunkId
    finish_reason: str
    usage: Usage | None = None
    ttft_ms: float | None = None
    elapsed_seconds: float | None = None
    tokens_per_second: float | None = None
    parsed: Any = None
    receipt: Receipt | None = None
    retry_count: int = 0
    model: str | None = None


class StreamFailed(_Message, tag="stream_error"):
    """The answer has ended badly. Stands behind the last chunk."""

    stream_id: str
    error_type: str
    message: str
    recoverable: bool
    last_chunk_id: ChunkId
    retry_after: float | None = None
    retry_count: int = 0
    context: Any = None


class HistoryMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """One message of a session. ``last_chunk_id`` is there while its answer runs: follow it from behind that chunk."""

    id: str
    role: str
    content: str | list[dict[str, Any]]
    created: float
    is_complete: bool
    stream_id: str | None = None
    usage: Usage | None = None
    last_chunk_id: ChunkId | None = None
    reasoning: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    client_id: str | None = None


class History(_Message, tag="history"):
    """The session's messages, oldest first. ``more``: there are older ones."""

    session_id: str
    messages: list[HistoryMessage]
    title: str | None = None
    more: bool = False


class SessionChanged(_Message, tag="session_changed"):
    """The session was renamed or deleted, by this connection or another; or another has begun an answer in it."""

    session_id: str
    title: str | None = None
    deleted: bool = False
    stream_id: str | None = None


class StreamList(_Message, tag="stream_list"):
    """The session's streams."""

    streams: list[StreamInfo]


class GoingAway(_Message, tag="going_away"):
    """The server will close: finish within ``deadline_ms``, or come back after ``reconnect_after_ms``."""

    deadline_ms: int
    reconnect_after_ms: int


class Error(_Message, tag="error"):
    """About a message or the connection, not about a stream's answer."""

    error_type: str
    message: str
    recoverable: bool
    retry_after: float | None = None
    request_id: str | None = None
    stream_id: str | None = None


ClientMessage = (
    ChunkAck
    | Heartbeat
    | HeartbeatAck
    | Hello
    | ChatRequested
    | ResumeStream
    | RequestChunks
    | CancelStream
    | ListStreams
    | GetHistory
    | RenameSession
    | DeleteSession
    | RenewToken
)
ServerMessage = (
    ContentChunk
    | ChunkBatch
    | Heartbeat
    | HeartbeatAck
    | ConnectionEstablished
    | TokenRenewed
    | StreamQueued
    | StreamStart
    | StreamRewind
    | StreamStatus
    | StreamResumed
    | StreamComplete
    | StreamFailed
    | StreamList
    | History
    | SessionChanged
    | GoingAway
    | Error
)


class _Envelope(msgspec.Struct):
    """Just enough of a message to say what is wrong with it."""

    type: str | msgspec.UnsetType = msgspec.UNSET


encode = msgspec.json.Encoder().encode
_decode_client = msgspec.json.Decoder(ClientMessage).decode
_decode_server = msgspec.json.Decoder(ServerMessage).decode
_decode_hello = msgspec.json.Decoder(Hello).decode
_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_CLIENT_TYPES = frozenset(t.__struct_config__.tag for t in ClientMessage.__args__)
_SERVER_TYPES = frozenset(t.__struct_config__.tag for t in ServerMessage.__args__)


def decode_client(data: bytes, *, first: bool = False) -> ClientMessage:
    """Read a message from a client. With ``first``, an object without a ``type`` is a hello.

    Raises:
        UnknownMessage: well-formed, but no message has this type.
        BadRequest: a text in it is none: it holds half of a surrogate pair.
        MalformedMessage: not JSON, not an object, or a field of the wrong type or out of range.
    """
    try:
        return _decode_client(data)  # type: ignore[no-any-return]
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        if not first and mended(data) != data:
            raise BadRequest(LONE_SURROGATE) from None
        name = _type_of(data, _CLIENT_TYPES)
        if first and name is None:
            return _as_hello(data)
        raise MalformedMessage(explain(error)) from None


def decode_server(data: bytes | str) -> ServerMessage:
    """Read a message from a server.

    Raises:
        UnknownMessage: no message has this type; a client ignores it.
        MalformedMessage: not JSON, not an object, or a field of the wrong type.
    """
    try:
        return _decode_server(data)  # type: ignore[no-any-return]
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        _type_of(data, _SERVER_TYPES)
        raise MalformedMessage(explain(error)) from None


def _type_of(data: bytes | str, known: frozenset[str | int | None]) -> str | None:
    """The message's ``type``, or None where it has none.

    Raises:
        UnknownMessage: it has one that nobody knows.
        MalformedMessage: it is not a JSON object at all.
    """
    try:
        name = _decode_envelope(data).type
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise MalformedMessage(explain(error)) from None
    if name is msgspec.UNSET:
        return None
    if name not in known:
        raise UnknownMessage
    return str(name)


def _as_hello(data: bytes) -> Hello:
    try:
        return _decode_hello(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise MalformedMessage(explain(error)) from None


def check_names(longest: int, **names: str | None) -> None:
    """See that no name, by its field, is longer than a server is set to take.

    Raises:
        MalformedMessage: one is, in the words for one that is longer than `MAX_NAME_CHARS`.
    """
    for field, name in names.items():
        if name is not None and len(name) > longest:
            raise MalformedMessage(f"Malformed message: Expected `str` of length <= {longest} - at `$.{field}`")


def check_page(most: int, limit: int | None) -> None:
    """See that no page of a history is asked to have more messages than a server is set to give.

    Raises:
        MalformedMessage: it is, in the words for one of more than `MAX_PAGE`.
    """
    if limit is not None and limit > most:
        raise MalformedMessage(f"Malformed message: Expected `int` <= {most} - at `$.limit`")


def digest_of(asked: ChatRequested) -> bytes:
    """A short name of what is asked, whoever asks it under whatever name."""
    return hashlib.blake2b(encode([asked.messages, asked.message, asked.config, asked.model]), digest_size=16).digest()


def short_name(text: str) -> str:
    """A name of fixed length that says nothing about ``text`` and is always the same for it."""
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).hexdigest()


LONE_SURROGATE = "A text holds half of a surrogate pair (\\ud800 to \\udfff alone), which is no character"
_ESCAPE = regex.compile(
    rb"\\(?:u[dD][89abAB][[:xdigit:]]{2}\\u[dD][c-fC-F][[:xdigit:]]{2}|(u[dD][89a-fA-F][[:xdigit:]]{2})|.)",
    regex.DOTALL,
)


def mended(data: bytes) -> bytes:
    """JSON with a mark in the place of every half of a surrogate pair, which JSON can write and no text can hold."""
    return _ESCAPE.sub(lambda found: b"\\ufffd" if found[1] else found[0], data)


def explain(error: Exception, data: bytes = b"") -> str:
    """What is wrong with a message (``data``) that cannot be decoded, fit to be sent back."""
    if mended(data) != data:
        return LONE_SURROGATE
    # msgspec names the field and the expected type, never the value: safe to send back.
    if isinstance(error, msgspec.ValidationError):
        meant = f"of 1 to {MAX_NAME_CHARS} ASCII letters, digits and _.:~-"
        text = str(error).replace(f"matching regex {_SESSION_ID!r}", meant)
        return f"Malformed message: {text}"
    return "Malformed message: not a JSON object in UTF-8"


def error_message(error: WsstreamError, *, request_id: str | None = None, stream_id: str | None = None) -> Error:
    """The ``error`` message that tells the peer about ``error``."""
    return Error(
        error_type=error.error_type.value,
        message=str(error),
        recoverable=error.recoverable,
        retry_after=error.retry_after,
        request_id=request_id,
        stream_id=stream_id,
    )


def outcome_message(stream_id: str, outcome: Outcome) -> StreamComplete | StreamFailed:
    """The terminal message of a stream with this outcome."""
    if outcome.error_type is not None:
        return StreamFailed(
            stream_id=stream_id,
            error_type=outcome.error_type,
            message=outcome.message or "",
            recoverable=outcome.recoverable,
            last_chunk_id=outcome.final_chunk_id,
            retry_after=outcome.retry_after,
            retry_count=outcome.retry_count,
        )
    return StreamComplete(
        stream_id=stream_id,
        final_chunk_id=outcome.final_chunk_id,
        finish_reason=outcome.finish_reason or "stop",
        usage=outcome.usage,
        ttft_ms=outcome.ttft_ms,
        elapsed_seconds=outcome.elapsed_seconds,
        tokens_per_second=outcome.tokens_per_second,
        parsed=outcome.parsed,
        receipt=outcome.receipt,
        retry_count=outcome.retry_count,
        model=outcome.model,
    )


# -- chunks, on the hot path -----------------------------------------------------------------------------------------
#
# A chunk's content is escaped once, when it enters the log; what the log keeps is the inside of the JSON string (its
# "body"). Bodies of one kind join into the body of a batch by plain concatenation, and every wire that speaks JSON can
# use them as they are.


def encode_body(content: str) -> bytes:
    """The inside of ``content`` as a JSON string, UTF-8.

    Raises:
        UnicodeEncodeError: ``content`` holds a lone surrogate.
    """
    return encode(content)[1:-1]


def decode_body(body: bytes) -> str:
    """The content that ``encode_body`` made ``body`` of."""
    return msgspec.json.decode(b'"%b"' % body, type=str)


def text_of(bodies: Sequence[bytes], kinds: Sequence[int], wanted: Kind = Kind.TEXT) -> str:
    """The text (or what is ``wanted``) that the chunks 1 … n of an answer make, without what a rewind withdrew."""
    whole = Bodies.of(bodies)
    return decode_body(b"".join([whole.joined(first, last) for first, last in _stretches(whole, kinds, wanted)]))


def standing(bodies: Sequence[bytes], kinds: Sequence[int]) -> list[tuple[int, bytes]]:
    """The ids and bodies of the text among the chunks 1 … n that no rewind withdrew."""
    whole = Bodies.of(bodies)
    stretches = _stretches(whole, kinds, Kind.TEXT)
    return [(chunk_id, whole[chunk_id - 1]) for first, last in stretches for chunk_id in range(first, last + 1)]


_MASKS = {kind: bytes(number == kind for number in range(256)) for kind in Kind}


def _stretches(bodies: Bodies, kinds: Sequence[int], wanted: Kind) -> list[tuple[int, int]]:
    """From where to where what is ``wanted`` goes on and was not withdrawn.

    An answer has few of them, however many chunks: it is gone over as bytes, and not chunk by chunk.
    """
    kinds = bytes(kinds[: len(bodies)])
    mask = kinds.translate(_MASKS[wanted])
    found: list[tuple[int, int]] = []
    begin = 0
    while (rewind := kinds.find(Kind.REWIND, begin)) >= 0:
        found += _runs(mask, begin, rewind)
        _withdraw(found, read_rewind(bodies[rewind]).to_chunk_id)
        begin = rewind + 1
    return [*found, *_runs(mask, begin, len(mask))]


def _runs(mask: bytes, begin: int, end: int) -> Iterator[tuple[int, int]]:
    while (begin := mask.find(1, begin, end)) >= 0:
        stop = mask.find(0, begin, end)
        last = stop if stop >= 0 else end
        yield begin + 1, last
        begin = last


def _withdraw(found: list[tuple[int, int]], to: int) -> None:
    while found and found[-1][0] > to:
        found.pop()
    if found and found[-1][1] > to:
        found[-1] = (found[-1][0], to)


class Rewind(msgspec.Struct, frozen=True):
    """What a REWIND chunk says: the text behind ``to_chunk_id`` is withdrawn."""

    to_chunk_id: int
    reason: str = ""
    withdrawn: int | None = None


_decode_rewind = msgspec.json.Decoder(Rewind).decode


def read_rewind(body: bytes) -> Rewind:
    """What ``rewind_body`` made ``body`` of."""
    return _decode_rewind(b"{%b}" % body)


def rewind_body(to_chunk_id: int, reason: str, withdrawn: int | None = None) -> bytes:
    """The body of a REWIND chunk: the members of `stream_rewind` that follow its chunk id."""
    body = b'"to_chunk_id":%d,"reason":%b' % (to_chunk_id, encode(reason))
    return body if withdrawn is None else b'%b,"withdrawn":%d' % (body, withdrawn)


_KIND_SUFFIX = [b'"}', *(b'","kind":"%b"}' % kind.wire.encode() for kind in Kind if kind)]


_COUNTED = 4096
_NUMBERS = [b"%d" % number for number in range(_COUNTED)]
"""The ids of most chunks, ready to be written."""


class ChunkWriter:
    """Writes the chunk messages of one stream from ready-made bodies."""

    __slots__ = ("_chunk", "_name")

    def __init__(self, stream_id: str) -> None:
        self._name = encode(stream_id)
        # The beginning of nearly every message; those of others are not worth the memory.
        self._chunk = b'{"type":"content_chunk","stream_id":%b,"chunk_id":' % self._name

    @property
    def overhead(self) -> int:
        """Bytes a chunk message takes beyond its body, at the most."""
        return len(self._chunk) + len(b'16 digits follow,"content":""') + len(_KIND_SUFFIX[Kind.REASONING])

    def chunk(self, chunk_id: int, body: bytes, kind: int) -> bytes:
        """One `content_chunk` (or `stream_rewind`)."""
        if not kind:
            number = _NUMBERS[chunk_id] if chunk_id < _COUNTED else b"%d" % chunk_id
            return b"".join((self._chunk, number, b',"content":"', body, b'"}'))
        if kind == Kind.REWIND:
            return b'{"type":"stream_rewind","stream_id":%b,"chunk_id":%d,%b}' % (self._name, chunk_id, body)
        return b'%b%d,"content":"%b%b' % (self._chunk, chunk_id, body, _KIND_SUFFIX[kind])

    def batch(self, first: int, last: int, body: bytes, kind: int) -> bytes:
        """One `chunk_batch` of the chunks ``first`` to ``last``, whose bodies make ``body`` end to end."""
        return b'{"type":"chunk_batch","stream_id":%b,"first_chunk_id":%d,"last_chunk_id":%d,"content":"%b%b' % (
            self._name,
            first,
            last,
            body,
            _KIND_SUFFIX[kind],
        )
