"""The targets of ``make fuzz``: what they begin with is good.

docs/verification-tables.md shows what becomes of it when it is changed at random;
``test_verification_table.py`` compares that table with the code.
"""

from __future__ import annotations

import pytest

from tests.fuzz.targets import Target, judged, targets


@pytest.mark.parametrize("target", targets(), ids=lambda target: target.name)
def test_good_input_is_accepted(target: Target) -> None:
    assert [judged(target.judge, seed)[0] for seed in target.seeds] == [None] * len(target.seeds)
