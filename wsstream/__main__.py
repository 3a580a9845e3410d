"""``python -m wsstream``."""

import sys

from wsstream.cli import main

sys.exit(main())
