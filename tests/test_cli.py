"""The command line: what it understands, what it says when it does not, and which setting wins."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.conftest import ROOT, Serve, Spawn, clean_environ
from tests.native import connected
from wsstream import __version__, cli
from wsstream.config import Config, Setting, settings

Started = Callable[..., Config]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    """Runs ``wsstream`` up to the moment at which it would serve; the configuration it would serve with."""
    for setting in settings():
        monkeypatch.delenv(setting.variable, raising=False)
    monkeypatch.delenv("WSSTREAM_CONFIG", raising=False)
    monkeypatch.setattr(cli, "_log_to_stderr", lambda config: contextlib.nullcontext())

    def start(*arguments: str) -> Config:
        served: list[Config] = []
        monkeypatch.setattr("wsstream.server.run", lambda config, announce: served.append(config))
        assert cli.main(arguments) == 0
        return served[0]

    return start


@pytest.fixture(autouse=True)
def _never_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that starts after all in this process would run for ever."""

    def started(_: object) -> None:
        raise AssertionError("it serves")

    monkeypatch.setattr(cli, "_announce", started)


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit status and the one line on stderr of a command that goes wrong."""
    try:
        status: Any = cli.main(arguments)
    except SystemExit as left:
        status = left.code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("wsstream: ")
    assert err.count("\n") == 1, err
    return status, err


# -- what goes wrong


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--no-such-flag"], "--no-such-flag"),
        (["--port", "many"], "--port"),
        (["--port", "65536"], "--port"),
        (["--port=-1"], "--port"),
        (["--port"], "--port"),
        (["--window", "0"], "--window"),
        (["--window", "1.5"], "--window"),
        (["--heartbeat-interval", "nan"], "--heartbeat-interval"),
        (["--heartbeat-interval", "-1"], "--heartbeat-interval"),
        (["--heartbeat-interval", "soon"], "--heartbeat-interval"),
        (["--log-level", "loud"], "--log-level"),
        (["--heartbeat-interval", "20", "--heartbeat-timeout", "30"], "heartbeat_timeout"),
        (["--window", "2000"], "window"),
        (["--adaptive-window=maybe"], "--adaptive-window"),
        (["--config", "/no/such/file.toml"], "/no/such/file.toml"),
        (["--provider", "gpt"], "'gpt'"),
        (["--provider", "no.such.module:thing"], "no.such.module"),
        (["--provider", "os:no_such_thing"], "no_such_thing"),
        (["--provider", ":thing"], "':thing'"),
        (["--provider", ".relative:thing"], "'.relative:thing'"),
        (["--provider", "os:"], "'os:'"),
        (["--provider", "os:sep"], "provider"),
        (["--provider", "openai"], "OPENAI_API_KEY"),
        (["--store", "tape:"], "'tape:'"),
        (["--por", "1"], "--por"),
        (["serve", "extra"], "extra"),
        (["dance"], "dance"),
        (["chat", "--no-such-flag"], "--no-such-flag"),
        (["bench", "--streams", "none"], "--streams"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_use_is_one_line_and_status_2(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str], named: str
) -> None:
    """It names what is wrong, and nothing is started."""
    monkeypatch.setattr(cli, "_log_to_stderr", lambda config: contextlib.nullcontext())
    status, line = said(capsys, *arguments)
    assert status == 2
    assert named in line


def takes_any_text(setting: Setting) -> bool:
    """Whether nothing is wrong with any text."""
    try:
        msgspec.convert("perhaps", setting.type, strict=False)
    except msgspec.ValidationError:
        return False
    return True


@pytest.mark.parametrize("setting", [s for s in settings() if not takes_any_text(s)], ids=lambda s: s.name)
def test_a_wrong_variable_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, setting: Setting
) -> None:
    """Whichever setting it is, the line names the variable that must be changed."""
    monkeypatch.setenv(setting.variable, "perhaps")
    status, line = said(capsys)
    assert status == 2
    assert line.startswith(f"wsstream: {setting.variable}: ")


@pytest.mark.parametrize("setting", settings(), ids=lambda s: s.name)
def test_a_wrong_value_in_the_file_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, setting: Setting
) -> None:
    """Whichever setting it is, the line names the file and the key."""
    file = tmp_path / "w.toml"
    file.write_text(f"{setting.name} = [1]\n")
    status, line = said(capsys, "--config", str(file))
    assert status == 2
    assert line.startswith(f"wsstream: {file}: {setting.name}: ")


def test_a_wrong_key_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A setting that there is not is a mistake, not a comment."""
    file = tmp_path / "w.toml"
    file.write_text("windwo = 5\n")
    assert said(capsys, "--config", str(file)) == (2, f"wsstream: {file}: windwo: there is no such setting\n")


def test_a_taken_port_is_one_line_and_status_1() -> None:
    """The line names host and port."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = run("--provider", "demo", "--port", str(port))
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr == f"wsstream: cannot listen on 127.0.0.1 port {port}: Address already in use\n"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "wsstream", *arguments],
        capture_output=True,
        text=True,
        timeout=10,
        cwd=ROOT,
        env={**clean_environ(), "WSSTREAM_STORE": "memory:"},
        check=False,
    )


# -- what is understood


def test_which_source_wins(started: Started, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Flags win over variables, variables over the file, the file over the default."""
    file = tmp_path / "w.toml"
    file.write_text("window = 11\nhigh_water = 600\nmodel = 'from the file'\n")
    assert started().window == 50
    assert started("--config", str(file)).window == 11
    monkeypatch.setenv("WSSTREAM_WINDOW", "22")
    monkeypatch.setenv("WSSTREAM_MODEL", "from the environment")
    config = started("--config", str(file))
    assert (config.window, config.model, config.high_water) == (22, "from the environment", 600)
    config = started("serve", "--config", str(file), "--window", "33")
    assert (config.window, config.model, config.high_water) == (33, "from the environment", 600)
    monkeypatch.setenv("WSSTREAM_CONFIG", str(file))
    assert started("--window", "44").high_water == 600


