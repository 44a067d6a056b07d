"""How results are shown: a table, one JSON line, and RESULTS.md."""

from __future__ import annotations

import datetime as dt
import json
import platform
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.harness import CaseResult, Plan

RESULTS = Path(__file__).parent / "RESULTS.md"
DIGITS = 4


def rounded(value: float) -> float:
    """Four significant digits."""
    return float(f"{value:.{DIGITS}g}")


def json_line(name: str, plan: Plan, results: list[CaseResult]) -> str:
    """The one-line object of the benchmark contract; the first case is the headline."""
    head = results[0]
    return json.dumps(
        {
            "benchmark": name,
            "work": plan.work,
            "ours": rounded(head.ours),
            "peer": rounded(head.peer),
            "peer_name": plan.peer_name,
            "unit": plan.unit,
            "ratio": rounded(head.ratio),
            "runs": head.runs,
            "cases": [
                {
                    "case": result.case,
                    "ours": rounded(result.ours),
                    "peer": rounded(result.peer),
                    "ratio": rounded(result.ratio),
                    "runs": result.runs,
                    "ours_all": [rounded(value) for value in result.ours_all],
                    "peer_all": [rounded(value) for value in result.peer_all],
                }
                for result in results
            ],
        }
    )


def rows(results: list[CaseResult]) -> list[tuple[str, str, str, str, str]]:
    """Case, ours, peer, ratio, runs: as text."""
    return [
        (
            result.case,
            f"{rounded(result.ours):g}",
            f"{rounded(result.peer):g}",
            f"{result.ratio:.2f}",
            str(result.runs),
        )
        for result in results
    ]


def table(name: str, plan: Plan, results: list[CaseResult]) -> str:
    """For people."""
    header = ("case", "pyhyve", plan.peer_name, "ratio", "runs")
    cells = [header, *rows(results)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join(
        [f"{name}: {plan.work}", f"medians in {plan.unit}; a ratio above 1 means pyhyve is better", *lines]
    )


def host() -> str:
    """The machine this ran on."""
    model = "unknown CPU"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    cores = sum(line.startswith("processor") for line in Path("/proc/cpuinfo").read_text().splitlines())
    return f"{model}, {cores} CPUs, Linux {platform.release()}"


def markdown(done: list[tuple[str, Plan, list[CaseResult]]]) -> str:
    """The text of RESULTS.md."""
    today = dt.datetime.now(tz=dt.UTC).date().isoformat()
    versions = {
        "pyhyve": metadata.version("pyhyve"),
        "Python": platform.python_version(),
        "llvmlite": metadata.version("llvmlite"),
    }
    for _, plan, _ in done:
        versions |= plan.versions
    lines = [
        "# Benchmark results",
        "",
        "Written by `make bench`. Medians; ours and the peer ran in turn on the same work and gave the same result. A",
        "ratio above 1 means pyhyve is better.",
        "",
        f"- Date: {today}",
        f"- Host: {host()}",
        f"- Versions: {', '.join(f'{name} {version}' for name, version in versions.items())}",
    ]
    for name, plan, results in done:
        lines += ["", f"## {name}", "", f"{plan.work} ({plan.unit})", ""]
        lines += [f"| case | pyhyve | {plan.peer_name} | ratio | runs |", "| --- | --- | --- | --- | --- |"]
        lines += ["| " + " | ".join(row) + " |" for row in rows(results)]
    return "\n".join(lines) + "\n"
