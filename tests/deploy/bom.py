"""Says what is wrong with a CycloneDX file, and which components it names; run where its schemas are."""

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
    print(f"{component['name']}=={component['version']}")
