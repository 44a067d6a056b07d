"""Smaller things beside domains, networks and storage: secrets, filters, and the host's devices and interfaces."""
