"""What real virsh is told of networks, storage and secrets, for two daemons in turn. ``@DIR@`` is a directory of each.

A line is one session; the sessions of a list build on each other.
"""

# ruff: noqa: E501 - lines as somebody would type them

from __future__ import annotations

FILES = {
    "n1.xml": "<network><name>n1</name><forward mode='nat'/><bridge name='vbr77'/><ip address='10.77.0.1' netmask='255.255.255.0'><dhcp><range start='10.77.0.2' end='10.77.0.99'/><host mac='52:54:00:00:00:01' name='a' ip='10.77.0.5'/></dhcp></ip></network>",
    "n10.xml": "<network><name>n10</name><forward mode='passthrough'/></network>",
    "n11.xml": "<network><name>a/b</name></network>",
    "n12.xml": "<network><name>n12</name><bridge name='vbr77'/></network>",
    "n2.xml": "<network><name>n2</name></network>",
    "n3.xml": "<network><name>n3</name><forward mode='bridge'/><bridge name='br0'/></network>",
    "n4.xml": "<network><name>n4</name><forward mode='foo'/></network>",
    "n5.xml": "<network><name>n5</name><forward mode='route' dev='lo'/><ip address='10.78.0.1' prefix='24'/><ip family='ipv6' address='fd00:78::1' prefix='64'/></network>",
    "n6.xml": "<network><name>n6</name><forward mode='nat'/></network>",
    "n7.xml": "<network><forward mode='nat'/></network>",
    "n8.xml": "<network><name>n8</name><forward mode='open'/><bridge name='vbr78'/><ip address='10.79.0.1' prefix='24'/></network>",
    "n9.xml": "<network><name>n9</name><ip address='10.80.0.1' prefix='24'><dhcp><range start='10.81.0.2' end='10.81.0.3'/></dhcp></ip></network>",
    "s1.xml": "<secret ephemeral='no' private='no'><description>d</description><uuid>0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f</uuid><usage type='volume'><volume>/x</volume></usage></secret>",
    "s2.xml": "<secret ephemeral='yes' private='yes'><uuid>bbad7ff1-aa3b-4b92-8773-c58c32c7b940</uuid><usage type='ceph'><name>cn</name></usage></secret>",
    "s3.xml": "<secret><usage type='foo'/></secret>",
    "s4.xml": "<secret><uuid>2bbb4c35-e234-4999-99fd-87c4e397e993</uuid></secret>",
    "s5.xml": "<secret><usage type='volume'/></secret>",
    "s6.xml": "<secret><uuid>0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f</uuid><usage type='volume'><volume>/y</volume></usage></secret>",
    "d1.xml": "<device><parent>pci_0000_00_99_0</parent><capability type='mdev'><type id='nvidia-11'/></capability></device>",
    "d10.xml": "<device><parent>computer</parent><capability type='pci'><domain>0</domain><bus>0</bus><slot>9</slot><function>0</function><product id='0x1'/><vendor id='0x2'/></capability></device>",
    "d11.xml": "<device><parent>computer</parent><capability type='mdev'><type id='nvidia-11'/><uuid>xx</uuid></capability></device>",
    "d2.xml": "<device><capability type='mdev'><type id='nvidia-11'/></capability></device>",
    "d3.xml": "<device><parent>computer</parent><capability type='mdev'/></device>",
    "d4.xml": "<device><parent>computer</parent></device>",
    "d5.xml": "<device><parent>computer</parent><capability type='whatever'/></device>",
    "d6.xml": "<device><parent>computer</parent><capability type='scsi_host'><capability type='fc_host'><wwnn>10000000c9848141</wwnn><wwpn>10000000c9848140</wwpn></capability></capability></device>",
    "d7.xml": "<device><parent>scsi_host3</parent><capability type='scsi_host'><capability type='fc_host'></capability></capability></device>",
    "d8.xml": "<device><capability type='scsi_host'><capability type='fc_host'></capability></capability></device>",
    "d9.xml": "<device><capability/></device>",
}
"""Documents the sessions refer to."""

