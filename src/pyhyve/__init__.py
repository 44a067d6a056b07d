"""pyhyve: the KVM / QEMU / libvirt stack in Python. See docs/architecture.md."""
