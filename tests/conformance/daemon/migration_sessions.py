"""What real virsh is told while domains move between two daemons, for two pairs of daemons in turn.

A line is one session, of the client of daemon ``a`` or ``b``; ``@A@`` and ``@B@`` are the daemons' URIs,
``@PA@`` and ``@PB@`` those their peers use, ``@DIR@`` is a directory of the pair. The sessions build on each other.
"""

# ruff: noqa: E501 - lines as somebody would type them

from __future__ import annotations

SESSIONS = """
a define @DIR@/m.xml; migrate m @B@; migrate m @B@ --offline; migrate nosuch @B@
a migrate m @B@ --offline --persistent; domstate m --reason
b list --all; domstate m --reason; undefine m; list --all
a migrate m @B@ --offline --persistent --undefinesource; list --all
b migrate m @A@ --offline --persistent --p2p
b migrate m @PA@ --offline --persistent --undefinesource --p2p; list --all
a migrate m @PB@ --offline --persistent --p2p --tunnelled
a migrate m @B@ --offline --persistent --copy-storage-all
a start m; migrate m @B@; migrate m @B@ --live
a migrate m @B@ --live --unsafe --migrateuri foo://x; domstate m --reason
a migrate m @B@ --live --unsafe --migrateuri tcp://; domstate m --reason
a migrate m @B@ --live --unsafe --migrateuri tcp://127.0.0.1 --tunnelled
a migrate m @A@ --live --unsafe --migrateuri tcp://127.0.0.1
a migrate m @B@ --live --unsafe --direct
a migrate m @B@ --live --unsafe --copy-storage-all --copy-storage-inc
a migrate m @PB@ --live --unsafe --postcopy --tunnelled --p2p
a migrate m @B@ --live --unsafe --migrateuri tcp://127.0.0.1 --xml @DIR@/other.xml
a migrate m @B@ --live --unsafe --migrateuri tcp://127.0.0.1; domstate m --reason; list --all
b domstate m --reason; dominfo m; domuuid m; domjobinfo m
b migrate-getmaxdowntime m; migrate-setmaxdowntime m 400; migrate-getmaxdowntime m; migrate-getspeed m; migrate-setspeed m 100; migrate-getspeed m
b migrate-setspeed m 18446744073709551615; migrate-postcopy m; migrate-compcache m; migrate-compcache m --size 4096
b migrate m @PA@ --live --unsafe --migrateuri tcp://127.0.0.1 --p2p --persistent; list --all
a domstate m --reason; list --all --persistent; suspend m
a migrate m @B@ --unsafe --migrateuri tcp://127.0.0.1 --persistent --undefinesource; list --all
b domstate m --reason; resume m; list --all --persistent
b migrate m @A@ --unsafe --migrateuri tcp://127.0.0.1 --dname moved; list --all
a list --all; domstate moved --reason; domname a0a0a0a0-1111-4222-8333-444444444444; undefine m
a migrate moved @PB@ --unsafe --live --suspend --p2p --tunnelled --dname m; list --all
b domstate m --reason; resume m; destroy m; list --all
b undefine m; list --all
a migrate-getmaxdowntime nosuch; migrate-getspeed nosuch
a define @DIR@/m.xml; migrate-getmaxdowntime m; migrate-setmaxdowntime m 300; migrate-getspeed m; migrate-setspeed m 50; migrate-getspeed m; migrate-compcache m; migrate-postcopy m
b define @DIR@/same-name.xml
a start m; migrate m @B@ --live --unsafe --migrateuri tcp://127.0.0.1; domstate m --reason
b undefine m; define @DIR@/diskless.xml; start m
a migrate m @B@ --live --unsafe --migrateuri tcp://127.0.0.1; domstate m --reason
b destroy m; migrate m @A@ --live; undefine m
a migrate m @B@ --live --unsafe --migrateuri tcp://127.0.0.1:1; domstate m --reason
b list --all
a migrate m @PB@ --live --unsafe --migrateuri tcp://127.0.0.1 --p2p --timeout 100; domstate m --reason
b migrate m @A@ --live --unsafe --migrateuri tcp://127.0.0.1 --auto-converge --auto-converge-initial 30 --bandwidth 100; list --all
a migrate m @B@ --live --unsafe --migrateuri tcp://127.0.0.1 --auto-converge-initial 30; domstate m --reason
a migrate m @B@ --live --unsafe --migrateuri tcp://127.0.0.1 --postcopy; domstate m --reason
b migrate m @A@ --live --unsafe --migrateuri tcp://127.0.0.1 --compressed; list --all
a migrate m @B@ --live --unsafe --migrateuri tcp://127.0.0.1 --compressed --comp-methods xbzrle --comp-xbzrle-cache 67108864 --abort-on-error; list --all
b migrate m @A@ --live --unsafe --migrateuri tcp://127.0.0.1 --comp-methods foo; domstate m --reason
b migrate m @A@ --live --unsafe --migrateuri tcp://127.0.0.1 --parallel --parallel-connections 2; list --all
a migrate m @B@ --live --unsafe --migrateuri tcp://127.0.0.1 --tls; domstate m --reason
a domstate m --reason; destroy m; undefine m
b domstate m --reason; destroy m; undefine m
"""
