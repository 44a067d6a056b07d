"""The KVM accelerator on real KVM: the result of the suite that runs in the nested machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.nested.conftest import BackgroundSuite


@pytest.mark.guest
@pytest.mark.timeout(4000)
def test_kvm_suite_passes_in_the_nested_machine(
    nested_suite: BackgroundSuite, record_property: pytest.RecordProperty
) -> None:
    outcome = nested_suite.wait()
    record_property("summary", outcome.summary)
    assert outcome.passed, "\n".join([outcome.summary, *outcome.lines])
