"""The worker's transactions: positions, repos, records, operations and outbox move together.

``consumer/lanes/transaction.py`` has what every transaction of a lane does; here is what the
worker decides and writes in one.
"""

from __future__ import annotations

import random
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter

from consumer.backfill import Chunk, Proof
from consumer.dead_letters import DeadLetter
from consumer.errors import Reason
from consumer.events.envelope import Origin, encode
from consumer.kafka.topics import Topic
from consumer.lanes.transaction import LaneTransaction, LaneTransactions
from consumer.metrics import BatchStep
from consumer.state import accounts, operation_outcome
from consumer.state.batch_state import BatchState
from consumer.state.effects import AppliedOperation, Rejection
from consumer.state.facts import Row
from consumer.state.inputs import (
    AccountLearnt,
    ChunkSeen,
    ForgetSeen,
    Input,
    Lost,
    ProofSeen,
    Quarantined,
    ScopeChanged,
    needs,
)
from consumer.state.policy import COMPARING, Policy
from consumer.state.repo_state import Repo
from consumer.store import answers, forgotten, found, identities, lookups, parked, records
from consumer.store.answers import HeldHost
from consumer.store.database import Connection
from consumer.store.operations import queue, read, write
from consumer.store.repos import Repos
from consumer.store.rows import Lane, LookupRequest, Record, RefreshWanted
from consumer.worker import report
from consumer.worker.plan import Plan, Planned
from consumer.worker.report import Stopwatch
from procedures.operations import Operation, Status

_PAGE = 1_000  # repos that are marked in one transaction
_DELETED = 5_000  # records of a deleted account in one transaction
_FORGOTTEN = "the account is forgotten"

