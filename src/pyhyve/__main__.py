"""`python -m pyhyve` is the command `pyhyve`."""

from __future__ import annotations

import sys

from pyhyve.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
