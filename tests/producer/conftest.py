"""Tries again come when they are expected."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _full_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsstream.producer.random.random", lambda: 1.0)
