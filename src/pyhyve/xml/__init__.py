"""libvirt's XML documents as frozen values: parsed, checked, and formatted as libvirt formats them.

Layer 2: imports only :mod:`pyhyve.support`, lxml and the standard library. :mod:`pyhyve.xml.document` reads and writes
text, :mod:`pyhyve.xml.element` declares elements, and one module for each kind of document says what is in it. What a
module does not name is kept where it was, so a document survives being read and written.
"""

from __future__ import annotations

from pyhyve.xml.capabilities import Capabilities
from pyhyve.xml.document import XmlError
from pyhyve.xml.domain import Domain
from pyhyve.xml.element import format_element, parse_element
from pyhyve.xml.network import Network
from pyhyve.xml.storage import StoragePool, StorageVolume

__all__ = [
    "Capabilities",
    "Domain",
    "Network",
    "StoragePool",
    "StorageVolume",
    "XmlError",
    "format_element",
    "parse_element",
]
