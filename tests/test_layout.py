"""The shape of the house: every module has its test, every test its sentence, everything public its docstring."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
PACKAGE = TESTS.parent / "wsstream"

# Modules without a test module of their own name, and what tests them instead. A test module is test_NAME.py, or a
# folder NAME of them; that of a module in a package is in the package's folder.
TESTED_ELSEWHERE = {
    "__init__": "holds the version and a page of text",
    "__main__": "three lines that call the command line",
    "client.events": "client/test_client.py and the other tests of the client hear them",
    "client.link": "client/test_client.py; when it breaks, client/test_losses.py",
    "client.prompts": "client/test_client.py",
    "providers.reading": "providers/test_failures.py and providers/test_faults.py hold every provider to it",
    "streams.all": "test_streams.py",
    "testing": "test_worlds.py lives in it",
    "wires.base": "test_assembly.py and every wire",
    "wires.desk": "test_connection.py, test_sessions_e2e.py, test_cancel_e2e.py",
    "wires.http": "wires/test_sse.py, wires/test_durable.py and the other wires over HTTP",
    "wires.hub": "test_fairness.py, test_end_to_end.py",
    "wires.line": "test_connection.py, wires/test_native_http.py",
    "wires.native": "test_connection.py, test_fairness.py, test_sessions_e2e.py",
    "wires.openai_items": "wires/test_openai_api.py",
    "wires.outlet": "test_connection.py, test_fairness.py",
    "wires.tickets": "test_tickets.py",
}


def _modules(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists())


def _parted(package: Path) -> list[str]:
    """The modules of a package whose tests have a folder."""
    return [f"{package.name}.{module}" for module in _modules(package) if module != "__init__"]


def _tests_of(module: str) -> list[Path]:
    """Where the tests of a module are, by its name."""
    own = _test_module(module)
    return [path for path in (own, *(own.parent / module.split(".")[-1]).glob("test_*.py")) if path.exists()]


def _test_module(module: str) -> Path:
    *folders, name = module.split(".")
    return TESTS.joinpath(*folders, f"test_{name}.py")


PACKAGES = [path for path in sorted(PACKAGE.iterdir()) if (path / "__init__.py").exists()]
MODULES = [*_modules(PACKAGE), *(name for path in PACKAGES if (TESTS / path.name).is_dir() for name in _parted(path))]
TEST_FILES = sorted(path for path in TESTS.rglob("test_*.py"))
SOURCES = sorted(PACKAGE.rglob("*.py"))


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("module", MODULES)
def test_every_module_has_its_test(module: str) -> None:
    """A module's tests are found under its name, or the list above says where they are."""
    own = _tests_of(module)
    assert own or module in TESTED_ELSEWHERE, f"write {_test_module(module)}"
    assert not (own and module in TESTED_ELSEWHERE), f"{module} has its test now: take it off the list"


def test_the_list_names_only_what_exists() -> None:
    """No exception outlives the module it was made for, or the tests that it names."""
    assert [module for module in TESTED_ELSEWHERE if module not in MODULES] == []
    named = {name for why in TESTED_ELSEWHERE.values() for name in re.findall(r"[\w/]+\.py", why)}
    assert [name for name in sorted(named) if not (TESTS / name).exists()] == []


@pytest.mark.parametrize("path", TEST_FILES, ids=lambda path: str(path.relative_to(TESTS)))
def test_every_test_says_what_it_is_about(path: Path) -> None:
    """Each test begins with one sentence about the behaviour it holds."""
    wrong = []
    for function in _functions(_parse(path)):
        if function.name.startswith("test"):
            text = " ".join((ast.get_docstring(function) or "").split())
            if not re.fullmatch(r"\S.*[.!?]", text) or re.search(r"[.!?][\"')`]? [A-Z]", text):
                wrong.append(f"{path.name}:{function.lineno} {function.name}: {text!r}")
    assert wrong == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_everything_public_is_described(path: Path) -> None:
    """Each module, and each public class and function at its top, has a docstring."""
    tree = _parse(path)
    missing = [] if ast.get_docstring(tree) or not tree.body else ["the module itself"]
    for node in tree.body:
        named = isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if named and not node.name.startswith("_") and not ast.get_docstring(node):
            missing.append(node.name)
    assert missing == []
