"""What every test of the client needs."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _quick_stop(quick_stop: None) -> None:
    """Servers in this loop stop at once."""
