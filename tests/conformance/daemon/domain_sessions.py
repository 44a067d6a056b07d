"""What real virsh is told of domains, for two daemons in turn. ``@DIR@`` is a directory of each.

A line is one session; the sessions of a list build on each other.
"""

# ruff: noqa: E501 - lines as somebody would type them

from __future__ import annotations

_OS = "<os><type arch='x86_64' machine='MACHINE'>hvm</type></os>"
_EMULATOR = "<emulator>/usr/bin/qemu-system-x86_64</emulator>"


def _domain(name: str, devices: str, *, machine: str = "pc-i440fx-7.2", more: str = "", memory_mib: int = 64) -> str:
    return (
        f"<domain type='qemu'><name>{name}</name><memory unit='MiB'>{memory_mib}</memory><vcpu>1</vcpu>"
        f"{_OS.replace('MACHINE', machine)}{more}<devices>{_EMULATOR}{devices}</devices></domain>"
    )


_Q35 = """<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='@DIR@/a.qcow2'/><target dev='vda' bus='virtio'/></disk>
<disk type='file' device='cdrom'><target dev='sda' bus='sata'/><readonly/></disk>
<interface type='user'><mac address='52:54:00:00:00:01'/><model type='virtio'/></interface>
<serial type='pty'/><channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>"""
_ODD = """<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='@DIR@/a.qcow2'/><target dev='vda' bus='virtio'/></disk>
<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='@DIR@/b.raw'/><target dev='vdb' bus='virtio'/></disk>
<disk type='file' device='cdrom'><target dev='hda' bus='ide'/></disk><rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
<video><model type='vga'/></video><graphics type='vnc' port='-1'/>"""
_FLASH = "<loader readonly='yes' type='pflash'>{}</loader>"
_CODE, _VARIABLES = "/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"


def _uefi(name: str, machine: str, os: str, *, auto: bool = False, acpi: str = "<acpi/>") -> str:
    text = _domain(name, "", machine=machine, more=f"<features>{acpi}</features>", memory_mib=128)
    return text.replace("<os>", "<os firmware='efi'>" if auto else "<os>").replace("</os>", f"{os}</os>")


_SAVED = f"""<domain type='qemu'><name>sv</name><uuid>d80cfff7-720c-4e85-b7a3-20de7080694a</uuid><memory unit='MiB'>32</memory><currentMemory unit='MiB'>32</currentMemory>
<vcpu current='1'>2</vcpu>{_OS.replace("MACHINE", "pc-i440fx-7.2")}<features><acpi/></features><devices>{_EMULATOR}<disk type='file' device='disk'><source file='@DIR@/b.raw'/><target dev='vda' bus='virtio'/></disk>
<interface type='user'><mac address='52:54:00:11:22:33'/><model type='virtio'/></interface><controller type='virtio-serial' index='0'/><serial type='pty'/></devices></domain>"""
_SAVED_OTHERWISE = {
    "memory": ("<memory unit='MiB'>32", "<memory unit='MiB'>64"),
    "current": ("<currentMemory unit='MiB'>32", "<currentMemory unit='MiB'>16"),
    "most": (">2</vcpu>", ">4</vcpu>"),
    "online": ("current='1'", "current='2'"),
    "name": ("<name>sv", "<name>other"),
    "uuid": ("d80cfff7", "d80cfff8"),
    "machine": ("pc-i440fx-7.2", "pc-q35-7.2"),
    "target": ("dev='vda'", "dev='vdb'"),
    "bus": ("dev='vda' bus='virtio'", "dev='hda' bus='ide'"),
    "name-of-disk": ("<target dev", "<serial>abc</serial><target dev"),
    "read-only": ("<target dev", "<readonly/><target dev"),
    "mac": ("11:22:33", "11:22:34"),
    "card": ("<model type='virtio'/>", "<model type='e1000'/>"),
    "serial": ("<serial type='pty'/>", ""),
    "watchdog": ("<serial type='pty'/>", "<serial type='pty'/><watchdog model='i6300esb'/>"),
    "end": ("<devices>", "<on_crash>restart</on_crash><devices>"),
}

