"""``consumer repo`` on a real PostgreSQL: what the tables hold of one repository."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from consumer.backfill import AccountAnswer, Cause, LookupKind
from consumer.cli import repo as command
from consumer.config.settings import CommandSettings, Settings
from consumer.errors import Transient
from consumer.state.effects import SyncReason
from consumer.state.repo_state import Repo, SyncState
from consumer.store import answers, found, identities, known, lookups, parked, records, repos
from consumer.store.answers import HeldHost
from consumer.store.database import Connection, Database
from consumer.store.operations import write
from consumer.store.rows import Identity, LookupRequest, ParkedFrame, Parking
from procedures import operations, transitions
from procedures.failures import Failure
from procedures.operations import Type

pytestmark = pytest.mark.services

DID, OTHER, NOBODY = "did:plc:alice", "did:plc:bob", "did:plc:nobody"
HOST = "https://pds.test"
SETTINGS = Settings(commands=CommandSettings(deadline=60.0))
IMPATIENT = Settings(commands=CommandSettings(deadline=0.2))
NOW = 1_800_000_000.0
REV, GAP = "3l6oveex3ii2l", "3l6oveex3ii2m"
COLLECTION, SECOND = "pub.chive.eprint.submission", "pub.chive.review.comment"
CID = bytes.fromhex("01711220") + bytes(32)
REPO = Repo(
    DID,
    3,
    sync_state=SyncState.DESYNCHRONIZED,
    reason=SyncReason.BROKEN_CHAIN,
    rev=REV,
    gap_rev=GAP,
    pds=HOST,
    warnings={"path_invalid": 2},
)


async def fill(database: Database) -> None:
    """Write something about ``DID`` to every table that has a column for it."""
    async with database.transaction() as connection:
        other = replace(REPO, did=OTHER, warnings=None)
        await repos.Repos(Repo).write(connection, [REPO, other])
        await records.write(
            connection,
            [
                (DID, f"{COLLECTION}/1", CID, REV),
                (DID, f"{COLLECTION}/2", CID, REV),
                (DID, f"{COLLECTION}/3", None, REV),
                (DID, f"{SECOND}/1", CID, REV),
                (OTHER, f"{SECOND}/1", CID, REV),
            ],
        )
        identity = Identity(DID, "did:key:z", HOST, "alice.test", None, NOW)
        await identities.write(connection, [identity])
        answer = AccountAnswer(DID, 1, 1, "active", host="pds.test", asked_at=NOW)
        await answers.note(connection, answer)
        question = LookupRequest(DID, LookupKind.ACCOUNT, 3, 1, 1, 60.0, Cause.COMMIT)
        await lookups.request(connection, [question])
        frame = ParkedFrame(DID, 5, int(NOW * 1000), 7, 1, "wss://relay.test", b"frame")
        await parked.append(connection, 3, [frame])
        await parked.write(connection, 3, [Parking(DID, ready=True, frames=1, size=5)])
        asked = operations.queued("mine", Type.DID_SYNC, DID, NOW, requested_by="cli:me")
        failed = transitions.fail(asked, NOW, Failure.REPO_INVALID, "a wrong hash")
        await write.insert(connection, failed, 3)
        await connection.execute(
            "INSERT INTO operations (id, type, did, lane, automatic, reason, failure, error,"
            " run_after) VALUES ('theirs', 'didSync', %s, 3, true, 'broken_chain',"
            " 'HostUnreachable', 'no route', now() + interval '1 hour')",
            [OTHER],
        )


def text_of(seen: known.KnownRepo) -> str:
    out = io.StringIO()
    command.render(seen, Console(file=out, width=400, highlight=False))
    return out.getvalue()


async def test_everything_that_is_known_of_a_repo_is_shown(database: Database) -> None:
    await fill(database)
    seen = await command.read(SETTINGS, database, DID)
    shown = json.loads(json.dumps(command.shown(seen)))

    assert not seen.unknown
    assert shown["repo"]["status"] == "active"
    assert shown["repo"]["syncState"] == "desynchronized"
    assert shown["repo"]["reason"] == "broken_chain"
    assert (shown["repo"]["rev"], shown["repo"]["gapRev"]) == (REV, GAP)
    assert shown["repo"]["warnings"] == {"path_invalid": 2}
    assert shown["records"] == {
        COLLECTION: {"live": 2, "tombstones": 1},
        SECOND: {"live": 1, "tombstones": 0},
    }
    assert shown["host"]["origin"] == HOST
    assert shown["host"]["waiting"]["operations"] == 1
    assert shown["host"]["waiting"]["failure"] == "HostUnreachable"
    assert shown["host"]["answer"]["status"] == "active"
    assert shown["identity"]["handle"] == "alice.test"
    assert (shown["parked"]["frames"], shown["parked"]["bytes"]) == (1, 5)
    assert shown["parked"]["ready"] is True
    (question,) = shown["questions"]
    assert (question["kind"], question["cause"], question["asking"]) == ("account", "commit", False)
    (operation,) = shown["operations"]
    assert (operation["id"], operation["errorName"]) == ("mine", "RepoInvalid")

    text = text_of(seen)
    for said in (
        "desynchronized (broken_chain)",
        f"gap {GAP}",
        f"2 {COLLECTION} (and 1 tombstones), 1 {SECOND}",
        "2 path_invalid",
        "1 operations wait",
        "HostUnreachable: no route",
        "RepoInvalid: a wrong hash",
        "account because of commit, due ",
        "1 frames, 5 bytes",
        "handle alice.test",
    ):
        assert said in text, text


async def test_a_listed_repo_is_known_before_it_is_tracked(database: Database) -> None:
    async with database.transaction() as connection:
        await found.note(connection, [(NOBODY, 1)], "https://relay.test", COLLECTION, None)
    seen = await command.read(SETTINGS, database, NOBODY)
    assert not seen.unknown
    shown: Any = command.shown(seen)
    assert (shown["repo"], shown["host"], shown["records"]) == (None, None, {})
    assert (shown["listed"]["source"], shown["listed"]["tries"]) == ("https://relay.test", 0)
    assert "not tracked" in text_of(seen)


async def test_nothing_is_known_of_a_stranger(database: Database) -> None:
    await fill(database)
    assert (await command.read(SETTINGS, database, NOBODY)).unknown


async def test_all_of_it_is_of_one_moment_and_nothing_can_be_written(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(database)
    modes = []

    async def meanwhile(connection: Connection) -> list[HeldHost]:
        cursor = await connection.execute("SHOW transaction_read_only")
        modes.append(await cursor.fetchone())
        async with database.transaction() as other:
            await other.execute("DELETE FROM records WHERE did = %s", [DID])
        return [HeldHost("pds.test", 30, 40)]

    monkeypatch.setattr(answers, "held_hosts", meanwhile)
    seen = await command.read(SETTINGS, database, DID)
    assert [each.live for each in seen.counts] == [2, 1]
    assert modes == [("on",)]
    assert "30 of 40 accounts" in text_of(seen)
    assert (await command.read(SETTINGS, database, DID)).counts == []


async def test_a_server_that_does_not_answer_is_not_waited_for(database: Database) -> None:
    await fill(database)
    async with database.transaction() as other:
        await other.execute("LOCK TABLE parked IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(Transient, match=r"no answer in 0\.2 s, waiting for PostgreSQL"):
            await command.read(IMPATIENT, database, DID)
    assert not (await command.read(SETTINGS, database, DID)).unknown
