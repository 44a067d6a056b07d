"""Guest physical memory. May import from `support` only."""
