"""What a transaction of the worker reads before its inputs are applied."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain
from typing import TypeVar

from consumer.backfill import Chunk, Proof
from consumer.state import accounts
from consumer.state.batch_state import BatchState
from consumer.state.facts import Row
from consumer.state.inputs import AccountLearnt, ChunkSeen, ForgetSeen, Input, ProofSeen, needs
from consumer.state.policy import Policy
from consumer.state.repo_state import Repo
from consumer.store import answers, records
from consumer.store.answers import HeldHost
from consumer.store.database import Connection
from consumer.store.operations import read
from consumer.store.repos import Repos
from consumer.store.rows import Record
from consumer.worker import report
from consumer.worker.share import Share
from procedures.operations import Status

T = TypeVar("T")

REPOS = Repos(Repo)
"""The table of repositories as values of the state machine."""


async def load(connection: Connection, shares: Sequence[Share]) -> list[BatchState]:
    """Return the batch state of each share, with what its inputs touch.

    A chunk has 1,000 records at most and speaks of about as many rows, an account that is
    deleted has few left (``delete_in_batches``), and a batch takes few of either.
    """
    policy = shares[0].policy  # they differ by their lanes
    inputs = list(chain.from_iterable(share.inputs for share in shares))
    wanted = needs(inputs, policy.scope)
    repos = {repo.did: repo for repo in await REPOS.read(connection, list(wanted.dids))}
    learnt = [one for one in inputs if isinstance(one, AccountLearnt)]
    held = await held_hosts(connection, policy, learnt, repos) if learnt else {}
    if wanted.whole_repos:  # of those that the answer deletes
        looking = BatchState(dict(repos), {}, policy, held_hosts=held)
        wanted.whole_repos = {one.did for one in inputs if _is_last(one, looking)}
    in_part = repos.keys() - wanted.whole_repos  # without a repo there are no rows
    paths = [key for key in wanted.paths if key[0] in in_part]
    found = await records.read(connection, paths) if paths else []
    if wanted.whole_repos:
        found += await records.read_repos(connection, list(wanted.whole_repos))
    if intervals := [one for one in wanted.intervals if one[0] in in_part]:
        found += await records.read_intervals(connection, intervals)
    rows, void = by_did(found), await void_operations(connection, inputs, repos)
    return [
        BatchState(
            _of(repos, share),
            _of(rows, share),
            share.policy,
            share.plan.pds_of,
            whole=wanted.whole_repos,
            held_hosts=held,
            incarnations=share.plan.cache.forgotten,
            void=void,
        )
        for share in shares
    ]


def _of(known: Mapping[str, T], share: Share) -> dict[str, T]:
    """Return what is known of the accounts of a share."""
    return {one.did: known[one.did] for one in share.inputs if one.did in known}


async def void_operations(
    connection: Connection, inputs: Sequence[Input], known: Collection[str]
) -> set[str]:
    """Return the operations of ``inputs`` whose messages count no more.

    An account is forgotten by the attempt that runs, and only once.  A sync or refresh that was
    cancelled, as forgetting does, brings in no repo that is not ``known``.
    """
    forgets = {one.forget.operation: one.forget for one in inputs if isinstance(one, ForgetSeen)}
    first = {
        message.operation
        for message in map(_injected, inputs)
        if message is not None and message.did not in known
    }
    if not (forgets or first):
        return set()
    found = await read.read_all(connection, [*forgets, *first])
    void = {one for one in first if one in found and found[one].status is Status.CANCELLED}
    return void | {
        one
        for one, forget in forgets.items()
        if one not in found
        or found[one].status is not Status.RUNNING
        or found[one].attempts != forget.attempt
    }


async def held_hosts(
    connection: Connection,
    policy: Policy,
    inputs: Sequence[AccountLearnt],
    repos: dict[str, Repo],
) -> dict[str, HeldHost]:
    """Return the hosts that alone say of one of ``inputs`` what deletes, and may not yet.

    Counting a host's accounts is not cheap, so that it waits for a deletion that is confirmed.
    """
    looking = BatchState(dict(repos), {}, policy)
    hosts = [
        one.answer.host
        for one in inputs
        if one.answer.host is not None
        and one.did in repos
        and not accounts.agreed(repos[one.did], one.answer)
        and looking.deletes(one)
    ]
    held = await answers.weigh(connection, hosts, policy.accounts) if hosts else {}
    for one in held.values():
        report.held(one.host, one.gone, one.tracked)
    return held


def by_did(found: Iterable[Record]) -> dict[str, dict[str, Row]]:
    """Return rows by DID and path."""
    rows: dict[str, dict[str, Row]] = {}
    for did, path, cid, rev in found:
        rows.setdefault(did, {})[path] = Row(cid, rev)
    return rows


def _is_last(one: Input, looking: BatchState) -> bool:
    """Tell whether ``one`` deletes a whole account."""
    return isinstance(one, ForgetSeen) or (isinstance(one, AccountLearnt) and looking.deletes(one))


def _injected(one: Input) -> Chunk | Proof | None:
    match one:
        case ChunkSeen(chunk=message) | ProofSeen(proof=message):
            return message
    return None
