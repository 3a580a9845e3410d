"""Who a request is from, when a proxy stands in between."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.client import connect

from tests.conftest import Serve
from wsstream.errors import ConfigError
from wsstream.proxies import MAX_HOPS, BehindProxies, Origin, TrustedProxies

NETWORKS = "10.0.0.0/8, 127.0.0.1, fd00::/8"
OURS = TrustedProxies(NETWORKS)
STANDARD = TrustedProxies(NETWORKS, header="forwarded")


def origin(peer: str, proxies: TrustedProxies = OURS, **headers: str) -> Origin:
    """Where a request with these headers comes from."""
    return proxies.origin(peer, "http", lambda name: headers.get(name.replace("-", "_")))


@pytest.mark.parametrize(
    ("peer", "headers", "expected"),
    [
        ("192.0.2.1", {}, ("192.0.2.1", "http")),
        ("192.0.2.1", {"x_forwarded_for": "198.51.100.7", "x_forwarded_proto": "https"}, ("192.0.2.1", "http")),
        ("10.0.0.1", {}, ("10.0.0.1", "http")),
        ("10.0.0.1", {"x_forwarded_for": "198.51.100.7"}, ("198.51.100.7", "http")),
        ("::ffff:10.0.0.1", {"x_forwarded_for": "198.51.100.7"}, ("198.51.100.7", "http")),
        ("10.0.0.1", {"x_forwarded_for": "1.2.3.4, 198.51.100.7"}, ("198.51.100.7", "http")),
        ("10.0.0.1", {"x_forwarded_for": "1.2.3.4, 198.51.100.7, 10.0.0.9"}, ("198.51.100.7", "http")),
        ("10.0.0.1", {"x_forwarded_for": "10.0.0.3, 10.0.0.2"}, ("10.0.0.3", "http")),
        ("10.0.0.1", {"x_forwarded_for": "198.51.100.7:4711"}, ("198.51.100.7", "http")),
        ("10.0.0.1", {"x_forwarded_for": "[2001:db8::1]:4711"}, ("2001:db8::1", "http")),
        ("10.0.0.1", {"x_forwarded_for": "2001:db8::1"}, ("2001:db8::1", "http")),
        ("10.0.0.1", {"x_forwarded_for": "198.51.100.7, nonsense"}, ("10.0.0.1", "http")),
        ("10.0.0.1", {"x_forwarded_for": ""}, ("10.0.0.1", "http")),
        ("10.0.0.1", {"x_forwarded_for": "198.51.100.7", "x_forwarded_proto": "HTTPS"}, ("198.51.100.7", "https")),
        ("10.0.0.1", {"x_forwarded_proto": "http, https"}, ("10.0.0.1", "https")),
        ("10.0.0.1", {"x_forwarded_proto": "gopher"}, ("10.0.0.1", "http")),
        ("fd00::1", {"x_forwarded_for": "198.51.100.7"}, ("198.51.100.7", "http")),
        ("/run/socket", {"x_forwarded_for": "198.51.100.7"}, ("/run/socket", "http")),
    ],
)
def test_who_it_is(peer: str, headers: dict[str, str], expected: tuple[str, str]) -> None:
    """Only what trusted proxies appended counts, read from the end; what is not an address ends the reading."""
    assert origin(peer, **headers) == expected


@pytest.mark.parametrize(
    ("peer", "headers", "expected"),
    [
        ("10.0.0.1", {"forwarded": "for=198.51.100.7;proto=https;by=10.0.0.1"}, ("198.51.100.7", "https")),
        ("10.0.0.1", {"forwarded": 'For="[2001:db8::1]:4711"'}, ("2001:db8::1", "http")),
        ("10.0.0.1", {"forwarded": "for=1.2.3.4, for=198.51.100.7, for=10.0.0.2"}, ("198.51.100.7", "http")),
        ("10.0.0.1", {"forwarded": "for=198.51.100.7, for=unknown"}, ("10.0.0.1", "http")),
        ("10.0.0.1", {"forwarded": "for=_hidden"}, ("10.0.0.1", "http")),
        ("10.0.0.1", {}, ("10.0.0.1", "http")),
        ("192.0.2.1", {"forwarded": "for=198.51.100.7;proto=https"}, ("192.0.2.1", "http")),
    ],
)
def test_who_it_is_by_the_standard(peer: str, headers: dict[str, str], expected: tuple[str, str]) -> None:
    """The same in RFC 7239's words, where the proxies are said to speak them."""
    assert origin(peer, STANDARD, **headers) == expected


