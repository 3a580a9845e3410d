"""The configuration: where each setting comes from, and what is said about a wrong one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from wsstream.config import Config, Setting, load_attribute, load_config, settings, unknown_variables
from wsstream.errors import ConfigError
from wsstream.protocol import ServerSettings


def _file(tmp_path: Path, text: str | bytes) -> str:
    path = tmp_path / "wsstream.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def test_nothing_given_means_the_defaults() -> None:
    """Without flags, variables or a file the configuration is that of the class."""
    assert load_config({}, {}) == Config()


def test_order_of_the_sources(tmp_path: Path) -> None:
    """Flags win over variables, variables over the file, the file over the default."""
    file = _file(tmp_path, "port = 1\nmax_streams = 1\nlisteners = 1\n")
    environ = {"WSSTREAM_PORT": "2", "WSSTREAM_MAX_STREAMS": "2"}
    config = load_config({"port": "3"}, environ, file)
    assert (config.port, config.max_streams, config.listeners, config.window) == (3, 2, 1, 50)


def test_a_flag_that_was_not_given_changes_nothing() -> None:
    """None stands for a flag that was left out, so the variable counts."""
    assert load_config({"port": None}, {"WSSTREAM_PORT": "9"}).port == 9


def test_an_empty_variable_counts_as_unset() -> None:
    """A variable without a value does not hide the default."""
    assert load_config({}, {"WSSTREAM_PORT": ""}).port == Config().port


def test_foreign_variables_are_left_alone() -> None:
    """Variables without the prefix, or of no setting, change nothing and are no error."""
    assert load_config({}, {"PORT": "1", "WSSTREAM_CONFIG": "x", "WSSTREAM_NOPE": "1"}) == Config()


def test_a_kubernetes_service_called_wsstream_does_not_stop_the_server() -> None:
    """Kubernetes sets WSSTREAM_PORT in every pod beside such a service, to an address: that is nobody's setting."""
    assert load_config({}, {"WSSTREAM_PORT": "tcp://10.0.0.7:8765"}) == Config()


def test_a_misspelt_variable_is_found() -> None:
    """What begins as a variable of ours and is none is named; settings, secrets and Kubernetes' own are not."""
    ours = {"WSSTREAM_PORT": "1", "WSSTREAM_CONFIG": "x", "WSSTREAM_TOKENS": "x", "WSSTREAM_JWT_KEY": "x"}
    foreign = {"PORT": "1", "WSSTREAM_SERVICE_HOST": "x", "WSSTREAM_PORT_8765_TCP_ADDR": "x"}
    assert unknown_variables({**ours, **foreign, "WSSTREAM_PRT": "1"}) == ["WSSTREAM_PRT"]


def test_a_wrong_value_is_described_once() -> None:
    """The message names where it comes from, what was expected and what was given; of a choice, all there is."""
    for source, said in (
        ({"WSSTREAM_PORT": "x"}, "WSSTREAM_PORT: Expected `int`, got 'x'"),
        ({"WSSTREAM_LOG_FORMAT": "xml"}, "WSSTREAM_LOG_FORMAT: Expected one of text, json, got 'xml'"),
    ):
        with pytest.raises(ConfigError) as raised:
            load_config({}, source)
        assert str(raised.value) == said


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def broken(:", "SyntaxError: invalid syntax"),
        ("raise RuntimeError('no key')", r"RuntimeError: no key \(plug_in_.*\.py, line 1\)"),
        ("import sys; sys.exit(5)", "SystemExit: 5"),
        ("import no_such_module", "No module named 'no_such_module'"),
        ("", "has no attribute 'thing'"),
    ],
)
def test_a_plug_in_that_cannot_be_imported_is_a_config_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, said: str
) -> None:
    """Whatever a module does when it is imported, the operator gets one line that names it and says what happened."""
    name = f"plug_in_{abs(hash(source))}"
    (tmp_path / f"{name}.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=f"provider: '{name}:thing' cannot be imported: .*{said}"):
        load_attribute(f"{name}:thing", "provider")


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("port", "0", 0),
        ("heartbeat_interval", "2.5", 2.5),
        ("heartbeat_interval", "2", 2.0),
        ("adaptive_window", "true", True),
        ("adaptive_window", "1", True),
        ("adaptive_window", "false", False),
        ("adaptive_window", "0", False),
        ("model", "null", "null"),
        ("model", "5", "5"),
        ("log_level", "debug", "debug"),
    ],
)
def test_text_becomes_the_setting_s_type(name: str, text: str, value: Any) -> None:
    """Variables and flags are text, and are read as what the setting holds."""
    for config in (load_config({name: text}, {}), load_config({}, {"WSSTREAM_" + name.upper(): text})):
        got = getattr(config, name)
        assert (got, type(got)) == (value, type(value))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("port", "x"),
        ("port", "-1"),
        ("port", "65536"),
        ("port", "1.5"),
        ("window", "0"),
        ("heartbeat_interval", "0"),
        ("heartbeat_interval", "-1"),
        ("heartbeat_interval", "nan"),
        ("heartbeat_interval", "inf"),
        ("heartbeat_interval", "86401"),
        ("adaptive_window", "yes"),
        ("log_level", "loud"),
        ("listeners", "0"),
        ("drain_timeout", "0"),
        ("max_name_chars", "63"),
        ("max_name_chars", "129"),
        ("max_title_chars", "201"),
        ("max_history_messages", "99"),
        ("max_history_messages", "1001"),
        ("max_history_bytes", "262145"),
        ("max_user_chars", "257"),
        ("max_token_chars", "63"),
        ("max_delta_chars", "16385"),
        ("max_history_questions", "0"),
        ("max_writers", "1001"),
    ],
)
def test_a_wrong_value_names_where_it_stands(name: str, text: str, tmp_path: Path) -> None:
    """The error names the flag, variable or key, and the value that is wrong."""
    flag, variable = "--" + name.replace("_", "-"), "WSSTREAM_" + name.upper()
    file = _file(tmp_path, f'{name} = "{text}"\n')
    for where, sources in {
        flag: ({name: text}, {}, None),
        variable: ({}, {variable: text}, None),
        f"{file}: {name}": ({}, {}, file),
    }.items():
        with pytest.raises(ConfigError) as caught:
            load_config(*sources)  # type: ignore[arg-type]
        assert str(caught.value).startswith(f"{where}: ")
        assert repr(text) in str(caught.value)


