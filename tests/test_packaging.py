"""What a wheel holds: the page and every module it loads, and nothing that only the tests need."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

hatchling = pytest.importorskip("hatchling.build", reason="builds the wheel")

ROOT = Path(__file__).resolve().parent.parent
SERVED = {"clients/js": "wsstream/_web/js", "clients/chat": "wsstream/_web/chat"}
LEFT_OUT = {"test", "test-full", "node_modules"}


def served_files() -> set[str]:
    """The wheel's name of each file that a checkout would serve to a page."""
    found = set()
    for folder, inside in SERVED.items():
        for path in (ROOT / folder).rglob("*"):
            name = path.relative_to(ROOT / folder)
            if path.is_file() and not LEFT_OUT & set(name.parts) and name.name != "tsconfig.json":
                found.add(f"{inside}/{name.as_posix()}")
    return found | {"wsstream/_web/examples/vanilla.html"}


def test_a_wheel_holds_what_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed server serves the very files that a checkout serves, without tests and packages of others."""
    monkeypatch.chdir(ROOT)
    wheel = tmp_path / hatchling.build_wheel(str(tmp_path))
    names = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("wsstream/_web/")}
    assert "wsstream/_web/js/wsstream.js" in names
    assert names == served_files()


def test_an_editable_install_is_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An editable install copies nothing: what is edited is what runs."""
    monkeypatch.chdir(ROOT)
    wheel = zipfile.ZipFile(tmp_path / hatchling.build_editable(str(tmp_path)))
    (paths,) = [wheel.read(name).decode() for name in wheel.namelist() if name.endswith(".pth")]
    assert paths.split() == [str(ROOT)]
