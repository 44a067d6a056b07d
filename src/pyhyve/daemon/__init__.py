"""The libvirt-compatible daemon: dispatch, access, events, store, drivers, and the procedures by subject.

May import ``machine`` and everything below it; never ``client`` or ``cli``. One event loop serves every client; what
blocks runs on threads. A handler is registered with :func:`pyhyve.daemon.dispatch.procedure`; what lives as long as the
daemon is a :class:`pyhyve.daemon.daemon.Part`; :mod:`pyhyve.daemon.parts` names them all.
"""
