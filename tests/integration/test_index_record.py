"""A record that its author has just written is indexed before its commit comes, and once."""

from __future__ import annotations

import pytest

from simulator.frames import commit_frame
from simulator.repo import Write
from tests.support.eventually import eventually
from tests.support.operating import TEXT, Stage, truth
from tests.support.pds import COLLECTION

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]


@pytest.mark.parametrize("known", [True, False])
async def test_a_record_is_out_before_its_commit_and_once(stage: Stage, known: bool) -> None:
    repo, harness = stage.pds.account("alice", records=3), stage.harness
    did, path = repo.account.did, f"{COLLECTION}/new"
    async with stage.fetching():
        if known:
            await stage.until(await stage.sync("known", repo))
        commits = []
        for write in (
            Write("create", path, TEXT),
            Write("update", path, {"$type": COLLECTION, "n": "later"}),
            Write("delete", path),
        ):
            commits.append(repo.commit([write]))
            stage.pds.proves(repo, path)
            await stage.until(await stage.refresh(write.action, repo, path))
            await stage.index(repo)

        async def of_the_record() -> list[str]:
            return [e["action"] for e in await stage.changes() if e["rkey"] == "new"]

        assert await of_the_record() == ["create", "update", "delete"]
        await harness.publish([commit_frame(7 + n, one) for n, one in enumerate(commits)])
        await harness.settled()
        commit = repo.commit([Write("create", f"{COLLECTION}/next", TEXT)])
        await harness.publish([commit_frame(17, commit)])

        async def in_step() -> bool:
            stored, folded = await harness.stored(), await harness.folded()
            return (
                (await harness.repos())[did][:2] == ("active", "active")
                and stored[did] == folded[did]
                and stored[did].keys() == truth(repo)
            )

        await eventually(in_step, what="the repository is in step", deadline=60)
        assert await of_the_record() == ["create", "update", "delete"]
