"""Reads a dashboard into Grafana's schema, writes it again, and says what was lost; run where that schema is."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard


def lost(before: Any, after: Any, where: str = "") -> Iterator[str]:
    """The places in ``before`` that are not the same in ``after``, which may hold more."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key, value in before.items():
            yield from lost(value, after.get(key), f"{where}/{key}")
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for number, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from lost(one, other, f"{where}/{number}")
    elif before != after:
        yield f"{where}: {before!r} became {after!r}"


plugins.register_default_plugins()
dashboard = json.loads(Path(sys.argv[1]).read_bytes())
differences = list(lost(dashboard, json.loads(JSONEncoder().encode(Dashboard.from_json(dashboard)))))
sys.exit("\n".join(differences) if differences else 0)
