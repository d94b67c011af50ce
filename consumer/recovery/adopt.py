"""Begin anew under another prefix, with the repositories that an older deployment knew.

With another Kafka cluster, another number of partitions or shards, or lost topics, offsets and
markers mean nothing.  The new deployment reads every repository from its host and publishes all of
it; consumers read the new ``chive.events`` from its beginning.
"""

from __future__ import annotations

from consumer.config.settings import PostgresSettings
from consumer.services import Services, scope_of
from consumer.store import found, repos
from consumer.store.database import Database

SOURCE = "recovery"
_PAGE = 5_000


async def adopt(services: Services, prefix: str, at: PostgresSettings | None = None) -> int:
    """Remember the repositories of the deployment with ``prefix``, to be synced; return how many.

    Deleted accounts are left out, and those of another shard.  ``at``: the server of the
    earlier deployment, if it is another.  Repeating it adds nothing.  Raises ``Transient``, and
    ``Fatal`` if there are no tables of that prefix.
    """
    earlier = Database(at or services.settings.postgres, prefix)
    shard = scope_of(services.settings).shard
    try:
        await earlier.attach()
        after, count = "", 0
        while True:
            async with earlier.transaction() as connection:
                dids = await repos.present(connection, after, _PAGE)
            if not dids:
                return count
            async with services.database.transaction() as connection:
                own = list(filter(shard.has, dids))
                listed = [(did, services.topics.partition_of(did)) for did in own]
                await found.note(connection, listed, SOURCE, prefix, None)
            after, count = dids[-1], count + len(own)
    finally:
        await earlier.close()
