"""AHCI: the SATA host bus adapter, whose ports carry the drives of `devices.ide`."""