POOLS = """
pool-define-as p1 dir --target @DIR@/pools/p1; pool-dumpxml p1; pool-info p1; pool-start p1; pool-build p1; pool-start p1; pool-dumpxml p1; pool-list --all --details; vol-list p1
vol-create-as p1 a 10M; vol-dumpxml a p1; vol-info a p1
vol-create-as p1 b.qcow2 1G --format qcow2; vol-dumpxml b.qcow2 p1; vol-info b.qcow2 p1
vol-create-as p1 c.qcow2 1G --format qcow2 --backing-vol b.qcow2 --backing-vol-format qcow2; vol-dumpxml c.qcow2 p1
vol-create-as p1 a 10M
vol-create-as p1 d 10M --format foo
vol-create-as p1 ../x 10M
vol-create-as p1 e.vmdk 10M --format vmdk; vol-dumpxml e.vmdk p1
vol-clone b.qcow2 b2.qcow2 p1; vol-dumpxml b2.qcow2 p1
vol-resize a 20M p1; vol-info a p1; vol-resize a 5M p1; vol-resize a 5M p1 --shrink; vol-info a p1; vol-resize b.qcow2 2G p1; vol-info b.qcow2 p1; vol-resize a 5M p1 --delta; vol-info a p1; vol-resize a 30M p1 --allocate; vol-info a p1
vol-wipe a p1; vol-wipe a p1 --algorithm random
vol-upload a /etc/passwd p1; vol-download a @DIR@/pools/dl p1; vol-upload a /etc/passwd p1 --offset 100G
vol-delete c.qcow2 p1; vol-list p1 --details
vol-path a p1; vol-key a p1; vol-pool @DIR@/pools/p1/a; vol-name @DIR@/pools/p1/a; vol-info @DIR@/pools/p1/a
pool-refresh p1; pool-info p1
pool-autostart p1; pool-info p1; pool-autostart p1 --disable
pool-define-as p1 dir --target @DIR@/pools/p2
pool-define-as p2 dir --target @DIR@/pools/p1
pool-define-as p3 foo --target /x
pool-define-as p4 dir
pool-define-as p5 fs --source-dev /dev/nosuch --target @DIR@/pools/fs; pool-dumpxml p5; pool-start p5; pool-build p5; pool-undefine p5
pool-define-as p6 logical --source-name vgx --target /dev/vgx; pool-dumpxml p6; pool-start p6; pool-undefine p6
pool-define-as p7 fs --target @DIR@/pools/fs
pool-define-as p8 netfs --source-host h --source-path /e --target @DIR@/pools/nfs --source-format nfs; pool-dumpxml p8; pool-undefine p8
pool-create-as t1 dir --target @DIR@/pools/t1 --build; pool-list --all; pool-dumpxml t1; pool-destroy t1; pool-list --all
pool-destroy p1; pool-info p1; vol-list p1; pool-delete p1; pool-undefine p1; pool-list --all
pool-define-as p1 dir --target @DIR@/pools/p1; pool-start p1; pool-undefine p1; pool-delete p1; pool-start p1; pool-destroy p1; pool-destroy p1; pool-undefine p1
pool-capabilities
find-storage-pool-sources-as logical
find-storage-pool-sources-as dir
find-storage-pool-sources-as netfs
"""

