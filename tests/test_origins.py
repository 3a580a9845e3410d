"""Which pages may speak to the server."""

from __future__ import annotations

import pytest

from wsstream.errors import ConfigError, Forbidden
from wsstream.origins import Origins

LISTED = Origins("https://chat.example, https://other.example:8443")

FINE = [
    (None, "h"),
    ("https://chat.example", "h"),
    ("https://other.example:8443", "h"),
    ("http://127.0.0.1:8765", "127.0.0.1:8765"),
    ("https://api.example", "api.example"),
    ("http://[::1]:8765", "[::1]:8765"),
]
FOREIGN = [
    "null",
    "",
    "*",
    "https://evil.example",
    "https://chat.example.evil",
    "https://evilchat.example",
    "https://sub.chat.example",
    "https://Chat.example",
    "HTTPS://chat.example",
    "https://chat.example.",
    "https://chat.example:443",
    "https://chat.example/",
    "https://chat.example@evil.example",
    "https://chat.example https://evil.example",
    "https://chat.example, https://evil.example",
    " https://chat.example",
    "http://chat.example",
    "wss://chat.example",
    "chat.example",
    "//chat.example",
    "https://other.example",
    "https://chat.ехample",
    "file://",
    "http://h:80",
    "http://h.",
    "http://H",
]


@pytest.mark.parametrize(("origin", "host"), FINE)
def test_pages_that_may(origin: str | None, host: str) -> None:
    """Listed pages, those of the address that was called, and whoever is no page."""
    LISTED.check({"host": host} if origin is None else {"host": host, "origin": origin})


@pytest.mark.parametrize("origin", FOREIGN)
def test_pages_that_may_not(origin: str) -> None:
    """Anything that differs in a letter, its case, a dot, a port or a scheme is another page."""
    with pytest.raises(Forbidden):
        LISTED.check({"host": "h", "origin": origin})


def test_without_a_host_no_page_is_our_own() -> None:
    """A request without a host has no page of its own."""
    with pytest.raises(Forbidden):
        Origins().check({"origin": "http://"})


@pytest.mark.parametrize(
    "allowed", ["*", "null", "chat.example", "https://chat.example/", "https://*.example", "https://Chat.example"]
)
def test_what_could_never_match_is_refused_at_the_start(allowed: str) -> None:
    """A setting that no browser's origin can equal is a mistake."""
    with pytest.raises(ConfigError, match="allowed_origins"):
        Origins(allowed)


OURS = ["localhost:8765", "127.0.0.1", "[::1]:1", "::1", "x.localhost", "LOCALHOST", "chat.example:80", "wsstream:8765"]
PRIVATE = ["box.local", "chat-wsstream.default.svc.cluster.local:80", "chat.corp.internal", "10.1.2.3:8765"]
THEIRS = [
    "evil.example:8765",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "box.local.",
    "notlocal.",
    "",
    "a:b:c",
    "[::1]evil.example",
    "[::1].evil.example:80",
    "[::1",
    "[evil.example]",
    "localhost:evil.example",
    "localhost:80:evil.example",
    "127.0.0.1@evil.example",
    "evil.example, localhost",
]


@pytest.mark.parametrize("host", [*OURS, *PRIVATE])
def test_names_of_our_own(host: str) -> None:
    """An address, what no public name server knows, and what is listed are names of a server that checks them."""
    checking = Origins("https://chat.example", names_checked=True)
    checking.check_host({"host": host, "origin": f"http://{host}"})
    checking.check_host({"host": host})


@pytest.mark.parametrize("host", THEIRS)
def test_names_that_a_page_has_given_us(host: str) -> None:
    """Another name for our address is a page's trick, also where it reads and names no origin; and fine elsewhere."""
    checking = Origins(names_checked=True)
    for headers in ({"host": host, "origin": f"http://{host}"}, {"host": host}, {"origin": "http://evil.example"}):
        with pytest.raises(Forbidden, match="allowed-origins"):
            checking.check_host(headers)
        Origins().check_host(headers)


def test_who_calls_by_no_name_is_no_page() -> None:
    """A request without a host has been sent by no browser."""
    Origins(names_checked=True).check_host({})
