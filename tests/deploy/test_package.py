"""What is published: the wheel, the sources and the bill of materials, as somebody else gets them."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tarfile
import tomllib
import urllib.request
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import ROOT, clean_environ
from tests.deploy.tools import MARKS, attempt, python, python_with, run, tool
from wsstream import __version__

pytestmark = MARKS

SUPPORTED = ("3.11", "3.12", "3.13", "3.14")
LICENCES = {"LICENSE", "clients/js/vendor/highlight/LICENSE", "clients/js/vendor/marked/LICENSE"}
HOUSE = ("tests/test_deploy.py", "tests/test_docs.py", "tests/test_layout.py", "tests/test_imports.py")
SIZE = 700_000
"""Bytes that the wheel may have: it was 532 thousand."""


class Built(NamedTuple):
    """What is published."""

    wheel: Path
    sources: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The sources of this checkout, and the wheel that is built from them alone."""
    folder = tmp_path_factory.mktemp("dist")
    run(python_with("build"), "-m", "build", "--no-isolation", "--outdir", folder, ROOT)
    return Built(next(folder.glob("*.whl")), next(folder.glob("*.tar.gz")))


def test_the_registry_takes_it(built: Built) -> None:
    """Twine's strictest check has no warning."""
    assert run(tool("twine"), "check", "--strict", *built).count("PASSED") == 2


def test_the_wheel_holds_what_it_should(built: Built) -> None:
    """Every module, the mark of types and all licences are in it, nothing of the tests, and little besides."""
    names = set(zipfile.ZipFile(built.wheel).namelist())
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "wsstream").rglob("*.py")}
    about = f"wsstream-{__version__}.dist-info"
    assert {name for name in names if name.endswith(".py")} == modules
    assert "wsstream/py.typed" in names
    assert {f"{about}/licenses/{name}" for name in LICENCES} <= names
    assert {name for name in names if not name.startswith(("wsstream/", f"{about}/"))} == set()
    assert not [name for name in names if re.search(r"__pycache__|node_modules|\.test\.|/tests?/", name)]
    assert built.wheel.stat().st_size < SIZE


def test_the_sources_stand_alone(built: Built, tmp_path: Path) -> None:
    """The tests that hold the house in order pass in the unpacked sources, which have nothing that was made."""
    with tarfile.open(built.sources) as archive:
        made = [
            name for name in archive.getnames() if re.search(r"__pycache__|node_modules|\.venv|\.db$|/\.git/", name)
        ]
        assert made == []
        archive.extractall(tmp_path, filter="data")
    folder = tmp_path / f"wsstream-{__version__}"
    environ = {**os.environ, "PYTHONPATH": str(folder)}
    run(python(), "-m", "pytest", "-q", "-p", "no:cacheprovider", *HOUSE, cwd=folder, environ=environ)


def python_of(version: str) -> str:
    """A Python of that version; the test that wants it is skipped where there is none."""
    name = f"python{version}"
    for candidate in (shutil.which(name), *Path.home().glob(f".pyenv/versions/{version}.*/bin/{name}")):
        if candidate and not attempt(candidate, "-c", "import venv, ssl").returncode:
            return str(candidate)
    pytest.skip(f"no Python {version} here")


@pytest.mark.parametrize("version", SUPPORTED)
def test_a_wheel_is_all_it_takes(built: Built, tmp_path: Path, version: str) -> None:
    """In an empty environment of each Python, the wheel without extras tells its version, serves page and answers."""
    run(python_of(version), "-m", "venv", tmp_path / "empty")
    own = tmp_path / "empty" / "bin" / "python"
    run(own, "-m", "pip", "install", "-qq", "--constraint", ROOT / "constraints.txt", built.wheel)
    environ = {name: value for name, value in clean_environ().items() if name != "PYTHONPATH"}
    assert __version__ in run(own, "-m", "wsstream", "--version", cwd=tmp_path, environ=environ)
    assert __version__ in run(tmp_path / "empty" / "bin" / "wsstream", "--version", cwd=tmp_path, environ=environ)
    assert serves(own, tmp_path, environ) == 0


def serves(own: Path, folder: Path, environ: dict[str, str]) -> int:
    """Whether an installed server gives its page and an answer; its exit status after SIGTERM."""
    command = [str(own), *["-m", "wsstream", "serve", "--port", "0", "--metrics-port", "0", "--provider", "demo"]]
    with subprocess.Popen(command, cwd=folder, env=environ, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            page = server.stdout.readline().split()[-1]
            for name in ("", "static/js/wsstream.js"):
                with urllib.request.urlopen(page + name, timeout=10) as answer:
                    assert answer.read()
            body = {"model": "demo:rate=0,tokens=9", "messages": [{"role": "user", "content": "x"}]}
            request = urllib.request.Request(
                f"{page}v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=10) as answer:
                assert json.load(answer)["choices"]
        finally:
            server.send_signal(signal.SIGTERM)
    return server.returncode


def test_the_bill_of_materials(tmp_path: Path) -> None:
    """Made from a clean checkout, it is CycloneDX, and names what a server needs, with licences, and no tool."""
    if not (ROOT / ".git").exists():
        pytest.skip("no checkout here")
    check = python_with("cyclonedx.validation.json")
    checkout = tmp_path / "checkout"
    run("git", "clone", "--quiet", ROOT, checkout)
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    run("make", "sbom", f"PYTHON={python()}", cwd=checkout, environ=environ, patience=500)
    bom = checkout / "dist" / "wsstream.cdx.json"
    named = run(check, ROOT / "tests" / "deploy" / "bom.py", bom).splitlines()
    licences = {name: licence for name, *licence in (line.split("\t") for line in named)}
    assert [name for name, licence in licences.items() if not licence] == []
    components = {name.lower().replace("_", "-") for name in licences}
    assert components - pinned() == {f"wsstream=={__version__}", *vendored()}
    assert {name: licences[name] for name in vendored()} == vendored()
    names = {component.partition("==")[0] for component in components}
    assert requirements() <= names
    assert not {"pip", "pytest", "ruff", "mypy"} & names
    assert str(checkout) not in bom.read_text(), "it names no path of this machine"


def vendored() -> dict[str, list[str]]:
    """What the page brings along, by what its files say of themselves, and the licence beside them."""
    folder = ROOT / "clients" / "js" / "vendor"
    found = {}
    for name, header in {"marked": r"marked v(\S+)", "highlight": r"Highlight\.js v(\S+)"}.items():
        text = "".join(path.read_text() for path in (folder / name).glob("*.js"))
        version = re.search(header, text)
        assert version
        told = (folder / name / "LICENSE").read_text()
        called = {"highlight": "highlight.js"}.get(name, name)
        found[f"{called}=={version[1]}"] = ["BSD-3-Clause" if "BSD 3-Clause" in told else "MIT"]
    assert len(found) == sum(path.is_dir() for path in folder.iterdir())
    return found


def pinned() -> set[str]:
    """What the tests ran with."""
    return {line.lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().split()}


def requirements() -> set[str]:
    """What is needed to run the server on this machine."""
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    return {re.split(r"[^a-z0-9-]", requirement.lower().replace("_", "-"))[0] for requirement in told}
