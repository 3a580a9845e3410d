"""The shape of the house: every module has its test, every test its sentence, everything public its docstring."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
PACKAGE = TESTS.parent / "wsstream"

# Modules without a test module of their own name, and what tests them instead.
TESTED_ELSEWHERE = {
    "__init__": "holds the version and a page of text",
    "__main__": "three lines that call the command line",
    "providers": "test_client.py is answered by one",
    "stores": "test_worlds.py keeps its logs in one",
    "testing": "test_worlds.py lives in it",
    "wires": "the native one: test_connection.py, test_fairness.py, test_sessions_e2e.py; others are in tests/wires",
}

MODULES = sorted(path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists())
TEST_FILES = sorted(path for path in TESTS.rglob("test_*.py"))
SOURCES = sorted(PACKAGE.rglob("*.py"))


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("module", MODULES)
def test_every_module_has_its_test(module: str) -> None:
    """A module's tests are found under its name, or the list above says where they are."""
    own = (TESTS / f"test_{module}.py").exists()
    assert own or module in TESTED_ELSEWHERE, f"write tests/test_{module}.py"
    assert not (own and module in TESTED_ELSEWHERE), f"{module} has its test now: take it off the list"


def test_the_list_names_only_what_exists() -> None:
    """No exception outlives the module it was made for."""
    assert [module for module in TESTED_ELSEWHERE if module not in MODULES and module != "wires"] == []


@pytest.mark.parametrize("path", TEST_FILES, ids=lambda path: path.stem)
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
