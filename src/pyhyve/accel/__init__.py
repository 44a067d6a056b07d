"""Engines: one contract (`api`), KVM and the translator behind it, and the choice between them (`select`).

May import from `memory`, `kvm`, `cpu` and `support`.
"""