NETWORKS = """
net-define @DIR@/n1.xml; net-dumpxml n1; net-info n1; net-start n1; net-dumpxml n1; net-info n1; net-list --all; net-start n1; net-dhcp-leases n1
net-define @DIR@/n2.xml; net-dumpxml n2; net-start n2; net-dumpxml n2; net-info n2; net-destroy n2; net-undefine n2
net-define @DIR@/n3.xml; net-dumpxml n3; net-start n3; net-info n3; net-destroy n3; net-undefine n3
net-define @DIR@/n4.xml
net-define @DIR@/n5.xml; net-dumpxml n5; net-start n5; net-destroy n5; net-undefine n5
net-define @DIR@/n6.xml; net-dumpxml n6; net-start n6; net-undefine n6
net-define @DIR@/n7.xml
net-define @DIR@/n8.xml; net-dumpxml n8; net-start n8; net-destroy n8; net-undefine n8
net-define @DIR@/n9.xml; net-start n9; net-undefine n9
net-define @DIR@/n10.xml; net-start n10; net-undefine n10
net-define @DIR@/n11.xml
net-define @DIR@/n12.xml; net-start n12; net-undefine n12
net-create @DIR@/n1.xml
net-create @DIR@/n2.xml; net-list --all; net-destroy n2; net-list --all
net-autostart n1; net-info n1; net-list --autostart; net-autostart n1 --disable
net-update n1 add ip-dhcp-host "<host mac='52:54:00:00:00:02' ip='10.77.0.6'/>"; net-dumpxml n1; net-dumpxml n1 --inactive
net-update n1 add ip-dhcp-host "<host mac='52:54:00:00:00:02' ip='10.77.0.6'/>"
net-update n1 add ip-dhcp-host "<host mac='52:54:00:00:00:03' ip='10.77.0.7'/>" --live --config; net-dumpxml n1 --inactive
net-update n1 modify ip-dhcp-host "<host mac='52:54:00:00:00:03' ip='10.77.0.8'/>" --live --config; net-dumpxml n1 --xpath //dhcp
net-update n1 modify ip-dhcp-host "<host mac='52:54:00:00:00:09' ip='10.77.0.8'/>"
net-update n1 delete ip-dhcp-host "<host mac='52:54:00:00:00:03'/>"; net-dumpxml n1 --xpath //dhcp
net-update n1 delete ip-dhcp-host "<host mac='52:54:00:00:00:33'/>"
net-update n1 add ip-dhcp-range "<range start='10.77.0.100' end='10.77.0.110'/>"; net-dumpxml n1 --xpath //dhcp
net-update n1 add ip-dhcp-range "<range start='10.77.0.100' end='10.77.0.110'/>"
net-update n1 delete ip-dhcp-range "<range start='10.77.0.100' end='10.77.0.110'/>"; net-dumpxml n1 --xpath //dhcp
net-update n1 add dns-host "<host ip='10.77.0.9'><hostname>x</hostname></host>"; net-dumpxml n1 --xpath //dns
net-update n1 add dns-txt "<txt name='x' value='y'/>"; net-dumpxml n1 --xpath //dns
net-update n1 delete dns-txt "<txt name='x'/>"; net-dumpxml n1 --xpath //dns
net-update n1 add portgroup "<portgroup name='p'/>"; net-dumpxml n1 --xpath //portgroup
net-update n1 add ip "<ip address='1.1.1.1'/>"
net-update n1 add bridge "<bridge/>"
net-update n1 add ip-dhcp-host "<foo/>"
net-update n1 add ip-dhcp-host "<host/>"
net-undefine n1; net-list --all; net-destroy n1; net-list --all
net-destroy n1
net-dhcp-leases nosuch
net-port-list n1
"""

SECRETS = """
secret-define @DIR@/s1.xml; secret-list; secret-dumpxml 0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f; secret-get-value 0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f
secret-set-value 0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f --base64 aGVsbG8=; secret-get-value 0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f; secret-get-value 0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f --plain
secret-define @DIR@/s2.xml; secret-list; secret-list --ephemeral; secret-list --private; secret-list --no-private
secret-define @DIR@/s3.xml
secret-define @DIR@/s4.xml
secret-define @DIR@/s5.xml
secret-define @DIR@/s6.xml
secret-define @DIR@/s1.xml; secret-get-value 0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f
secret-undefine 0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f; secret-list; secret-dumpxml 0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f
nwfilter-list; nwfilter-binding-list
nwfilter-list
nwfilter-binding-list
"""

DEVICES = """
nodedev-reset computer; nodedev-reset nosuch; nodedev-reset net_lo_00_00_00_00_00_00
nodedev-detach computer --driver kvm; nodedev-detach computer --driver blah; nodedev-detach nosuch
nodedev-reattach computer; nodedev-reattach nosuch
nodedev-destroy computer; nodedev-destroy nosuch; nodedev-destroy net_lo_00_00_00_00_00_00
nodedev-create @DIR@/d1.xml; nodedev-create @DIR@/d2.xml; nodedev-create @DIR@/d3.xml; nodedev-create @DIR@/d4.xml; nodedev-create @DIR@/d5.xml
nodedev-create @DIR@/d6.xml; nodedev-create @DIR@/d7.xml; nodedev-create @DIR@/d8.xml; nodedev-create @DIR@/d9.xml; nodedev-create @DIR@/d10.xml; nodedev-create @DIR@/d11.xml
nodedev-create @DIR@/n2.xml
nodedev-define @DIR@/d1.xml; nodedev-define @DIR@/d2.xml; nodedev-define @DIR@/d3.xml; nodedev-define @DIR@/d4.xml; nodedev-define @DIR@/d6.xml; nodedev-define @DIR@/d10.xml; nodedev-define @DIR@/d11.xml
nodedev-undefine computer; nodedev-undefine net_lo_00_00_00_00_00_00; nodedev-undefine nosuch
nodedev-start computer; nodedev-start nosuch
nodedev-autostart computer; nodedev-autostart computer --disable; nodedev-autostart nosuch
nodedev-info computer; nodedev-info net_lo_00_00_00_00_00_00; nodedev-info nosuch
nodedev-list --all --cap system; nodedev-list --cap mdev; nodedev-list --inactive
"""
