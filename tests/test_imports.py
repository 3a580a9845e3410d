"""Who may import whom. The table below is the rule; the tests hold every module to it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent / "wsstream"

# -- the rule --------------------------------------------------------------------------------------------------------
#
# Words are what everybody talks in: errors, chunks, what many of these hold, and counts. They know nobody.
WORDS = ("errors", "chunks", "bodies", "tally")
# The core decides. It does no I/O, knows no clock and throws no dice, so it can be tested by calling it. It knows the
# words and itself; of Python it uses only what computes.
CORE = (
    "messages",
    "states",
    "flow",
    "protocol",
    "client_protocol",
    "text",
    "shaping",
    "splice",
    "recovery",
    "structured",
    "writers",
    "content",
    "said",
)
QUIET = {
    "__future__",
    "array",
    "base64",
    "bisect",
    "collections",
    "collections.abc",
    "enum",
    "hashlib",
    "itertools",
    "math",
    "operator",
    "struct",
    "typing",
    "msgspec",
    "regex",
}
# Concrete things are the providers and stores themselves, and the two functions that pick one by its name. Everybody
# else knows only what all of them have in common: `providers.base` and `stores.base`.
CONCRETE = ("providers", "providers.*", "stores", "stores.*")
BASES = ("providers.base", "stores.base")

PIPELINE = ("chunklog", "frames", "inbound", "ticks", "moderation", "registry", "rejections")

OF_STREAMS = (
    *("messages", "config", "chunklog", "producer", "stores.base"),
    *("rejections", "orphans", "shelf", "waiting"),
)

# A module (or a package with a `.*`), what it may import of wsstream, and why no more. The first row that fits counts.
RULE: list[tuple[tuple[str, ...], tuple[str, ...], str]] = [
    (WORDS, WORDS, "Words know nobody."),
    (CORE, (*WORDS, *CORE), "The core imports only words and core."),
    (("config",), (*WORDS, "protocol"), "The configuration is a word too; it makes the core's settings."),
    (
        ("providers", "providers.*"),
        (*WORDS, "config", "text", "providers.*"),
        "A provider can be written knowing words.",
    ),
    (("stores", "stores.*"), (*WORDS, "stores.*"), "So can a store."),
    # The pipeline: producer and connection are tasks of their own, and tasks never import tasks. They meet in the log.
    (("chunklog",), (*WORDS, *CORE, "stores.base"), "The log knows neither who writes nor who reads."),
    (("intake",), (*WORDS, *CORE, "chunklog", "rejections"), "What a provider puts goes into a log, and nowhere else."),
    (
        ("producer",),
        (*WORDS, *CORE, "intake", "chunklog", "providers.base", "rejections"),
        "A producer knows providers and a log.",
    ),
    (("frames",), (*WORDS, *CORE, "chunklog"), "Frames are made of a log."),
    (("ticks",), (), "Timers know nobody."),
    (("moderation",), ("ticks",), "The loop rests when nobody is to be flushed."),
    (("inbound",), (), "Frames that come in are only bytes."),
    (("registry",), (*WORDS, "rejections"), "The registry counts connections without knowing what they are."),
    (("rejections", "pressure", "memory"), (), "What is counted, read or judged there is plain numbers."),
    (("proxies", "tls"), WORDS, "Addresses and certificates are nobody's."),
    (
        ("restarts",),
        (*WORDS, "messages", "said", "sessions", "stores.base"),
        "Records and logs say what goes on after a crash.",
    ),
    (
        ("streams.stream", "streams.directory", "streams.places", "streams.orphanage", "streams.retention"),
        (*WORDS, *OF_STREAMS, "streams.stream", "streams.directory", "streams.places"),
        "What holds streams does not know who holds all of it.",
    ),
    (
        ("streams.targets", "streams.prompts"),
        (*WORDS, *CORE, "config", "producer", "providers.base", "restarts", "sessions", "stores.base"),
        "Whom and what to ask is decided without a stream.",
    ),
    (("waiting",), (), "A queue knows neither who waits nor for what."),
    # Who may come in: a wire asks the gate and knows nothing of credentials; those know nothing of streams.
    (("origins",), WORDS, "Pages are told apart by two headers."),
    (("limits",), ("config",), "Buckets hold numbers."),
    (
        ("identity", "tickets"),
        (*WORDS, "config", "identity", "wires.base"),
        "A credential names a user, not what is theirs.",
    ),
    (
        ("connection", "wires", "wires.*"),
        (*WORDS, *CORE, *PIPELINE, "config", "limits", "proxies", "wires.*"),
        "A wire reads logs. It is handed what starts streams and never looks for it.",
    ),
    # Those who look at the pipeline; it does not know them.
    (("ledger", "tracing"), (*WORDS, "messages", "chunklog", "streams", "wires.base"), "Streams tell their watchers."),
    (("monitor",), (*WORDS, "ledger", "memory", "pressure"), "What looks from time to time is told where to act."),
    # Clients live on other machines.
    (
        ("client", "client.*", "terminal"),
        (*WORDS, *CORE, "client", "client.*"),
        "A client needs nothing of the server.",
    ),
    (("load", "load.*"), (*WORDS, *CORE, "load", "load.*"), "The load tester needs nothing of the server either."),
    # The shell ties the rest together.
    (
        ("cli", "__main__"),
        (*WORDS, "config", "cli", "client", "terminal", "load", "server", "logs", "memory", "top"),
        "Commands start things.",
    ),
    (("logs", "top"), WORDS, "Log lines are text, and so is what a server says of itself."),
    (("assembly",), ("*",), "The assembly room is where concrete things are named."),
    (("server",), ("*",), "The server names what listens."),
    (("asgi",), ("*",), "So does the application for other servers."),
    (
        ("testing", "testing.*"),
        (*WORDS, *CORE, "config", "chunklog", "frames", "producer", "providers.*", "stores.*", "testing.*"),
        "A test world stands where the server would, and may name concrete things like it.",
    ),
    (("*",), ("*",), "Any other module of the shell is held by the named rules below alone."),
]
# ------------------------------------------------------------------------------------------------------------------


class Import(NamedTuple):
    """One import statement's target. ``when``: as the module loads, later in a function, or never (for types)."""

    target: str
    when: str


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def _fits(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _statements(tree: ast.AST, when: str) -> Iterator[tuple[ast.Import | ast.ImportFrom, str]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, when
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _statements(node, "later")
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            yield from _statements(node, "never")
        else:
            yield from _statements(node, when)


def _imports(path: Path) -> Iterator[Import]:
    for node, when in _statements(ast.parse(path.read_text(encoding="utf-8")), "loading"):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, when) for alias in node.names)
            continue
        assert node.level == 0, f"{path}: imports are absolute, so that they can be searched for"
        for alias in node.names:
            inner = f"{node.module}.{alias.name}".removeprefix("wsstream.")
            yield Import(f"wsstream.{inner}" if inner in MODULES else str(node.module), when)


