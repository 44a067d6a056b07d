"""Hostile and random requests for the monitor."""
