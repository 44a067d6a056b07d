"""Storage pools and volumes: where images are kept on the daemon's host.

:mod:`~pyhyve.daemon.storage.registry` has the pools, :mod:`~pyhyve.daemon.storage.pool` is one of them, the
``*_backend`` modules are the kinds there are, :mod:`~pyhyve.daemon.storage.images` makes and changes image files.
"""