FILES = {
    "sv.xml": _SAVED,
    **{
        f"snap-{name}.xml": "<domainsnapshot><name>s</name><state>shutoff</state><creationTime>1</creationTime>"
        f"{_SAVED.replace(*_SAVED_OTHERWISE[name])}</domainsnapshot>"
        for name in ("end", "memory")
    },
    "pty.xml": "<channel type='pty'><target type='virtio' name='my.channel'/></channel>",
    **{f"sv-{name}.xml": _SAVED.replace(*change) for name, change in _SAVED_OTHERWISE.items()},
    "min.xml": _domain("min", ""),
    "min2.xml": _domain("min2", "<memballoon model='none'/>"),
    "pc.xml": _domain(
        "pc", "<disk type='file'><source file='@DIR@/b.raw'/><target dev='hda' bus='ide'/></disk><serial type='pty'/>"
    ),
    "q35.xml": _domain("q35", _Q35, machine="pc-q35-7.2", more="<features><acpi/><apic/></features>"),
    "odd.xml": _domain("odd", _ODD, more="<iothreads>1</iothreads><features><acpi/></features>").replace(
        "<vcpu>1", "<vcpu>2"
    ),
    "efi1.xml": _uefi("efi1", "q35", "", auto=True),
    "efi2.xml": _uefi("efi2", "pc", _FLASH.format(_CODE)),
    "efi3.xml": _uefi(
        "efi3",
        "q35",
        f"{_FLASH.format(_CODE)}<nvram template='{_VARIABLES}'>@DIR@/VARS.fd</nvram>",
    ),
    "efi4.xml": _uefi("efi4", "q35", "<firmware><feature enabled='no' name='secure-boot'/></firmware>", auto=True),
    "efi5.xml": _uefi("efi5", "pc", "<loader secure='no'/>", auto=True),
    "efi6.xml": _uefi("efi6", "pc", "<firmware><feature enabled='yes' name='secure-boot'/></firmware>", auto=True),
    "efi7.xml": _uefi("efi7", "pc", _FLASH.format("/nonexistent/own.fd")),
    "efi8.xml": _uefi("efi8", "pc", "", auto=True, acpi=""),
    "cpu.xml": _domain("many", "", more="<cpu mode='custom'><model>qemu64</model></cpu>").replace(
        "<vcpu>1", "<vcpu current='2'>4"
    ),
    "bad1.xml": "<domain type='qemu'><name>x</name></domain>",
    "bad2.xml": "<domain type='nosuch'><name>x</name><memory>1</memory><os><type>hvm</type></os></domain>",
    "bad3.xml": "<domain type='qemu'><name>a/b</name><memory>65536</memory><os><type>hvm</type></os></domain>",
    "bad4.xml": "<domain type='qemu'><name>x",
    "bad5.xml": _domain("x", "<disk type='file'><source file='/x'/></disk>"),
    "bad6.xml": _domain("x", "<interface type='foo'/>"),
    "bad7.xml": _domain("x", "", memory_mib=0),
    "bad8.xml": _domain(
        "x", "<disk type='file'><target dev='vda'/></disk><disk type='file'><target dev='vda'/></disk>"
    ),
    "bad9.xml": "<network><name>n</name></network>",
    "disk.xml": "<disk type='file'><driver name='qemu' type='raw'/><source file='@DIR@/b.raw'/><target dev='vdc' bus='virtio'/></disk>",
    "nic.xml": "<interface type='user'><mac address='52:54:00:00:00:99'/><model type='virtio'/></interface>",
}
"""Documents the sessions refer to."""

