"""A consumer on the SDK's firehose client and a plain producer, as its documentation shows it.

``python -m bench.peers.sdk RELAY PLC KAFKA TOPIC SEQ …`` prints "passed SEQ" once everything up to
each SEQ is in Kafka.  Nothing is verified.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from aiokafka import AIOKafkaProducer
from atproto import CAR, AsyncFirehoseSubscribeReposClient, models, parse_subscribe_repos_message


async def _publish(producer: AIOKafkaProducer, topic: str, commit: Any) -> None:
    blocks = CAR.from_bytes(commit.blocks).blocks
    for op in commit.ops:
        event = {
            "uri": f"at://{commit.repo}/{op.path}",
            "seq": commit.seq,
            "rev": commit.rev,
            "action": op.action,
            "cid": str(op.cid) if op.cid else None,
            "record": blocks.get(op.cid) if op.cid else None,
        }
        value = json.dumps(event, default=str).encode()
        await producer.send(topic, value, key=event["uri"].encode())


async def _follow(relay: str, kafka: str, topic: str, seqs: list[int]) -> None:
    client = AsyncFirehoseSubscribeReposClient({"cursor": 0}, base_uri=relay)
    async with AIOKafkaProducer(bootstrap_servers=kafka) as producer:

        async def handle(message: object) -> None:
            commit = parse_subscribe_repos_message(message)
            if not isinstance(commit, models.ComAtprotoSyncSubscribeRepos.Commit):
                return
            await _publish(producer, topic, commit)
            while seqs and commit.seq >= seqs[0]:
                await producer.flush()
                print(f"passed {seqs.pop(0)}", flush=True)

        await client.start(handle)


if __name__ == "__main__":
    relay, _, kafka, topic, *seqs = sys.argv[1:]
    asyncio.run(_follow(relay, kafka, topic, [int(seq) for seq in seqs]))
