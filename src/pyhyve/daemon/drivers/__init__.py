"""Hypervisor drivers: what a connection is opened to. ``api`` is the contract, each other package a driver."""