DEFINITIONS = """
define @DIR@/min.xml; dumpxml min; dominfo min; domstate min --reason; domid min; domuuid min; domname min
list; list --all; list --inactive --name; list --all --persistent --no-autostart; list --transient
define @DIR@/min.xml; create @DIR@/min.xml
define @DIR@/q35.xml; dumpxml q35; domblklist q35; domblklist q35 --details --inactive; domiflist q35
define @DIR@/pc.xml; dumpxml pc --inactive; define @DIR@/cpu.xml; dumpxml many; vcpucount many; vcpuinfo many; vcpupin many
define @DIR@/bad1.xml
define @DIR@/bad2.xml
define @DIR@/bad3.xml
define @DIR@/bad4.xml
define @DIR@/bad5.xml
define @DIR@/bad6.xml
define @DIR@/bad7.xml
define @DIR@/bad8.xml
define @DIR@/bad9.xml
define @DIR@/nosuch.xml
dumpxml nosuch
start nosuch
domstate nosuch
dominfo min2
desc min hello world; desc min; desc min --title T1; desc min --title; dumpxml min --xpath /domain/title
metadata min http://a --key k --set '<a/>'; metadata min http://a; dumpxml min --xpath /domain/metadata
metadata min http://a --remove; metadata min http://a
domrename min minx; domrename minx min; domrename minx min; domrename min pc
autostart min; dominfo min; list --all --autostart --name; autostart --disable min; list --all --autostart --name
setvcpus min 4 --maximum --config; setvcpus min 2 --config; vcpucount min; setvcpus min 9 --config
vcpucount min --current --live
setvcpus min 2
setmaxmem min 128M; setmem min 96M --config; dominfo min; setmem min 999M --config
setmem min 1M
vcpupin min 0 1 --config; vcpupin min; vcpupin min 9 1 --config
emulatorpin min 0-1 --config; emulatorpin min
memtune min --hard-limit 200000 --config; memtune min --config
blkiotune min --weight 300 --config; blkiotune min --config
numatune min --mode preferred --nodeset 0 --config; numatune min --config
schedinfo min --set cpu_shares=2048 --config; schedinfo min --config
set-lifecycle-action min reboot destroy --config; dumpxml min --xpath /domain/on_reboot
set-lifecycle-action min reboot nosuch --config
attach-disk q35 @DIR@/b.raw vdb --config; domblklist q35 --inactive; detach-disk q35 vdb --config; detach-disk q35 vdb --config
attach-device q35 @DIR@/disk.xml --config; attach-device q35 @DIR@/disk.xml --config; dumpxml q35 --xpath //disk[3]; detach-device q35 @DIR@/disk.xml --config
attach-interface q35 network nosuch --mac 52:54:00:00:00:77 --model virtio --config; domiflist q35 --inactive; detach-interface q35 network --mac 52:54:00:00:00:77 --config
attach-device q35 @DIR@/nic.xml --config; detach-interface q35 user --mac 52:54:00:00:00:99 --config; detach-interface q35 user --mac 52:54:00:00:00:98 --config
domif-setlink q35 52:54:00:00:00:01 down --config; domif-getlink q35 52:54:00:00:00:01 --config; domif-setlink q35 52:54:00:00:00:01 up --config
domif-setlink q35 52:54:00:00:00:55 down --config
change-media q35 sda @DIR@/b.raw --insert --config; domblklist q35 --inactive; change-media q35 sda --eject --config; domblklist q35 --inactive
change-media q35 zz --eject --config
blkdeviotune q35 vda --total-bytes-sec 100000 --config; blkdeviotune q35 vda --config; blkdeviotune q35 zz --config
domblkinfo q35 zz; domblkinfo q35 sda; domblkstat q35 vda; domifstat q35 vnet0; domstats q35 --state --vcpu --balloon
suspend min; resume min; shutdown min; destroy min; reboot min; reset min
save min @DIR@/x.sav; managedsave min; managedsave-remove min; dump min @DIR@/x.core; screenshot min
send-key min KEY_A; setmem min 32M --live; domtime min; dommemstat min; domjobinfo min; domcontrol min
qemu-monitor-command min query-status; qemu-agent-command min '{}'; guestinfo min; domfsinfo min; domhostname min; domifaddr min
snapshot-list min; snapshot-current min; snapshot-info min s; snapshot-parent min s; snapshot-delete min s; snapshot-revert min s
snapshot-create-as q35 off1; snapshot-list q35 --name; undefine q35; snapshot-revert q35 off1; snapshot-delete q35 off1; snapshot-list q35
snapshot-create-as q35 named; domrename q35 q36; snapshot-dumpxml q36 named --xpath /domainsnapshot/domain/name; snapshot-revert q36 named; dumpxml q36 --xpath /domain/name; list --all --name; domrename q36 q35; snapshot-delete q35 named
blockjob q35 vda; blockpull q35 vda; blockcommit q35 vda; blockcopy q35 vda @DIR@/c.qcow2; blockresize q35 vda 128M
iothreadinfo q35; iothreadadd q35 1 --config; iothreadinfo q35 --config; iothreaddel q35 1 --config; iothreaddel q35 7 --config
perf min; checkpoint-list min; backup-dumpxml min; domlaunchsecinfo min
domxml-to-native qemu-argv /nonexistent
undefine many; list --all --name; undefine many
"""

