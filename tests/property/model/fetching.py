"""Operations, downloads and proofs, as the fetcher runs them.

An operation is queued, running (downloading, or injected and waiting for the worker), or
over.  A download is a verified snapshot on its way: chunks in key order, bounded by
(after, through], each with the attempt, and with scope and ``resync_generation`` as they were
when it began.  One that was abandoned may go on injecting.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from consumer.backfill import Chunk, Entry
from consumer.scope import Scope
from tests.property.model.network import RECORDS, Version
from tests.support.snapshots import clipped


class Status(Enum):
    QUEUED = 0
    RUNNING = 1
    OVER = 2


@dataclass
class Operation:
    name: str
    did: str
    automatic: bool
    status: Status = Status.QUEUED
    attempts: int = 0


@dataclass
class Download:
    """Chunks of one attempt that are still to be injected."""

    operation: Operation
    chunks: list[Chunk]


@dataclass
class Operations:
    """The table of operations; a DID in ``retries`` has a retry time instead."""

    table: list[Operation] = field(default_factory=list)
    retries: set[str] = field(default_factory=set)

    def add(self, did: str, *, automatic: bool) -> None:
        self.table.append(Operation(f"op{len(self.table)}", did, automatic))

    def queue_automatic(self, did: str) -> None:
        """Queue an automatic sync, unless one is queued for the DID already."""
        if not any(op.automatic for op in self.queued(did)):
            self.add(did, automatic=True)

    def settle(self, did: str) -> None:
        """Drop the automatic syncs of ``did`` that no fetcher has started."""
        for op in self.queued(did):
            if op.automatic:
                op.status = Status.OVER

    def queue_again(self, op: Operation, *, needed: bool) -> None:
        """Queue a running operation again; it serves for an automatic one that is queued.

        An automatic one that is not ``needed`` any more is over.
        """
        if op.automatic:
            self.settle(op.did)
        op.status = Status.QUEUED if needed or not op.automatic else Status.OVER

    def queued(self, did: str | None = None) -> list[Operation]:
        return [o for o in self.table if o.status is Status.QUEUED and did in (None, o.did)]

    def claimable(self) -> list[Operation]:
        """Return queued operations of DIDs without a running one."""
        busy = {op.did for op in self.table if op.status is Status.RUNNING}
        return [op for op in self.queued() if op.did not in busy]

    def cancellable(self) -> list[Operation]:
        return [op for op in self.table if op.status is not Status.OVER]

    def is_open(self, did: str) -> bool:
        """Tell whether something will happen for ``did`` without further input."""
        return did in self.retries or any(op.did == did for op in self.cancellable())

    def named(self, name: str) -> Operation | None:
        return next((op for op in self.table if op.name == name), None)

    def cancel(self, op: Operation, *, retry: bool) -> None:
        """Give up ``op``; a repo that is desynchronized is tried again some time."""
        op.status = Status.OVER
        if retry:
            self.retries.add(op.did)

    def retry(self) -> None:
        """Let every retry time pass."""
        for did in sorted(self.retries):
            self.queue_automatic(did)
        self.retries.clear()


def chunks_of(
    version: Version, op: Operation, scope: Scope, *, resync_generation: int, size: int
) -> list[Chunk]:
    """Cut a snapshot into chunks of at most ``size`` entries."""
    wanted = [path for path in sorted(version.records) if scope.wants(path)]
    groups = [wanted[i : i + size] for i in range(0, len(wanted), size)] or [[]]
    bounds: list[str | None] = [None, *(group[-1] for group in groups[:-1]), None]
    return [
        Chunk(
            did=version.did,
            operation=op.name,
            attempt=op.attempts,
            rev=version.rev,
            data=version.data,
            commit=b"",
            scope=scope.digest,
            resync_generation=resync_generation,
            after=bounds[i],
            through=bounds[i + 1],
            last=i == len(groups) - 1,
            intervals=tuple(clipped(scope, bounds[i], bounds[i + 1])),
            entries=tuple(_entry(version, path) for path in group),
        )
        for i, group in enumerate(groups)
    ]


def _entry(version: Version, path: str) -> Entry:
    cid = version.records[path]
    return Entry(path, cid, RECORDS[cid])
