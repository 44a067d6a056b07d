"""Features and models of x86 CPUs. Made by scripts/cpu_tables; do not edit.

A feature is ``name=place``: leaf, subleaf, register and bit of CPUID, or ``msr:`` index, register and bit; a minus
in front: it cannot migrate. A model is its vendor, what it may be found as (h: a host, g: a guest), signatures
(family.model or family.model.steppings), the model it resembles, and how it differs (a tilde: it had that once).
"""

from __future__ import annotations

from typing import Final

VENDORS: Final = {
    "Intel": "GenuineIntel",
    "AMD": "AuthenticAMD",
    "Hygon": "HygonGenuine",
}

FEATURES: Final = (
    "fpu=1.0.edx.0 vme=1.0.edx.1 de=1.0.edx.2 pse=1.0.edx.3 tsc=1.0.edx.4 msr=1.0.edx.5 pae=1.0.edx.6 "
    "mce=1.0.edx.7 cx8=1.0.edx.8 apic=1.0.edx.9 sep=1.0.edx.11 mtrr=1.0.edx.12 pge=1.0.edx.13 mca=1.0.edx.14 "
    "cmov=1.0.edx.15 pat=1.0.edx.16 pse36=1.0.edx.17 pn=1.0.edx.18 clflush=1.0.edx.19 ds=1.0.edx.21 "
    "acpi=1.0.edx.22 mmx=1.0.edx.23 fxsr=1.0.edx.24 sse=1.0.edx.25 sse2=1.0.edx.26 ss=1.0.edx.27 ht=1.0.edx.28 "
    "tm=1.0.edx.29 ia64=1.0.edx.30 pbe=1.0.edx.31 pni=1.0.ecx.0 pclmuldq=1.0.ecx.1 dtes64=1.0.ecx.2 "
    "monitor=1.0.ecx.3 ds_cpl=1.0.ecx.4 vmx=1.0.ecx.5 smx=1.0.ecx.6 est=1.0.ecx.7 tm2=1.0.ecx.8 ssse3=1.0.ecx.9 "
    "cid=1.0.ecx.10 fma=1.0.ecx.12 cx16=1.0.ecx.13 xtpr=1.0.ecx.14 pdcm=1.0.ecx.15 pcid=1.0.ecx.17 "
    "dca=1.0.ecx.18 sse4.1=1.0.ecx.19 sse4.2=1.0.ecx.20 x2apic=1.0.ecx.21 movbe=1.0.ecx.22 popcnt=1.0.ecx.23 "
    "tsc-deadline=1.0.ecx.24 aes=1.0.ecx.25 xsave=1.0.ecx.26 osxsave=1.0.ecx.27 avx=1.0.ecx.28 f16c=1.0.ecx.29 "
    "rdrand=1.0.ecx.30 hypervisor=1.0.ecx.31 arat=6.0.eax.2 fsgsbase=7.0.ebx.0 tsc_adjust=7.0.ebx.1 "
    "sgx=7.0.ebx.2 bmi1=7.0.ebx.3 hle=7.0.ebx.4 avx2=7.0.ebx.5 smep=7.0.ebx.7 bmi2=7.0.ebx.8 erms=7.0.ebx.9 "
    "invpcid=7.0.ebx.10 rtm=7.0.ebx.11 cmt=7.0.ebx.12 mpx=7.0.ebx.14 avx512f=7.0.ebx.16 avx512dq=7.0.ebx.17 "
    "rdseed=7.0.ebx.18 adx=7.0.ebx.19 smap=7.0.ebx.20 avx512ifma=7.0.ebx.21 pcommit=7.0.ebx.22 "
    "clflushopt=7.0.ebx.23 clwb=7.0.ebx.24 intel-pt=7.0.ebx.25 avx512pf=7.0.ebx.26 avx512er=7.0.ebx.27 "
    "avx512cd=7.0.ebx.28 sha-ni=7.0.ebx.29 avx512bw=7.0.ebx.30 avx512vl=7.0.ebx.31 avx512vbmi=7.0.ecx.1 "
    "umip=7.0.ecx.2 pku=7.0.ecx.3 ospke=7.0.ecx.4 waitpkg=7.0.ecx.5 avx512vbmi2=7.0.ecx.6 gfni=7.0.ecx.8 "
    "vaes=7.0.ecx.9 vpclmulqdq=7.0.ecx.10 avx512vnni=7.0.ecx.11 avx512bitalg=7.0.ecx.12 "
    "avx512-vpopcntdq=7.0.ecx.14 la57=7.0.ecx.16 rdpid=7.0.ecx.22 bus-lock-detect=7.0.ecx.24 cldemote=7.0.ecx.25 "
    "movdiri=7.0.ecx.27 movdir64b=7.0.ecx.28 sgxlc=7.0.ecx.30 pks=7.0.ecx.31 avx512-4vnniw=7.0.edx.2 "
    "avx512-4fmaps=7.0.edx.3 fsrm=7.0.edx.4 avx512-vp2intersect=7.0.edx.8 md-clear=7.0.edx.10 "
    "serialize=7.0.edx.14 tsx-ldtrk=7.0.edx.16 pconfig=7.0.edx.18 arch-lbr=7.0.edx.19 amx-bf16=7.0.edx.22 "
    "avx512-fp16=7.0.edx.23 amx-tile=7.0.edx.24 amx-int8=7.0.edx.25 spec-ctrl=7.0.edx.26 stibp=7.0.edx.27 "
    "arch-capabilities=7.0.edx.29 core-capability=7.0.edx.30 ssbd=7.0.edx.31 avx-vnni=7.1.eax.4 "
    "avx512-bf16=7.1.eax.5 xsaveopt=d.1.eax.0 xsavec=d.1.eax.1 xgetbv1=d.1.eax.2 -xsaves=d.1.eax.3 xfd=d.1.eax.4 "
    "mbm_total=f.1.edx.1 mbm_local=f.1.edx.2 sgx1=12.0.eax.0 sgx2=12.0.eax.1 sgx-exinfo=12.0.ebx.0 "
    "sgx-debug=12.1.eax.1 sgx-mode64=12.1.eax.2 sgx-provisionkey=12.1.eax.4 sgx-tokenkey=12.1.eax.5 "
    "sgx-kss=12.1.eax.7 intel-pt-lip=14.0.ecx.31 syscall=80000001.0.edx.11 nx=80000001.0.edx.20 "
    "mmxext=80000001.0.edx.22 fxsr_opt=80000001.0.edx.25 pdpe1gb=80000001.0.edx.26 rdtscp=80000001.0.edx.27 "
    "lm=80000001.0.edx.29 3dnowext=80000001.0.edx.30 3dnow=80000001.0.edx.31 lahf_lm=80000001.0.ecx.0 "
    "cmp_legacy=80000001.0.ecx.1 svm=80000001.0.ecx.2 extapic=80000001.0.ecx.3 cr8legacy=80000001.0.ecx.4 "
    "abm=80000001.0.ecx.5 sse4a=80000001.0.ecx.6 misalignsse=80000001.0.ecx.7 3dnowprefetch=80000001.0.ecx.8 "
    "osvw=80000001.0.ecx.9 ibs=80000001.0.ecx.10 xop=80000001.0.ecx.11 skinit=80000001.0.ecx.12 "
    "wdt=80000001.0.ecx.13 lwp=80000001.0.ecx.15 fma4=80000001.0.ecx.16 tce=80000001.0.ecx.17 "
    "cvt16=80000001.0.ecx.18 nodeid_msr=80000001.0.ecx.19 tbm=80000001.0.ecx.21 topoext=80000001.0.ecx.22 "
    "perfctr_core=80000001.0.ecx.23 perfctr_nb=80000001.0.ecx.24 -invtsc=80000007.0.edx.8 "
    "clzero=80000008.0.ebx.0 xsaveerptr=80000008.0.ebx.2 wbnoinvd=80000008.0.ebx.9 ibpb=80000008.0.ebx.12 "
    "ibrs=80000008.0.ebx.14 amd-stibp=80000008.0.ebx.15 amd-ssbd=80000008.0.ebx.24 virt-ssbd=80000008.0.ebx.25 "
    "amd-no-ssb=80000008.0.ebx.26 npt=8000000a.0.edx.0 lbrv=8000000a.0.edx.1 svm-lock=8000000a.0.edx.2 "
    "nrip-save=8000000a.0.edx.3 tsc-scale=8000000a.0.edx.4 vmcb-clean=8000000a.0.edx.5 "
    "flushbyasid=8000000a.0.edx.6 decodeassists=8000000a.0.edx.7 pause-filter=8000000a.0.edx.10 "
    "pfthreshold=8000000a.0.edx.12 avic=8000000a.0.edx.13 v-vmsave-vmload=8000000a.0.edx.15 "
    "vgif=8000000a.0.edx.16 svme-addr-chk=8000000a.0.edx.28 rdctl-no=msr:10a.eax.0 ibrs-all=msr:10a.eax.1 "
    "rsba=msr:10a.eax.2 skip-l1dfl-vmentry=msr:10a.eax.3 ssb-no=msr:10a.eax.4 mds-no=msr:10a.eax.5 "
    "pschange-mc-no=msr:10a.eax.6 tsx-ctrl=msr:10a.eax.7 taa-no=msr:10a.eax.8 split-lock-detect=msr:cf.eax.5"
)

