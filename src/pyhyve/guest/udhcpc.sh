#!/bin/busybox sh
# Called by udhcpc with what the DHCP server said in the environment. IPv6 addresses are none of its business, and a
# renewed address stays in place, with its connections.
case $1 in
deconfig)
	ip -4 address flush dev "$interface"
	ip link set "$interface" up
	;;
bound | renew)
	case " $(ip -4 -o address show dev "$interface")" in
	*" $ip/${mask:-24} "*) ;;
	*)
		ip -4 address flush dev "$interface"
		ip address add "$ip/${mask:-24}" dev "$interface"
		;;
	esac
	for gateway in $router; do
		ip route replace default via "$gateway"
		break
	done
	: >/etc/resolv.conf
	for server in $dns; do
		echo "nameserver $server" >>/etc/resolv.conf
	done
	;;
esac
