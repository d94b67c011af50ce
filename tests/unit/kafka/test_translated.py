"""What the driver raises, and what is made of it."""

from __future__ import annotations

import pytest
from aiokafka.client import AIOKafkaClient, CoordinationType

from consumer.errors import Transient
from consumer.kafka.client import translated


async def test_a_cluster_without_brokers_is_waited_out() -> None:
    client = AIOKafkaClient(bootstrap_servers="127.0.0.1:1")
    said = "while joining: Did we not perform bootstrap"
    with pytest.raises(Transient, match=said), translated("joining"):
        await client.coordinator_lookup(CoordinationType.GROUP, "group")
    await client.close()


def test_our_own_assertions_are_ours() -> None:
    with pytest.raises(AssertionError, match="ours"), translated("joining"):
        raise AssertionError("ours")
