"""Names in a CycloneDX file, made of what pip has installed, what the page brings along besides.

python deploy/vendored.py dist/wsstream.cdx.json
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

TABLE = Path(__file__).parent.parent / "clients" / "js" / "vendor" / "README.md"
ROW = re.compile(
    r"^\| (?P<name>\S+) \| (?P<version>\d\S*) \| (?P<licence>\S+) \| npm `(?P<package>[^`]+)`", re.MULTILINE
)


def vendored(table: str) -> list[dict[str, Any]]:
    """The components that the table of vendored libraries names."""
    return [component(**row.groupdict()) for row in ROW.finditer(table)]


def component(name: str, version: str, licence: str, package: str) -> dict[str, Any]:
    """One of them, found by its package in advisories."""
    url = f"pkg:npm/{quote(package)}@{version}"
    licences = [{"license": {"id": licence, "acknowledgement": "declared"}}]
    return {"type": "library", "bom-ref": url, "name": name, "version": version, "purl": url, "licenses": licences}


def add(bom: dict[str, Any], more: list[dict[str, Any]]) -> None:
    """Have the application of ``bom`` depend on these, too."""
    root = bom["metadata"]["component"]["bom-ref"]
    references = [one["bom-ref"] for one in more]
    bom["components"] = sorted([*bom["components"], *more], key=lambda one: str(one["bom-ref"]))
    needs = next(one for one in bom["dependencies"] if one["ref"] == root)
    needs["dependsOn"] = sorted([*needs.get("dependsOn", []), *references])
    bom["dependencies"] = sorted(
        [*bom["dependencies"], *({"ref": one} for one in references)], key=lambda one: one["ref"]
    )


def main(path: Path) -> None:
    """Add them to the file."""
    found = vendored(TABLE.read_text(encoding="utf-8"))
    if not found:
        sys.exit(f"{TABLE}: names no library")
    bom = json.loads(path.read_bytes())
    add(bom, found)
    path.write_text(json.dumps(bom, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
