"""IOAPIC, local APIC, and the two together with the i8259 pair as one interrupt chip."""
