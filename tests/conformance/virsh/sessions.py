"""Command lines for virsh: each is one session, so that what one command changes the next one sees."""

# ruff: noqa: E501 - lines as somebody would type them

from __future__ import annotations

LINES = """
list
list --all
list --inactive
list --name
list --uuid
list --id --name
list --uuid --name
list --title
list --title --all
list --table
list --table --name
list --state-running
list --state-shutoff
list --state-paused --all
list --persistent
list --transient
list --autostart
list --no-autostart
list --with-snapshot
list --without-snapshot
list --with-managed-save --all
list --managed-save --all
list --foo
list x
list --name=x
dominfo
dominfo nosuch
dominfo 99
dominfo 6695eb01-f6a4-8304-79aa-97f2502e193e
dominfo 6695eb01-f6a4-8304-79aa-97f2502e193f | uuid
domid test
domid nosuch
domname 1
domname test
domuuid test
domuuid 1
domstate test
domstate test --reason
suspend test; domstate test --reason; resume test; domstate test --reason
destroy test; domstate test --reason; list --all; start test; domstate test
shutdown test; domstate test --reason; list
shutdown test --mode acpi
shutdown test --mode foo
shutdown test --mode acpi,foo
reboot test
reboot test --mode foo
reset test
reset nosuch
start test
start nosuch
start
start --domain
start test --foo
start test test
destroy test; destroy test
suspend test; suspend test
resume test
undefine test
undefine nosuch
destroy test; undefine test; list --all
undefine test --nvram --keep-nvram
undefine test --storage vda
undefine test --remove-all-storage
autostart test
autostart test --disable
autostart nosuch
dominfo nosuch --foo
domcontrol test
domjobinfo test
domjobabort test
domrename test other
destroy test; domrename test other; list --all
dumpxml test
dumpxml test --inactive
dumpxml test --security-info
dumpxml test --xpath //interface
dumpxml test --xpath //interface --wrap
dumpxml test --xpath //@type
dumpxml test --xpath //nosuch
dumpxml nosuch
desc test
desc test --title
desc test "a description"; desc test
desc test --title "a title"; desc test --title; list --title
desc test some words here; desc test
metadata test http://example.com
metadata test http://example.com --key k --set <a>1</a>; metadata test http://example.com
metadata test http://example.com --set <a>1</a>
metadata test http://example.com --remove
metadata test http://example.com --set x --remove
define /nosuch/file
define
create /nosuch/file
managedsave test
managedsave test; list --all; list --all --managed-save; dominfo test | state; start test
managedsave-remove test
managedsave test; managedsave-remove test; managedsave-remove test
save test
restore /nosuch/file
dump test /nosuch/dir/core
dump test /nosuch/core --format foo
dump test /nosuch/core --memory-only --format foo
set-lifecycle-action test foo destroy
set-lifecycle-action test poweroff foo
set-lifecycle-action test poweroff restart
dompmsuspend test mem
dompmsuspend test foo
dompmwakeup test
inject-nmi test
domxml-to-native qemu-argv
domxml-to-native qemu-argv test
domxml-from-native qemu-argv /nosuch
ttyconsole test
vncdisplay test
domdisplay test
domdisplay test --type vnc
domif-getlink test testnet0
domif-getlink test aa:bb:cc:dd:ee:ff
domif-getlink test nosuch
domif-getlink test 00:00:00:00:00:00
domif-setlink test testnet0 foo
domif-setlink test nosuch up
domif-setlink test testnet0 down --print-xml
domif-setlink test testnet0 down
domblklist test
domblklist test --details
domblklist test --inactive
domiflist test
domiflist test --inactive
domiflist nosuch
domblkinfo test
domblkinfo test vda
domblkinfo test vda --human
domblkinfo test --all
domblkinfo test --all --human
domblkinfo test nosuch
domblkstat test nosuch
domifstat test nosuch
dommemstat test --period x
dommemstat test --period 5
dommemstat nosuch
domblkerror test
domstats test
domstats --state
domstats --state --list-active
domstats --list-inactive
domstats test --list-active
domstats nosuch
domstats --raw --state test
cpu-stats test --foo
cpu-stats test --start 5
domifaddr test
domifaddr test --full
domifaddr test --interface testnet0
domifaddr test --interface nosuch
domifaddr test --source agent
domifaddr test --source foo
domifaddr nosuch
domtime test
domtime test --pretty
domtime test --time 5 --now
domtime test --now
domtime test --sync
setmem test 1048576; dominfo test | memory
setmem test 1G; dominfo test | memory
setmem test 1GB; dominfo test | memory
setmem test x
setmem test 5Q
setmem test
setmem test 1G --live --current
setmem test 99G
setmaxmem test 4G
destroy test; setmaxmem test 4G; dominfo test | memory
setmaxmem test 4G --config
vcpucount test
vcpucount test --live
vcpucount test --maximum --config
vcpucount test --maximum --active
vcpucount test --live --config
vcpucount test --guest --config
vcpucount nosuch
setvcpus test 1; vcpucount test
setvcpus test 0
setvcpus test x
setvcpus test 99
setvcpus test 3 --maximum
setvcpus test 3 --maximum --live
setvcpus test 1 --config; vcpucount test
setvcpus test 1 --guest --config
setvcpu test 1
setvcpu test 1 --enable --disable
vcpuinfo nosuch
vcpupin test
vcpupin test 0
vcpupin test --vcpu 1
vcpupin test 0 0,2; vcpupin test
vcpupin test 0 0-3,^2; vcpupin test
vcpupin test 0 r; vcpupin test
vcpupin test 0 99
vcpupin test 0 x
vcpupin test --cpulist 0
emulatorpin test
emulatorpin test 0-1; emulatorpin test
guestvcpus test
guestvcpus test --cpulist 1
guestvcpus test --enable
iothreadinfo test
iothreadadd test 0
iothreadadd test 5; iothreadinfo test
iothreadadd test 5; iothreaddel test 5; iothreadinfo test
iothreadadd test 5; iothreadpin test 5 0-1; iothreadinfo test
iothreadset test 5
iothreadset test 5 --poll-grow 5
memtune test
memtune test --hard-limit 1G; memtune test
memtune test --hard-limit x
memtune test --hard-limit -1
numatune test
numatune test --mode foo
numatune test --nodeset 0
blkdeviotune test vda
blkdeviotune test vda --read-iops-sec 5 --total-iops-sec 7
blkdeviotune test nosuch
blkdeviotune test vda --total-bytes-sec 1M; blkdeviotune test vda
blkdeviotune test vda --group-name g --total-iops-sec 3 --size-iops-sec 4; blkdeviotune test vda
blkdeviotune test vda --read-iops-sec x
blkiotune test
blkiotune test --weight 300; blkiotune test
blkiotune test --weight 0
domiftune test testnet0
domiftune test testnet0 --inbound 5; domiftune test testnet0
domiftune test testnet0 --inbound x
domiftune test nosuch
schedinfo test
schedinfo test --weight 5
schedinfo test --set weight=5
schedinfo test --set foo=1
schedinfo test --set weight=x
perf test
perf test --enable cmt; perf test
perf test --disable cmt
domdirtyrate-calc test
domdirtyrate-calc test --mode foo
domlaunchsecinfo test
domblkthreshold test vda 5
domblkthreshold test vda x
attach-device test /nosuch
attach-device test /dev/null --persistent --live
detach-device test /nosuch
update-device test /nosuch
attach-disk test /x vdb --print-xml
attach-disk test /x vdb
attach-disk test /x
attach-disk test /dev/null vdb --print-xml --mode shareable
attach-disk test /x vdb --print-xml --mode foo
attach-disk test /x vdb --print-xml --type cdrom --driver qemu --subdriver qcow2 --cache none --io native --serial S
attach-disk test /x vdb --print-xml --iothread 1 --alias ua-x --rawio --wwn 5000c50015ea71aa
attach-disk test /x vdb --print-xml --address pci:0000.00.05.0 --targetbus virtio --multifunction
attach-disk test /x vdb --print-xml --address foo
attach-disk test /x sda --print-xml --address scsi:0.0.1
attach-disk test /x sda --print-xml --address pci:0.0.0.0
attach-disk test /x hda --print-xml --address ide:0.1.1
attach-disk test /x hda --print-xml --address scsi:0.1.1
attach-disk test /x vdb --print-xml --address ccw:fe.0.0001
attach-disk test /x vdb --print-xml --sourcetype block
attach-disk test /x vdb --print-xml --sourcetype foo
attach-disk test img vdb --print-xml --source-protocol nbd --source-host-name h:10809 --source-host-transport tcp
attach-disk test img vdb --print-xml --source-protocol nbd --source-host-transport unix --source-host-socket /s
attach-disk test /x vdb --persistent --live
attach-interface test network default --print-xml
attach-interface test network default
attach-interface test bridge br0 --print-xml --mac 52:54:00:00:00:01 --model virtio --target vnet5 --script /s --alias ua-n
attach-interface test bridge br0 --print-xml --inbound 1,2,3 --outbound 4
attach-interface test bridge br0 --print-xml --inbound x
attach-interface test bridge br0 --print-xml --inbound 1,2,3,4,5
attach-interface test direct eth0 --print-xml
attach-interface test hostdev 0000:00:19.0 --managed --print-xml
attach-interface test hostdev foo --print-xml
attach-interface test foo x --print-xml
attach-interface test
detach-disk test vda --print-xml
detach-disk test nosuch
detach-disk test vda
detach-interface test network --print-xml
detach-interface test foo
detach-interface test network --mac 00:00:00:00:00:00
detach-interface test network
detach-device-alias test ua-x
change-media test vda
change-media test nosuch
change-media test vda --eject --insert
blockresize test vda 5x
blockresize test vda 5G
blockjob test vda
blockjob test vda --raw --abort
blockpull test vda
blockpull test vda --verbose
blockcommit test vda --active
blockcommit test vda --pivot --keep-overlay
blockcopy test vda
blockcopy test vda --dest /x --print-xml
send-key test KEY_FOO
send-key test --codeset foo KEY_A
send-key test KEY_LEFTCTRL KEY_LEFTALT KEY_DELETE
send-key test
send-process-signal test 1 foo
screenshot nosuch
qemu-monitor-command test foo
qemu-monitor-command test --hmp --pretty foo
qemu-agent-command test foo
qemu-agent-command test --async --block foo
guest-agent-timeout test --timeout 5
guestinfo test
domfsinfo test
domfsfreeze test
domfsfreeze test; domfsthaw test
domfstrim test
domhostname test
domhostname test --source foo
set-user-password test root x
get-user-sshkeys test root
set-user-sshkeys test root --reset --remove
console nosuch
snapshot-create test; echo done
snapshot-create-as test s1; snapshot-list test; snapshot-list test --name; snapshot-list test --tree
snapshot-create-as test s1; snapshot-create-as test s2; snapshot-list test --tree; snapshot-list test --name --roots
snapshot-create-as test s1; snapshot-create-as test s2; snapshot-info test s1; snapshot-info test --current
snapshot-create-as test s1; snapshot-create-as test s2; snapshot-list test --name --leaves; snapshot-parent test s2; snapshot-parent test s1
snapshot-create-as test s1; snapshot-create-as test s2; snapshot-revert test s1; snapshot-current test --name
snapshot-create-as test s1; snapshot-create-as test s2; snapshot-delete test s1; snapshot-list test --name
snapshot-create-as test s1; snapshot-create-as test s2; snapshot-delete test s1 --children; snapshot-list test --name
snapshot-create-as test s1; snapshot-create-as test s2; snapshot-delete test s1 --children-only; snapshot-list test --name
snapshot-create-as test s1; snapshot-create-as test s2; snapshot-list test --from s1 --name; snapshot-list test --current --name
snapshot-create-as test s1 "a desc" --print-xml
snapshot-create-as test s1 --diskspec vda,snapshot=external,file=/x --memspec /mem,snapshot=external --print-xml
snapshot-create-as test s1 --diskspec vda,foo=bar --print-xml
snapshot-create-as test s1 --diskspec vda,stype=block,file=/x,driver=qcow2 --print-xml
snapshot-create-as test s1 --diskspec vda,stype=foo --print-xml
snapshot-create-as test s1 --memspec foo=bar --print-xml
snapshot-info test
snapshot-info test nosuch
snapshot-current test
snapshot-current test --name --snapshotname x
snapshot-delete test nosuch
snapshot-delete test
snapshot-revert test nosuch
snapshot-parent test nosuch
snapshot-dumpxml test nosuch
snapshot-list nosuch
snapshot-list test --tree --name
checkpoint-create-as test c1 --print-xml
checkpoint-list test
checkpoint-list test --name
checkpoint-info test
checkpoint-info test nosuch
checkpoint-delete test nosuch
checkpoint-create-as test c1; checkpoint-list test --name; checkpoint-info test c1
backup-begin test
backup-dumpxml test
migrate
migrate test
migrate nosuch qemu:///system
migrate-getspeed test
migrate-setspeed test 5
migrate-getmaxdowntime test
migrate-setmaxdowntime test 0
migrate-setmaxdowntime test 5
migrate-compcache test
migrate-postcopy test
net-list
net-list --all
net-list --inactive
net-list --name
net-list --uuid
net-list --uuid --name
net-list --table --name
net-list --persistent
net-list --autostart
net-info default
net-info nosuch
net-info dd8fe884-6c02-601e-7551-cca97df1c5df
net-name default
net-name dd8fe884-6c02-601e-7551-cca97df1c5df
net-uuid default
net-uuid nosuch
net-dumpxml default
net-dumpxml default --xpath //ip
net-dumpxml nosuch
net-autostart default; net-info default
net-autostart default --disable
net-destroy default; net-list --all; net-info default; net-start default; net-list
net-destroy default; net-destroy default
net-start default
net-start nosuch
net-undefine default
net-destroy default; net-undefine default; net-list --all
net-define /nosuch
net-create /nosuch
net-dhcp-leases default
net-dhcp-leases default --mac 00:00:00:00:00:00
net-update default foo ip-dhcp-host <host/>
net-update default add foo <host/>
net-update default add ip-dhcp-host <host/>
net-update default add-last ip-dhcp-host "<host mac='52:54:00:00:00:01' ip='192.168.122.45'/>"; net-dumpxml default
net-update default delete ip-dhcp-host /nosuch
net-port-list default
net-port-list default --uuid
net-port-dumpxml default nosuch
net-event --list
net-event
net-event foo
net-event lifecycle --timeout 1
pool-list
pool-list --all
pool-list --inactive
pool-list --name
pool-list --uuid
pool-list --details
pool-list --details --uuid
pool-list --type dir
pool-list --type foo
pool-list --autostart
pool-info default-pool
pool-info default-pool --bytes
pool-info nosuch
pool-name default-pool
pool-name dfe224cb-28fb-8dd0-c4b2-64eb3f0f4566
pool-uuid default-pool
pool-dumpxml default-pool
pool-dumpxml default-pool --inactive
pool-autostart default-pool; pool-info default-pool
pool-destroy default-pool; pool-list --all; pool-list --details --all; pool-start default-pool
pool-start default-pool
pool-destroy default-pool; pool-undefine default-pool; pool-list --all
pool-destroy default-pool; pool-info default-pool
pool-undefine default-pool
pool-refresh default-pool
pool-refresh nosuch
pool-build default-pool
pool-build default-pool --overwrite --no-overwrite
pool-delete default-pool
pool-define /nosuch
pool-define-as p dir --target /p --print-xml
pool-define-as p dir --target /p; pool-list --all
pool-create-as p dir --target /p; pool-list; vol-list p
pool-define-as p netfs --source-host h --source-path /e --target /p --source-format nfs --print-xml
pool-define-as p iscsi --source-host h --source-dev d --source-initiator i --auth-type chap --auth-username u --secret-usage s --target /p --print-xml
pool-define-as p scsi --adapter-name host1 --target /p --print-xml
pool-define-as p scsi --adapter-wwnn 1 --adapter-wwpn 2 --adapter-parent p --target /p --print-xml
pool-define-as p logical --source-name vg --print-xml
pool-define-as p
pool-event --list
pool-event foo
pool-capabilities
find-storage-pool-sources-as logical
find-storage-pool-sources-as iscsi --port 5
find-storage-pool-sources dir
vol-list default-pool
vol-list default-pool --details
vol-list nosuch
vol-create-as default-pool v1 10M; vol-list default-pool; vol-list default-pool --details; vol-info v1 default-pool
vol-create-as default-pool v1 10M --allocation 5M; vol-info v1 default-pool; vol-info v1 default-pool --bytes; vol-info v1 default-pool --physical
vol-create-as default-pool v1 10M; vol-path v1 default-pool; vol-key v1 default-pool; vol-pool /default-pool/v1; vol-name /default-pool/v1
vol-create-as default-pool v1 10M; vol-dumpxml v1 default-pool
vol-create-as default-pool v1 10M; vol-delete v1 default-pool; vol-list default-pool
vol-create-as default-pool v1 10M; vol-create-as default-pool v1 10M
vol-create-as default-pool v1 10M; vol-resize v1 20M default-pool
vol-create-as default-pool v1 10M; vol-wipe v1 default-pool
vol-create-as default-pool v1 10M; vol-wipe v1 default-pool --algorithm foo
vol-create-as default-pool v1 10M; vol-clone v1 v2 default-pool; vol-list default-pool
vol-create-as default-pool v1 10M --format qcow2 --print-xml
vol-create-as default-pool v1 10X
vol-create-as default-pool v1
vol-create-as nosuch v1 10M
vol-create default-pool /nosuch
vol-info v1
vol-info v1 --pool default-pool
vol-info v1 --pool nosuch
vol-delete nosuch default-pool
vol-pool nosuch
vol-path nosuch
vol-upload nosuch /nosuch default-pool
vol-create-as default-pool v1 10M; vol-upload v1 /nosuch default-pool
pool-destroy default-pool; vol-info v1 default-pool
iface-list
iface-list --all
iface-list --inactive
iface-mac eth1
iface-mac nosuch
iface-name aa:bb:cc:dd:ee:ff
iface-name nosuch
iface-dumpxml eth1
iface-dumpxml aa:bb:cc:dd:ee:ff
iface-dumpxml nosuch
iface-start eth1
iface-destroy eth1; iface-list --all; iface-start eth1
iface-destroy eth1; iface-undefine eth1; iface-list --all
iface-define /nosuch
iface-begin
iface-begin; iface-commit
iface-begin; iface-rollback
iface-commit
iface-bridge eth1 br9 --no-start; iface-list --all
iface-bridge nosuch br9
iface-unbridge eth1
nodedev-list
nodedev-list --cap foo
nodedev-list --tree --cap net
nodedev-dumpxml nosuch
nodedev-dumpxml computer
nodedev-info nosuch
nodedev-event --list
nodedev-event
nodedev-create /nosuch
nodedev-destroy nosuch
nodedev-detach nosuch
secret-list
secret-dumpxml x
secret-dumpxml 6695eb01-f6a4-8304-79aa-97f2502e193f
secret-define /nosuch
secret-set-value x
secret-set-value x --plain
secret-get-value x
secret-undefine x
secret-event --list
nwfilter-list
nwfilter-dumpxml x
nwfilter-define /nosuch
nwfilter-undefine x
nwfilter-binding-list
nwfilter-binding-dumpxml x
nwfilter-binding-delete x
capabilities
domcapabilities
sysinfo
maxvcpus
maxvcpus --type qemu
hostname
uri
nodeinfo
nodecpumap
nodecpumap --pretty
nodecpustats
nodecpustats --cpu 0
nodecpustats --cpu x
nodememstats
nodememstats --cell 0
freecell
freecell --all
freecell --cellno 1
freecell --cellno 1 --all
freecell --cellno 99
freepages
freepages --cellno 0
freepages --all
freepages --cellno 0 --pagesize 4
allocpages 4 5
allocpages x 5
cpu-models
cpu-models x86_64
cpu-compare /nosuch
cpu-baseline /nosuch
hypervisor-cpu-compare /nosuch
hypervisor-cpu-baseline
nodesevinfo
nodesuspend foo 5
nodesuspend mem x
nodesuspend mem 60
node-memory-tune
node-memory-tune --shm-sleep-millisecs 5
event --list
event
event foo
event --event foo
event --event lifecycle --all
event --event lifecycle --timeout 0
event --event lifecycle --timeout 1
event --domain nosuch lifecycle
qemu-monitor-event --timeout 1
pwd
cd /
echo
echo a b
echo 'a b' "c d" e\\ f
echo --shell 'a b' c
echo --xml <a>
echo --split a b
echo --err a
echo --foo
echo -- --foo
help nosuch
quit
exit
connect
foo
echo a; foo; echo b
echo a; list --foo; echo b
list; domstate test
list 'x
list; # comment
; ;
"""

SESSIONS = tuple(line.partition(" | ")[0] for line in LINES.strip().splitlines())

DIFFERENCES: dict[str, str] = {
    "secret-list": "virsh asks again in the words of libvirt before 0.10.2 and shows that failure",
    "nwfilter-list": "virsh asks again in the words of libvirt before 0.10.2 and shows that failure",
    "net-port-dumpxml default nosuch": "virsh exits with 0 although it failed",
    "connect": "both name the default daemon, which is not there, in words of their own",
}
"""Sessions that differ on purpose, each with the reason."""
