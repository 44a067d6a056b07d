"""PCI: configuration space, base address registers, message-signalled interrupts, and the bus that joins them."""
