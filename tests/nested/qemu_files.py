"""The host's QEMU with its libraries and firmware, to run beside ours in the nested machine."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

_FIRMWARE = (
    "bios-256k.bin", "bios-microvm.bin", "qboot.rom", "kvmvapic.bin", "linuxboot.bin", "linuxboot_dma.bin", "pvh.bin",
)  # fmt: skip
_DATA = (Path("/usr/share/qemu"), Path("/usr/share/seabios"))
_LOADER = re.compile(r"\s(/\S*ld-linux\S*)")
_LIBRARY = re.compile(r"=> (/\S+)")
WRAPPER = """\
#!/bin/sh
exec /work/qemu/lib/ld.so --library-path /work/qemu/lib /work/qemu/bin/qemu-system-x86_64 -L /work/qemu/share "$@"
"""


def qemu_files(directory: Path) -> dict[str, Path]:
    """Names in the nested machine and host files; `usr-bin/qemu-system-x86_64` is the command to call.

    `directory` takes the wrapper script. Raises FileNotFoundError when the host has no QEMU.
    """
    program = shutil.which("qemu-system-x86_64")
    if program is None:
        msg = "qemu-system-x86_64"
        raise FileNotFoundError(msg)
    listing = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
    loader = _LOADER.search(listing)
    if loader is None:
        msg = "ld-linux"
        raise FileNotFoundError(msg)
    wrapper = directory / "qemu-system-x86_64"
    wrapper.write_text(WRAPPER)
    wrapper.chmod(0o755)
    files = {
        "usr-bin/qemu-system-x86_64": wrapper,
        "qemu/bin/qemu-system-x86_64": Path(program),
        "qemu/lib/ld.so": Path(loader[1]),
    }
    files |= {f"qemu/lib/{Path(path).name}": Path(path) for path in _LIBRARY.findall(listing)}
    for name in _FIRMWARE:
        found = next((place / name for place in _DATA if (place / name).exists()), None)
        if found is not None:
            files[f"qemu/share/{name}"] = found
    return files