_repos = Repos(Repo)


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What a committed batch decided, for the metrics."""

    batch_state: BatchState
    rejections: list[Rejection]


class BatchTransactions:
    """Every transaction of the worker on one lane.

    A record of more than ``max_record`` bytes of DAG-CBOR is published without JSON.
    """

    def __init__(self, lane: LaneTransactions, policy: Policy, max_record: int) -> None:
        self._lane = lane
        self._policy = policy
        self._max_record = max_record

    @property
    def lane(self) -> Lane:
        """The lane's row as Postgres holds it, unless a transaction has failed."""
        return self._lane.row

    async def commit(self, plan: Plan, watch: Stopwatch) -> BatchResult:
        """Decide and write what is in ``plan``.  Raises ``LaneLost``, ``Transient``, ``Fatal``."""
        async with self._lane.begin() as transaction:
            connection = transaction.connection
            batch_state = await self._load(connection, [p.input for p in plan.inputs], plan)
            watch.lap(BatchStep.LOAD)
            refused = [(p, why) for p in plan.inputs if (why := batch_state.apply(p.input))]
            plan.look_up_wanted(batch_state.lookups)
            watch.lap(BatchStep.APPLY)
            await _write_plan(connection, plan)
            await self._write_decisions(transaction, batch_state)
            if self._policy.searches:
                await self._remember_strangers(connection, refused)
            for letter in _dead_letters(plan, refused):
                transaction.add_dead_letter(letter)
            for did, incarnation in batch_state.forgotten.items():
                plan.cache.forget(did, incarnation)
            transaction.move_to(plan.position)
        watch.lap(BatchStep.WRITE)
        await self._lane.hand_over(transaction)
        return BatchResult(batch_state, [why for _, why in refused])

    async def _remember_strangers(
        self, connection: Connection, refused: Iterable[tuple[Planned, Rejection]]
    ) -> None:
        """Let the repositories be fetched of which only a quarantined frame has come."""
        strangers = [
            (planned.input.did, self.lane.lane)
            for planned, _ in refused
            if isinstance(planned.input, Quarantined) and planned.input.frame
        ]
        if strangers:
            await found.note(connection, strangers, found.QUARANTINE, "", None)

    async def delete_in_batches(self, inputs: Iterable[Input]) -> None:
        """Delete most records of each account that ``inputs`` delete or forget and that has many.

        Each transaction deletes a batch and leaves the position: after a crash the rest is
        deleted the same way.  The repo is desynchronized meanwhile, because the account may
        return before the last batch.  Raises ``LaneLost``, ``Transient``, ``Fatal``.
        """
        for one in inputs:
            if isinstance(one, AccountLearnt | ForgetSeen):
                while await self._delete_batch(one):
                    pass

    async def _delete_batch(self, one: AccountLearnt | ForgetSeen) -> bool:
        async with self._lane.begin() as transaction:
            connection = transaction.connection
            found = await records.read_first(connection, one.did, _DELETED + 1)
            if len(found) <= _DELETED or await self._void(connection, [one], {}):
                return False
            repos = {repo.did: repo for repo in await _repos.read(connection, [one.did])}
            learnt = [one] if isinstance(one, AccountLearnt) else []
            held = await self._held(connection, learnt, repos)
            batch_state = BatchState(repos, _by_did(found), self._policy, held_hosts=held)
            if not batch_state.delete_batch(one):
                return False
            await self._write_decisions(transaction, batch_state)
        await self._lane.hand_over(transaction)
        return True

    async def mark_lost(self, origin: Origin, then: Lane) -> int:
        """Mark every repo of the lane for resync, then move to ``then``; return how many.

        Accounts with parked frames are doubted with the last of these.  The repos are taken in
        pages, each in its own transaction, and the position moves with the last: after a crash all
        of it is noticed, and done, again.  Marking twice is safe.
        Raises ``LaneLost``, ``Transient``, ``Fatal``.
        """
        count, after = 0, ""
        while True:
            async with self._lane.begin() as transaction:
                connection = transaction.connection
                page = await _repos.page(connection, self.lane.lane, after, _PAGE)
                await self._apply(transaction, page, [Lost(repo.did, origin) for repo in page])
                if not page:
                    await parked.doubt(connection, self.lane.lane)
                    transaction.move_to(then)
            await self._lane.hand_over(transaction)
            if not page:
                return count
            count, after = count + len(page), page[-1].did

    async def match_scope(self, origin: Origin) -> int:
        """Mark the repos that were read with another scope for resync; return how many.

        In pages like ``mark_lost``.  The lane's scope says so while it lasts: after a crash every
        repo is compared again, whatever the scope is then.
        Raises ``LaneLost``, ``Transient``, ``Fatal``.
        """
        lane, digest = self.lane, self._policy.digest
        count, after = 0, ""
        while True:
            async with self._lane.begin() as transaction:
                connection = transaction.connection
                page = await _repos.page_of_others(connection, lane.lane, after, _PAGE, digest)
                changes = [ScopeChanged(repo.did, origin) for repo in page]
                await self._apply(transaction, page, changes)
                transaction.move_to(replace(lane, scope=COMPARING if page else digest))
            await self._lane.hand_over(transaction)
            if not page:
                return count
            count, after = count + len(page), page[-1].did

    async def _apply(
        self, transaction: LaneTransaction, page: Sequence[Repo], inputs: Sequence[Input]
    ) -> None:
        """Apply ``inputs``, which make no fact, to the repos of ``page``."""
        batch_state = BatchState({repo.did: repo for repo in page}, {}, self._policy)
        for one in inputs:
            batch_state.apply(one)
        await lookups.request(transaction.connection, self._questions(batch_state))
        await self._write_decisions(transaction, batch_state)

    def _questions(self, batch_state: BatchState) -> list[LookupRequest]:
        """Return the questions about accounts that a batch without a plan asks."""
        rules, lane = self._policy.accounts, self.lane.lane
        return [
            LookupRequest(
                one.did,
                one.kind,
                lane,
                one.epoch,
                one.seq,
                one.delay,
                one.cause,
                rules.pause(one.cause),
            )
            for one in batch_state.lookups
        ]

    async def write_crash_count(self, count: int) -> None:
        """Write the crash count before a batch that could kill the process.

        Raises ``LaneLost`` and ``Transient``.
        """
        await self._lane.set_crash_count(count)

    async def _load(
        self, connection: Connection, inputs: Sequence[Input], plan: Plan
    ) -> BatchState:
        """Load what the inputs touch.

        A chunk has 1,000 records at most and speaks of about as many rows, an account that is
        deleted has few left (``delete_in_batches``), and a batch takes few of either.
        """
        wanted = needs(inputs, self._policy.scope)
        repos = {repo.did: repo for repo in await _repos.read(connection, list(wanted.dids))}
        learnt = [one for one in inputs if isinstance(one, AccountLearnt)]
        held = await self._held(connection, learnt, repos) if learnt else {}
        if wanted.whole_repos:  # of those that the answer deletes
            looking = BatchState(dict(repos), {}, self._policy, held_hosts=held)
            wanted.whole_repos = {one.did for one in inputs if _is_last(one, looking)}
        in_part = repos.keys() - wanted.whole_repos  # without a repo there are no rows
        paths = [key for key in wanted.paths if key[0] in in_part]
        found = await records.read(connection, paths) if paths else []
        if wanted.whole_repos:
            found += await records.read_repos(connection, list(wanted.whole_repos))
        if intervals := [one for one in wanted.intervals if one[0] in in_part]:
            found += await records.read_intervals(connection, intervals)
        return BatchState(
            repos,
            _by_did(found),
            self._policy,
            plan.pds_of,
            whole=wanted.whole_repos,
            held_hosts=held,
            incarnations=plan.cache.forgotten,
            void=await self._void(connection, inputs, repos),
        )

    async def _void(
        self, connection: Connection, inputs: Sequence[Input], known: Collection[str]
    ) -> set[str]:
        """Return the operations of ``inputs`` whose messages count no more.

        An account is forgotten by the attempt that runs, and only once.  A sync or refresh that was
        cancelled, as forgetting does, brings in no repo that is not ``known``.
        """
        forgets = {
            one.forget.operation: one.forget for one in inputs if isinstance(one, ForgetSeen)
        }
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

    async def _held(
        self, connection: Connection, inputs: Sequence[AccountLearnt], repos: dict[str, Repo]
    ) -> dict[str, HeldHost]:
        """Return the hosts that alone say of one of ``inputs`` what deletes, and may not yet.

        Counting a host's accounts is not cheap, so that it waits for a deletion that is confirmed.
        """
        looking = BatchState(dict(repos), {}, self._policy)
        hosts = [
            one.answer.host
            for one in inputs
            if one.answer.host is not None
            and one.did in repos
            and not accounts.agreed(repos[one.did], one.answer)
            and looking.deletes(one)
        ]
        held = await answers.weigh(connection, hosts, self._policy.accounts) if hosts else {}
        for one in held.values():
            report.held(one.host, one.gone, one.tracked)
        return held

    async def _write_decisions(self, transaction: LaneTransaction, batch_state: BatchState) -> None:
        """Write what the batch state decided, its events to the outbox."""
        lane = self.lane.lane
        await _write_batch_state(transaction.connection, batch_state)
        if batch_state.forgotten:
            await _forget(transaction.connection, lane, batch_state)
        await _write_operations(transaction.connection, lane, batch_state)
        for event in batch_state.events:
            encoded = encode(event, self._max_record)
            transaction.add(Topic.EVENTS, lane, encoded.key, encoded.value)
            if encoded.tombstone:
                transaction.add(Topic.EVENTS, lane, encoded.key, None)


