"""Modules by name, for commands that load what they need when they need it."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType


def load_module(name: str) -> ModuleType:
    """As `importlib.import_module`, without loading that: it would be felt in short commands."""
    if name not in sys.modules:
        __import__(name)
    return sys.modules[name]