MODELS: Final[tuple[tuple[str, str, str, str, str, str], ...]] = (
    (
        "486",
        "",
        "hg",
        "",
        "",
        "fpu pse vme",
    ),
    (
        "pentium",
        "",
        "hg",
        "",
        "486",
        "+cx8 +de +mce +mmx +msr +tsc",
    ),
    (
        "pentium2",
        "",
        "hg",
        "",
        "pentium",
        "+cmov +fxsr +mca +mtrr +pae +pat +pge +pse36 +sep",
    ),
    (
        "pentium3",
        "",
        "hg",
        "",
        "pentium2",
        "+sse",
    ),
    (
        "pentiumpro",
        "",
        "hg",
        "",
        "pentium3",
        "+apic +sse2 -mca -mtrr -pse36 -vme",
    ),
    (
        "coreduo",
        "Intel",
        "hg",
        "",
        "pentium3",
        "+apic +clflush +monitor +nx +pni +sse2 -pse36",
    ),
    (
        "n270",
        "Intel",
        "hg",
        "",
        "coreduo",
        "+ssse3",
    ),
    (
        "core2duo",
        "Intel",
        "hg",
        "",
        "n270",
        "+lm +pse36 +syscall",
    ),
    (
        "qemu32",
        "",
        "hg",
        "",
        "pentiumpro",
        "+pni",
    ),
    (
        "kvm32",
        "",
        "hg",
        "",
        "coreduo",
        "+pse36 -monitor -nx -vme",
    ),
    (
        "cpu64-rhel5",
        "",
        "",
        "",
        "core2duo",
        "-monitor -ssse3 -vme",
    ),
    (
        "cpu64-rhel6",
        "",
        "",
        "",
        "cpu64-rhel5",
        "+cx16 +lahf_lm",
    ),
    (
        "qemu64",
        "",
        "hg",
        "",
        "cpu64-rhel5",
        "+cx16 +svm",
    ),
    (
        "kvm64",
        "",
        "hg",
        "",
        "cpu64-rhel5",
        "+cx16",
    ),
    (
        "Conroe",
        "Intel",
        "hg",
        "6.15 6.22",
        "cpu64-rhel5",
        "+lahf_lm +ssse3",
    ),
    (
        "Penryn",
        "Intel",
        "hg",
        "6.23 6.29",
        "cpu64-rhel6",
        "+sse4.1 +ssse3",
    ),
    (
        "Nehalem",
        "Intel",
        "hg",
        "6.26 6.30 6.31 6.46",
        "Penryn",
        "+popcnt +sse4.2",
    ),
    (
        "Nehalem-IBRS",
        "Intel",
        "hg",
        "6.26 6.30 6.31 6.46",
        "Nehalem",
        "+spec-ctrl",
    ),
    (
        "Westmere",
        "Intel",
        "hg",
        "6.44 6.47 6.37",
        "Nehalem",
        "+aes",
    ),
    (
        "Westmere-IBRS",
        "Intel",
        "hg",
        "6.44",
        "Nehalem-IBRS",
        "+aes",
    ),
    (
        "SandyBridge",
        "Intel",
        "hg",
        "6.42 6.45",
        "Westmere",
        "+avx +pclmuldq +rdtscp +tsc-deadline +x2apic +xsave",
    ),
    (
        "SandyBridge-IBRS",
        "Intel",
        "hg",
        "6.42 6.45",
        "SandyBridge",
        "+spec-ctrl",
    ),
    (
        "IvyBridge",
        "Intel",
        "hg",
        "6.58 6.62",
        "SandyBridge",
        "+erms +f16c +fsgsbase +rdrand +smep +vme",
    ),
    (
        "IvyBridge-IBRS",
        "Intel",
        "hg",
        "6.58 6.62",
        "IvyBridge",
        "+spec-ctrl",
    ),
    (
        "Haswell-noTSX",
        "Intel",
        "hg",
        "6.60 6.63 6.69 6.70",
        "SandyBridge",
        "+avx2 +bmi1 +bmi2 +erms +fma +fsgsbase +invpcid +movbe +pcid +smep",
    ),
    (
        "Haswell-noTSX-IBRS",
        "Intel",
        "hg",
        "6.60 6.63 6.69 6.70",
        "Haswell-noTSX",
        "+spec-ctrl",
    ),
    (
        "Haswell",
        "Intel",
        "hg",
        "6.60 6.63 6.69 6.70",
        "Haswell-noTSX",
        "+hle +rtm",
    ),
    (
        "Haswell-IBRS",
        "Intel",
        "hg",
        "6.60 6.63 6.69 6.70",
        "Haswell",
        "+spec-ctrl",
    ),
    (
        "Broadwell-noTSX",
        "Intel",
        "hg",
        "6.61 6.71 6.79 6.86",
        "Haswell-noTSX",
        "+3dnowprefetch +adx +rdseed +smap",
    ),
    (
        "Broadwell-noTSX-IBRS",
        "Intel",
        "hg",
        "6.61 6.71 6.79 6.86",
        "Broadwell-noTSX",
        "+spec-ctrl",
    ),
    (
        "Broadwell",
        "Intel",
        "hg",
        "6.61 6.71 6.79 6.86",
        "Broadwell-noTSX",
        "+hle +rtm",
    ),
    (
        "Broadwell-IBRS",
        "Intel",
        "hg",
        "6.61 6.71 6.79 6.86",
        "Broadwell",
        "+spec-ctrl",
    ),
    (
        "Skylake-Client",
        "Intel",
        "hg",
        "6.94 6.78 6.142 6.158",
        "Broadwell",
        "+abm +arat +f16c +mpx +rdrand +vme +xgetbv1 +xsavec +xsaveopt",
    ),
    (
        "Skylake-Client-IBRS",
        "Intel",
        "hg",
        "6.94 6.78 6.142 6.158",
        "Skylake-Client",
        "+spec-ctrl",
    ),
    (
        "Skylake-Client-noTSX-IBRS",
        "Intel",
        "h",
        "6.94 6.78 6.142 6.158",
        "Skylake-Client-IBRS",
        "-hle -rtm",
    ),
    (
        "Skylake-Server",
        "Intel",
        "hg",
        "6.85.0-4",
        "Skylake-Client",
        "+avx512bw +avx512cd +avx512dq +avx512f +avx512vl +clwb +pdpe1gb",
    ),
    (
        "Skylake-Server-IBRS",
        "Intel",
        "hg",
        "6.85.0-4",
        "Skylake-Server",
        "+spec-ctrl",
    ),
    (
        "Skylake-Server-noTSX-IBRS",
        "Intel",
        "h",
        "6.85.0-4",
        "Skylake-Server-IBRS",
        "-hle -rtm",
    ),
    (
        "Cascadelake-Server",
        "Intel",
        "hg",
        "6.85.5-7",
        "Skylake-Server-IBRS",
        "+avx512vnni +clflushopt +ssbd",
    ),
    (
        "Cascadelake-Server-noTSX",
        "Intel",
        "h",
        "6.85.5-7",
        "Cascadelake-Server",
        "-hle -rtm",
    ),
    (
        "Icelake-Client",
        "Intel",
        "hg",
        "6.126",
        "Skylake-Client-IBRS",
        (
            "+avx512-vpopcntdq +avx512bitalg +avx512vbmi +avx512vbmi2 +avx512vnni +gfni +pku +ssbd +umip +vaes "
            "+vpclmulqdq +wbnoinvd ~intel-pt"
        ),
    ),
    (
        "Icelake-Client-noTSX",
        "Intel",
        "h",
        "6.126",
        "Icelake-Client",
        "-hle -rtm ~intel-pt",
    ),
    (
        "Icelake-Server",
        "Intel",
        "hg",
        "6.106",
        "Icelake-Client",
        "+avx512bw +avx512cd +avx512dq +avx512f +avx512vl +clflushopt +clwb +la57 +pdpe1gb ~intel-pt",
    ),
    (
        "Icelake-Server-noTSX",
        "Intel",
        "h",
        "6.106",
        "Icelake-Server",
        "-hle -rtm ~intel-pt",
    ),
    (
        "Cooperlake",
        "Intel",
        "hg",
        "6.85.10-11",
        "Cascadelake-Server",
        (
            "+arch-capabilities +avx512-bf16 +ibrs-all +mds-no +pku +pschange-mc-no +rdctl-no +skip-l1dfl-vmentry "
            "+stibp +taa-no -mpx"
        ),
    ),
    (
        "Snowridge",
        "Intel",
        "hg",
        "6.134",
        "IvyBridge-IBRS",
        (
            "+3dnowprefetch +arat +arch-capabilities +cldemote +clflushopt +clwb +core-capability +gfni +movbe "
            "+movdir64b +movdiri +pdpe1gb +rdseed +sha-ni +smap +split-lock-detect +ssbd +umip +xgetbv1 +xsavec "
            "+xsaveopt -avx -f16c"
        ),
    ),
    (
        "athlon",
        "AMD",
        "hg",
        "",
        "pentium3",
        "+3dnow +3dnowext +apic +mmxext +sse2 -mca",
    ),
    (
        "phenom",
        "AMD",
        "hg",
        "",
        "cpu64-rhel5",
        "+3dnow +3dnowext +fxsr_opt +mmxext +monitor +svm",
    ),
    (
        "Opteron_G1",
        "AMD",
        "hg",
        "15.6",
        "cpu64-rhel5",
        "",
    ),
    (
        "Opteron_G2",
        "AMD",
        "hg",
        "15.6",
        "cpu64-rhel6",
        "+rdtscp +svm",
    ),
    (
        "Opteron_G3",
        "AMD",
        "hg",
        "15.6",
        "Opteron_G2",
        "+abm +misalignsse +popcnt +sse4a ~monitor",
    ),
    (
        "Opteron_G4",
        "AMD",
        "hg",
        "21.1",
        "SandyBridge",
        "+3dnowprefetch +abm +fma4 +misalignsse +pdpe1gb +sse4a +svm +xop -tsc-deadline -x2apic",
    ),
    (
        "Opteron_G5",
        "AMD",
        "hg",
        "21.2",
        "Opteron_G4",
        "+f16c +fma +tbm",
    ),
    (
        "EPYC",
        "AMD",
        "hg",
        "23.1",
        "Skylake-Client-noTSX-IBRS",
        (
            "+clflushopt +cr8legacy +fxsr_opt +misalignsse +mmxext +osvw +pdpe1gb +sha-ni +sse4a +svm -erms -invpcid "
            "-mpx -pcid -spec-ctrl -tsc-deadline -x2apic ~monitor"
        ),
    ),
    (
        "EPYC-IBPB",
        "AMD",
        "hg",
        "23.1",
        "EPYC",
        "+ibpb ~monitor",
    ),
    (
        "EPYC-Rome",
        "AMD",
        "hg",
        "23.49",
        "EPYC-IBPB",
        "+amd-stibp +clwb +clzero +npt +nrip-save +perfctr_core +rdpid +umip +wbnoinvd +xsaveerptr",
    ),
    (
        "EPYC-Milan",
        "AMD",
        "hg",
        "25.1",
        "EPYC-Rome",
        "+amd-ssbd +erms +fsrm +ibrs +invpcid +pcid +pku +svme-addr-chk +xsaves",
    ),
    (
        "Dhyana",
        "Hygon",
        "hg",
        "24.0",
        "EPYC-IBPB",
        "-aes -pclmuldq -sha-ni ~monitor",
    ),
)
