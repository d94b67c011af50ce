"""Operations from command to events, on real services, with a scripted directory and PDS."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import datetime
from typing import Any

import orjson
import pytest

from consumer.store.operations import claims
from simulator.account import Account
from simulator.frames import commit_frame
from simulator.repo import Repo, Write, car
from tests.support.operating import ONE, TEXT, Stage, truth
from tests.support.pds import COLLECTION, cut_off, pds, silence, trickle
from tests.support.web import Reply, redirect, response

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]


async def test_a_repository_that_no_relay_carries_is_synced(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "CHUNK_ROWS", 100)
    repo = stage.pds.account("alice", records=1_500)
    async with stage.fetching():
        (first,) = await stage.until(await stage.sync("first", repo))
        assert (await stage.index(repo)).keys() == truth(repo)
        counts = {"created": 1_500, "updated": 0, "deleted": 0, "progress": 100, "attempts": 1}
        assert first | counts == first
        assert (first["records_processed"], first["total_records"]) == (1_500, 1_500)

        before = len(await stage.changes())
        (second,) = await stage.until(await stage.sync("second", repo))
        assert second | {"created": 0, "updated": 0, "deleted": 0} == second
        repo.commit([Write("update", ONE, TEXT), Write("delete", f"{COLLECTION}/k00002")])
        repo.commit([Write("create", f"{COLLECTION}/new", TEXT)])
        (third,) = await stage.until(await stage.sync("third", repo))
        assert third | {"created": 1, "updated": 1, "deleted": 1} == third
        assert (await stage.index(repo)).keys() == truth(repo)
        changes = (await stage.changes())[before:]
        assert sorted(change["action"] for change in changes) == ["create", "delete", "update"]
        assert {(change["operationId"], change["live"]) for change in changes} == {("third", False)}

        (again,) = await stage.until(await stage.sync("again", repo, emit="all"))
        assert again["records_processed"] == 1_500
        await stage.index(repo)
        repeated = (await stage.changes())[before + 3 :]
        assert len(repeated) == 1_500
        assert {change["operationId"] for change in repeated} == {"again"}

        repo.commit(Write("delete", path) for path in sorted(truth(repo)))
        (emptied,) = await stage.until(await stage.sync("emptied", repo))
        assert (emptied["deleted"], await stage.index(repo)) == (1_500, {})


async def test_frames_behind_a_sync_wait_for_no_lookup(stage: Stage) -> None:
    repo = stage.pds.account("alice", records=3)
    async with stage.fetching():
        await stage.until(await stage.sync("first", repo))
        commit = repo.commit([Write("create", f"{COLLECTION}/new", TEXT)])
        await stage.harness.publish([commit_frame(7, commit)])
        await stage.harness.settled()
        assert (await stage.index(repo)).keys() == truth(repo)
    document = f"/{repo.account.did}"
    assert stage.plc.paths.count(document) == 1


def _forged(repo: Repo) -> Reply:
    blocks = repo.everything()
    wrong = {cid: block + b"\0" if block[:1] == b"\xa2" else block for cid, block in blocks.items()}
    return response(200, car(next(iter(blocks)), wrong))


def _lacking(repo: Repo, block: bytes | None = None) -> Reply:
    """Return the repository without ``block``, or without the root of its tree."""
    blocks = repo.everything()
    del blocks[block or repo.data]
    return response(200, car(next(iter(blocks)), blocks))


def _of_somebody_else(repo: Repo) -> Reply:
    other = Repo(Account.from_seed(f"not {repo.account.did}"))
    other.commit([Write("create", ONE, TEXT)])
    return response(200, other.whole())


def _by_another_key(repo: Repo) -> Reply:
    other = Repo(Account.from_seed("another key", did=repo.account.did))
    other.commit([Write("create", ONE, TEXT)], seconds=100)
    return response(200, other.whole())


def _outdated(repo: Repo) -> Reply:
    old = Repo(repo.account, repo.clock - 10)
    old.commit([Write("create", ONE, TEXT)])
    return response(200, old.whole())


def _refusing(error: str) -> Callable[[Repo], Reply]:
    body = orjson.dumps({"error": error, "message": "no"})
    return lambda _repo: response(400, body, content_type="application/json")


LIES: dict[str, tuple[Callable[[Repo], Reply], str, str]] = {
    "another-did": (_of_somebody_else, "failed", "RepoForeign"),
    "another-key": (_by_another_key, "failed", "SignatureInvalid"),
    "wrong-hash": (_forged, "failed", "RepoInvalid"),
    "missing-node": (_lacking, "failed", "RepoInvalid"),
    "not-a-car": (lambda _: response(200, b"<html>hello</html>" * 99), "failed", "RepoInvalid"),
    "too-big": (lambda _: response(200, b"\0" * 1_000_001), "failed", "RepoTooBig"),
    "cut-short": (lambda r: cut_off(r.whole(), 2_000), "queued", "RepoTruncated"),
    "short": (lambda r: response(200, r.whole()[:-7]), "queued", "RepoTruncated"),
    "empty": (lambda _: response(200), "queued", "RepoTruncated"),
    "outdated": (_outdated, "queued", "OlderThanKnown"),
    "trickling": (lambda r: trickle(r.whole(), every=1.5), "queued", "HostTimeout"),
    "silent": (lambda _: silence, "queued", "HostTimeout"),
    "limiting": (lambda _: response(429, retry_after="300"), "queued", "RateLimited"),
    "broken": (lambda _: response(503), "queued", "HostError"),
    "private": (lambda _: redirect("https://10.0.0.1/"), "failed", "HostForbidden"),
    "metadata": (lambda _: redirect("http://169.254.169.254/"), "failed", "HostForbidden"),
    "garbling": (_refusing("a\0b\x9b" + "c" * 5_000), "queued", "HostError"),
    "unknown": (_refusing("RepoNotFound"), "failed", "RepoNotFound"),
    "taken-down": (_refusing("RepoTakendown"), "failed", "RepoTakendown"),
    "suspended": (_refusing("RepoSuspended"), "failed", "RepoSuspended"),
    "deactivated": (_refusing("RepoDeactivated"), "failed", "RepoDeactivated"),
}


async def test_each_bad_answer_has_a_reason_and_deletes_nothing(stage: Stage) -> None:
    async with AsyncExitStack() as hosts, stage.fetching(syncs=8):
        # A host for each: failures count for the host.
        homes = {name: await hosts.enter_async_context(pds(stage.plc)) for name in LIES}
        repos = {name: home.account(name, records=30) for name, home in homes.items()}
        for name, repo in repos.items():
            await stage.sync(f"well-{name}", repo)
        await stage.until(*(f"well-{name}" for name in LIES))
        known = {name: await stage.index(repo) for name, repo in repos.items()}
        assert all(len(records) == 30 for records in known.values())
        before = len(await stage.changes())

        for name, (lie, _, _) in LIES.items():
            homes[name].says(repos[name], lie(repos[name]))
            await stage.sync(name, repos[name])
        for name, (_, status, failure) in LIES.items():
            (row,) = await stage.until(name, status=None, failure=failure)
            assert row["status"] in (status, "running"), row  # it may be at it again
            assert row["error"] or row["status"] == "running", row
        limited = (await stage.rows())["limiting"]
        assert (limited["status"], limited["attempts"]) == ("queued", 1)
        began, due = (datetime.fromisoformat(limited[n]) for n in ("started_at", "run_after"))
        assert (due - began).total_seconds() >= 300

        assert {name: await stage.index(repo) for name, repo in repos.items()} == known
        assert len(await stage.changes()) == before
        assert {state for _, state, _ in (await stage.harness.repos()).values()} == {"active"}

        # The next honest answer repairs what can be repaired.
        for name in ("cut-short", "outdated"):
            repos[name].commit([Write("create", f"{COLLECTION}/later", TEXT)], seconds=50)
            homes[name].host(repos[name])
        await stage.until("cut-short", "outdated")
        assert (await stage.index(repos["outdated"])).keys() == truth(repos["outdated"])


async def test_a_record_without_bytes_stays_and_is_refreshed(stage: Stage) -> None:
    repo, host = stage.pds.account("alice", records=5), stage.pds
    did, odd = repo.account.did, "pub.chive.Eprint.submission/odd"
    async with stage.fetching():
        await stage.until(await stage.sync("well", repo))
        known = await stage.index(repo)
        later = f"{COLLECTION}/later"
        repo.commit([Write("update", ONE, TEXT), Write("delete", f"{COLLECTION}/k00002")])
        repo.commit([Write("create", path, {"text": path}) for path in (later, odd)])
        host.says(repo, _lacking(repo, repo.records[ONE][1]))
        (row,) = await stage.until(await stage.sync("lacking", repo))
        warnings = {"block_missing": 1, "path_invalid": 1}
        assert row["warnings"] == warnings
        assert (row["created"], row["updated"], row["deleted"]) == (1, 0, 1)
        left = await stage.index(repo)
        assert left.keys() == truth(repo) - {odd}
        assert left[ONE] == known[ONE]
        assert (await stage.harness.repos())[did][:2] == ("active", "active")
        assert await stage.harness.rows("SELECT warnings FROM repos") == [(warnings,)]

        (refresh,) = [one for one in (await stage.rows()).values() if one["automatic"]]
        assert (refresh["uri"], refresh["reason"]) == (f"at://{did}/{ONE}", "block_missing")
        host.proves(repo, ONE)
        async with stage.harness.database.transaction() as connection:
            await connection.execute("UPDATE operations SET run_after = now() WHERE automatic")
        (row,) = await stage.until(refresh["id"])
        assert (row["updated"], row["via"]) == (1, "record")
        assert (await stage.index(repo))[ONE] == row["new_cid"] != known[ONE]

        host.host(repo)
        (row,) = await stage.until(await stage.sync("whole", repo))
        assert row["warnings"] == {"path_invalid": 1}


async def test_without_a_proof_the_repository_is_read_in_the_same_operation(stage: Stage) -> None:
    repo, host = stage.pds.account("alice", records=3), stage.pds
    async with stage.fetching():
        await stage.until(await stage.sync("well", repo))
        repo.commit([Write("delete", ONE)])
        host.proves(repo, ONE, _refusing("RecordNotFound")(repo))
        (row,) = await stage.until(await stage.refresh("absent", repo, ONE))
        assert (row["deleted"], row["via"], row["attempts"]) == (1, "repository", 1)
        assert (await stage.index(repo)).keys() == truth(repo)


async def test_what_is_wrong_with_a_did_has_a_name(stage: Stage) -> None:
    plc = stage.plc.replies
    nowhere, keyless, gone = (stage.pds.account(name) for name in ("nowhere", "keyless", "gone"))
    document = keyless.account.document(stage.pds.site.origin)
    plc[f"/{keyless.account.did}"] = response(200, orjson.dumps(document | {"service": []}))
    plc[f"/{gone.account.did}"] = response(410)
    del plc[f"/{nowhere.account.did}"]
    async with stage.fetching():
        for repo, name in ((nowhere, "nowhere"), (keyless, "keyless"), (gone, "gone")):
            await stage.sync(name, repo)
        await stage.command("key", type="didSync", did="did:key:zQ3shokFTS3brHcDQrn82RUDfCZ")
        await stage.until("nowhere", "gone", status="failed", failure="DidNotFound")
        await stage.until("keyless", status="failed", failure="DidDocumentUnusable")
        await stage.until("key", status="failed", failure="DidMethodUnsupported")


async def test_a_record_is_refreshed(stage: Stage) -> None:
    repo, host = stage.pds.account("alice", records=3), stage.pds
    did = repo.account.did
    host.says(repo, _refusing("RepoNotFound")(repo))  # the sync that a new repo gets
    async with stage.fetching():

        async def refreshed(identifier: str, path: str, **expected: Any) -> dict[str, Any]:
            host.proves(repo, path)
            (row,) = await stage.until(await stage.refresh(identifier, repo, path), **expected)
            assert (await stage.index(repo)).get(path) == row["new_cid"]
            return row

        created = await refreshed("created", ONE, created=1, updated=0, deleted=0)
        assert (await stage.harness.repos())[did][:2] == ("active", "desynchronized")
        await refreshed("unchanged", ONE, created=0, updated=0, deleted=0)
        repo.commit([Write("update", ONE, TEXT)])
        updated = await refreshed("updated", ONE, created=0, updated=1, deleted=0)
        assert updated["new_cid"] != created["new_cid"]
        old = response(200, repo.proof(ONE))
        repo.commit([Write("delete", ONE)])
        await refreshed("deleted", ONE, created=0, updated=0, deleted=1)
        await refreshed("absent", ONE, created=0, updated=0, deleted=0)

        host.proves(repo, ONE, old)
        await stage.refresh("older", repo, ONE)
        await stage.until("older", status=None, failure="OlderThanKnown")
        assert ONE not in await stage.index(repo)
        await stage.command("stop", type="cancel", operationId="older")
        await stage.until("older", status="cancelled")
