"""`array.array`, without `collections` being loaded for it.

When `array` is loaded it asks for `collections.abc` to register itself there, and with that comes all of
`collections`: a fifth of what `pyhyve img create` would load. What it wants is `_collections_abc`, which Python has
loaded at its start. No other thread sees the stand-in: `threading` loads `collections`, and then nothing is replaced.
"""

from __future__ import annotations

import _collections_abc
import sys

if "collections" in sys.modules:
    from array import array
else:
    sys.modules["collections"] = sys.modules["collections.abc"] = _collections_abc
    try:
        from array import array
    finally:
        del sys.modules["collections"], sys.modules["collections.abc"]

__all__ = ["array"]
