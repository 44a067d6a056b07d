"""ATA and ATAPI drives on two-drive channels, and the PCI function with bus mastering in front of them."""
