"""`python -m tests.nested`: run the KVM tests on real (nested SVM) KVM inside an emulated machine.

python -m tests.nested                        the KVM tests
python -m tests.nested -- tests/unit/kvm -k probe     pytest with these arguments
python -m tests.nested --shell 'pyhyve run …'         any command; extra files with --file NAME=PATH
"""

from __future__ import annotations

import argparse
import contextlib
import shlex
import sys
import tempfile
from pathlib import Path

from pyhyve.guest.builder import GuestSpec, build_guest
from pyhyve.support.errors import UserError
from tests.nested.machine import NestedError, cached_snapshot, missing, run
from tests.nested.qemu_files import qemu_files

DEFAULT_TESTS = ["tests/unit/kvm", "tests/unit/accel", "tests/guest/kvm"]
SETUP = """\
export PATH=/work/usr-bin:$PATH
export PYTHONPATH=/opt/site:src:. PYHYVE_KVM_GUESTS=/work/guests PYHYVE_KVM_REAL=1
pyhyve() { python3 -c 'import sys; from pyhyve.cli.main import main; sys.exit(main())' "$@"; }
"""
KERNELS = {"debian": "linux-image-cloud-amd64", "debian-6.12": "linux-image-6.12-cloud-amd64"}


def guest_files(names: list[str]) -> dict[str, Path]:
    """Kernel and initrd of guests, as `guests/NAME/kernel` and `guests/NAME/initrd`."""
    files: dict[str, Path] = {}
    for name in names:
        spec = GuestSpec(name=name, kernel_package=KERNELS[name])
        guest = build_guest(spec, lambda *_: None, lambda text: sys.stderr.write(f"{text}\n"))
        files |= {f"guests/{name}/kernel": guest.kernel, f"guests/{name}/initrd": guest.initrd}
    return files


def main() -> int:
    """Run what the command line asks for; the exit status is the command's."""
    parser = argparse.ArgumentParser(prog="python -m tests.nested")
    parser.add_argument("--shell", metavar="COMMAND", help="run a shell command instead of pytest")
    parser.add_argument("--file", action="append", default=[], metavar="NAME=PATH", help="a file to take along")
    parser.add_argument("--guest", action="append", choices=KERNELS, help="guests to take along (default: all)")
    parser.add_argument("--qemu", action="store_true", help="take the host's QEMU along, as a peer")
    parser.add_argument("--timeout", type=float, default=540, metavar="S")
    parser.add_argument("--prepare", action="store_true", help="build the image and the snapshot, run nothing")
    parser.add_argument("tests", nargs="*", help="pytest arguments")
    options = parser.parse_args()
    reason = missing()
    if reason is not None:
        sys.stderr.write(f"nested machine: {reason}\n")
        return 1
    stack = contextlib.ExitStack()
    try:
        if options.prepare:
            cached_snapshot(lambda line: sys.stderr.write(f"{line}\n"))
            return 0
        extra = guest_files(options.guest or list(KERNELS))
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        extra |= qemu_files(Path(directory)) if options.qemu else {}
        extra |= {name: Path(path) for name, _, path in (item.partition("=") for item in options.file)}
        arguments = shlex.join(options.tests or DEFAULT_TESTS)
        command = options.shell or (
            f"exec python3 -m pytest -p no:cacheprovider -o 'addopts=-ra --import-mode=importlib' {arguments}"
        )
        return run(SETUP + command + "\n", extra=extra, timeout_s=options.timeout)
    except (NestedError, UserError) as error:
        sys.stderr.write(f"nested machine: {error}\n")
        return 1
    finally:
        stack.close()


if __name__ == "__main__":
    sys.exit(main())
