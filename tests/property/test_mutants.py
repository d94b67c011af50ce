"""The model notices when a rule is broken: one script for each, played with and without."""

from __future__ import annotations

import pytest

from tests.property.model.findings import FINDINGS
from tests.property.model.mutants import MUTANTS, Mutant
from tests.property.model.scripts import play, read
from tests.property.model.shrinking import complaint


def test_every_mutant_has_a_finding() -> None:
    assert [mutant.title for mutant in MUTANTS] == list(FINDINGS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.title)
def test_a_broken_rule_is_found_out(mutant: Mutant) -> None:
    script = read(FINDINGS[mutant.title])
    play(script)
    with mutant.at_large():
        assert complaint(script) is not None
