from __future__ import annotations

from .command import run_case
from .seeds import all_seeds


def test_a_few_hundred_damaged_images_do_no_harm() -> None:
    seeds = all_seeds()
    assert {seed.format_name for seed in seeds} >= {"qcow", "qcow2"}
    for number in range(500):
        outcome, failure = run_case(seeds, number)
        assert failure is None, failure
        assert outcome in {"read", "error", "refused"}
