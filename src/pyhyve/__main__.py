"""`python -m pyhyve` is the command `pyhyve`."""

from __future__ import annotations

from pyhyve.cli.main import command

if __name__ == "__main__":
    command()
