"""``python -m fastprune``: what was built, and whether it works here. See ``fastprune.cli``."""

import sys

from .cli import main

sys.exit(main())
