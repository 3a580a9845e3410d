"""What a run is asked for, checked: against itself, against this machine, and against mistakes that hurt others."""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import os
import socket

import msgspec
from websockets.exceptions import InvalidURI
from websockets.uri import WebSocketURI, parse_uri

from wsstream.errors import ConfigError
from wsstream.load import DEFAULT_TOKENS, STDOUT

GRACE = 30.0
"""Seconds beyond those asked for after which a run has ended, whatever the server does."""

SPARE_FILES = 64


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """One run. Times are seconds."""

    url: str
    streams: int
    connections: int
    rate: float
    """Tokens a second of each stream; 0 is unpaced."""
    seconds: float
    tokens: int
    """Tokens of each stream."""
    window: int | None = None
    slow_readers: float = 0.0
    drop: float = 0.0
    pid: int | None = None
    owned: bool = False
    """Somebody vouches for this server, wherever it is."""
    token: str | None = None
    """The credential that every connection shows."""

    @property
    def model(self) -> str:
        """The model that makes this load."""
        return f"demo:rate={self.rate:.10g},tokens={self.tokens},stamp=1"


class Target(msgspec.Struct, frozen=True):
    """Where a server is, looked up once: what was checked is what is connected to."""

    uri: WebSocketURI
    addresses: list[str]
    loopback: bool


def read_settings(parsed: argparse.Namespace) -> Settings:
    """The settings in the arguments.

    Raises:
        ConfigError: the arguments contradict each other.
    """
    if parsed.rate and parsed.tokens is not None:
        raise ConfigError("--tokens goes with --rate 0; otherwise --rate and --seconds say how many there are")
    if parsed.json not in (None, STDOUT):
        _check_writable(parsed.json)
    return Settings(
        url=parsed.url,
        streams=parsed.streams,
        connections=parsed.connections or parsed.streams,
        rate=parsed.rate,
        seconds=parsed.seconds,
        tokens=max(1, round(parsed.rate * parsed.seconds)) if parsed.rate else parsed.tokens or DEFAULT_TOKENS,
        window=parsed.window,
        slow_readers=parsed.slow_readers,
        drop=parsed.drop,
        pid=parsed.pid,
        owned=parsed.i_own_this_server,
        token=os.environ.get("WSSTREAM_TOKEN"),
    )


def _check_writable(path: str) -> None:
    try:
        with open(path, "a", encoding="utf-8"):
            pass
    except OSError as error:
        raise ConfigError(f"--json: {path}: {error.strerror}") from error


def find_target(settings: Settings) -> Target:
    """Look the server up.

    Raises:
        ConfigError: the URL is none, the name is unknown, or the server is not ours to load.
    """
    try:
        uri = parse_uri(settings.url)
    except (InvalidURI, ValueError) as error:
        raise ConfigError(f"--url: {settings.url!r} is not a WebSocket URL such as ws://127.0.0.1:8765/ws") from error
    try:
        found = socket.getaddrinfo(uri.host, uri.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"--url: there is no host {uri.host!r}") from error
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    loopback = all(ipaddress.ip_address(address).is_loopback for address in addresses)
    if not loopback and not settings.owned:
        raise ConfigError(
            f"{uri.host} is not this machine, and this load can take a server down: "
            "give --i-own-this-server if that is yours to do"
        )
    return Target(uri, addresses, loopback)


def allow_files(connections: int) -> None:
    """See that this process may open a socket for each connection.

    Raises:
        ConfigError: the machine does not let it.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    needed = connections + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard == resource.RLIM_INFINITY or hard >= needed:
        # Some systems call the hard limit infinite and then refuse it, so ask for no more than is needed.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
            return
    raise ConfigError(
        f"{connections} connections need {needed} open files and this process may have {max(soft, hard)}: "
        "raise the limit (ulimit -n), or give fewer --connections"
    )