MACHINES = """
start pc; domstate pc --reason; start pc; list --name; dominfo q35; domblklist pc
suspend pc; domstate pc --reason; suspend pc; resume pc; domstate pc --reason; resume pc
domid min; domstate pc; reset pc; setvcpus pc 1 --live; vcpucount pc; vcpucount pc --live --current; domcontrol pc; domblkerror pc
domblkinfo pc hda; domblkinfo pc zz; domblkstat pc zz; domiflist pc; domjobinfo pc
define @DIR@/pc.xml; undefine pc; list --all --transient --name; define @DIR@/pc.xml; list --all --persistent --name
ttyconsole q35; console q35; domdisplay pc; vncdisplay pc
snapshot-create-as pc x
blockpull pc hda
qemu-monitor-command pc '{"execute":"query-status"}'; qemu-monitor-command pc --hmp info status
send-key pc KEY_LEFTCTRL KEY_LEFTALT KEY_DELETE; send-key pc nosuch
inject-nmi pc
destroy pc --graceful; domstate pc --reason; destroy pc
start q35 --paused; domstate q35 --reason; resume q35; domstate q35 --reason; list --name --state-running; list --name --state-paused
attach-disk q35 @DIR@/b.raw vdb --subdriver raw; domblklist q35; attach-disk q35 @DIR@/b.raw vdb
attach-device q35 @DIR@/disk.xml; attach-disk q35 @DIR@/nosuch vdd
dumpxml q35 --xpath //disk[1]/target; dumpxml q35 --xpath //channel/target; dumpxml q35 --xpath /domain/memory
change-media q35 sda @DIR@/b.raw --insert; domblklist q35; change-media q35 sda --eject; change-media q35 sda --eject; domblklist q35
domif-setlink q35 52:54:00:00:00:01 down; domif-getlink q35 52:54:00:00:00:01; domif-setlink q35 52:54:00:00:00:01 up; domif-getlink q35 52:54:00:00:00:01
blkdeviotune q35 vda --total-bytes-sec 100000; blkdeviotune q35 vda; blkdeviotune q35 vda --total-bytes-sec 0
blockresize q35 vda 128M; blockresize q35 zz 1M; domblkinfo q35 zz; domblkstat q35 zz; domifstat q35 zz; domblkthreshold q35 vda 10M; domblkerror q35
blockjob q35 zz; blockjob q35 vda; blockjob q35 vda --abort; blockjob q35 vda --pivot; blockcommit q35 vda --active
snapshot-create-as q35 s1 "first one"; snapshot-list q35 --name; snapshot-info q35 s1; snapshot-current q35 --name; snapshot-create-as q35 s1
snapshot-create-as q35 s2 --disk-only --diskspec vda,file=@DIR@/a.s2; domblklist q35; snapshot-list q35 --tree; snapshot-parent q35 s2
blockcommit q35 vda --active --wait --pivot; domblklist q35; snapshot-delete q35 s2 --metadata
snapshot-revert q35 s1; domstate q35 --reason; snapshot-delete q35 s1; snapshot-list q35
blockpull q35 vda --wait; blockcopy q35 vda @DIR@/copy.qcow2 --wait
save q35 @DIR@/q.sav; domstate q35 --reason; save-image-dumpxml @DIR@/q.sav --xpath /domain/name; restore @DIR@/q.sav; domstate q35 --reason; restore @DIR@/q.sav
restore @DIR@/nosuch
restore @DIR@/b.raw
managedsave q35; domstate q35 --reason; dominfo q35; list --all --with-managed-save --name; undefine q35; managedsave-dumpxml q35 --xpath /domain/name
start q35; domstate q35 --reason; suspend q35; managedsave q35; start q35; domstate q35 --reason; resume q35
managedsave q35 --running; managedsave-remove q35; managedsave-remove q35; start q35; domstate q35
dump q35 @DIR@/d.core --memory-only; domstate q35 --reason; domjobinfo q35
setmem q35 32M; setmem q35 999M; setmaxmem q35 128M; setvcpus q35 2; vcpucount q35; vcpupin q35 0 0; vcpupin q35
domifaddr q35; domifaddr q35 --source agent; domifaddr q35 --source nosuch; guestinfo q35; qemu-agent-command q35 '{"execute":"guest-ping"}'
domfsfreeze q35; domfstrim q35; domhostname q35; set-user-password q35 root x; domtime q35
iothreadadd q35 1; iothreadinfo q35; iothreaddel q35 1; iothreaddel q35 1
snapshot-create-as q35 y --no-metadata --disk-only --diskspec vda,file=/nonexistent/y
metadata q35 http://a --key k --set '<a/>' --live; metadata q35 http://a --live; metadata q35 http://a --config
desc q35 now --live; desc q35 --live; desc q35 --config
event --list
event nosuch
destroy q35; domstate q35 --reason; domid q35; destroy q35
start q35 --autodestroy; domstate q35
create @DIR@/min2.xml; list --transient --name; autostart min2; dominfo min2 --nosuch; destroy min2; domstate min2
create @DIR@/min2.xml --paused; domstate min2 --reason; define @DIR@/min2.xml; list --name --transient; destroy min2; undefine min2
undefine pc; undefine min; undefine q35 --nvram --remove-all-storage; list --all
"""
ODD = """
define @DIR@/odd.xml; start odd
blkdeviotune odd vda --total-iops-sec 100; blkdeviotune odd vda --total-bytes-sec 10 --read-bytes-sec 5; blkdeviotune odd vda --total-iops-sec 5 --read-iops-sec 5; blkdeviotune odd vda --total-iops-sec-max 5 --read-iops-sec-max 5; blkdeviotune odd vda --total-bytes-sec-max 5 --write-bytes-sec-max 5; blkdeviotune odd vda --total-iops-sec 100 --group-name g1
blkdeviotune odd vda --group-name g1; blkdeviotune odd vdb --group-name g1; blkdeviotune odd vdb; blkdeviotune odd vda --total-iops-sec-max 50; blkdeviotune odd vda --total-iops-sec 100 --total-iops-sec-max 200 --total-iops-sec-max-length 5 --size-iops-sec 4096; blkdeviotune odd vda
blkdeviotune odd vdb
dumpxml odd --xpath //iotune
blkdeviotune odd vda --total-iops-sec 0; blkdeviotune odd vda --total-iops-sec 0 --total-iops-sec-max 0; blkdeviotune odd vda; blkdeviotune odd vdb --read-iops-sec 7 --write-iops-sec 8 --config --live; blkdeviotune odd vdb --config; blkdeviotune odd nosuch --total-iops-sec 1
blkdeviotune odd nosuch; blkdeviotune odd hda --total-iops-sec 1; blkdeviotune odd hda; blkdeviotune odd vda --total-iops-sec-max-length 3; blkdeviotune odd vda --total-iops-sec-max-length 3 --config; blkdeviotune odd vda --size-iops-sec 3
blkdeviotune odd vda --read-bytes-sec 2000000000000000; blkdeviotune odd vda --group-name g2 --config; blkdeviotune odd vda --config --total-iops-sec 3 --group-name g2; blkdeviotune odd vda --config
dumpxml odd --inactive --xpath //iotune
perf odd --enable cmt; perf odd --enable nosuch
numatune odd --mode interleave --config; numatune odd --mode interleave --nodeset 0 --config; numatune odd --config; numatune odd --nodeset 99 --config; numatune odd --nodeset 0-x --config
setvcpu odd 1 --disable; setvcpu odd 0 --disable; setvcpu odd 9 --enable; setvcpu odd 1 --enable; setvcpu odd 0,1 --enable --config; setvcpu odd 1 --disable --config
vcpucount odd --config
setvcpu odd 0 --disable --config; setvcpu odd 9 --disable --config; setvcpu odd 1 --enable --config; setvcpu odd 1
emulatorpin odd 99
vcpupin odd 0 99; vcpupin odd 7
send-process-signal odd 1 sigterm
screenshot odd @DIR@/s.ppm --screen 5
inject-nmi odd
dompmwakeup odd
change-media odd hda --eject; change-media odd hda @DIR@/empty.raw --insert; change-media odd hda @DIR@/b.raw --update --block
domblklist odd
change-media odd hda @DIR@/empty.raw --insert
domblklist odd
change-media odd hda @DIR@/b.raw --update
domblklist odd
change-media odd hda --eject --force; change-media odd vda --eject; change-media odd hda @DIR@/empty.raw --insert --config
domblklist odd --inactive
detach-device-alias odd nosuch
memtune odd --min-guarantee 5 --config
domlaunchsecinfo odd
domsetlaunchsecstate odd --secrethdr /dev/null --secret /dev/null
domdirtyrate-calc odd --seconds 61
iothreadadd odd 2
iothreadinfo odd
iothreadset odd 1 --poll-max-ns 1000; iothreadset odd 9 --poll-max-ns 1000; iothreadset odd 1 --poll-max-ns 5 --config; iothreadset odd 1 --thread-pool-min 1 --thread-pool-max 4; iothreadset odd 1 --thread-pool-min 5; iothreadset odd 1 --thread-pool-max 3 --config
dumpxml odd --xpath //iothreadids; dumpxml odd --inactive --xpath //iothreadids
domstats odd --iothread
nodecpustats --cpu 99
nodememstats --cell 5
domcapabilities --machine nosuch; domcapabilities --arch nosuch; domcapabilities --emulatorbin /nosuch; domcapabilities --virttype xen
allocpages 4 0; nodesuspend hybrid 60; maxvcpus --type nosuch; maxvcpus --type kvm; domcapabilities --arch nosuch; domcapabilities --virttype xen; domcapabilities --virttype nosuch; domcapabilities --machine nosuch
destroy odd; undefine odd
"""
"""Verbs and options few use."""
FIRMWARE = """
define @DIR@/efi1.xml; dumpxml efi1 --xpath /domain/os; start efi1; dumpxml efi1 --xpath /domain/os; dumpxml efi1 --xpath /domain/features; dumpxml efi1 --inactive --xpath /domain/os
undefine efi1; destroy efi1; undefine efi1; start efi1 --reset-nvram; destroy efi1; undefine efi1 --nvram
define @DIR@/efi2.xml; dumpxml efi2 --xpath /domain/os; start efi2; dumpxml efi2 --xpath /domain/os; dumpxml efi2 --inactive --xpath /domain/os; destroy efi2; undefine efi2; undefine efi2 --keep-nvram
define @DIR@/efi3.xml; start efi3; dumpxml efi3 --xpath /domain/os; snapshot-create-as efi3 s1; destroy efi3; undefine efi3 --nvram
define @DIR@/efi4.xml; start efi4; dumpxml efi4 --xpath /domain/os; destroy efi4; undefine efi4 --nvram
define @DIR@/efi6.xml; start efi6; undefine efi6; define @DIR@/efi7.xml; start efi7; undefine efi7
define @DIR@/efi8.xml; define @DIR@/efi5.xml
list --all
"""