def _own(name: str) -> list[Import]:
    """What a module imports of wsstream, without the package's name; its version is free for all."""
    found = [i for i in _imports(MODULES[name]) if i.target.split(".")[0] == "wsstream"]
    return [Import(i.target.removeprefix("wsstream."), i.when) for i in found if i.target != "wsstream"]


@pytest.mark.parametrize("name", MODULES)
def test_the_rule(name: str) -> None:
    """A module imports of wsstream only what its row allows."""
    allowed, why = next(row[1:] for row in RULE if _fits(name, row[0]))
    assert [i.target for i in _own(name) if not _fits(i.target, allowed)] == [], why


@pytest.mark.parametrize("name", [*WORDS, *CORE])
def test_the_core_is_quiet(name: str) -> None:
    """Of Python and other libraries words and core import only what computes: no I/O, no clock, no dice, no log."""
    foreign = {i.target for i in _imports(MODULES[name]) if i.target.split(".")[0] != "wsstream"}
    assert foreign - QUIET == set()


@pytest.mark.parametrize("name", ["producer", "connection"])
def test_tasks_never_import_tasks(name: str) -> None:
    """Producer and connection know neither each other nor who made them; they meet only in the log."""
    others = {"producer", "connection", "streams", "server"} - {name}
    assert others & {i.target.split(".")[0] for i in _own(name)} == set()


@pytest.mark.parametrize("name", [name for name in MODULES if not _fits(name, (*CONCRETE, "assembly", "testing.*"))])
def test_only_the_assembly_room_names_concrete_things(name: str) -> None:
    """Providers and stores are known by their base alone, but to the assembly room and to test worlds."""
    named = [i.target for i in _own(name) if _fits(i.target, CONCRETE) and i.target not in BASES]
    assert named == []


@pytest.mark.parametrize("name", [name for name in MODULES if name not in ("server", "asgi")])
def test_only_what_listens_needs_the_assembly_room(name: str) -> None:
    """What the assembly room ties together does not know it."""
    assert "assembly" not in {i.target for i in _own(name)}


@pytest.mark.parametrize("name", [name for name in MODULES if name != "server"])
def test_nobody_needs_the_server(name: str) -> None:
    """Only the command line imports the server, and only when it is to start one."""
    when = {i.when for i in _own(name) if i.target == "server"}
    assert when <= ({"later", "never"} if name == "cli" else set())


WATCHING = ("metrics", "ledger", "monitor", "tracing", "logs", "top")


@pytest.mark.parametrize("name", [name for name in MODULES if name not in (*WATCHING, "assembly", "server", "cli")])
def test_nobody_knows_that_it_is_watched(name: str) -> None:
    """Metrics, logs and traces read the others; nothing but what puts all together imports them."""
    assert [i.target for i in _own(name) if i.target in WATCHING] == []


def test_every_row_is_about_something() -> None:
    """No row is left over from a module that is gone, but for the wires that are yet to come."""
    rows = [row[0] for row in RULE]
    assert [p for row in rows for p in row if p != "wires.*" and not any(_fits(name, (p,)) for name in MODULES)] == []


def test_the_rule_would_be_noticed(tmp_path: Path) -> None:
    """The reader of imports sees every way to write one, and when each takes effect."""
    path = tmp_path / "module.py"
    path.write_text(
        "import os.path, wsstream.server\n"
        "from wsstream import messages as m, __version__\n"
        "if typing.TYPE_CHECKING:\n    from wsstream.streams import Stream\n"
        "class A:\n    import time\n"
        "async def f():\n    try:\n        from wsstream.stores import memory\n    except E:\n        pass\n"
    )
    assert list(_imports(path)) == [
        Import("os.path", "loading"),
        Import("wsstream.server", "loading"),
        Import("wsstream.messages", "loading"),
        Import("wsstream", "loading"),
        Import("wsstream.streams", "never"),
        Import("time", "loading"),
        Import("wsstream.stores.memory", "later"),
    ]
