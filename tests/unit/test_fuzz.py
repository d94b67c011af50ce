"""Some hostile input for every target of ``make fuzz``: none crashes, some is refused."""

from __future__ import annotations

from random import Random

import pytest

from tests.fuzz.targets import Target, judged, targets

CASES = 150
TARGETS = targets()


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_hostile_input_is_judged(target: Target) -> None:
    chance = Random(29)
    cases = CASES // 5 if target.name == "settings" else CASES
    verdicts = [judged(target, target.case(chance))[0] for _ in range(cases)]
    assert not all(verdicts)
