"""What an application asks, in any form that it is convenient to give, as the protocol has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from wsstream import errors
from wsstream import messages as m
from wsstream.chunks import ChatMessage

Prompt = str | Sequence[ChatMessage | Mapping[str, Any]]


def to_messages(prompt: Prompt) -> str | list[ChatMessage]:
    """As the request has it."""
    if isinstance(prompt, str):
        return prompt
    return msgspec.convert([msgspec.to_builtins(message) for message in prompt], list[ChatMessage])


def to_config(config: m.ChatConfig | Mapping[str, Any] | None, model: str | None) -> m.ChatConfig | None:
    """The request's settings.

    Raises:
        BadRequest: a setting is of the wrong type.
    """
    if config is None or isinstance(config, Mapping):
        try:
            config = msgspec.convert(dict(config or {}), m.ChatConfig)
        except msgspec.ValidationError as error:
            raise errors.BadRequest(f"config: {error}") from None
    if model is not None:
        config = msgspec.structs.replace(config, model=model)
    return None if config == m.ChatConfig() else config
