"""tap's order out of ``chive.events``: of a repository that is out of step the history first."""

from __future__ import annotations

import pytest

from simulator.frames import commit_frame
from simulator.repo import Write
from tests.support.eventually import eventually
from tests.support.operating import ONE, TEXT, Stage
from tests.support.pds import COLLECTION
from tests.unit.test_coming_from import Event, history_first

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]


async def test_what_is_live_follows_the_history_of_its_repository(stage: Stage) -> None:
    repo, harness = stage.pds.account("alice", records=5), stage.harness
    did, order = repo.account.did, history_first.HistoryFirst()
    # Two commits of an account whose earlier records are not known here.
    writes = [Write("create", f"{COLLECTION}/new", TEXT), Write("update", ONE, TEXT)]
    frames = [commit_frame(7 + n, repo.commit([one])) for n, one in enumerate(writes)]
    stage.pds.host(repo)
    async with stage.fetching():
        await harness.publish(frames)

        async def whole() -> bool:
            return (await harness.repos()).get(did, ("", ""))[1] == "active"

        await eventually(whole, what="the repository is whole", deadline=90)
    stored = await stage.index(repo)
    events: list[Event] = await harness.events()
    lives = [one["live"] for one in events if one["type"] == "record"]
    assert lives != sorted(lives), "live first in the topic"
    given = [out for one in events for out in order.take(one)]
    records = [one for one in given if one["type"] == "record"]
    assert order.held == {}
    assert {one["uri"]: one["cid"] for one in records} == {
        f"at://{did}/{path}": cid for path, cid in stored.items()
    }
    lives = [one["live"] for one in records]
    assert lives == sorted(lives)
