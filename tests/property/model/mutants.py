"""Every rule, broken once.  What finds each of them out is in ``findings``.

Five clauses have no mutant here, because others cover them:

- that ``prevData`` is compared as well as ``since``: an honest host never contradicts itself
  there (a unit test covers the host that does);
- that a first chunk from the future sets ``gap_rev``: it sets ``floor_rev`` to the same rev;
- that the attempt is compared: chunks of two attempts at one rev say the same;
- that a first attempt does not complete below a hint: it only makes up for a host that is late;
- that a scope change raises the resync generation: it is a gap already, and chunks
  name their scope.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import ModuleType
from unittest import mock

from consumer.backfill import Cause
from consumer.state import accounts, batch_state, effects, facts, policy, reconcile, repo_state
from consumer.worker import cache, verdicts
from tests.property.model.breaking import (
    Rule,
    absent_everywhere,
    active_at_once,
    agreeing,
    all_ops,
    always,
    applying,
    blind_to,
    clearing_all,
    deleted_unasked,
    forgetful,
    ignoring,
    keeping,
    no_tombstone_of_unknown,
    nothing_absent,
    older_wins,
    repeats_leave_the_rev,
    rows_stay,
    silent_about,
    still_active,
    sure_while_comparing,
    transitioning,
    unrefused,
    untriggered,
    without_tombstones,
)


@dataclass(frozen=True)
class Mutant:
    """``owner.name`` replaced by ``broken(original)``."""

    title: str
    owner: ModuleType | type
    name: str
    broken: Callable[[Rule], Rule]

    @contextmanager
    def at_large(self) -> Iterator[None]:
        """Break the rule while the context lasts."""
        original = getattr(self.owner, self.name)
        with mock.patch.object(self.owner, self.name, self.broken(original)):
            yield


MUTANTS = (
    # the chain
    Mutant("broken chain is not a gap", repo_state, "on_commit", keeping("gap_rev")),
    Mutant("broken chain goes unnoticed", repo_state, "on_commit", transitioning(still_active)),
    Mutant("since is not compared", repo_state, "on_commit", agreeing("since", "rev")),
    Mutant("replayed commits apply", repo_state, "_not_newer", transitioning(applying)),
    Mutant("first sighting is complete", repo_state, "_first_commit", active_at_once),
    Mutant("first sighting is no gap", repo_state, "_first_commit", keeping("gap_rev")),
    Mutant("whole first commit sets no floor", repo_state, "_first_commit", keeping("floor_rev")),
    Mutant(
        "whole first commit ignores generation",
        repo_state,
        "_states_everything",
        blind_to(resync_generation=0),
    ),
    Mutant(
        "whole first commit ignores proofs",
        repo_state,
        "_states_everything",
        blind_to(proof_rev=None),
    ),
    Mutant(
        "whole first commit ignores gaps", repo_state, "_states_everything", blind_to(gap_rev=None)
    ),
    # what cannot be followed
    Mutant("unverifiable commit is no gap", repo_state, "on_unverifiable", keeping("gap_rev")),
    Mutant(
        "unverifiable commit goes unnoticed",
        repo_state,
        "on_unverifiable",
        transitioning(still_active),
    ),
    Mutant(
        "unverifiable commit raises no generation",
        repo_state,
        "on_unverifiable",
        keeping("resync_generation"),
    ),
    Mutant("loss window raises no generation", repo_state, "on_lost", keeping("resync_generation")),
    Mutant("loss window goes unnoticed", repo_state, "on_lost", transitioning(still_active)),
    Mutant("scope change is no gap", repo_state, "on_scope", keeping("gap_rev")),
    Mutant("scope change goes unnoticed", repo_state, "on_scope", transitioning(still_active)),
    Mutant("scope change is not noted", repo_state, "on_scope", keeping("scope")),
    Mutant(
        "reactivation raises no generation", accounts, "with_status", keeping("resync_generation")
    ),
    Mutant("reactivation goes unnoticed", accounts, "with_status", transitioning(still_active)),
    Mutant(
        "a scope taken back is not compared",
        policy.Policy,
        "is_other",
        sure_while_comparing,
    ),
    Mutant(
        "a loss window leaves the status", batch_state.BatchState, "_ask", silent_about(Cause.LOSS)
    ),
    Mutant("a loss window leaves what is parked", cache.LaneCache, "doubt_parked", always(None)),
    Mutant("a status overtakes what is parked", verdicts.Rules, "have_reserve_in", always(False)),
    Mutant("an overtaken deletion leaves no doubt", accounts, "with_frame", forgetful),
    Mutant("nothing is queued", batch_state.BatchState, "_queue_sync", always(None)),
    # sync frames
    Mutant("#sync is ignored", repo_state, "on_sync", transitioning(ignoring)),
    Mutant("#sync is no gap", repo_state, "on_sync", keeping("gap_rev")),
    Mutant("#sync goes unnoticed", repo_state, "on_sync", transitioning(still_active)),
    Mutant("#sync overlooks newer rows", repo_state, "on_sync", blind_to(proof_rev=None)),
    Mutant("#sync leaves the floor", repo_state, "on_sync", keeping("floor_rev")),
    # snapshots
    Mutant("first chunk leaves the chain", repo_state, "_first_chunk", keeping("rev", "data")),
    Mutant("first chunk sets no floor", repo_state, "_first_chunk", keeping("floor_rev")),
    Mutant(
        "first chunk leaves the repo active",
        repo_state,
        "_first_chunk",
        transitioning(still_active),
    ),
    Mutant("first chunk queues nothing", repo_state, "_first_chunk", transitioning(untriggered)),
    Mutant(
        "first chunk does not give a restored repo its root",
        repo_state,
        "_first_chunk",
        keeping("data"),
    ),
    Mutant("floor is not checked", repo_state, "on_chunk", blind_to(floor_rev=None)),
    Mutant(
        "scope of chunks is not checked",
        repo_state,
        "on_chunk",
        lambda original: (
            lambda repo, chunk, scope: original(repo, replace(chunk, scope=scope), scope)
        ),
    ),
    Mutant("holes are accepted", repo_state, "_continues", always(True)),
    Mutant(
        "missing chunks are overlooked",
        repo_state,
        "_continues",
        agreeing("after", "snapshot_through"),
    ),
    Mutant("gap is not checked", repo_state, "on_last_chunk", blind_to(gap_rev=None)),
    Mutant(
        "generation is not checked",
        repo_state,
        "on_last_chunk",
        agreeing("resync_generation", "resync_generation"),
    ),
    Mutant(
        "last chunk does not activate", repo_state, "on_last_chunk", keeping("sync_state", "reason")
    ),
    Mutant("refused snapshot is not fetched again", effects, "_effect", unrefused),
    Mutant("chunks state no absence", facts, "of_chunk", nothing_absent),
    Mutant(
        "chunks state absence everywhere", batch_state.BatchState, "_known_paths", absent_everywhere
    ),
    Mutant(
        "tombstones are cleared beyond the snapshot",
        batch_state.BatchState,
        "_clear_tombstones",
        clearing_all,
    ),
    # proofs
    Mutant("proofs ignore the floor", repo_state, "on_proof", blind_to(floor_rev=None)),
    Mutant("proofs ignore the gap", repo_state, "on_proof", blind_to(gap_rev=None)),
    Mutant("proofs are not noted", repo_state, "on_proof", keeping("proof_rev")),
    # facts
    Mutant("tombstones are forgotten", batch_state, "reconcile", without_tombstones),
    Mutant("unknown deletes leave no tombstone", reconcile, "_unknown", no_tombstone_of_unknown),
    Mutant("older facts win", batch_state, "reconcile", older_wins),
    Mutant("repeated ops leave the rev", batch_state, "reconcile", repeats_leave_the_rev),
    Mutant("unwanted ops become rows", facts, "of_commit", all_ops),
    # accounts
    Mutant(
        "commits of inactive accounts apply", repo_state, "on_commit", blind_to(status="active")
    ),
    Mutant("chunks of inactive accounts apply", repo_state, "on_chunk", blind_to(status="active")),
    Mutant("proofs of inactive accounts apply", repo_state, "on_proof", blind_to(status="active")),
    Mutant("#sync of inactive accounts applies", repo_state, "on_sync", blind_to(status="active")),
    Mutant("the ratchet is off", accounts, "is_news", always(True)),
    Mutant("old answers count", accounts, "answers_newest", always(True)),
    Mutant("deletion is not confirmed", batch_state.BatchState, "_account", deleted_unasked),
    Mutant("deletion sets no floor", accounts, "deleted", keeping("floor_rev")),
    Mutant("deletion leaves the chain", accounts, "deleted", keeping("rev", "data")),
    Mutant("deletion leaves the root", accounts, "deleted", keeping("data")),
    Mutant("deletion begins no incarnation", accounts, "deleted", keeping("incarnation")),
    Mutant("deletion keeps the rows", batch_state.BatchState, "_drop", rows_stay),
)
