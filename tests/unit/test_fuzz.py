"""Some hostile input for every target of ``make fuzz``: none crashes, some is refused."""

from __future__ import annotations

from itertools import islice
from random import Random

import pytest

from tests.fuzz.targets import Target, judged, targets

CASES = 150
TARGETS = targets()


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_good_input_is_accepted(target: Target) -> None:
    assert [judged(target.judge, seed)[0] for seed in target.seeds] == [None] * len(target.seeds)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_hostile_input_is_judged(target: Target) -> None:
    cases = CASES // 5 if target.name == "settings" else CASES
    reasons = [judged(target.judge, data)[0] for data in islice(target.cases(Random(29)), cases)]
    assert any(reasons)
