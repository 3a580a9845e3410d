"""The table of services: each name leads where it should, with its own key, and no further than the operator says."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import pytest

from wsstream.config import Config
from wsstream.errors import BadRequest, ConfigError
from wsstream.providers import PROVIDERS, _Later, open_provider
from wsstream.providers.names import SERVICES, STYLES, Access, Prefill, Service, access, parse_prefill
from wsstream.server import Server
from wsstream.testing.sinks import ListSink, ask
from wsstream.testing.upstream import Load, Upstream, serving


@pytest.mark.parametrize("name", [name for name, service in SERVICES.items() if service.key])
def test_a_name_and_its_key_are_enough(name: str) -> None:
    """A service is asked where the table says, with the key of its own variable."""
    service = SERVICES[name]
    found = access(name, Config(provider=name), {str(service.key): " k "})
    assert (found.url, found.key, found.model, found.prefill.style) == (
        service.url,
        "k",
        service.model,
        service.prefill,
    )


@pytest.mark.parametrize("name", [name for name, service in SERVICES.items() if not service.is_near])
def test_without_a_key_it_is_refused(name: str) -> None:
    """A service that wants a key is refused without, with the variable's name."""
    with pytest.raises(ConfigError, match=f"provider {name}: set {SERVICES[name].key}"):
        access(name, Config(provider=name), {})


@pytest.mark.parametrize("name", [name for name, service in SERVICES.items() if service.is_near])
def test_what_is_near_needs_no_key(name: str) -> None:
    """A server on this machine needs no key, and takes its own first model; but the operator has to name it."""
    found = access(name, Config(provider=name), {})
    assert (found.url, found.key, found.model) == (SERVICES[name].url, "none", None)
    assert access(name, Config(provider="demo", fallback=f"demo {name}:llama3.2:3b"), {}).url == SERVICES[name].url
    with pytest.raises(ConfigError, match=f"--provider, or set {name.upper()}_BASE_URL"):
        access(name, Config(provider="demo"), {})
    assert access(name, Config(), {f"{name.upper()}_BASE_URL": "http://there/v1"}).url == "http://there/v1"


def test_settings_are_about_the_provider_they_stand_beside() -> None:
    """A base URL and a style are for the configured provider: no other's key is ever sent there."""
    config = Config(provider="groq", base_url="http://here/v1", prefill="off")
    environ = {"GROQ_API_KEY": "g", "OPENAI_API_KEY": "o", "MISTRAL_API_KEY": "m"}
    assert access("groq", config, environ).url == "http://here/v1"
    assert access("groq", config, environ).prefill.style == "off"
    assert access("openai", config, environ).url == SERVICES["openai"].url
    assert access("mistral", config, environ).prefill.style == "prefix"
    unnamed = Config(base_url="http://here/v1")
    assert access("openai", unnamed, environ).url == "http://here/v1"
    assert access("openai-responses", unnamed, environ).url == SERVICES["openai"].url


@pytest.mark.parametrize("key", ["two\nlines", "a\x00b", "schlüssel"])
def test_a_key_that_cannot_be_one(key: str) -> None:
    """A key that would break a header is refused at the start, and not repeated."""
    with pytest.raises(ConfigError, match="OPENAI_API_KEY holds characters") as raised:
        access("openai", Config(), {"OPENAI_API_KEY": key})
    assert key not in str(raised.value)


def test_an_sdk_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing is named with the command that installs it."""
    monkeypatch.setattr("wsstream.providers.names.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'wsstream\[anthropic\]'"):
        access("anthropic", Config(), {"ANTHROPIC_API_KEY": "k"})


@pytest.mark.parametrize("style", STYLES)
def test_styles_are_read(style: str) -> None:
    """A style may be for some models only."""
    assert parse_prefill(style, Service("u")) == Prefill(style, ("*",))
    some = parse_prefill(f"{style}:claude-*-4-5*,old", Service("u"))
    assert some.suits("claude-sonnet-4-5-20250929") is (style != "off")
    assert some.suits("old") is (style != "off")
    assert not some.suits("claude-opus-5")


def test_another_style_is_refused() -> None:
    """A style that there is not is a setting that is wrong."""
    with pytest.raises(ConfigError, match="--prefill: 'magic' is not auto, off, assistant, prefix, vllm"):
        parse_prefill("magic", Service("u"))
    assert parse_prefill("auto", Service("u", prefill="vllm")).style == "vllm"


def test_every_name_speaks_something_that_is_there() -> None:
    """Each line's function is found, and each style is one."""
    for name, service in SERVICES.items():
        assert PROVIDERS[name] == service.speaks
        assert service.prefill in STYLES


# -- when SDKs are imported


def test_checking_a_name_imports_no_sdk() -> None:
    """Whether a provider can be made is known before its SDK is loaded; opened for later, it is still not."""
    code = (
        "import os, sys\n"
        "os.environ['ANTHROPIC_API_KEY'] = os.environ['GROQ_API_KEY'] = 'k'\n"
        "import wsstream.server, wsstream.providers as p\n"
        "p.open_provider('demo', p.Config())\n"
        "for name in ('anthropic', 'groq'):\n"
        "    p.open_provider(name, p.Config(), later=True)\n"
        "print(sorted({'openai', 'anthropic', 'httpx2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


async def test_a_provider_for_later_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is made at the first answer, in a thread, is made once, for all who ask at once, and closed with it."""
    upstream = Upstream(serving(Load(rate=0, tokens=3)))
    await upstream.start()
    monkeypatch.setenv("GROQ_API_KEY", "k")
    monkeypatch.setenv("GROQ_BASE_URL", upstream.url)
    made: list[Any] = []

    def make() -> Any:
        provider = open_provider("groq", Config())
        made.append(provider)
        return provider

    later = _Later(make, Access("n", "u", "k", "m", Prefill("assistant", ("m",))))
    assert (later.continues, later.suits(None), _Later(make, None).suits("m")) == (True, True, False)
    await later.close()
    sinks = [ListSink() for _ in range(5)]
    first = asyncio.create_task(later.answer(ask(model="fake"), ListSink()))
    await asyncio.sleep(0)
    first.cancel()  # others wait for the same
    await asyncio.gather(*(later.answer(ask(model="fake"), sink) for sink in sinks))
    assert {sink.text for sink in sinks} == {"w0 w1 w2 "}
    assert len(made) == 1
    assert later.continues
    assert made[0].continues
    await later.close()
    await upstream.close()


async def test_a_client_cannot_have_what_is_not_set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request may name a service whose key is there, and no other."""
    monkeypatch.setenv("GROQ_API_KEY", "k")
    monkeypatch.delenv("MISTRAL_API_KEY", raising=False)
    server = Server(Config(store="memory:", provider="demo"))
    assert server.assembly.provider("groq")
    for name in ("mistral", "ollama"):
        with pytest.raises(BadRequest, match="not set up"):
            server.assembly.provider(name)


@pytest.mark.parametrize(
    "address", ["nonsense", "127.0.0.1:8000/v1", "ftp://x/", "http://", "http://[::1", "http://x:99999/"]
)
def test_an_address_that_is_none_is_refused_at_the_start(address: str) -> None:
    """Not when somebody asks and is told that the provider cannot be reached."""
    with pytest.raises(ConfigError, match="is not an HTTP address"):
        access("openai", Config(base_url=address), {})
