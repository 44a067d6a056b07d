"""Virtual networks: libvirt's documents on the host networks of :mod:`pyhyve.hostnet`.

:mod:`~pyhyve.daemon.networks.registry` has the networks, :mod:`~pyhyve.daemon.networks.definition` makes documents
whole, :mod:`~pyhyve.daemon.networks.plan` turns them into what the host makes,
:mod:`~pyhyve.daemon.networks.update` changes parts of them, :mod:`~pyhyve.daemon.networks.source` plugs guests in.
"""