def _by_did(found: Iterable[Record]) -> dict[str, dict[str, Row]]:
    rows: dict[str, dict[str, Row]] = {}
    for did, path, cid, rev in found:
        rows.setdefault(did, {})[path] = Row(cid, rev)
    return rows


def _dead_letters(plan: Plan, refused: Iterable[tuple[Planned, Rejection]]) -> list[DeadLetter]:
    """Return the dead letters of a batch in the order of their sources."""
    lane = plan.position.lane
    letters = [*plan.dead, *(one.dead_letter(why, lane) for one, why in refused if why.kept)]
    return sorted(letters, key=attrgetter("source"))


async def _write_batch_state(connection: Connection, batch_state: BatchState) -> None:
    if repos := batch_state.dirty_repos():
        await _repos.write(connection, repos)
    upserts = [
        (did, path, r.cid, r.rev) for did, path, r in batch_state.dirty_rows() if r is not None
    ]
    gone = [(did, path) for did, path, row in batch_state.dirty_rows() if row is None]
    if upserts:
        await records.write(connection, upserts)
    if gone:
        await records.delete(connection, gone)
    if batch_state.cleared:
        through = [(cleared.did, cleared.through) for cleared in batch_state.cleared]
        await records.clear_tombstones(connection, through)


async def _forget(connection: Connection, lane: int, batch_state: BatchState) -> None:
    """Delete what is known of accounts beside their records, and cancel what is open of them."""
    for did in batch_state.forgotten:
        await write.cancel_open(connection, did, time.time(), _FORGOTTEN)
    await forgotten.forget(connection, lane, batch_state.forgotten)


