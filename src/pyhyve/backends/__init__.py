"""Host side of devices: character devices, block devices, network packets.

May import from `image`, `hostnet`, `memory` and `support`.
"""
