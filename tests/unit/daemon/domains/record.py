"""Record what libvirtd makes of the documents: python record.py URI (replaces its definitions of the same names)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from lxml import etree

if __name__ == "__main__":
    for source in sorted((Path(__file__).parent / "documents").glob("*.in.xml")):
        name = etree.parse(str(source)).findtext("name") or ""
        virsh = ["virsh", "-q", "-c", sys.argv[1]]
        subprocess.run([*virsh, "undefine", name], capture_output=True, check=False)
        subprocess.run([*virsh, "define", str(source)], check=True)
        done = subprocess.run([*virsh, "dumpxml", "--security-info", name], check=True, capture_output=True, text=True)
        Path(str(source).replace(".in.", ".out.")).write_text(done.stdout.rstrip() + "\n", encoding="utf-8")
        subprocess.run([*virsh, "undefine", name], check=True)
