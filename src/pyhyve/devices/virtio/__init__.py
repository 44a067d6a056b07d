"""Paravirtual devices of VIRTIO 1.2: virtqueues, the PCI and MMIO transports, and one device a file.

Lower rows first: `spec` (numbers) and `queue` (rings) know no device; `device` is what every device shares;
`pci` and `mmio` are two ways to reach it. Devices never know which one carries them.

Threads: registers are read and written by vCPU threads; queues are handled on the device's worker. Each device has
one lock, held for a batch; no interrupt is raised while it is held, so an interrupt controller may take locks of
its own.

May import from `backends`, `memory`, `support` and its siblings in `devices`.
"""
