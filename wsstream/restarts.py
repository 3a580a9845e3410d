"""What becomes of answers that a crash cut off: which of them go on, and what it takes to ask for them again.

An answer that may go on carries, in its stream's record, what was asked. When the store opens after a crash, it asks
`Survival.decide` in its own thread about every stream without an end: from the record and the log alone, because
providers live in the event loop. How often an answer was taken up is counted in the record, before anybody is asked:
a request that brings its server down must not do so for ever.
"""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from wsstream.chunks import ChatMessage, Kind, Outcome
from wsstream.messages import ChatConfig, ChatRequested, encode
from wsstream.said import KEEP, Keep
from wsstream.sessions import end_of_interrupted
from wsstream.stores.base import StoredLog, StoredMessage, StreamRecord

MOST = 5
"""Times that one answer goes on after a crash."""

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Answering(msgspec.Struct, frozen=True, omit_defaults=True):
    """One of an answer's fallbacks: the name of a provider, and the model it is asked for, if one was named."""

    provider: str
    model: str | None = None


class Again(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was asked, as far as it is not in the session's messages."""

    provider: str
    """Who was asked, by the name that the request or else the server had for it."""
    config: ChatConfig = ChatConfig()
    messages: list[ChatMessage] | None = None
    """The conversation, where the request brought its own."""
    unheard: list[str] = []
    """The session's answers that were under way when this one was asked for: it was told nothing of them."""
    boot: str | None = None
    """The run of the operating system that the answer's chunks survive, empty where it has no name; None: they survive
    any."""
    times: int = 0
    """How often it has gone on."""
    tried_again: int = 0
    """How often somebody was asked for it again besides, because a try had failed."""
    answering: Answering | None = None
    """Who was turned to since; None while it is whom the request names."""

    @property
    def retries(self) -> int:
        """All tries after the first, of every process."""
        return self.times + self.tried_again


_decode = msgspec.json.Decoder(Again).decode


def unpack(record: StreamRecord) -> Again:
    """What `Survival.pack` has packed.

    Raises:
        msgspec.MsgspecError: it is not that.
    """
    return _decode(record.again)


def switched(record: StreamRecord, provider: str, model: str | None) -> StreamRecord:
    """The record of an answer that somebody else gives from now on: after a crash they are asked first."""
    again = msgspec.structs.replace(unpack(record), answering=Answering(provider, model))
    return msgspec.structs.replace(record, again=encode(again))


def tried_again(record: StreamRecord, retries: int) -> StreamRecord:
    """The record of an answer that is tried again: ``retries`` tries after the first, those of processes before too."""
    again = unpack(record)
    again = msgspec.structs.replace(again, tried_again=retries - again.times)
    return msgspec.structs.replace(record, again=encode(again))


def settled(record: StreamRecord) -> StreamRecord:
    """The record of an answer that is not to be asked for again: it may have been long."""
    return msgspec.structs.replace(record, again=b"") if record.again else record


class Survival:
    """Decides which answers go on after a crash. For any thread."""

    def __init__(self, durability: str, max_seconds: float, keep: Keep = KEEP) -> None:
        """How it is decided.

        Args:
            durability: of the store.
            max_seconds: what an answer may take; one that is older does not go on.
            keep: what is kept of one that does not.
        """
        self._keep = keep
        self._max_seconds = max_seconds
        self._boot = None if durability == "power" else boot_id()

    def pack(self, asked: ChatRequested, provider: str, unheard: list[str]) -> bytes:
        """What a record keeps of a request, so that it can be asked again."""
        return encode(Again(provider, asked.config or ChatConfig(), asked.messages, unheard, self._boot))

    def decide(
        self, record: StreamRecord, cancelled: bool, log: StoredLog
    ) -> tuple[Outcome, StoredMessage | None] | StreamRecord:
        """The end of a stream that a crash cut off, or the record with which it goes on."""
        if not record.again:
            return end_of_interrupted(record, cancelled, log, keep=self._keep)
        try:
            again = unpack(record)
        except msgspec.MsgspecError:  # of another version
            return end_of_interrupted(record, cancelled, log, keep=self._keep)
        if cancelled or not log.whole or _acted_upon(log) or not self._may_go_on(record, again):
            return end_of_interrupted(record, cancelled, log, again.retries, self._keep)
        renewed = msgspec.structs.replace(again, boot=self._boot, times=again.times + 1)
        return msgspec.structs.replace(record, again=encode(renewed))

    def _may_go_on(self, record: StreamRecord, again: Again) -> bool:
        # What only the page cache had is lost with the operating system: viewers may have seen what the log has not.
        is_all_there = again.boot is None or again.boot == boot_id() != ""
        return is_all_there and again.times < MOST and time.time() - record.created < self._max_seconds


def _acted_upon(log: StoredLog) -> bool:
    """Whether somebody may have done already what a chunk asks for."""
    return any(kind in (Kind.TOOL_CALL, Kind.DATA) for kind in log.kinds)


def boot_id() -> str:
    """A name of this run of the operating system; empty where there is none."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ""
