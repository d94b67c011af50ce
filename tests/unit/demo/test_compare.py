"""The comparison finds what any of its three sides has too much, too little or different."""

from __future__ import annotations

import pytest

from consumer.scope import Scope
from demo.compare import Rows, compare
from demo.fold import Entry, Fold
from demo.listing import Listing
from demo.schemas import Judgement

SCOPE = Scope(("pub.chive.*",))
DID = "did:plc:aaa"
URI = f"at://{DID}/pub.chive.graph.vote/1"
OTHER = f"at://{DID}/pub.chive.graph.vote/2"


def folded(cids: dict[str, str], record: object = None) -> Fold:
    fold = Fold(lambda _event: None, lambda _did: 0)
    value = {"n": 1} if record is None else {"n": record}
    fold.entries.update({uri: Entry(cid, value, "a") for uri, cid in cids.items()})
    return fold


def listing(cids: dict[str, str], status: str = "active") -> Listing:
    return Listing(dict(cids), {uri: {"n": 1} for uri in cids}, {DID: status})


def differences(truth: Listing, rows: Rows, fold: Fold) -> list[str]:
    return compare(truth, rows, fold, SCOPE, Judgement()).differences


def test_three_equal_sides_are_equal() -> None:
    rows = Rows({URI: "c"}, {DID: "active"})
    verdict = compare(listing({URI: "c"}), rows, folded({URI: "c"}), SCOPE, Judgement())
    assert verdict.equal
    assert verdict.collections == {"pub.chive.graph.vote": (1, 1, 1)}


@pytest.mark.parametrize("rows", [{}, {URI: "other"}, {URI: "c", OTHER: "c"}])
def test_a_wrong_row_is_found(rows: dict[str, str]) -> None:
    found = differences(listing({URI: "c"}), Rows(rows, {DID: "active"}), folded({URI: "c"}))
    assert len(found) == 1
    assert ", row " in found[0]


@pytest.mark.parametrize("events", [{}, {URI: "other"}, {URI: "c", OTHER: "c"}])
def test_a_wrong_fold_is_found(events: dict[str, str]) -> None:
    found = differences(listing({URI: "c"}), Rows({URI: "c"}, {DID: "active"}), folded(events))
    assert len(found) == 1
    assert ", event " in found[0]


def test_a_record_with_other_content_is_found() -> None:
    found = differences(
        listing({URI: "c"}), Rows({URI: "c"}, {DID: "active"}), folded({URI: "c"}, record=2)
    )
    assert found == [f"{URI}: the event's record is not the PDS's"]


def test_bytes_are_equal_with_and_without_padding() -> None:
    truth = Listing({URI: "c"}, {URI: {"n": {"$bytes": "AQ"}}}, {DID: "active"})
    fold = folded({URI: "c"}, record={"$bytes": "AQ=="})
    assert differences(truth, Rows({URI: "c"}, {DID: "active"}), fold) == []


def test_what_is_left_of_a_deleted_account_is_found() -> None:
    empty = Listing()
    found = differences(empty, Rows({URI: "c"}, {DID: "active"}), folded({}))
    assert found == [f"{URI}: PDS None, row c", f"{DID}: PDS deleted, repos.status active"]


def test_wrong_statuses_and_untracked_accounts_are_found() -> None:
    fold = folded({URI: "c"})
    fold.accounts[DID] = "deactivated"
    assert differences(listing({URI: "c"}), Rows({URI: "c"}, {DID: "active"}), fold) == [
        f"{DID}: PDS active, newest account event deactivated"
    ]
    assert differences(listing({URI: "c"}), Rows({URI: "c"}, {}), folded({URI: "c"})) == [
        f"{DID}: has wanted records and is not tracked"
    ]


def test_a_record_out_of_scope_is_found() -> None:
    uri = f"at://{DID}/app.bsky.feed.post/1"
    truth = Listing({uri: "c"}, {}, {DID: "active"})
    fold = folded({uri: "c"})
    assert differences(truth, Rows({uri: "c"}, {DID: "active"}), fold) == [f"unwanted: {uri}"]


def test_what_other_topics_hold_counts_too() -> None:
    rows, wrong = Rows({URI: "c"}, {DID: "active"}), Judgement(problems=["wrong"])
    verdict = compare(listing({URI: "c"}), rows, folded({URI: "c"}), SCOPE, wrong)
    assert verdict.differences == ["wrong"]