_UNFIT = [name for name in _SAVED_OTHERWISE if name != "end"]
SAVED = f"""
define @DIR@/sv.xml; start sv; save sv @DIR@/sv.save --xml @DIR@/sv-memory.xml; save sv @DIR@/sv.save --xml @DIR@/sv-name.xml; domstate sv; save sv @DIR@/sv.save
{"; ".join(f"save-image-define @DIR@/sv.save @DIR@/sv-{name}.xml" for name in _UNFIT)}
restore @DIR@/sv.save --xml @DIR@/sv-memory.xml; save-image-define @DIR@/sv.save @DIR@/sv-end.xml; restore @DIR@/sv.save; dumpxml sv --xpath //on_crash
managedsave sv; managedsave-define sv @DIR@/sv-target.xml; start sv; domstate sv --reason; setvcpus sv 2 --live; dumpxml sv --xpath //vcpus; managedsave sv; start sv; vcpucount sv; attach-device sv @DIR@/pty.xml; dumpxml sv --xpath //channel; snapshot-create sv @DIR@/snap-end.xml --redefine; snapshot-create sv @DIR@/snap-memory.xml --redefine; snapshot-list sv --name; snapshot-delete sv s --metadata; destroy sv; undefine sv
"""
"""A machine that is saved, and documents its state does not fit."""
