"""What was turned away, counted by reason: one small table that health and metrics read.

The reasons are a closed set, so that a metric made of them has that many series and never a user's name in one.
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why something was turned away; the value is the ``reason`` label of the metric ``rejected_total``."""

    HOST = "host"
    """A doubled or foreign `Host` header."""
    ORIGIN = "origin"
    """A page that is not listed."""
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    EXPIRED = "expired"
    """A connection whose token ran out and was not renewed."""
    REVOKED = "revoked"
    DRAINING = "draining"
    MEMORY = "memory"
    """Something new while memory was short."""
    CONNECTIONS = "connections"
    CONNECTIONS_PER_USER = "connections_per_user"
    CONNECTIONS_PER_ADDRESS = "connections_per_address"
    GREETING_PER_ADDRESS = "greeting_per_address"
    """Connections that have not said who they are."""
    STARTS_PER_USER = "starts_per_user"
    STARTS_PER_ADDRESS = "starts_per_address"
    RUNNING = "running"
    """As many answers as may run, and nowhere to wait."""
    RUNNING_PER_USER = "running_per_user"
    QUEUE_FULL = "queue_full"
    PARAMETER = "parameter"
    """A request for more than this server gives, or with a longer name than it takes, or for another model."""
    LOOKUPS = "lookups"
    """Streams asked for that there are not."""
    REPLAY = "replay"
    """More bytes asked for again than may be."""
    FEEDS = "feeds"
    """As many durable streams of clients, or bytes of them, as the server has room for."""
    FEEDS_PER_USER = "feeds_per_user"
    FEED_CREATES_PER_USER = "feed_creates_per_user"
    """Durable streams that a user has made too quickly, those that are deleted again too."""
    FEED_BYTES_PER_USER = "feed_bytes_per_user"
    FEED_BYTES = "feed_bytes"
    """A durable stream that would have become too long."""
    TICKETS = "tickets"
    MALFORMED = "malformed"
    MESSAGES = "messages"
    """A flood of messages, acks or pings on one connection."""
    STREAMS = "streams"
    """As many running answers followed by one connection as it may."""
    CALLS = "calls"
    """As many HTTP calls under way as may be."""
    SIZE = "size"
    """A message, or a body, that was too large."""
    HEAD = "head"
    """The head of an HTTP request, that was too large or not in time, or held a header twice."""
    SILENT = "silent"
    """A hello, or a request's body, that did not come in time."""
    SLOW = "slow"
    """A viewer that made no progress, or did not read what it provoked."""


class Clamp(StrEnum):
    """What was cut to a limit instead of being refused; the value is the ``what`` label of ``clamped_total``."""

    WINDOW = "window"
    """A wider window of chunks, or of bytes, than clients may have."""
    TOKENS = "tokens"
    """A request for more tokens than answers may have, or for any number."""
    DELTA = "delta"
    """A delta larger than a chunk may be."""
    PAGE = "page"
    """A page of a history that would have had more bytes."""
    KEPT = "kept"
    """What a session would have kept of an answer's reasoning, or of its calls of tools."""
    READ = "read"
    """What one read of a durable stream would have given beyond its limit."""
    WRITERS = "writers"
    """A writer of a durable stream that was forgotten for another."""
    RETRY_DELAY = "retry_delay"
    """A wait for another try that would have been longer."""


class Rejections:
    """Counts since the start."""

    __slots__ = ("_clamps", "_counts")

    def __init__(self) -> None:
        self._counts = dict.fromkeys(Reason, 0)
        self._clamps = dict.fromkeys(Clamp, 0)

    def clamp(self, what: Clamp) -> None:
        """One more that was cut."""
        self._clamps[what] += 1

    def clamped(self) -> dict[str, int]:
        """How many of each; all are there from the beginning."""
        return {what.value: count for what, count in self._clamps.items()}

    def count(self, reason: Reason) -> None:
        """One more."""
        self._counts[reason] += 1

    def statistics(self) -> dict[str, int]:
        """How many of each reason; all reasons are there from the beginning."""
        return {reason.value: count for reason, count in self._counts.items()}
