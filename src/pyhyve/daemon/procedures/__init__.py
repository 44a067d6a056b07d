"""Handlers of what belongs to no kind of object: connections, authentication, events, the host."""
