"""What clients say with what they append to a feed, so that nothing is appended twice or out of order.

A *feed* is a log that clients write; a *writer* is one of them, by a name of its own choosing. It counts its appends
(`seq`), anew in each of its lives (`epoch`). This is the Durable Streams protocol's idempotent producer (5.2.1).
"""

from __future__ import annotations

from enum import Enum, auto
from typing import NamedTuple

import msgspec

MAX_WRITERS = 100
"""Writers that a feed remembers, those that wrote last. (Where nothing else is set.)"""


class Writer(msgspec.Struct, frozen=True, array_like=True):
    """How far a writer has come."""

    epoch: int
    seq: int


class Claim(msgspec.Struct, frozen=True, array_like=True):
    """What a writer says that an append is: the ``seq``-th of its life ``epoch``, both from 0."""

    writer: str
    epoch: int
    seq: int


class Fork(msgspec.Struct, frozen=True):
    """Where a feed begins as a copy: behind the chunk ``at`` of ``source`` (None: behind its last), and ``more``."""

    source: str
    at: int | None = None
    more: int = 0
    """What it takes of what follows: messages of a feed in JSON, else bytes of the next chunk."""


class FeedConfig(msgspec.Struct, frozen=True):
    """What a feed is made as. A fork has of its source what it does not name."""

    content_type: str | None = None
    ttl: int | None = None
    """Seconds after which it is deleted where nobody reads or appends."""
    expires_at: str | None = None
    """When it is deleted in any case, in the words it was given (RFC 3339)."""
    fork: Fork | None = None

    @property
    def media_type(self) -> str | None:
        """The content type without its parameters."""
        return None if self.content_type is None else media_type(self.content_type)

    def meets(self, wish: FeedConfig) -> bool:
        """Whether who asks for ``wish`` would get this."""
        if self.fork != wish.fork:
            return False
        inherits = wish.fork is not None
        if not (inherits and wish.content_type is None) and self.media_type != wish.media_type:
            return False
        if inherits and wish.ttl is None and wish.expires_at is None:
            return True
        return (self.ttl, self.expires_at) == (wish.ttl, wish.expires_at)

    def inherited(self, wish: FeedConfig) -> FeedConfig:
        """What a fork of this becomes that asks for ``wish``."""
        own = wish.ttl is not None or wish.expires_at is not None
        return FeedConfig(
            content_type=wish.content_type or self.content_type,
            ttl=wish.ttl if own else self.ttl,
            expires_at=wish.expires_at if own else self.expires_at,
            fork=wish.fork,
        )


class FeedState(msgspec.Struct, frozen=True, omit_defaults=True):
    """Everything of a feed but its chunks; stored with each append, in the same commit."""

    feed_id: str
    user: str
    name: str
    config: FeedConfig
    source_id: str | None = None
    """The feed it was forked from."""
    writers: dict[str, Writer] = {}
    order: str | None = None
    """The greatest ``Stream-Seq``."""
    closed: bool = False
    closed_by: Claim | None = None
    deleted: bool = False
    """Deleted, but for the forks that it has."""

    def after(self, claim: Claim | None, order: str | None, *, close: bool, remembered: int = MAX_WRITERS) -> FeedState:
        """What it is when an append was taken. ``remembered``: writers, at most."""
        writers = self.writers
        if claim is not None:
            others = [(name, writer) for name, writer in writers.items() if name != claim.writer]
            kept = others[max(0, len(others) + 1 - remembered) :]
            writers = dict([*kept, (claim.writer, Writer(claim.epoch, claim.seq))])
        return msgspec.structs.replace(
            self,
            writers=writers,
            order=self.order if order is None else order,
            closed=close,
            closed_by=claim if close else None,
        )


class Verdict(Enum):
    """What becomes of an append."""

    TAKEN = auto()
    DUPLICATE = auto()
    """It was taken before."""
    CLOSED = auto()
    STALE = auto()
    """The writer has begun a later life."""
    LATE = auto()
    """A life must begin with its append 0."""
    GAP = auto()
    """An append before it has not come."""
    DISORDERED = auto()
    """Its ``Stream-Seq`` is not greater than the last."""


class Ruling(NamedTuple):
    """What becomes of an append, and how far its writer is."""

    verdict: Verdict
    writer: Writer | None = None

    @property
    def expected(self) -> int:
        """The append that the writer should have sent."""
        return 0 if self.writer is None else self.writer.seq + 1


def judge(state: FeedState, claim: Claim | None, order: str | None, *, has_content: bool, close: bool) -> Ruling:
    """What becomes of an append, or of a close without one."""
    if claim is not None:
        ruling = _judge_claim(state.writers.get(claim.writer), claim)
        if ruling.verdict is not Verdict.TAKEN:
            return ruling
    if state.closed:
        again = close and not has_content and claim is None
        return Ruling(Verdict.DUPLICATE if again else Verdict.CLOSED)
    if order is not None and has_content and state.order is not None and order <= state.order:
        return Ruling(Verdict.DISORDERED)
    return Ruling(Verdict.TAKEN, None if claim is None else Writer(claim.epoch, claim.seq))


def _judge_claim(known: Writer | None, claim: Claim) -> Ruling:
    if known is None:
        return Ruling(Verdict.GAP if claim.seq else Verdict.TAKEN)
    if claim.epoch < known.epoch:
        return Ruling(Verdict.STALE, known)
    if claim.epoch > known.epoch:
        return Ruling(Verdict.LATE if claim.seq else Verdict.TAKEN, known)
    if claim.seq <= known.seq:
        return Ruling(Verdict.DUPLICATE, known)
    return Ruling(Verdict.TAKEN if claim.seq == known.seq + 1 else Verdict.GAP, known)


def media_type(content_type: str) -> str:
    """A content type without its parameters, in lower case."""
    return content_type.partition(";")[0].strip().lower()
