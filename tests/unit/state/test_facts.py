"""What each source states of which path."""

from consumer.backfill import Proof
from consumer.state import facts
from consumer.state.facts import ClaimedChange, Statement
from consumer.verify.verified import Action
from tests.unit.worker.values import (
    OTHER,
    SCOPE,
    UNWANTED,
    WANTED,
    chunk,
    cid,
    create,
    delete,
    genesis,
    proof,
)


def test_a_commit_states_its_wanted_ops_and_their_claims() -> None:
    commit = genesis("2", create(WANTED, "x"), create(UNWANTED, "y"), delete(OTHER, "z"))
    assert list(facts.of_commit(commit, SCOPE.wants)) == [
        Statement(WANTED, "2", cid("x"), b"x", True, ClaimedChange(Action.CREATE, None)),
        Statement(OTHER, "2", None, None, True, ClaimedChange(Action.DELETE, cid("z"))),
    ]


def test_a_proof_states_presence_or_absence_of_one_path() -> None:
    present: Proof = proof("2", WANTED, "x")
    assert facts.of_proof(present) == Statement(WANTED, "2", cid("x"), b"x", single=True)
    assert facts.of_proof(proof("2", WANTED, None)) == Statement(
        WANTED, "2", None, None, single=True
    )


def test_a_chunk_states_its_entries_and_the_absence_of_what_else_is_known() -> None:
    stated = facts.of_chunk(chunk("2", OTHER), known=[WANTED, "app.alpha.note/3"])
    assert [(s.path, s.cid, s.single) for s in stated] == [
        (WANTED, None, False),
        (OTHER, cid(OTHER), False),
        ("app.alpha.note/3", None, False),
    ]
