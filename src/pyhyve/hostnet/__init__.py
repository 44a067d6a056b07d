"""Networks on the host: bridges, taps, address translation, DHCP and DNS, and records of all that was made.

May import from `support` only. `networks` is the way in; `spec`, `rules` and `dnsmasq`'s configuration are texts and
values without I/O, `links` speaks netlink, `records` remembers what has to be removed.
"""