def test_a_value_overridden_by_a_stronger_source_is_still_checked(tmp_path: Path) -> None:
    """A mistake in the file is told even where a flag would hide it."""
    with pytest.raises(ConfigError, match="port"):
        load_config({"port": 1}, {}, _file(tmp_path, "port = true\n"))


def test_toml_s_own_nan_is_refused(tmp_path: Path) -> None:
    """TOML can write a number that is none; no setting takes it."""
    with pytest.raises(ConfigError, match="heartbeat_interval"):
        load_config({}, {}, _file(tmp_path, "heartbeat_interval = nan\n"))


@pytest.mark.parametrize("text", ["prot = 1\n", "[server]\nport = 1\n"])
def test_an_unknown_key_is_refused(text: str, tmp_path: Path) -> None:
    """A key that is no setting, a table included, is a mistake and not ignored."""
    with pytest.raises(ConfigError, match=r"(prot|server): there is no such setting"):
        load_config({}, {}, _file(tmp_path, text))


def test_a_missing_file_is_told_in_one_line(tmp_path: Path) -> None:
    """A file that is not there is named, with the system's reason."""
    path = str(tmp_path / "none.toml")
    with pytest.raises(ConfigError) as caught:
        load_config({}, {}, path)
    assert str(caught.value) == f"--config: {path}: No such file or directory"


@pytest.mark.parametrize("text", [b"port = ", b"\xff\xfe", b"port = 1\nport = 2\n"])
def test_a_file_that_is_not_toml_is_told(text: bytes, tmp_path: Path) -> None:
    """A file that cannot be read as TOML in UTF-8 is named."""
    path = _file(tmp_path, text)
    with pytest.raises(ConfigError, match=re.escape(f"--config: {path}: ")):
        load_config({}, {}, path)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"heartbeat_interval": 10.0, "heartbeat_timeout": 19.9}, "heartbeat_timeout must be at least twice"),
        ({"low_water": 11, "high_water": 10}, "low_water must not be above high_water"),
        ({"window": 11, "max_window": 10}, "window must not be above max_window"),
        ({"window_bytes": 11, "max_window_bytes": 10}, "window_bytes must not be above max_window_bytes"),
    ],
)
def test_fields_that_contradict_each_other(values: dict[str, Any], said: str) -> None:
    """Two settings that make no sense together are refused, from any source."""
    with pytest.raises(ConfigError, match=said):
        Config(**values)
    with pytest.raises(ConfigError, match=said):
        load_config(values, {})


@pytest.mark.parametrize(
    "values",
    [
        {"heartbeat_interval": 10.0, "heartbeat_timeout": 20.0},
        {"low_water": 10, "high_water": 10},
        {"window": 10, "max_window": 10},
        {"window_bytes": 10, "max_window_bytes": 10},
    ],
)
def test_the_edge_of_each_rule_is_allowed(values: dict[str, Any]) -> None:
    """Equal limits, and a timeout of exactly two intervals, are fine."""
    config = load_config(values, {})
    assert {name: getattr(config, name) for name in values} == values


def test_the_configuration_is_frozen() -> None:
    """No part of the running server can change what another was started with."""
    with pytest.raises(AttributeError):
        Config().port = 1  # type: ignore[misc]


def test_the_core_gets_its_part() -> None:
    """Every setting that the core shares with the configuration is handed on, the others keep their default."""
    config = Config(
        window=7,
        window_bytes=8,
        max_window=9,
        max_window_bytes=10,
        adaptive_window=True,
        max_streams=3,
        max_message_bytes=1000,
        hello_timeout=1.0,
        heartbeat_interval=2.0,
        heartbeat_timeout=5.0,
    )
    part = config.protocol()
    shared = set(ServerSettings.__struct_fields__) & set(Config.__struct_fields__)
    assert set(ServerSettings.__struct_fields__) == shared
    assert {name: getattr(part, name) for name in shared} == {name: getattr(config, name) for name in shared}
    assert part.max_malformed == ServerSettings().max_malformed


def test_both_kinds_of_defaults_agree() -> None:
    """A core made without a configuration behaves like a server with the default one."""
    assert Config().protocol() == ServerSettings()


def test_every_default_is_a_legal_value() -> None:
    """No default would be refused if somebody wrote it down."""
    for setting in settings():
        assert msgspec.convert(setting.default, setting.type) == setting.default


def test_settings_lists_every_field_with_its_words() -> None:
    """Whoever prints flags finds every field, in order, with a description that starts no sentence of its own."""
    assert [setting.name for setting in settings()] == list(Config.__struct_fields__)
    assert [setting.name for setting in settings() if not setting.description.strip()] == []


def test_names_of_a_setting() -> None:
    """A setting's flag and variable follow from its name."""
    setting = Setting("heartbeat_interval", float, 10.0, "")
    assert (setting.flag, setting.variable) == ("--heartbeat-interval", "WSSTREAM_HEARTBEAT_INTERVAL")