def _is_last(one: Input, looking: BatchState) -> bool:
    """Tell whether ``one`` deletes a whole account."""
    return isinstance(one, ForgetSeen) or (isinstance(one, AccountLearnt) and looking.deletes(one))


def _injected(one: Input) -> Chunk | Proof | None:
    match one:
        case ChunkSeen(chunk=message) | ProofSeen(proof=message):
            return message
    return None


async def _write_operations(connection: Connection, lane: int, batch_state: BatchState) -> None:
    """Conclude operations, settle those without a need, queue new ones: in this order."""
    ended = await _conclude(connection, batch_state) if batch_state.applied else []
    retries = batch_state.policy.retries
    if batch_state.settled:
        await write.settle(connection, list(batch_state.settled))
    if batch_state.syncs:
        await queue.add(connection, lane, batch_state.syncs, retries.throttle)
    if batch_state.refreshes:
        refreshes = [RefreshWanted(one.did, one.path) for one in batch_state.refreshes]
        wait, reason = retries.automatic.first, Reason.BLOCK_MISSING
        await queue.add_refreshes(connection, lane, refreshes, reason, wait)
    if ended and batch_state.policy.automatic:
        dids = [one.did for one in ended if one.did is not None]
        await queue.renew(connection, dids, retries.renewal)
        await queue.renew_refreshes(connection, [one.id for one in ended], retries.renewal)


async def _conclude(connection: Connection, batch_state: BatchState) -> list[Operation]:
    """Write what chunks and proofs did; return the operations that failed."""
    done: dict[str, list[AppliedOperation]] = {}
    for one in batch_state.applied:
        done.setdefault(one.operation, []).append(one)
    before = await write.lock(connection, list(done))
    active = {did for did, repo in batch_state.repos.items() if repo.active}
    after = [
        operation_outcome.concluded(
            one,
            done[one.id],
            active=one.did in active,
            now=time.time(),
            retries=batch_state.policy.retries,
            chance=random.random(),  # noqa: S311 - it spreads retries
        )
        for one in before
    ]
    await write.save(connection, after)
    failed = {Status.FAILED, Status.CANCELLED}
    return [one for one in after if one.status in failed]


async def _write_plan(connection: Connection, plan: Plan) -> None:
    if plan.identities:
        await identities.write(connection, plan.identities.values())
    if plan.lookups:
        await lookups.request(connection, list(plan.lookups.values()))
    if plan.parks:
        await parked.append(connection, plan.lane, plan.parks)
    if plan.decided:
        await parked.drop(connection, plan.decided)
    if plan.touched:
        waiting = plan.cache.queues
        await parked.write(connection, plan.lane, plan.cache.parkings(plan.touched))
        await parked.clear(connection, [did for did in plan.touched if did not in waiting])
