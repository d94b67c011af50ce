"""Random repository, random drift, a sync: the index is the repository, the events are the drift.

The worker's rules alone: what is loaded for each chunk is what the store would load.
"""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from consumer.backfill import Chunk, Entry
from consumer.events.envelope import Origin, RecordEvent, Source
from consumer.scope import Scope
from consumer.state.batch_state import BatchState
from consumer.state.effects import OperationEffect
from consumer.state.facts import Row
from consumer.state.inputs import ChunkSeen, needs
from consumer.state.policy import Policy
from consumer.state.repo_state import Repo, SyncState
from consumer.verify.verified import Action
from procedures.retries import RetryPolicy
from tests.support.snapshots import clipped

DID = "did:plc:a"
SCOPE = Scope(("app.alpha.*", "app.beta.note"))
POLICY = Policy(0, SCOPE, RetryPolicy())
ORIGIN = Origin(Source.BACKFILL, 0, "", None, "op")
BEHIND = Repo(DID, 0, reason="loss_window", rev="5", gap_rev="5", scope=POLICY.digest)

# Near the edges of what is wanted: "app.alpha." up to "app.alpha/", "app.beta.note/" up to its end.
COLLECTIONS = ("app.alpha.a", "app.alpha.b.c", "app.alphabet.x", "app.beta.note", "app.beta.notes")
PATHS = st.builds("{}/{}".format, st.sampled_from(COLLECTIONS), st.text("-.012az~", min_size=1))
CIDS = st.sampled_from([b"x", b"y", b"z"])
RECORDS = st.dictionaries(PATHS, CIDS, max_size=25)
ROWS = st.builds(Row, st.none() | CIDS, st.sampled_from("123"))


def of_snapshot(records: dict[str, bytes], size: int, *, emit_all: bool) -> list[Chunk]:
    """Cut a snapshot at rev 6 with ``size`` records in a chunk."""
    paths = sorted(path for path in records if SCOPE.wants(path))
    groups = [paths[i : i + size] for i in range(0, len(paths), size)] or [[]]
    bounds: list[str | None] = [None, *(group[-1] for group in groups[:-1]), None]
    return [
        Chunk(
            did=DID,
            operation="op",
            attempt=1,
            rev="6",
            data=b"root",
            commit=b"commit",
            scope=POLICY.digest,
            resync_generation=0,
            after=bounds[i],
            through=bounds[i + 1],
            last=i == len(groups) - 1,
            intervals=tuple(clipped(SCOPE, bounds[i], bounds[i + 1])),
            entries=tuple(Entry(path, records[path], b"record") for path in group),
            emit_all=emit_all,
        )
        for i, group in enumerate(groups)
    ]


@given(
    records=RECORDS,
    drifted=st.dictionaries(PATHS, ROWS, max_size=15),
    forgotten=st.sets(st.integers(0, 24), max_size=10),
    complete=st.booleans(),
    emit_all=st.booleans(),
    size=st.integers(1, 6),
)
def test_a_sync_makes_the_index_the_repository_by_exactly_the_difference(
    records: dict[str, bytes],
    drifted: dict[str, Row],
    forgotten: set[int],
    complete: bool,
    emit_all: bool,
    size: int,
) -> None:
    known = {p: Row(c, "4") for i, (p, c) in enumerate(records.items()) if i not in forgotten}
    rows = known | drifted
    before = {p: row.cid for p, row in rows.items() if row.cid is not None}
    repo, told, done = replace(BEHIND, complete=complete), list[RecordEvent](), []
    for chunk in of_snapshot(records, size, emit_all=emit_all):
        seen = ChunkSeen(chunk, ORIGIN)
        ranges = [interval for _, interval in needs([seen], SCOPE).intervals]
        loaded = {p: row for p, row in rows.items() if any(p in one for one in ranges)}
        batch = BatchState({DID: repo}, {DID: dict(loaded)}, POLICY)
        assert batch.apply(seen) is None
        told += [event for event in batch.events if isinstance(event, RecordEvent)]
        done += batch.applied
        repo = batch.repos[DID]
        for _, path, row in batch.dirty_rows():
            rows.pop(path, None)
            rows |= {} if row is None else {path: row}
        for cleared in batch.cleared:
            rows = {p: r for p, r in rows.items() if r.cid or r.rev > cleared.through}

    after = {p: row.cid for p, row in rows.items() if row.cid is not None}
    unwanted = {p: cid for p, cid in before.items() if not SCOPE.wants(p)}
    theirs = {p: cid for p, cid in records.items() if SCOPE.wants(p)}
    assert after == theirs | unwanted
    assert (repo.sync_state, repo.rev, repo.complete) == (SyncState.ACTIVE, "6", True)

    changed = {p for p in before.keys() | theirs.keys() if before.get(p) != after.get(p)}
    changes = [event for event in told if event.republished_by is None]
    assert [event.path for event in changes] == sorted(changed), "once each, in key order"
    for event in changes:
        assert (event.cid, event.prev) == (after.get(event.path), before.get(event.path))
        assert event.action is _action(event)
    again = {event.path: event.cid for event in told if event.republished_by is not None}
    assert again == ({p: c for p, c in theirs.items() if p not in changed} if emit_all else {})
    assert [one.effect for one in done][-1] is OperationEffect.COMPLETED
    assert sum(one.created + one.updated + one.deleted for one in done) == len(changes)


def _action(event: RecordEvent) -> Action:
    if event.cid is None:
        return Action.DELETE
    return Action.CREATE if event.prev is None else Action.UPDATE
