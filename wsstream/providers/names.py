"""The services that are known by name: where each is, whose key it takes, and what it speaks.

Nothing here imports an SDK: what is wrong with the settings of a provider is known before one is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from importlib.util import find_spec
from urllib.parse import urlsplit

import msgspec

from wsstream.config import Config
from wsstream.errors import ConfigError

CHAT = "wsstream.providers.openai:make"
RESPONSES = "wsstream.providers.responses:make"
MESSAGES = "wsstream.providers.anthropic:make"
SDKS = {CHAT: "openai", RESPONSES: "openai", MESSAGES: "anthropic"}

STYLES = ("off", "assistant", "prefix", "vllm")
"""How a model is given its answer so far, to go on behind it: not at all, as a last message of the assistant, as one
that is marked ``prefix``, or as one with vLLM's own parameters."""


class Service(msgspec.Struct, frozen=True):
    """One line of the table. ``key`` is the variable that holds its key."""

    url: str
    key: str | None = None
    model: str | None = None
    """The model where nobody names one; without it, the first that the service lists."""
    prefill: str = "off"
    speaks: str = CHAT

    @property
    def is_near(self) -> bool:
        """Whether it is on this machine, and so may need no key."""
        return self.url.startswith("http://127.0.0.1:")


SERVICES = {
    "openai": Service("https://api.openai.com/v1", "OPENAI_API_KEY", "gpt-5.4-mini"),
    "openai-responses": Service("https://api.openai.com/v1", "OPENAI_API_KEY", "gpt-5.4-mini", speaks=RESPONSES),
    "anthropic": Service("https://api.anthropic.com", "ANTHROPIC_API_KEY", "claude-haiku-5-5", speaks=MESSAGES),
    "cerebras": Service("https://api.cerebras.ai/v1", "CEREBRAS_API_KEY"),
    "deepinfra": Service("https://api.deepinfra.com/v1/openai", "DEEPINFRA_API_KEY"),
    "deepseek": Service("https://api.deepseek.com/v1", "DEEPSEEK_API_KEY", "deepseek-chat"),
    "fireworks": Service("https://api.fireworks.ai/inference/v1", "FIREWORKS_API_KEY"),
    "gemini": Service(
        "https://generativelanguage.googleapis.com/v1beta/openai", "GEMINI_API_KEY", "gemini-flash-latest"
    ),
    "groq": Service("https://api.groq.com/openai/v1", "GROQ_API_KEY", "openai/gpt-oss-20b", "assistant"),
    "huggingface": Service("https://router.huggingface.co/v1", "HF_TOKEN"),
    "mistral": Service("https://api.mistral.ai/v1", "MISTRAL_API_KEY", "mistral-small-latest", "prefix"),
    "moonshot": Service("https://api.moonshot.ai/v1", "MOONSHOT_API_KEY"),
    "nvidia": Service("https://integrate.api.nvidia.com/v1", "NVIDIA_API_KEY"),
    "openrouter": Service("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY", "openrouter/auto", "assistant"),
    "perplexity": Service("https://api.perplexity.ai", "PERPLEXITY_API_KEY", "sonar"),
    "together": Service("https://api.together.xyz/v1", "TOGETHER_API_KEY"),
    "xai": Service("https://api.x.ai/v1", "XAI_API_KEY"),
    "litellm": Service("http://127.0.0.1:4000/v1", "LITELLM_API_KEY"),
    "llamacpp": Service("http://127.0.0.1:8080/v1", prefill="assistant"),
    "lmstudio": Service("http://127.0.0.1:1234/v1"),
    "ollama": Service("http://127.0.0.1:11434/v1"),
    "sglang": Service("http://127.0.0.1:30000/v1"),
    "vllm": Service("http://127.0.0.1:8000/v1", prefill="vllm"),
}


class Prefill(msgspec.Struct, frozen=True):
    """How answers are continued, and of which models (patterns of names)."""

    style: str = "off"
    models: tuple[str, ...] = ("*",)

    def suits(self, model: str) -> bool:
        """Whether ``model`` can be given the answer so far."""
        return self.style != "off" and any(fnmatchcase(model, pattern) for pattern in self.models)


class Access(msgspec.Struct, frozen=True):
    """What an adapter needs to ask one service."""

    name: str
    url: str
    key: str
    model: str | None = None
    prefill: Prefill = Prefill()


def access(name: str, config: Config, environ: Mapping[str, str]) -> Access:
    """How to ask the service ``name``.

    ``base_url`` and ``prefill`` of the configuration are about the provider that it names, or ``openai``; any other is
    where the table or its own variable (``GROQ_BASE_URL``) says.

    Raises:
        ConfigError: its key is missing, its SDK is not installed, or a setting is wrong.
    """
    service = SERVICES[name]
    sdk = SDKS[service.speaks]
    chosen = name == (config.provider if config.provider in SERVICES else "openai")
    variable = f"{name.partition('-')[0].upper()}_BASE_URL"
    url = (config.base_url if chosen else None) or environ.get(variable)
    key = (environ.get(service.key) or "").strip() if service.key else ""
    if not (key or url or (service.is_near and name in _named(config))):
        raise ConfigError(f"provider {name}: {_what_to_set(service, variable)}")
    if url and not _is_address(url):
        raise ConfigError(f"provider {name}: {url!r} is not an HTTP address such as http://127.0.0.1:8000/v1")
    if not key.isascii() or not key.isprintable():
        raise ConfigError(f"provider {name}: {service.key} holds characters that no key has")
    if find_spec(sdk) is None:
        raise ConfigError(f"provider {name}: it needs the package {sdk}: pip install 'wsstream[{sdk}]'")
    prefill = parse_prefill(config.prefill if chosen else "auto", service)
    model = service.model if key else None  # who needs no key has models of its own
    return Access(name, url or service.url, key or "none", model, prefill)


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _named(config: Config) -> set[str | None]:
    """The providers that the operator has named; a client's word opens no port of this machine."""
    return {config.provider, *(entry.partition(":")[0] for entry in (config.fallback or "").split())}


def _what_to_set(service: Service, variable: str) -> str:
    if service.is_near:
        return f"name it with --provider, or set {variable}"
    return f"set {service.key}, or --base-url to a server that needs no key"


def parse_prefill(text: str, service: Service) -> Prefill:
    """Read ``auto``, or ``STYLE`` or ``STYLE:PATTERN,PATTERN…``.

    Raises:
        ConfigError: there is no such style.
    """
    if text == "auto":
        return Prefill(service.prefill)
    style, _, models = text.partition(":")
    if style not in STYLES:
        raise ConfigError(f"--prefill: {style!r} is not auto, {', '.join(STYLES)}")
    return Prefill(style, tuple(models.split(",")) if models else ("*",))
