"""Reading one streamed answer: bytes to events to deltas, and the one end that an answer has."""

from __future__ import annotations

import json
import logging
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import httpx2
import msgspec

from wsstream.chunks import Delta, Finish
from wsstream.config import Config
from wsstream.errors import Interrupted, ProviderError, StreamFailure
from wsstream.providers.base import Sink
from wsstream.providers.failures import noted, of_event, request_id
from wsstream.providers.http import MAX_ERROR_BYTES, MAX_HEAD, finish, pump, read_whole
from wsstream.providers.sse import MAX_EVENT_BYTES, SseParser
from wsstream.providers.tools import MAX_CALLS

logger = logging.getLogger(__name__)

LAST_BYTES_TIMEOUT = 0.05
"""Seconds to wait, after the end was announced, for the response's own end: only then can its connection be reused."""
UNREADABLE = "The model provider sent something unreadable"


class Bounds(NamedTuple):
    """What an answer of a provider's may hold."""

    event_bytes: int = MAX_EVENT_BYTES
    """Of each event."""
    tool_calls: int = MAX_CALLS
    head_bytes: int = MAX_HEAD
    """Of the response that it comes in."""


ANY = Bounds()


def bounds_of(config: Config) -> Bounds:
    """Those that are set."""
    return Bounds(config.max_event_bytes, config.max_tool_calls, config.max_response_head_bytes)


class Reading(ABC):
    """What one response has said so far. A subclass knows what an API's events mean."""

    __slots__ = ("_parser", "_sink", "ended")

    def __init__(self, sink: Sink, bounds: Bounds = ANY) -> None:
        self._sink = sink
        self._parser = SseParser(bounds.event_bytes)
        self.ended = False
        """Whether the end was announced: nothing behind it is read."""

    def take(self, data: bytes) -> bool:
        """Put the deltas in what one read brought; whether to go on reading.

        Raises:
            StreamFailure: the upstream failed, or what it sent cannot be read. What came before is put.
        """
        deltas: list[Delta] = []
        try:
            for payload in self._parser.feed(data):
                self._take_payload(payload, deltas)
                if self.ended:
                    break
        except StreamFailure:
            if deltas:
                self._sink.put(deltas)
            raise
        return (not deltas or self._sink.put(deltas)) and not self.ended

    @abstractmethod
    def _take_payload(self, payload: bytes, deltas: list[Delta]) -> None:
        """Read one event."""

    @property
    def complete(self) -> bool:
        """Whether the answer has come to an end, be it announced or not."""
        return self.ended

    @abstractmethod
    def finish(self) -> Finish:
        """The end of a complete answer."""


async def read(response: httpx2.Response, reading: Reading, sink: Sink) -> Finish:
    """Read an answer to its end, no faster than ``sink`` has room.

    Raises:
        StreamFailure: it failed, cannot be read, or broke off.
    """
    try:
        await _check(response)
        try:
            while await pump(response, reading.take) and not reading.ended:
                await sink.wait_room()
        except httpx2.TransportError as error:
            if not reading.complete:
                raise Interrupted("The connection to the model provider was lost") from error
        if not reading.complete:
            raise Interrupted("The model provider broke off its answer")
    except StreamFailure as failure:
        raise noted(failure, response.headers) from None
    await finish(response, LAST_BYTES_TIMEOUT)
    end = reading.finish()
    logger.debug("upstream answered: %s, request %s", end.reason, request_id(response.headers) or "-")
    return end


async def _check(response: httpx2.Response) -> None:
    """See that what was opened is a stream of events.

    Raises:
        StreamFailure: it is something else; where that is an error in JSON, what it says.
    """
    if response.headers.get("content-encoding", "identity") != "identity":
        raise ProviderError("The model provider compresses its answer, against what it was asked for")
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in ("application/json", "text/html"):
        return
    body = await read_whole(response, MAX_ERROR_BYTES)
    try:
        error = json.loads(body).get("error") if kind == "application/json" else None
    except (ValueError, AttributeError, RecursionError):
        error = None
    raise of_event(error) if error else ProviderError("The model provider did not answer with a stream")


def convert_odd(payload: bytes, kind: Any) -> Any:
    """An event that msgspec refuses with good reason and an answer must survive: lone surrogates, broken UTF-8.

    Raises:
        ProviderError: it is no JSON of that kind either.
    """
    return convert(load_odd(payload), kind)


def load_odd(payload: bytes) -> Any:
    """JSON, however broken its text.

    Raises:
        ProviderError: it is none.
    """
    try:
        return json.loads(payload.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        raise ProviderError(UNREADABLE, recoverable=True) from None


def convert(value: Any, kind: Any) -> Any:
    """``value`` as ``kind``.

    Raises:
        ProviderError: it is not of that kind.
    """
    try:
        return msgspec.convert(value, kind)
    except (ValueError, RecursionError):
        raise ProviderError(UNREADABLE, recoverable=True) from None
