"""The driver for machines that speak QEMU's interfaces: our own emulator, and any qemu-system-* of the host.

``emulator`` asks an emulator what it is, ``command`` writes its command line, ``process`` starts and finds its process,
``qmp`` talks to it, ``machine`` is a machine that runs, ``driver`` puts them together.
"""
