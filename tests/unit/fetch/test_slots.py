"""Which of the due operations get the free slots."""

from __future__ import annotations

from collections.abc import Sequence

from consumer.fetch.slots import MOST, FreeSlots
from consumer.store.rows import DueOperation, WantedOperations
from procedures.operations import Operation, Type, queued

SYNC, REFRESH, FORGET = Type.DID_SYNC, Type.RECORD_REFRESH, Type.FORGET


def due(
    number: int, host: str = "", *, did: str | None = None, behind: bool = False
) -> DueOperation:
    return DueOperation(SYNC, f"{number}", did or f"did:plc:{number}", None, False, behind, host)


def running(host: str) -> tuple[Operation, str]:
    return queued("running", SYNC, "did:plc:running", 0.0), host


def slots_of(
    slots: int = 4, *, room: int = 8, active: Sequence[tuple[Operation, str]] = ()
) -> FreeSlots:
    return FreeSlots({SYNC: slots}, active, lambda _host: room)


def taken(free: FreeSlots, found: Sequence[DueOperation], *, spare: bool = False) -> list[str]:
    return [each.id for each in free.take(found, spare=spare)]


def test_a_look_takes_what_the_slots_hold_in_order() -> None:
    free = slots_of(2)
    assert taken(free, [due(n) for n in range(3)]) == ["0", "1"]
    assert free.wanted(spare=False) == []


def test_what_runs_takes_slots() -> None:
    free = slots_of(2, active=[running("")])
    assert taken(free, [due(n) for n in range(3)]) == ["0"]


def test_a_host_gets_no_more_than_it_has_room_for() -> None:
    free = slots_of(4, room=2, active=[running("a.example")])
    found = [due(0, "a.example"), due(1, "a.example"), due(2, "b.example"), due(3), due(4)]
    assert taken(free, found) == ["0", "2", "3"]
    assert free.full() == ["a.example"]


def test_syncs_of_one_did_follow_each_other() -> None:
    assert taken(slots_of(), [due(0, did="did:plc:a"), due(1, did="did:plc:a"), due(2)]) == [
        "0",
        "2",
    ]


def test_what_was_seen_whole_is_not_asked_for_again() -> None:
    free = slots_of()
    assert free.wanted(spare=False) == [WantedOperations(SYNC, automatic=True, behind=True)]
    assert taken(free, [due(0)]) == ["0"]
    assert free.wanted(spare=False) == []
    assert free.wanted(spare=True) == []


def test_what_may_go_on_is_asked_for_again() -> None:
    free = slots_of(room=1)
    assert taken(free, [due(n, "a.example") for n in range(MOST)]) == ["0"]
    assert free.wanted(spare=False) == [WantedOperations(SYNC, automatic=True, behind=True)]
    assert free.full() == ["a.example"]


def test_spare_slots_go_to_what_was_asked_for_with_many_others() -> None:
    free = slots_of(5)
    many = [due(n, behind=True) for n in range(6)]
    assert taken(free, many) == ["0", "1"]
    assert free.wanted(spare=False) == []
    assert free.wanted(spare=True) == [WantedOperations(SYNC, automatic=True, behind=True)]
    assert taken(free, many[2:], spare=True) == ["2", "3"], "one is kept for persons"


def test_types_have_slots_of_their_own() -> None:
    free = FreeSlots({FORGET: 1, REFRESH: 1, SYNC: 1}, [running("")], lambda _host: 8)
    assert [each.type for each in free.wanted(spare=False)] == [FORGET, REFRESH]
