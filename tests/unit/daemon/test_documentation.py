from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent.parent


def test_table_of_procedures_is_up_to_date() -> None:
    done = subprocess.run([sys.executable, ROOT / "scripts/procedures", "--check"], check=False)
    assert done.returncode == 0, "run scripts/procedures"


def test_settings_in_the_documentation_are_read(tmp_path: Path) -> None:
    from pyhyve.daemon.policy import parse_policy
    from pyhyve.daemon.settings import read_settings

    page = (ROOT / "docs/libvirt.md").read_text()
    policy, settings = (part.split("```")[0] for part in page.split("```toml\n")[1:3])
    assert parse_policy(policy, "policy").by_object
    (tmp_path / "daemon.toml").write_text(settings)
    assert read_settings(tmp_path / "daemon.toml").listen.tcp == ("127.0.0.1:16509",)
    assert set(tomllib.loads(settings)) == {"listen", "unix", "tcp", "tls", "limits"}
