"""Where servers are: of a page's address that of its WebSocket, and how an address is shown."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit


def native_url(url: str) -> str:
    """``url``, or for a page's address the native wire beside it."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        return url
    path = parts.path.rstrip("/")
    path = path if path.endswith("/ws") else path + "/ws"
    return urlunsplit(("wss" if parts.scheme == "https" else "ws", parts.netloc, path, parts.query, ""))


def is_loopback(url: str) -> bool:
    """Whether it is this machine's own: no proxy is asked for that."""
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


def shown(url: str) -> str:
    """``url`` without what may be secret in it."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
