"""Who a request is from, when a proxy stands in between: only what a trusted proxy says of it counts.

Each proxy on the way appends the address that it was reached from. So the list is read from its end, past the addresses
of proxies that are trusted; the first other one is the client. What stands before it, the client may have made up.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from wsstream.errors import ConfigError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
GetHeader = Callable[[str], str | None]
"""The value of the header of that name, in lower case; several of one name joined by commas."""

MAX_HOPS = 32
"""Entries that are looked at, from the end: a longer list is not one of proxies."""

_FORWARDED_PAIR = re.compile(r'(?:^|;)\s*(for|proto)\s*=\s*("[^"]*"|[^;"\s]*)', re.IGNORECASE)


class Origin(NamedTuple):
    """Where a request comes from. ``address`` has no port."""

    address: str
    scheme: str


class TrustedProxies:
    """The networks whose word on their clients is taken."""

    def __init__(self, networks: str = "", *, header: str = "x-forwarded") -> None:
        """``networks`` are addresses and CIDRs, separated by commas; ``header`` is what they write: `x-forwarded` or
        `forwarded`. The other of these is passed on by most as a client has made it up, and is not looked at.

        Raises:
            ConfigError: one of them is neither.
        """
        self._is_standard = header == "forwarded"
        self._networks: list[Network] = [_network(part) for part in networks.split(",") if part.strip()]

    def __bool__(self) -> bool:
        return bool(self._networks)

    def trusts(self, address: str) -> bool:
        """Whether ``address`` is a proxy of ours."""
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
            parsed = parsed.ipv4_mapped
        return any(parsed in network for network in self._networks)

    def origin(self, peer: str, scheme: str, header: GetHeader) -> Origin:
        """The client behind ``peer``, the other end of the socket; ``scheme`` is the socket's own.

        That is read from `Forwarded` (RFC 7239), or from `X-Forwarded-For` and `X-Forwarded-Proto`, as was settled. A
        list that is not one of addresses is believed as far as it was read.
        """
        if not self._networks or not self.trusts(peer):
            return Origin(peer, scheme)
        if self._is_standard:
            hops = [_pairs(hop) for hop in _last_hops(header("forwarded") or "")]
            return self._walk(peer, scheme, [hop.get("for", "") for hop in hops], [hop.get("proto") for hop in hops])
        addresses = _last_hops(header("x-forwarded-for") or "")
        named = _last_hops(header("x-forwarded-proto") or "")
        return self._walk(peer, named[-1] if named else scheme, addresses, [])

    def _walk(self, peer: str, scheme: str, addresses: Sequence[str], schemes: Sequence[str | None]) -> Origin:
        for number in range(len(addresses) - 1, -1, -1):
            address = _bare(addresses[number])
            if address is None:
                break
            peer = address
            scheme = (schemes[number] if schemes else None) or scheme
            if not self.trusts(address):
                break
        return Origin(peer, scheme.lower() if scheme.lower() in ("http", "https") else "http")


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text.strip())
    except ValueError as error:
        raise ConfigError(f"trusted_proxies: {error}") from None


def _last_hops(value: str) -> list[str]:
    return [part.strip() for part in value.rsplit(",", MAX_HOPS)[-MAX_HOPS:]] if value else []


def _pairs(hop: str) -> dict[str, str]:
    return {name.lower(): value.strip('"') for name, value in _FORWARDED_PAIR.findall(hop)}


def _bare(text: str) -> str | None:
    """An address without port and brackets; None where it is none, as RFC 7239's `unknown` and `_hidden`."""
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None


class BehindProxies:
    """Tells an ASGI application the address and scheme of the client itself."""

    def __init__(self, app: ASGIApp, proxies: TrustedProxies) -> None:
        self._app = app
        self._proxies = proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._proxies and scope.get("client"):
            headers = Headers(scope=scope)
            peer, port = scope["client"]
            origin = self._proxies.origin(peer, scope["scheme"], lambda name: ",".join(headers.getlist(name)) or None)
            client = (origin.address, port if origin.address == peer else 0)
            scope = {**scope, "client": client, "scheme": origin.scheme}
        await self._app(scope, receive, send)
