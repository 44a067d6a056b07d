"""libvirt's wire protocol: frames, XDR, the table of procedures, and both ends of a connection, without any I/O.

Layer 2: imports only :mod:`pyhyve.support` and the standard library. Start with :mod:`pyhyve.rpc.procedures` (what can
be called), :mod:`pyhyve.rpc.frames` (bytes in, frames out), :mod:`pyhyve.rpc.client` and :mod:`pyhyve.rpc.server` (the
two halves of a conversation). The numbers are those of libvirt 9.0.
"""

from __future__ import annotations
