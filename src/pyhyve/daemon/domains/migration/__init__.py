"""Moving domains between hosts, with libvirt's migration protocol 3.

Five steps: begin and confirm on the source, prepare and finish on the destination, perform on the source. The client
takes both daemons through them, or (peer to peer) the source does, as a client of the destination. The machines send
each other their state themselves, over TCP or through the daemons' connection (tunnelled).

Source: libvirt's documentation, "Guest migration", and what libvirtd 9.0 does (tests/conformance/daemon).
"""
