"""Getting a guest to its first instruction: kernel images, memory maps, ACPI and SMBIOS tables, firmware.

May import from `memory` and `support`; what it needs of a machine it gets as plain values.
"""
