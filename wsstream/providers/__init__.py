"""Where answers come from. A new provider is one file here and one line in `PROVIDERS`.

Each line is imported when it is first used: starting with one provider loads no other's SDK.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from wsstream.config import Config
from wsstream.errors import ConfigError
from wsstream.providers.base import Provider

PROVIDERS = {
    "demo": "wsstream.providers.demo:make",
    "openai": "wsstream.providers.openai:make",
}


def open_provider(name: str, config: Config) -> Provider:
    """The provider ``name``: a line of `PROVIDERS`, or ``module:attribute`` of anything that is importable.

    Raises:
        ConfigError: it cannot be found, or cannot be made from ``config``.
    """
    if name in PROVIDERS:
        provider: Provider = _attribute(PROVIDERS[name])(config)
        return provider
    if ":" not in name or name[0] in ":.":
        known = ", ".join(PROVIDERS)
        raise ConfigError(f"provider: {name!r} is not one of {known}, nor package.module:attribute")
    from wsstream.providers.callable import adapt

    return adapt(_attribute(name))


def _attribute(path: str) -> Any:
    module, _, attribute = path.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError, TypeError) as error:  # the last two where there is no module name
        raise ConfigError(f"provider: {path!r} cannot be imported: {error}") from error
