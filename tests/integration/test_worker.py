"""The worker on real Kafka and PostgreSQL, from frames on the firehose topic to events."""

from __future__ import annotations

import pytest

from consumer.kafka.topics import Topic
from consumer.scope import Scope
from procedures.syntax import cid_text
from simulator.network import Mix, Network
from tests.support.worker import Table, World

pytestmark = pytest.mark.services


def wanted(network: Network, world: World) -> Table:
    """Return what a consumer must hold of the network in the end."""
    scope = Scope(world.settings.scope.collections)
    found = {
        did: {path: cid_text(cid) for path, (cid, _) in records.items() if scope.wants(path)}
        for did, records in network.truth().items()
    }
    return {did: records for did, records in found.items() if records}


async def test_a_network_becomes_rows_and_events(world: World) -> None:
    network = Network(1, accounts=12, mix=Mix(sync=0.01, identity=0.01))
    world.keys = network.keys
    async with world.fetching(), world.working():
        await world.publish(network.introduce(20))
        await world.publish(network.frames(600))
        await world.settled()
    truth = wanted(network, world)
    assert await world.folded() == truth
    assert await world.stored() == truth
    assert {state[:2] for state in (await world.repos()).values()} == {("active", "active")}
    events = await world.events()
    assert len({event["id"] for event in events}) == len(events)
    assert await world.letters() == []
    assert await world.published(Topic.OPERATIONS) == []
