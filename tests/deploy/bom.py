"""Says what is wrong with a CycloneDX file, and which components and licences it names; run where its schemas are."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

text = Path(sys.argv[1]).read_text()
bom = json.loads(text)
wrong = JsonStrictValidator(SchemaVersion.from_version(bom["specVersion"])).validate_str(text)
if wrong is not None:
    sys.exit(str(wrong))
for component in [bom["metadata"]["component"], *bom["components"]]:
    named = [entry.get("expression") or entry["license"] for entry in component.get("licenses", ())]
    licences = [one if isinstance(one, str) else one.get("id") or one["name"] for one in named]
    print(f"{component['name']}=={component['version']}", *licences, sep="\t")
