"""The adapters against a server that nobody here wrote: a LiteLLM proxy, in a virtual environment of its own.

It answers by itself (``mock``) and for the fake upstream (``bridge``), in its own words for each of the three APIs.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from wsstream.chunks import Delta, Kind
from wsstream.errors import ProviderError
from wsstream.providers.anthropic import AnthropicProvider
from wsstream.providers.openai import OpenAIProvider
from wsstream.providers.responses import ResponsesProvider
from wsstream.testing.sinks import ListSink, ask

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

TEXT = "Hello from a server that nobody here wrote, in a few words."
CONFIG = """
model_list:
  - {{model_name: mock, litellm_params: {{model: openai/mock, api_key: none, mock_response: "{text}"}}}}
  - {{model_name: bridge, litellm_params: {{model: hosted_vllm/fake, api_key: none, api_base: "{url}"}}}}
  - {{model_name: tools, litellm_params: {{model: "hosted_vllm/fake:fault=tools", api_key: none, api_base: "{url}"}}}}
"""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _install(place: Path) -> Path:
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    command = [str(place / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", "litellm[proxy]"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    if done.returncode:
        pytest.skip(f"litellm[proxy] does not install here: {(done.stderr.strip() or '?').splitlines()[-1]}")
    return place / "bin" / "litellm"


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except OSError:
            time.sleep(0.5)
    pytest.skip(f"the LiteLLM proxy does not start here: {log.read_text()[-300:]}")


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running proxy."""
    place = tmp_path_factory.mktemp("litellm")
    command = _install(place / "venv")
    ports = _free_port(), _free_port()
    config = place / "config.yaml"
    config.write_text(CONFIG.format(text=TEXT, url=f"http://127.0.0.1:{ports[0]}/v1"))
    # It fetches a price list from the network and refuses to go without a master key, unless told otherwise.
    environ = {
        **os.environ,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
    }
    fake = [sys.executable, "-m", "wsstream.testing.upstream", "--rate", "100", "--tokens", "5"]
    log = place / "log"
    with (
        log.open("wb") as out,
        subprocess.Popen([*fake, "--port", str(ports[0])], stdout=out, stderr=out) as upstream,
        subprocess.Popen(
            [str(command), "--config", str(config), "--host", "127.0.0.1", "--port", str(ports[1])],
            stdout=out,
            stderr=out,
            env=environ,
            cwd=place,
        ) as server,
    ):
        try:
            _wait_for(f"http://127.0.0.1:{ports[1]}/health/liveliness", server, log)
            yield f"http://127.0.0.1:{ports[1]}"
        finally:
            server.terminate()
            upstream.terminate()


ADAPTERS: list[Callable[[str], Any]] = [
    lambda root: OpenAIProvider("k", root + "/v1"),
    lambda root: ResponsesProvider("k", root + "/v1"),
    lambda root: AnthropicProvider("k", root),
]


async def test_its_own_words(proxy: str) -> None:
    """What the proxy says by itself arrives in pieces, with an end and the tokens."""
    provider = ADAPTERS[0](proxy)
    sink = ListSink()
    finish = await provider.answer(ask(model="mock"), sink)
    assert (sink.text, finish.reason) == (TEXT, "stop")
    assert len(sink.deltas) > 3
    assert finish.usage is not None
    assert finish.usage.output_tokens > 0
    await provider.close()


@pytest.mark.parametrize("make", ADAPTERS, ids=["chat", "responses", "messages"])
async def test_every_api_of_it(proxy: str, make: Callable[[str], Any]) -> None:
    """Text and tokens arrive by each of its APIs."""
    provider = make(proxy)
    sink = ListSink()
    finish = await provider.answer(ask(model="bridge"), sink)
    assert (sink.text, finish.reason) == ("w0 w1 w2 w3 w4 ", "stop")
    assert finish.usage is not None
    assert (finish.usage.input_tokens, finish.usage.output_tokens) == (3, 2)
    await provider.close()


@pytest.mark.parametrize("make", ADAPTERS, ids=["chat", "responses", "messages"])
async def test_calls_of_tools_by_every_api_of_it(proxy: str, make: Callable[[str], Any]) -> None:
    """Calls of tools arrive as the same lines by each of its APIs."""
    provider = make(proxy)
    sink = ListSink()
    finish = await provider.answer(ask(model="tools"), sink)
    assert finish.reason == "tool_calls"
    assert sink.deltas[0] == Delta('{"index":0,"id":"call_1","name":"get_weather"}\n', Kind.TOOL_CALL)
    assert sink.deltas[1] == Delta('{"index":0,"arguments":"{\\"ci"}\n', Kind.TOOL_CALL)
    assert len(sink.deltas) == 8
    await provider.close()


@pytest.mark.parametrize("make", ADAPTERS, ids=["chat", "responses", "messages"])
async def test_a_model_that_it_does_not_have(proxy: str, make: Callable[[str], Any]) -> None:
    """Its refusals are refusals by each of its APIs."""
    provider = make(proxy)
    with pytest.raises(ProviderError) as raised:
        await provider.answer(ask(model="nothing"), ListSink())
    assert not raised.value.recoverable
    await provider.close()
