"""Claiming one operation, as a fetcher with a free slot does."""

from __future__ import annotations

from consumer.store.database import Connection
from consumer.store.operations import claims
from consumer.store.operations.claims import Claim
from consumer.store.rows import WantedOperations
from procedures.operations import Type


async def claim_next(
    connection: Connection, kind: Type, seconds: float, *, behind: bool = True
) -> Claim | None:
    """Claim the first due operation of ``kind`` for ``seconds``; None if there is none."""
    wanted = WantedOperations(kind, behind=behind)
    due = await claims.due(connection, [wanted], most=1)
    claimed = await claims.claim(connection, [each.id for each in due], seconds)
    return claimed[0] if claimed else None
