#!/bin/busybox sh
# Process 1 of the nested test machine: load KVM, say that it is ready (the host takes a snapshot there), then run what
# the payload disk holds.
export PATH=/usr/bin:/usr/sbin:/sbin:/bin HOME=/root TERM=dumb PYTHONPATH=/opt/site
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm /run /tmp /work /root
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs -o size=90% tmpfs /work
modprobe -a virtio_pci virtio_blk tun kvm_amd
modprobe vhost_net 2>/dev/null
ip link set lo up
[ -c /dev/kvm ] || echo "@@nested:failed there is no /dev/kvm in the nested machine"
# Compile what every run imports, once.
python3 -c 'import pytest, _pytest.main, _pytest.junitxml, pytest_timeout, tarfile, subprocess, ctypes'
exec </dev/ttyS0 >/dev/ttyS0 2>&1
stty raw -echo
echo "@@nested:ready"
read -r now
(while sleep 5; do echo "@@nested:beat"; done) &
date -s "@$now" >/dev/null
blockdev --flushbufs /dev/vda
tar -x -f /dev/vda -C /work
cd /work
sh /work/run.sh </dev/null
echo "@@nested:exit $?"
poweroff -f