@pytest.mark.parametrize(("proxies", "expected"), [(OURS, "198.51.100.7"), (STANDARD, "203.0.113.9")])
def test_the_header_that_a_proxy_does_not_write_is_not_read(proxies: TrustedProxies, expected: str) -> None:
    """A proxy passes it on as the client has made it up, and would lend the client any address."""
    headers = {"x_forwarded_for": "198.51.100.7", "forwarded": "for=203.0.113.9", "x_forwarded_proto": "http"}
    assert origin("10.0.0.1", proxies, **headers) == (expected, "http")
    absent = {name: value for name, value in headers.items() if expected not in value}
    assert origin("10.0.0.1", proxies, **absent).address == "10.0.0.1"


def test_a_long_list_is_read_from_its_end_only() -> None:
    """A client that makes up a long list costs no time and gains nothing."""
    made_up = ", ".join(["10.0.0.2"] * 100_000)
    assert origin("10.0.0.1", x_forwarded_for=f"{made_up}, 198.51.100.7").address == "198.51.100.7"
    assert origin("10.0.0.1", x_forwarded_for="6.6.6.6, " + ", ".join(["10.0.0.2"] * MAX_HOPS)).address == "10.0.0.2"


@given(st.text(), st.text())
def test_whatever_the_headers_say(addresses: str, forwarded: str) -> None:
    """No header makes it fail, and somebody who is no proxy is never believed."""
    assert origin("10.0.0.1", x_forwarded_for=addresses).scheme == "http"
    assert origin("10.0.0.1", STANDARD, forwarded=forwarded).scheme in ("http", "https")
    for proxies in (OURS, STANDARD):
        assert origin("192.0.2.1", proxies, x_forwarded_for=addresses, forwarded=forwarded) == ("192.0.2.1", "http")


@pytest.mark.parametrize("networks", ["nonsense", "10.0.0.1/8", "10.0.0.0/8,,300.0.0.1"])
def test_what_is_no_network(networks: str) -> None:
    """A mistake in the setting is said at the start."""
    with pytest.raises(ConfigError, match="trusted_proxies"):
        TrustedProxies(networks)


def test_nobody_is_trusted_by_default() -> None:
    """Without the setting no header counts."""
    nobody = TrustedProxies()
    assert not nobody
    assert nobody.origin("127.0.0.1", "http", lambda _: "6.6.6.6") == ("127.0.0.1", "http")


@pytest.mark.parametrize(("trusted", "expected"), [("127.0.0.1", "198.51.100.7"), (None, "127.0.0.1:")])
async def test_a_websocket_behind_a_proxy(serve: Serve, trusted: str | None, expected: str) -> None:
    """The connection is the client's where the proxy is trusted, else the peer's."""
    server = await serve(trusted_proxies=trusted)
    headers = {"X-Forwarded-For": "6.6.6.6, 198.51.100.7", "Forwarded": "for=7.7.7.7", "X-Real-IP": "8.8.8.8"}
    async with connect(f"ws://127.0.0.1:{server.port}/ws", additional_headers=headers, ping_interval=None, proxy=None):
        (member,) = server.registry
        assert member.statistics().remote.startswith(expected)


async def test_an_application_behind_a_proxy() -> None:
    """ASGI applications see the client's address and scheme."""
    seen = []

    async def app(scope: object, receive: object, send: object) -> None:
        await asyncio.sleep(0)
        seen.append(scope)

    scope = {
        "type": "http",
        "client": ("10.0.0.1", 5),
        "scheme": "http",
        "headers": [
            (b"x-forwarded-for", b"6.6.6.6"),
            (b"x-forwarded-for", b"198.51.100.7"),
            (b"x-forwarded-proto", b"https"),
        ],
    }
    await BehindProxies(app, OURS)(scope, None, None)  # type: ignore[arg-type]
    await BehindProxies(app, TrustedProxies())(scope, None, None)  # type: ignore[arg-type]
    assert [(each["client"], each["scheme"]) for each in seen] == [
        (("198.51.100.7", 0), "https"),
        (("10.0.0.1", 5), "http"),
    ]
