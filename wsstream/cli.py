"""The command line: ``serve`` (the default), ``chat``, ``top`` and ``bench``."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import sys
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from wsstream import __version__
from wsstream.config import Config, Setting, load_config, settings, unknown_variables
from wsstream.errors import ConfigError, ConnectionFailed, WsstreamError

if typing.TYPE_CHECKING:
    from wsstream.server import Server

logger = logging.getLogger(__name__)

DEFAULT_URL = "ws://127.0.0.1:8765/ws"


class _Parser(argparse.ArgumentParser):
    """An argument parser that says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        print(f"wsstream: {message}", file=sys.stderr)
        raise SystemExit(2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit status: 0 done, 1 failed, 2 used wrongly."""
    _fill_standard_streams()
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or (given[0].startswith("-") and given[0] not in ("-h", "--help", "--version")):
        given.insert(0, "serve")
    parsed = make_parser().parse_args(given)
    try:
        return int(parsed.run(parsed))
    except ConfigError as error:
        print(f"wsstream: {error}", file=sys.stderr)
        return 2
    except WsstreamError as error:
        print(f"wsstream: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands; documentation is checked against it."""
    parser = _Parser(prog="wsstream", description="Streams LLM answers over WebSockets.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"wsstream {__version__}")
    commands = parser.add_subparsers(metavar="serve | chat | top | bench", required=True)
    _add_serve(commands)
    _add_chat(commands)
    _add_top(commands)
    _add_bench(commands)
    return parser


# -- serve


def _add_serve(commands: Any) -> None:
    serve = commands.add_parser(
        "serve",
        help="run the server (the default)",
        allow_abbrev=False,
        description="Run the server. Every option is also a variable: --port is WSSTREAM_PORT.",
    )
    serve.add_argument("--config", metavar="FILE", help="a TOML file of these options, written_like_this")
    for setting in settings():
        _add_setting(serve, setting)
    serve.set_defaults(run=_serve)


def _add_setting(parser: argparse.ArgumentParser, setting: Setting) -> None:
    text = setting.description
    if setting.default is not None:
        text += f" (default {setting.default})"
    if typing.get_args(setting.type)[:1] == (bool,):
        parser.add_argument(setting.flag, dest=setting.name, action=argparse.BooleanOptionalAction, help=text)
    else:
        parser.add_argument(setting.flag, dest=setting.name, metavar=_metavar(setting), help=text.replace("%", "%%"))


def _metavar(setting: Setting) -> str:
    kind = setting.type
    while typing.get_origin(kind) is typing.Annotated:
        kind = typing.get_args(kind)[0]
    if isinstance(kind, types.UnionType):
        kind = typing.get_args(kind)[0]
    return {int: "N", float: "SECONDS"}.get(kind, "TEXT")


def _see_working_directory() -> None:
    """Plug-ins beside whoever starts the server are found by the installed command, as they are by ``python -m``."""
    here = os.getcwd()
    if not sys.flags.safe_path and here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)


def _serve(parsed: argparse.Namespace) -> int:
    from wsstream.memory import share_one_heap

    share_one_heap()
    _see_working_directory()
    flags = {setting.name: getattr(parsed, setting.name) for setting in settings()}
    config = load_config(flags, os.environ, parsed.config or os.environ.get("WSSTREAM_CONFIG"))
    with _log_to_stderr(config):
        from wsstream.server import run

        for name in unknown_variables(os.environ):
            logger.warning("%s is set, and there is no such setting", name)

        run(config, _announce)
    return 0


@contextlib.contextmanager
def _log_to_stderr(config: Config) -> Iterator[None]:
    from wsstream import logs

    writer = logs.set_up(config.log_level, config.log_format, os.environ)
    try:
        yield
    finally:
        logs.tear_down(writer)


def _announce(server: Server) -> None:
    try:
        print(f"wsstream {__version__} is ready: {server.url}", flush=True)
    except OSError:  # whoever started it does not read it; that is no reason not to serve
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fill_standard_streams() -> None:
    """See that 0, 1 and 2 are open: else the next file or socket would get the number, and the log be written there."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)


# -- chat


def _add_chat(commands: Any) -> None:
    chat = commands.add_parser(
        "chat",
        help="ask from the terminal",
        allow_abbrev=False,
        description="Ask from the terminal. Where the server wants a credential, it is taken from WSSTREAM_TOKEN.",
    )
    chat.add_argument("prompt", nargs="?", help="one question; without it, a conversation")
    chat.add_argument("--url", default=DEFAULT_URL, help=f"the server (default {DEFAULT_URL})")
    chat.add_argument("--model", help="the model to ask")
    chat.add_argument("--session", metavar="ID", help="continue this session")
    chat.set_defaults(run=_chat)


def _chat(parsed: argparse.Namespace) -> int:
    from wsstream.terminal import chat

    token = os.environ.get("WSSTREAM_TOKEN")
    return asyncio.run(chat(parsed.url, parsed.prompt, parsed.model, parsed.session, token))


# -- top


def _add_top(commands: Any) -> None:
    from wsstream.top import DEFAULT_URL as METRICS_URL

    top = commands.add_parser("top", help="watch a running server", allow_abbrev=False)
    top.add_argument("--url", default=METRICS_URL, help=f"its metrics (default {METRICS_URL})")
    top.add_argument("--interval", type=_interval, default=1.0, metavar="SECONDS", help="between screens (default 1)")
    top.add_argument("--once", action="store_true", help="one screen, as lines")
    top.set_defaults(run=_top)


def _interval(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"must be 0.1 to 3600 seconds, got {text!r}")
    return seconds


def _top(parsed: argparse.Namespace) -> int:
    from wsstream.top import top

    return top(parsed.url, parsed.interval, parsed.once)


# -- bench


def _add_bench(commands: Any) -> None:
    from wsstream.load import add_arguments

    bench = commands.add_parser(
        "bench",
        help="load a server and measure it",
        allow_abbrev=False,
        description="Load a server and measure it. Where it wants a credential, that is taken from WSSTREAM_TOKEN.",
    )
    add_arguments(bench)
    bench.set_defaults(run=_bench)


def _bench(parsed: argparse.Namespace) -> int:
    from wsstream.load import main as load_main

    return load_main(parsed)


__all__ = ["ConnectionFailed", "main", "make_parser"]
