"""Why a connection is gone, whether another is tried, and when."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Callable
from os import strerror
from typing import NamedTuple

from websockets.exceptions import InvalidHandshake, InvalidStatus, InvalidURI

from wsstream.client.addresses import shown
from wsstream.errors import CloseCode, ConnectionFailed

BACKOFF_FIRST = 1.0
BACKOFF_LIMIT = 30.0
STEADY = 10.0
"""Seconds after which a connection counts as progress, though no chunk came over it."""


class Loss(NamedTuple):
    """Why there is no connection (any more)."""

    reason: str
    code: int | None = None
    final: bool = False
    told: float | None = None


def loss_of(error: Exception) -> Loss:
    """What a failed attempt means."""
    match error:
        case InvalidStatus(response=response):
            status = response.status_code
            wait = response.headers.get("Retry-After", "")
            # The client's own mistakes (RFC 9110, section 15.5), except the three that pass with time.
            final = 400 <= status < 500 and status not in (408, 425, 429)
            return Loss(f"HTTP {status}", None, final, float(wait) if wait.isdecimal() else None)
        case InvalidURI() | ValueError() if not isinstance(error, OSError):
            return Loss("this is not the address of a WebSocket", None, final=True)
        case InvalidHandshake():
            return Loss("what answers there is not a WebSocket server")
        case ssl.SSLCertVerificationError():
            return Loss(f"its certificate is not valid: {error.verify_message}", None, final=True)
        case socket.gaierror():
            return Loss("there is no such host")
        case TimeoutError():
            return Loss("no answer in time")
        case ImportError():
            return Loss(str(error), None, final=True)
    number = re.search(r"\[Errno (\d+)\]", str(error))
    return Loss(strerror(int(number[1])).lower() if number else str(error) or type(error).__name__)


def reconnect_delay(attempt: int, jitter: float, *, code: int | None = None, told: float | None = None) -> float:
    """Seconds to wait before try ``attempt`` (0, 1, 2 …) in a row (docs/protocol.md, "Close codes").

    Args:
        jitter: a number in [0, 1).
        code: with which the connection was closed. After a time-out the first try is made at once.
        told: what the server asked for; it wins.
    """
    if told is not None:
        return max(0.0, told)
    if code == CloseCode.TIMEOUT and attempt == 0:
        return 0.0
    return jitter * min(BACKOFF_LIMIT, BACKOFF_FIRST * 2.0 ** min(attempt, 10))


class Tries:
    """Counts losses in a row, and says how long is waited after each."""

    def __init__(self, url: str, limit: int, random: Callable[[], float]) -> None:
        """``limit``: losses in a row, without progress between them, after which there is no further try."""
        self._url = url
        self._limit = limit
        self._random = random
        self.failures = 0
        """Losses in a row; whoever sees progress sets it to 0."""
        self.told: float | None = None
        """Seconds that the server has asked to wait."""
        self.greeted_at: float | None = None
        """When the server greeted on this connection."""
        self.final = False
        """Whether the server said to stay away."""

    def delay_after(self, loss: Loss, now: float) -> float:
        """Seconds until the next try.

        Raises:
            ConnectionFailed: there is to be none.
        """
        told = self.told if loss.told is None else loss.told
        if self.greeted_at is not None and now - self.greeted_at >= STEADY:
            self.failures = 0
        self.greeted_at = self.told = None
        self.failures += 1
        if loss.final:
            self.final = True
            raise ConnectionFailed(f"{shown(self._url)}: {loss.reason}", code=loss.code)
        if self.failures > self._limit:
            text = f"cannot reach {shown(self._url)}: {loss.reason} (tried {self.failures} times)"
            raise ConnectionFailed(text, code=loss.code)
        return reconnect_delay(self.failures - 1, self._random(), code=loss.code, told=told)
