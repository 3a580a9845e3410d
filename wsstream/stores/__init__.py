"""Where logs live. A new store is one file here and one line in `STORES`."""

from __future__ import annotations

from importlib import import_module

from wsstream.errors import ConfigError
from wsstream.stores.base import Store

STORES = {
    "memory": "wsstream.stores.memory:make",
    "sqlite": "wsstream.stores.sqlite:make",
}


def open_store(url: str, durability: str = "process") -> Store:
    """The store that ``url`` names: its scheme picks the line in `STORES`, the rest is for the store to read.

    Raises:
        ConfigError: no such store, or its rest makes no sense.
    """
    scheme, colon, rest = url.partition(":")
    target = STORES.get(scheme)
    if target is None or not colon:
        raise ConfigError(f"store: {url!r} is not one of " + ", ".join(f"{name}:" for name in STORES))
    module, _, attribute = target.partition(":")
    store: Store = getattr(import_module(module), attribute)(rest, durability)
    return store
