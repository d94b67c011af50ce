"""What lanes say of themselves is true, and never falls: ``model.progress`` has the world.

``CHIVE_INTERLEAVINGS`` sets how many worlds are played.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest

from consumer.state import progress
from consumer.state.progress import Place, Received
from consumer.worker.cache import LaneCache
from tests.property.model.progress import PARTITIONS, World

WORLDS = int(os.environ.get("CHIVE_INTERLEAVINGS", "600")) // 10
STEPS = 250


def played(seed: int) -> World:
    world = World(seed)
    for _ in range(STEPS):
        world.step()
    world.check()
    return world


@pytest.mark.timeout(max(300, WORLDS))
def test_every_frame_up_to_what_is_said_is_decided_before_it() -> None:
    seen: Counter[str] = Counter()
    for seed in range(WORLDS):
        world = played(seed)
        seen += world.seen
        world.settle()
        world.check()
        newest = world.newest()
        for lane in range(PARTITIONS):  # and once all is decided, all is said
            assert newest is not None
            assert world.tables[lane].said == newest.reached.place
    assert {"said", "by the cursor", "held back", "failover", "take-over"} <= seen.keys()


def _epoch_alone(_lane: int, decided: Place, received: Received) -> bool:
    return decided.epoch == received.reached.place.epoch


def _last_alone(lane: int, decided: Place, received: Received) -> bool:
    return decided.seq >= received.last[lane]


@pytest.mark.parametrize(
    ("of", "name", "careless"),
    [
        (LaneCache, "oldest_parked", lambda _: None),
        (progress, "_has_all", _epoch_alone),
        (progress, "_has_all", _last_alone),
    ],
)
def test_a_rule_that_is_left_out_shows(
    monkeypatch: pytest.MonkeyPatch, of: object, name: str, careless: object
) -> None:
    monkeypatch.setattr(of, name, careless)
    with pytest.raises(AssertionError):
        _play_all(WORLDS)


def _play_all(worlds: int) -> None:
    for seed in range(worlds):
        played(seed)
