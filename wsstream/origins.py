"""Which pages may speak to the server: a browser says who has sent it, and a page may not make that up.

A server that asks nobody who they are, behind a firewall or on one's own machine, is still reached by every page that a
browser there opens. So pages are checked whether or not anybody else is.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping

from wsstream.errors import ConfigError, Forbidden

_ORIGIN = re.compile(r"(https?://)([a-z0-9.-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")
_HOST = re.compile(r"(?:\[([^\[\]]*)\]|([^:\[\]]*))(?::[0-9]*)?")
"""Of RFC 9110, 7.2. What is behind a bracket, or a colon, must not be taken for nothing."""
_OWN_NAME = re.compile(r"(?:[a-z0-9.-]+\.)?(?:localhost|local|internal)|[a-z0-9_-]+")
"""What no public name server gives an address to: reserved names (RFC 6761, RFC 6762, .internal), and single words."""


class Origins:
    """The server's own pages, and those that are listed."""

    def __init__(
        self,
        allowed: str | None = None,
        *,
        names_checked: bool = False,
        names: str | None = None,
        setting: str = "allowed_origins",
    ) -> None:
        """The pages that may connect.

        Args:
            allowed: origins as browsers write them, ``https://chat.example``, separated by commas.
            names_checked: whether the server must be called by an address, a name that only a network of one's own has,
                or a listed one: else a page could give its own name our address (DNS rebinding), and pass for one of
                ours.
            names: others by which it may be called then, separated by commas; their pages gain nothing.
            setting: where the operator can list a name that was refused.

        Raises:
            ConfigError: one could never be the origin of a page.
        """
        self.listed = frozenset(part.strip() for part in (allowed or "").split(",") if part.strip())
        for origin in self.listed:
            if not _ORIGIN.fullmatch(origin):
                raise ConfigError(f"allowed_origins: {origin!r} is not of the form https://name or https://name:port")
        self._names_checked = names_checked
        self._setting = "--" + setting.replace("_", "-")
        self._names = {_name(origin.partition("://")[2]) for origin in self.listed}
        self._names |= {part.strip().lower() for part in (names or "").split(",") if part.strip()}

    def check_host(self, headers: Mapping[str, str]) -> None:
        """See that the server was called by a name of its own, by whomever: a page that reads what it takes for its own
        site names no origin.

        Raises:
            Forbidden: it was not.
        """
        if not self._names_checked or not ("host" in headers or "origin" in headers):
            return
        name = _name(headers.get("host", "").lower())
        if not self._is_ours(name):
            raise Forbidden(f"This server does not go by the name {name[:100]!r}; {self._setting} can list it")

    def _is_ours(self, name: str) -> bool:
        if name in self._names or _OWN_NAME.fullmatch(name):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def check(self, headers: Mapping[str, str]) -> None:
        """See that the page, if one has sent this request, may. Nothing is forgiven: no case, dot, port or suffix.

        Raises:
            Forbidden: it may not.
        """
        origin = headers.get("origin")
        if origin is not None and not self.is_allowed(origin, headers.get("host")):
            raise Forbidden("This page may not speak to this server")

    def is_allowed(self, origin: str, host: str | None) -> bool:
        """Whether a page of ``origin`` may speak to the server that it calls ``host``."""
        return origin in self.listed or (bool(host) and origin in (f"http://{host}", f"https://{host}"))


def _name(host: str) -> str:
    """A host without its port and brackets; as it is, where it is not of that form."""
    found = _HOST.fullmatch(host)
    return host if found is None else found[1] or found[2]
