"""Definitions: a document made whole, as libvirt does when it is defined.

``parse`` reads a document and refuses what libvirt refuses; ``complete`` fills in what it leaves open; ``view`` writes
it for those who ask.
"""

from __future__ import annotations

from pyhyve.daemon.domains.definition.complete import complete_domain, define
from pyhyve.daemon.domains.definition.parse import parse_domain

__all__ = ["complete_domain", "define", "parse_domain"]
