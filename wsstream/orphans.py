"""What becomes of an answer that nobody follows any more: a policy, as data.

On the wire `config.on_orphan` is ``"continue"``, ``"pause"``, ``{"stop_after": seconds}`` or
``{"stop_after_chunks": n}``. A viewer who returns before the limit cancels it.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from wsstream.config import Config
from wsstream.errors import BadRequest


class Continue(msgspec.Struct, frozen=True):
    """It goes on to its end."""


class Pause(msgspec.Struct, frozen=True):
    """The provider is read no further until somebody returns; after ``max_pause_seconds`` it is stopped."""


class StopAfter(msgspec.Struct, frozen=True):
    """It is stopped after so many seconds."""

    seconds: Annotated[float, msgspec.Meta(ge=0, le=86_400)]


class StopAfterChunks(msgspec.Struct, frozen=True):
    """It is stopped after so many more chunks."""

    chunks: Annotated[int, msgspec.Meta(ge=0, le=10_000_000)]


OrphanPolicy = Continue | Pause | StopAfter | StopAfterChunks


class _Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    stop_after: Annotated[float, msgspec.Meta(ge=0, le=86_400)] | None = None
    stop_after_chunks: Annotated[int, msgspec.Meta(ge=0, le=10_000_000)] | None = None


def parse_policy(wish: Any, config: Config) -> OrphanPolicy:
    """The policy that a request asks for, or the server's own.

    Raises:
        BadRequest: the request asks for something else.
    """
    if wish is None:
        wish = config.on_orphan
    if wish == "continue":
        return Continue()
    if wish == "pause":
        return Pause()
    if wish == "stop_after":
        return StopAfter(config.orphan_grace)
    try:
        limits = msgspec.convert(wish, _Limits)
    except msgspec.ValidationError as error:
        raise BadRequest(f"config.on_orphan: {error}") from None
    if limits.stop_after is not None and limits.stop_after_chunks is None:
        return StopAfter(limits.stop_after)
    if limits.stop_after_chunks is not None and limits.stop_after is None:
        return StopAfterChunks(limits.stop_after_chunks)
    raise BadRequest("config.on_orphan: give continue, pause, stop_after or stop_after_chunks")
