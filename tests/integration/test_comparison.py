"""``verify`` and ``checkStaleness`` tell what the index had, and put it right."""

from __future__ import annotations

import pytest

from procedures.syntax import cid_text
from simulator.repo import Write
from tests.integration.calling import calling
from tests.support.operating import ONE, TEXT, Stage, truth

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]


async def test_a_record_that_changes_behind_the_index(stage: Stage) -> None:
    repo = stage.pds.account("alice", records=3)
    uri = f"at://{repo.account.did}/{ONE}"

    def at_home() -> str:
        stage.pds.proves(repo, ONE)
        return cid_text(repo.records[ONE][1])

    async with stage.fetching(), calling(stage.harness) as caller:
        await stage.until(await stage.sync("known", repo))
        first = at_home()
        same = await caller.got("sync.checkStaleness", uri=uri)
        assert same.pop("pdsUrl")
        assert same == {"uri": uri, "isStale": False, "indexedCid": first, "pdsCid": first}
        seen = await caller.got("sync.verify", uri=uri)
        assert (seen["indexed"], seen["inSync"], seen["staleDays"]) == (True, True, 0)

        repo.commit([Write("update", ONE, TEXT)])
        second = at_home()
        found = await caller.got("sync.checkStaleness", uri=uri)
        assert (found["isStale"], found["indexedCid"], found["pdsCid"]) == (True, first, second)
        assert (await caller.got("sync.verify", uri=uri))["inSync"]  # that has put it right
        assert (await stage.index(repo)).keys() == truth(repo)

        repo.commit([Write("delete", ONE)])
        stage.pds.proves(repo, ONE)
        seen = await caller.got("sync.verify", uri=uri)
        assert (seen["indexed"], seen["inSync"]) == (True, False)
        assert (await caller.get("sync.verify", uri=uri)).json()["error"] == "NotFound"
        assert (await stage.index(repo)).keys() == truth(repo)


async def test_what_is_not_indexed_here_is_not_found(stage: Stage) -> None:
    repo = stage.pds.account("alice", records=1)
    async with stage.fetching(), calling(stage.harness) as caller:
        uri = f"at://{repo.account.did}/app.bsky.feed.post/one"
        answer = await caller.get("sync.checkStaleness", uri=uri)
        assert (answer.status_code, answer.json()["error"]) == (404, "NotFound")


async def test_a_host_that_is_away_is_no_answer(stage: Stage) -> None:
    repo = stage.pds.account("alice", records=1)
    stage.plc.replies.clear()  # not even its document can be read
    async with calling(stage.harness, deadline=1.0) as caller:
        uri = f"at://{repo.account.did}/{ONE}"
        answer = await caller.get("sync.verify", uri=uri)
        assert (answer.status_code, answer.json()["error"]) == (503, "ServiceUnavailable")