def test_switches_can_be_turned_off(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flag says no where the environment says yes."""
    assert started("--adaptive-window").adaptive_window is True
    monkeypatch.setenv("WSSTREAM_ADAPTIVE_WINDOW", "true")
    assert started().adaptive_window is True
    assert started("--no-adaptive-window").adaptive_window is False


def test_the_settings_reach_the_server(started: Started) -> None:
    """Numbers arrive as numbers."""
    config = started("--port", "0", "--heartbeat-interval", "2.5", "--provider", "a.b:c", "--host", "::1")
    assert (config.port, config.heartbeat_interval, config.provider, config.host) == (0, 2.5, "a.b:c", "::1")


@pytest.mark.parametrize("arguments", [["--help"], ["serve", "--help"], ["chat", "-h"], ["bench", "--help"]])
def test_help(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    """Every command explains itself on stdout."""
    with pytest.raises(SystemExit) as left:
        cli.main(arguments)
    assert left.value.code == 0
    assert capsys.readouterr().out.startswith("usage: wsstream")


def test_help_lists_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    """Each with its words and its default."""
    with pytest.raises(SystemExit):
        cli.main(["serve", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for setting in settings():
        assert setting.flag in text
        assert setting.description
        if setting.default is not None and not isinstance(setting.default, bool):
            assert f"{setting.description} (default {setting.default})" in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """``--version`` is one line."""
    with pytest.raises(SystemExit) as left:
        cli.main(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out == f"wsstream {__version__}\n"


# -- end to end


@pytest.mark.parametrize("closed", [[1], [2], [0, 1, 2]])
def test_a_closed_standard_stream_is_not_replaced_by_a_file_of_ours(tmp_path: Path, closed: list[int]) -> None:
    """Started without stdin, stdout or stderr, the log goes nowhere: not into the store that got their number."""
    store = tmp_path / "store.db"
    code = (
        f"import os; [os.close(n) for n in {closed}]\n"
        "from wsstream import cli\n"
        "def run(config, announce):\n"
        f"    assert os.open({str(store)!r}, os.O_CREAT | os.O_RDWR) > 2\n"
        "import wsstream.server; wsstream.server.run = run\n"
        "raise SystemExit(cli.main(['--port', '0']))\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=30).returncode == 0


def test_the_installed_command_finds_a_provider_in_the_working_directory(tmp_path: Path) -> None:
    """``wsstream --provider mymodule:shout`` means the same module as ``python -m wsstream`` does."""
    (tmp_path / "mymodule.py").write_text("async def shout(request):\n    yield 'x'\n", encoding="utf-8")
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "wsstream"
    command.write_text(
        "import sys, wsstream.server\n"
        "from wsstream.cli import main\n"
        "from wsstream.providers import open_provider\n"
        "wsstream.server.run = lambda config, announce: print(open_provider(config.provider, config))\n"
        "sys.exit(main(['--provider', 'mymodule:shout']))\n",
        encoding="utf-8",
    )
    environ = {**clean_environ(), "PYTHONPATH": str(ROOT)}
    run_it = [sys.executable, str(command)]
    done = subprocess.run(run_it, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, "CallableProvider" in done.stdout) == (0, True), done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_nobody_reads_where_the_server_is() -> None:
    """A stdout that takes nothing is no reason not to serve, nor to complain at the end."""
    code = "import types; from wsstream import cli; cli._announce(types.SimpleNamespace(url='http://x/'))"
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, check=False, timeout=30
        )
    assert (done.returncode, done.stderr) == (0, b"")


async def test_a_provider_of_one_s_own(spawn: Spawn) -> None:
    """``--provider module:attribute`` serves an async generator function."""
    server = await spawn("--provider", "tests.data.scripted:echo")
    async with connected(server) as native:
        answer = await native.read(await native.ask(message="one two three"))
    assert answer.text == "one two three "
    assert await server.logged("provider tests.data.scripted:echo")


@pytest.mark.parametrize(("attribute", "error_type"), [("failing", "content_filter"), ("buggy", "internal_error")])
async def test_a_provider_of_one_s_own_that_fails(spawn: Spawn, attribute: str, error_type: str) -> None:
    """Its failure ends its own stream, in our words; a mistake in it is logged for its author."""
    server = await spawn("--provider", f"tests.data.scripted:{attribute}")
    async with connected(server) as native:
        answer = await native.read(await native.ask())
        await native.round_trip()
    assert answer.end is not None
    assert answer.end["error_type"] == error_type
    assert "secret" not in str(native.seen)
    if attribute == "buggy":
        assert await server.logged("ZeroDivisionError")


async def test_a_key_chooses_openai(spawn: Spawn) -> None:
    """With OPENAI_API_KEY in the environment and no --provider, that is the provider; the key is not logged."""
    server = await spawn(environ={"OPENAI_API_KEY": "sk-not-a-real-key"})
    assert await server.logged("provider openai")
    assert "sk-not" not in server.log


async def test_an_unreachable_upstream(serve: Serve) -> None:
    """It ends the stream as a provider_error that may be tried again; the connection lives on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = await serve(provider="openai", base_url=f"http://127.0.0.1:{port}/v1", retries=0)
    async with connected(server) as native:
        answer = await native.read(await native.ask())
        await native.round_trip()
    assert answer.end is not None
    assert (answer.end["type"], answer.end["error_type"], answer.end["recoverable"]) == (
        "stream_error",
        "provider_error",
        True,
    )
    assert str(port) not in answer.end["message"]
