#!/bin/busybox sh
# An ssh server, where there is a network: logins with the key of whoever built the guest, never with a password.
[ -e /sys/class/net/eth0 ] || exit 0
dropbear -s -T 3 -P /run/dropbear.pid -r /etc/dropbear/ed25519
