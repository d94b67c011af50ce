"""The rules of ``consumer/state`` against a model of the network.

Rows, the fold of events and the network agree; every event was true at its rev; revs never
fall; ids never repeat; whatever must be noticed is followed by a sync, and nothing else is
fetched (``model.checks`` lists the promises).

``CHIVE_INTERLEAVINGS`` sets how many random interleavings are played; a failure prints the smallest
script that shows it, for ``play(read("..."))``.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.errors import Fatal, Reason
from consumer.state.effects import OperationEffect, SyncReason
from tests.property.model.checks import Violation
from tests.property.model.scripts import (
    CHOICES,
    Act,
    Script,
    Step,
    play,
    random_script,
    read,
    written,
)
from tests.property.model.shrinking import complaint, shrunk

INTERLEAVINGS = int(os.environ.get("CHIVE_INTERLEAVINGS", "600"))
LENGTHS = (20, 40, 80)

NUMBERS = st.integers(0, CHOICES - 1)
STEPS = st.builds(Step, st.sampled_from(Act), NUMBERS, NUMBERS, NUMBERS)

# Each of these happens in the default run, or it shows too little.
EXPECTED = {
    *OperationEffect,
    *set(SyncReason) - {SyncReason.ACCOUNT_DELETED, SyncReason.FORGOTTEN},
    Reason.REPLAY,
    Reason.ACCOUNT_INACTIVE,
    Reason.UNTRACKED,
    Reason.SNAPSHOT_STALE,
    Reason.SNAPSHOT_HOLE,
    Reason.SNAPSHOT_SCOPE,
}


def show(script: Script) -> None:
    """Fail with the smallest script that breaks the same promise."""
    small = shrunk(script)
    pytest.fail(f"{complaint(small)}: {written(small)}", pytrace=False)


@pytest.mark.timeout(max(300, INTERLEAVINGS))
def test_random_interleavings_come_to_rest_where_the_network_is() -> None:
    seen: Counter[str] = Counter()
    for seed in range(INTERLEAVINGS):
        script = random_script(seed, LENGTHS[seed % len(LENGTHS)])
        try:
            play(script, seen)
        except (Violation, Fatal):
            show(script)
    assert seen.keys() >= EXPECTED


@settings(max_examples=150)
@given(st.lists(STEPS, max_size=60))
def test_chosen_interleavings_come_to_rest_where_the_network_is(script: Script) -> None:
    play(script)


def test_a_script_can_be_written_down() -> None:
    script = random_script(1, 50)
    assert read(written(script)) == script
