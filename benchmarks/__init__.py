"""Benchmarks against the peers: `python -m benchmarks NAME`.

`harness` runs cases in pairs, `report` shows them; each benchmark is a module of its own with a function `plan()`.
"""
