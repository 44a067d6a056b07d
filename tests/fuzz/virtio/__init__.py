"""Hostile drivers against every virtio device."""
