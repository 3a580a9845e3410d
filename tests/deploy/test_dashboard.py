"""The dashboard, as Grafana's own description of dashboards has it."""

from __future__ import annotations

from tests.deploy.tools import DEPLOY, MARKS, ROOT, python_with, run

pytestmark = MARKS


def test_grafana_knows_every_word_of_it() -> None:
    """Read into Grafana's schema and written again, the dashboard is what it was: no key is misspelt or misplaced."""
    reader = ROOT / "tests" / "deploy" / "grafana.py"
    run(python_with("grafana_foundation_sdk"), reader, DEPLOY / "grafana" / "wsstream.json")
