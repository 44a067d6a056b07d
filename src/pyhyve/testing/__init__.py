"""Doubles of what stands on the other side of a seam: mock drivers and clients. Product code never imports it.

May import from every other package.
"""
