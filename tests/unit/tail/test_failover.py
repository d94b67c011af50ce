"""Which relay is read: the next one when it cannot be, and the first healthy one in the end."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from consumer.tail.failover import Failover, last_read

A, B, C = "wss://a", "wss://b", "wss://c"
AFTER, BACK = 300.0, 600.0


def failover(*relays: str, current: str = A) -> Failover:
    return Failover(relays, current, 0.0, failover_after=AFTER, return_after=BACK)


def test_the_next_one_is_read_after_a_while_of_failure() -> None:
    decision = failover(A, B)
    decision.read(50.0)
    assert decision.choose(349.0) == A
    assert decision.choose(350.0) == B


def test_without_another_one_there_is_nothing_to_decide() -> None:
    assert failover(A).choose(1e9) == A


def test_behind_the_last_comes_the_first() -> None:
    assert failover(A, B, current=B).choose(AFTER) == A


def test_back_when_the_first_is_well_for_a_while() -> None:
    decision = failover(A, B, current=B)
    assert decision.to_probe(0.0) == [A]
    decision.probed(A, 0.0, well=False)
    assert decision.to_probe(59.0) == []
    for now in range(60, 661, 60):
        assert decision.to_probe(now) == [A]
        decision.read(now)
        assert decision.choose(now) == (A if now == 660 else B)
        decision.probed(A, now, well=True)
    decision.read(661.0)
    assert decision.choose(661.0) == A


def test_one_failed_probe_begins_the_while_anew() -> None:
    decision = failover(A, B, current=B)
    decision.probed(A, 0.0, well=True)
    decision.probed(A, 590.0, well=False)
    decision.probed(A, 595.0, well=True)
    decision.read(1_190.0)
    assert decision.choose(1_190.0) == B
    assert decision.choose(1_195.0) == A


def test_after_a_switch_old_probes_do_not_count() -> None:
    decision = failover(A, B, current=B)
    decision.probed(A, 0.0, well=True)
    decision.switch(A, BACK)
    decision.switch(B, BACK + AFTER)
    assert decision.choose(BACK + AFTER) == B
    assert decision.to_probe(BACK + AFTER) == [A]


def test_a_relay_is_in_vain_until_it_is_read() -> None:
    decision = failover(A, B)
    found = [decision.in_vain]
    decision.switch(B, AFTER)
    found.append(decision.in_vain)
    decision.read(AFTER + 1)
    found.append(decision.in_vain)
    assert found == [False, True, False]


def test_a_restart_goes_on_with_the_one_that_was_read_last() -> None:
    assert last_read({A: 3, B: 4}, (A, B)) == B
    assert last_read({A: 3, C: 4}, (A, B)) == A
    assert last_read({}, (A, B)) == A


def lived(
    decision: Failover, relays: Sequence[str], healths: Sequence[set[int]], spell: int
) -> list[tuple[float, str]]:
    """Live through spells in which the relays in each of ``healths`` are well; return switches."""
    switches = []
    for tick in range(len(healths) * spell):
        now, well = tick * 10.0, healths[tick // spell]
        if relays.index(decision.current) in well:
            decision.read(now)
        for relay in decision.to_probe(now):
            decision.probed(relay, now, well=relays.index(relay) in well)
        chosen = decision.choose(now)
        if chosen != decision.current:
            switches.append((now, chosen))
            decision.switch(chosen, now)
    return switches


@given(
    st.integers(1, 4).flatmap(
        lambda count: st.tuples(
            st.just(count), st.lists(st.sets(st.integers(0, count - 1)), min_size=1, max_size=8)
        )
    ),
    st.integers(1, 100),
    st.data(),
)
def test_it_does_not_flap_and_ends_on_the_first_healthy_one(
    case: tuple[int, list[set[int]]], spell: int, data: st.DataObject
) -> None:
    count, healths = case
    relays = [f"wss://{n}" for n in range(count)]
    current = data.draw(st.sampled_from(relays))
    decision = failover(*relays, current=current)
    switches = [(0.0, current), *lived(decision, relays, healths, spell)]
    for (before, _), (after, _) in pairwise(switches):
        assert after - before >= min(AFTER, BACK)
    if final := healths[-1]:
        decision.switch(decision.current, 0.0)
        lived(decision, relays, [final] * 10, int((AFTER + BACK) / 10))
        assert decision.current == relays[min(final)]
        assert lived(failover(*relays, current=decision.current), relays, [final] * 10, 90) == []
