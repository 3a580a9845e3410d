"""The words of the data path: what a provider yields, what a log keeps, what a viewer is told at the end."""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Any

import msgspec

MAX_NAME_CHARS = 128
"""Of the name of a session, or of a request, whatever a server is set to: that may only be less."""
MAX_TITLE_CHARS = 200
"""Of the title of a session, likewise."""
MAX_KEPT_REASONING = 64 * 1024
"""Characters of reasoning that a session keeps of an answer, whatever a server is set to: that may only be less."""
MAX_KEPT_CALLS = 128
"""Calls of tools, likewise."""
MAX_KEPT_ARGUMENTS = 256 * 1024
"""Characters of their arguments, all together, likewise; a call that goes beyond is not kept."""
PAGE = 100
"""Messages in one page of a history, where nobody says how many."""
MAX_PAGE = 1000
"""Messages that a page may be asked to have, whatever a server is set to: that may only be less."""
PAGE_BYTES = 256 * 1024
"""Bytes of messages in one page, likewise; a larger message is a page of its own."""


class Kind(IntEnum):
    """What a chunk holds. The number is what stores keep; ``wire`` is its name in messages."""

    TEXT = 0
    REASONING = 1
    TOOL_CALL = 2
    DATA = 3
    REWIND = 4

    @property
    def wire(self) -> str:
        """The name in messages."""
        return self.name.lower()


class Delta(msgspec.Struct, frozen=True, gc=False):
    """What a provider yields: a piece of one kind, not yet numbered. ``content`` is never empty."""

    content: str
    kind: Kind = Kind.TEXT


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Tokens as the provider counts (and bills) them.

    ``reasoning_tokens`` are those of the output that went into thinking, ``cached_tokens`` those of the input that were
    read from a cache; where a provider does not tell, they are ``UNSET``, and in no JSON.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int | msgspec.UnsetType = msgspec.UNSET
    cached_tokens: int | msgspec.UnsetType = msgspec.UNSET


class Finish(msgspec.Struct, frozen=True, gc=False):
    """The provider's own end of an answer; nothing follows it.

    ``reason`` is one of `stop`, `length`, `content_filter`, `tool_calls`.
    """

    reason: str = "stop"
    usage: Usage | None = None


class Chunk(msgspec.Struct, frozen=True, gc=False):
    """A numbered piece of an answer. Ids of a stream are 1, 2, 3 … without gaps."""

    chunk_id: int
    content: str
    kind: Kind = Kind.TEXT


class StreamState(StrEnum):
    """The life of an answer. The last four are final: a stream enters exactly one of them, once."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETE = "complete"
    CANCELLED = "cancelled"
    FAILED = "failed"
    INTERRUPTED = "interrupted"

    @property
    def final(self) -> bool:
        """Whether the stream has ended."""
        return self not in (StreamState.QUEUED, StreamState.RUNNING)


class Receipt(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a cancel did: how far the answer was, how far a viewer was, and how fast the upstream was closed."""

    generated_chunks: int
    delivered_chunk_id: int
    upstream_closed_ms: float | None = None


class Outcome(msgspec.Struct, frozen=True):
    """The one terminal record of a stream. A completed or cancelled stream has a ``finish_reason``, a failed one an
    ``error_type``. Times are seconds unless the name ends in ``_ms``.

    ``retry_count`` counts the tries after the first, ``model`` is the one that answered in the end, ``parsed`` what an
    answer holds that was asked for as JSON.
    """

    state: StreamState
    final_chunk_id: int
    finish_reason: str | None = None
    usage: Usage | None = None
    ttft_ms: float | None = None
    elapsed_seconds: float = 0.0
    tokens_per_second: float = 0.0
    receipt: Receipt | None = None
    error_type: str | None = None
    message: str | None = None
    recoverable: bool = False
    retry_after: float | None = None
    retry_count: int = 0
    model: str | None = None
    parsed: Any = None


class ToolCall(msgspec.Struct, frozen=True):
    """A call of a tool that a model asks for. ``arguments`` is a text: JSON, when all of it is there."""

    id: str
    name: str
    arguments: str = ""


class ChatMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """One turn of a conversation. ``content`` is text, or the provider's own list of parts.

    An assistant's turn may hold ``tool_calls`` (as OpenAI's chat completions write them), a ``tool``'s the
    ``tool_call_id`` that it answers.
    """

    role: str
    content: str | list[dict[str, Any]] | None
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None


class ChatRequest(msgspec.Struct, frozen=True):
    """What a provider is asked.

    ``options`` are further settings, by the names of OpenAI's chat completions (``tools``, ``top_p``, ``stop`` …); a
    provider passes on those it knows and leaves out the others. ``prefix`` is the answer so far, where an earlier try
    was cut off: a provider that ``continues`` goes on behind it.
    """

    messages: list[ChatMessage]
    model: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    response_format: dict[str, Any] | None = None
    options: dict[str, Any] = {}
    prefix: str = ""


class StreamInfo(msgspec.Struct, frozen=True):
    """A stream in a list: enough for a reloaded page to resume it. ``state`` is a `StreamState`, or a newer one."""

    stream_id: str
    last_chunk_id: int
    state: str


def session_key(owner: str, session_id: str) -> str:
    """The name of a session among everybody's: each user's sessions are their own, and nobody else's has that name.

    A session id holds no slash, so no two pairs make the same name.
    """
    return f"{session_id}/{owner}" if owner else session_id
