"""``python -m mmdiff`` is ``mmdiff``."""

from __future__ import annotations

import sys

from mmdiff.cli import main

if __name__ == "__main__":
    sys.exit(main())
