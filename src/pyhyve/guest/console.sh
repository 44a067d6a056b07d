#!/bin/busybox sh
# A shell on the console $1, again and again.
while :; do
	setsid -c sh -l <"$1" >"$1" 2>&1
done
