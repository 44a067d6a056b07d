"""The network block device protocol: `protocol` has no sockets, `client` and `server` have."""
