"""Where answers come from. A new provider is one file here and one line in `PROVIDERS`.

Each line is imported when it is first used: starting with one provider loads no other's SDK.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable

from wsstream.chunks import ChatRequest, Finish
from wsstream.config import Config, load_attribute
from wsstream.errors import ConfigError
from wsstream.providers.base import Provider, Sink
from wsstream.providers.names import SERVICES, Access, access

PROVIDERS = {
    "demo": "wsstream.providers.demo:make",
    **{name: service.speaks for name, service in SERVICES.items()},
}
"""Names, and the functions that make the providers from a configuration and the name."""


def open_provider(name: str, config: Config, *, later: bool = False) -> Provider:
    """The provider ``name``: a line of `PROVIDERS`, or ``module:attribute`` of anything that is importable.

    Importing an SDK takes a good part of a second. With ``later`` that is left to a thread, at the first answer:
    for a server that is already serving others.

    Raises:
        ConfigError: it cannot be found, or cannot be made from ``config``.
    """
    if name in PROVIDERS:
        return _open_named(name, config, later)
    if ":" not in name or name[0] in ":.":
        known = ", ".join(PROVIDERS)
        raise ConfigError(f"provider: {name!r} is not one of {known}, nor package.module:attribute")
    from wsstream.providers.callable import adapt

    return adapt(load_attribute(name, "provider"))


def offered(config: Config) -> dict[str, str | None]:
    """The names of `PROVIDERS` that this server is set up for, and the model each takes where none is named."""
    found: dict[str, str | None] = {"demo": "demo"}
    for name in SERVICES:
        with contextlib.suppress(ConfigError):  # its key is not set, or it is not installed
            found[name] = access(name, config, os.environ).model
    return found


def _open_named(name: str, config: Config, later: bool) -> Provider:
    to = access(name, config, os.environ) if name in SERVICES else None  # and sees what is wrong

    def make() -> Provider:
        provider: Provider = load_attribute(PROVIDERS[name], "provider")(config, name)
        return provider

    if later and PROVIDERS[name].partition(":")[0] not in sys.modules:
        return _Later(make, to)
    return make()


class _Later:
    """A provider that is made in a thread, when it is first asked."""

    def __init__(self, make: Callable[[], Provider], to: Access | None) -> None:
        self._make = make
        self._making: asyncio.Task[Provider] | None = None
        self._to = to
        self.continues = to is not None and to.prefill.style != "off"

    def suits(self, model: str | None) -> bool:
        """Whether it goes on behind a text of ``model``, None: of its own."""
        return self._to is not None and self._to.prefill.suits(model or self._to.model or "")

    async def answer(self, request: ChatRequest, sink: Sink) -> Finish:
        """Answer as what was made."""
        if self._making is None:
            self._making = asyncio.get_running_loop().create_task(asyncio.to_thread(self._make))
        provider = await asyncio.shield(self._making)  # others may wait for it, too
        return await provider.answer(request, sink)

    async def close(self) -> None:
        """Close what was made."""
        if self._making is not None:
            await asyncio.wait([self._making])
            if self._making.exception() is None:
                await self._making.result().close()
