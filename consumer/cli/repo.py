"""``consumer repo DID``: what is known of one repository, why, and what is due."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import click
import orjson
import uvloop
from rich.console import Console
from rich.table import Table
from rich.text import Text

from consumer.cli.following import summary
from consumer.cli.options import briefly, validated, with_settings
from consumer.cli.output import FAILED, fail, print_json
from consumer.config import types
from consumer.config.settings import Settings
from consumer.printable import escape
from consumer.services import answering, attached, read_only, scope_of
from consumer.store import known
from consumer.store.database import Database
from consumer.store.known import KnownRepo
from procedures.operations import encode

_OPERATIONS = 10

Shown = dict[str, Any]


@click.command("repo")
@with_settings
@click.argument("did", callback=validated(types.did))
@click.option("--json", "as_json", is_flag=True, help="JSON instead of a table.")
def repo_command(settings: Settings, *, did: str, as_json: bool) -> None:
    """Show what is known of the repository of DID, and what is due.

    Exit codes: 0 something is known, 1 nothing is.
    """
    settings = attached(briefly(settings))

    async def ask() -> KnownRepo:
        async with read_only(settings) as found:
            return await read(found.settings, found.database, did)

    seen = uvloop.run(ask())
    if seen.unknown:
        elsewhere = scope_of(settings).shard.elsewhere(did)
        why = f"nothing is known of {did}; 'consumer sync {did}' would fetch it"
        fail([elsewhere or why], FAILED)
    if as_json:
        print_json(shown(seen))
    else:
        render(seen, Console(soft_wrap=True, highlight=False))


async def read(settings: Settings, database: Database, did: str) -> KnownRepo:
    """Return what is known of ``did``.  Raises ``Transient`` or ``Fatal``."""
    asked = f"PostgreSQL at {database.address}"
    async with answering(settings, asked), database.transaction() as connection:
        return await known.read(connection, did, _OPERATIONS)


def shown(seen: KnownRepo) -> Shown:
    """Return the JSON of what is known; times are ISO 8601 in UTC, CIDs and roots are left out."""
    return {
        "did": seen.did,
        "repo": _repo(seen),
        "host": _host(seen),
        "identity": _identity(seen),
        "records": {
            each.collection: {"live": each.live, "tombstones": each.tombstones}
            for each in seen.counts
        },
        "parked": None
        if seen.parked is None
        else {
            "frames": seen.parked.frames,
            "bytes": seen.parked.size,
            "oldest": _iso(seen.parked.oldest),
            "ready": seen.parked.ready,
        },
        "questions": [
            {
                "kind": each.kind,
                "cause": each.cause if each.kind == "account" else None,
                "attempts": each.attempts,
                "due": _iso(each.run_after),
                "asking": each.asking,
                "error": each.error,
            }
            for each in seen.questions
        ],
        "listed": None
        if seen.listed is None
        else {
            "source": seen.listed.source,
            "listing": seen.listed.listing,
            "at": _iso(seen.listed.found_at),
            "tries": seen.listed.tries,
            "nextTry": _iso(seen.listed.next_try),
            "failure": seen.listed.failure,
            "confirmed": seen.listed.confirmed,
        },
        "operations": [orjson.loads(encode(each)) for each in seen.operations],
    }


def _repo(seen: KnownRepo) -> Shown | None:
    repo = seen.repo
    if repo is None:
        return None
    return {
        "lane": repo.lane,
        "status": repo.status,
        "syncState": repo.sync_state,
        "reason": repo.reason,
        "complete": repo.complete,
        "rev": repo.rev,
        "gapRev": repo.gap_rev,
        "hintRev": repo.hint_rev,
        "floorRev": repo.floor_rev,
        "proofRev": repo.proof_rev,
        "inactiveRev": repo.inactive_rev,
        "incarnation": repo.incarnation,
        "resyncGeneration": repo.resync_generation,
        "frameStatus": repo.frame_status,
        "statusRelay": repo.status_relay,
        "goneSince": None
        if repo.gone_at is None
        else _iso(datetime.fromtimestamp(repo.gone_at, UTC)),
        "goneHost": repo.gone_host,
        "snapshot": None
        if repo.snapshot_operation is None
        else {
            "operation": repo.snapshot_operation,
            "rev": repo.snapshot_rev,
            "through": repo.snapshot_through,
        },
        "warnings": repo.warnings or {},
        "firstSeen": _iso(seen.first_seen),
        "updatedAt": _iso(seen.updated_at),
    }


def _host(seen: KnownRepo) -> Shown | None:
    if seen.host is None:
        return None
    held, waiting = seen.held, seen.waiting
    return {
        "origin": seen.host,
        "waiting": None
        if waiting is None
        else {
            "operations": waiting.operations,
            "nextTry": _iso(waiting.next_try),
            "failure": waiting.failure,
            "error": waiting.error,
        },
        "heldDeletions": None if held is None else {"gone": held.gone, "tracked": held.tracked},
        "answer": None
        if seen.answer is None
        else {
            "at": _iso(seen.answer.asked_at),
            "status": seen.answer.status,
            "source": seen.answer.source,
            "host": seen.answer.host,
            "name": seen.answer.name,
        },
    }


def _identity(seen: KnownRepo) -> Shown | None:
    identity = seen.identity
    if identity is None:
        return None
    return {
        "handle": identity.handle,
        "pds": identity.pds,
        "signingKey": identity.signing_key,
        "error": identity.error,
        "fetchedAt": _iso(datetime.fromtimestamp(identity.fetched_at, UTC)),
    }


def render(seen: KnownRepo, console: Console) -> None:
    """Print what is known for people."""
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, text in _lines(seen):
        table.add_row(name, Text(escape(text)))
    console.print(table)


def _lines(seen: KnownRepo) -> list[tuple[str, str]]:
    repo = seen.repo
    lines = [("did", seen.did)]
    if repo is None:
        lines.append(("repo", "not tracked: no commit, listing or command has brought it in"))
    else:
        state = f"{repo.sync_state} ({repo.reason})" if repo.reason else repo.sync_state
        lines += [("account", repo.status), ("repo", state), ("revs", _revs(seen))]
        if repo.snapshot_operation is not None:
            through = repo.snapshot_through or "its first record"
            lines.append(("snapshot", f"rev {repo.snapshot_rev} is applied through {through}"))
        if repo.gone_at is not None:
            since = _time(datetime.fromtimestamp(repo.gone_at, UTC))
            lines.append(("GONE", f"{repo.gone_host} alone says so since {since}"))
    lines += _about_host(seen)
    lines.append(("records", _counts(seen)))
    for reason, count in (repo.warnings or {}).items() if repo else ():
        lines.append(("WARNING", f"{count:,} {reason}: see docs/warnings.md"))
    if seen.parked is not None:
        since = _time(seen.parked.oldest)
        parked = f"{seen.parked.frames:,} frames, {seen.parked.size:,} bytes, since {since}"
        lines.append(("parked", parked))
    for each in seen.questions:
        why = f" because of {each.cause}" if each.kind == "account" else ""
        when = "on its way" if each.asking else f"due {_time(each.run_after)}"
        tries = f", {each.attempts} failed: {each.error}" if each.attempts else ""
        lines.append(("question", f"{each.kind}{why}, {when}{tries}"))
    if seen.listed is not None:
        listed = seen.listed
        failed = f", {listed.tries} failed: {listed.failure}" if listed.tries else ""
        where = f"{listed.listing} of {listed.source}"
        lines.append(("listed", f"by {where}, next try {_time(listed.next_try)}{failed}"))
    lines += [("operation", summary(each)) for each in seen.operations]
    return lines


def _revs(seen: KnownRepo) -> str:
    repo = seen.repo
    named = (
        ("", repo.rev),
        ("gap ", repo.gap_rev),
        ("hint ", repo.hint_rev),
        ("floor ", repo.floor_rev),
        ("proof ", repo.proof_rev),
    ) if repo else ()  # fmt: skip
    return ", ".join(f"{name}{rev}" for name, rev in named if rev is not None) or "none"


def _about_host(seen: KnownRepo) -> list[tuple[str, str]]:
    lines = [("host", seen.host or "not known")]
    if seen.waiting is not None:
        waiting = seen.waiting
        why = ": ".join(filter(None, [waiting.failure, waiting.error]))
        text = f"{waiting.operations:,} operations wait, until {_time(waiting.next_try)}: {why}"
        lines.append(("HOST FAILS", text))
    if seen.held is not None:
        text = f"{seen.held.gone:,} of {seen.held.tracked:,} accounts of the host are gone"
        lines.append(("DELETIONS WAIT", text))
    if seen.answer is not None:
        answer = seen.answer
        by = answer.host or answer.source
        name = f" ({answer.name})" if answer.name else ""
        lines.append(("asked", f"{_time(answer.asked_at)}: {by} says {answer.status}{name}"))
    identity = seen.identity
    if identity is not None:
        said = identity.error or f"handle {identity.handle or 'none'}"
        read_at = _time(datetime.fromtimestamp(identity.fetched_at, UTC))
        lines.append(("document", f"{said}, read {read_at}"))
    return lines


def _counts(seen: KnownRepo) -> str:
    return (
        ", ".join(
            f"{each.live:,} {each.collection}"
            + (f" (and {each.tombstones:,} tombstones)" if each.tombstones else "")
            for each in seen.counts
        )
        or "none"
    )


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat()


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
