#!/bin/busybox sh
# Process 1 of a pyhyve guest: mount what every program expects, load the drivers of the devices that are there, give a
# shell on the console, and end the machine when asked. Kernel command line words it knows:
#   pyhyve.hostname=NAME   pyhyve.net=dhcp|ADDRESS/PREFIX[,GATEWAY]   pyhyve.run=COMMAND (with , for spaces)
export PATH=/sbin:/bin:/usr/sbin:/usr/bin HOME=/root TERM=${TERM:-linux}

mount -t proc -o nosuid,nodev,noexec proc /proc
mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
mount -t devtmpfs -o mode=0755,nosuid dev /dev 2>/dev/null
mkdir -p /dev/pts /dev/shm /run /tmp
mount -t devpts -o mode=0620,ptmxmode=0666 devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t tmpfs -o mode=0755 tmpfs /run

# What poweroff, reboot and halt send to process 1.
stop() {
	trap '' USR1 USR2 TERM
	sync
	umount -a -r 2>/dev/null
	busybox "$1" -f
}
trap 'stop halt' USR1
trap 'stop poweroff' USR2
trap 'stop reboot' TERM
trap 'stop reboot' INT

hostname=pyhyve net='' run=''
for word in $(cat /proc/cmdline); do
	case $word in
	pyhyve.hostname=*) hostname=${word#*=} ;;
	pyhyve.net=*) net=${word#*=} ;;
	pyhyve.run=*) run=$(echo "${word#*=}" | tr , ' ') ;;
	esac
done
hostname "$hostname"

# A virtio PCI function brings a virtio bus with devices of its own: look twice.
set -- /sys/bus/acpi/devices/LNRO0005:*
[ -e "$1" ] && modprobe -q virtio_mmio
for round in 1 2; do
	found=$(cat /sys/bus/pci/devices/*/modalias /sys/bus/virtio/devices/*/modalias 2>/dev/null)
	[ -n "$found" ] && modprobe -a -b -q $found 2>/dev/null
done
# A controller brought drives.
set -- /sys/bus/scsi/devices/*/modalias
[ -e "$1" ] && modprobe -a -b -q $(cat "$@") 2>/dev/null
[ -s /etc/modules ] && modprobe -a $(cat /etc/modules)

# Channels to the host by name, as udev has them. The host says which ports there are, and then their names, when it is
# asked: that may be on its way. Consoles have no name.
set -- /sys/bus/virtio/drivers/virtio_console/virtio*
if [ -e "$1" ]; then
	for round in 1 2 3 4 5 6 7 8 9 10; do
		set -- /sys/class/virtio-ports/vport*
		named=$(cat /sys/class/virtio-ports/vport*/name 2>/dev/null | wc -l)
		[ -e "$1" ] && [ "$named" -ge $# ] && break
		usleep 20000
	done
fi
for port in /sys/class/virtio-ports/vport*; do
	[ -s "$port/name" ] && mkdir -p /dev/virtio-ports && ln -sf "../${port##*/}" "/dev/virtio-ports/$(cat "$port/name")"
done

ip link set lo up
if [ -e /sys/class/net/eth0 ]; then
	case $net in
	'') ;;
	dhcp)
		# It stays, and renews.
		ip link set eth0 up
		udhcpc -i eth0 -n -p /run/udhcpc.pid -x "hostname:$hostname" -s /etc/udhcpc.script >/dev/null 2>&1 ||
			echo 'pyhyve guest: no DHCP answer on eth0'
		;;
	*)
		ip address add "${net%,*}" dev eth0
		ip link set eth0 up
		[ "${net#*,}" = "$net" ] || ip route add default via "${net#*,}"
		;;
	esac
fi

for script in /etc/init.d/*; do
	[ -x "$script" ] && "$script"
done

console=$(cat /sys/class/tty/console/active 2>/dev/null)
console=/dev/${console##* }
[ -c "$console" ] || console=/dev/console
echo "pyhyve guest ready: Linux $(uname -r) on $(hostname)" >"$console"
[ -z "$run" ] || $run <"$console" >"$console" 2>&1

# The shell runs in a session of its own, so that Ctrl-C works there and leaving it is not the end of the machine. It is
# not started with &, which would make it and all its children ignore Ctrl-C.
start-stop-daemon -S -b -x /sbin/console -- "$console"

# Waiting, unlike a command in the foreground, lets the traps run at once.
while :; do
	sleep 86400 &
	wait $!
done
