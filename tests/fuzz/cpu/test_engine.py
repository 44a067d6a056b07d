"""pyhyve's engine beside the host's CPU: random cases, fresh ones in every run."""

from __future__ import annotations

import platform
import secrets

import pytest

if platform.machine() != "x86_64":
    pytest.skip("the oracle is the host's own CPU, which must be x86-64", allow_module_level=True)

from tests.fuzz.cpu import layout as at
from tests.fuzz.cpu import report
from tests.fuzz.cpu.native import host_is_intel
from tests.fuzz.cpu.pyhyve_engine import jit
from tests.fuzz.cpu.session import Session, Tally

SHOWN = 5


@pytest.mark.parametrize(("bits", "cases"), [(64, 50_000), (32, 15_000), (16, 15_000)])
def test_the_engine_does_what_the_host_cpu_does(bits: int, cases: int) -> None:
    seed = secrets.token_hex(4)
    session = Session(jit(), seed, bits=bits, lenient=not host_is_intel())
    tally = Tally()
    try:
        for number in range(-(-cases // at.BATCH)):
            tally.add(session.run(session.generate(number)))
            if len(tally.mismatches) > SHOWN:
                break
        shown = [session.minimised(mismatch) for mismatch in tally.mismatches[:SHOWN]]
    finally:
        session.close()
    stories = "\n\n".join(
        f"{mismatch.describe()}\n  --replay {report.to_text(mismatch.batch, 0)}" for mismatch in shown
    )
    found = f"{len(tally.mismatches)} mismatches with seed {seed}"
    assert not shown, f"{found} (python -m tests.fuzz.cpu --bits {bits} --seed {seed}):\n{stories}"
    assert tally.cases >= cases
    assert len(tally.outcomes) > 5, "the cases end in too few ways to say much"
    assert tally.skipped < cases // 200
