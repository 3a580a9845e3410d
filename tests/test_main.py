"""``python -m wsstream`` is the command ``wsstream``."""

from __future__ import annotations

import runpy
import sys

import pytest

from wsstream import cli


@pytest.mark.parametrize("status", [0, 1, 2])
def test_the_module_is_the_command(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    """It passes its arguments on and leaves with the command's status."""
    seen: list[list[str]] = []

    def main() -> int:
        seen.append(sys.argv[1:])
        return status

    monkeypatch.setattr(sys, "argv", ["wsstream", "chat", "hi"])
    monkeypatch.setattr(cli, "main", main)
    with pytest.raises(SystemExit) as left:
        runpy.run_module("wsstream", run_name="__main__")
    assert left.value.code == status
    assert seen == [["chat", "hi"]]
