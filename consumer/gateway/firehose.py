"""How far the firehose was read, as the tailer last said it, for administrators."""

from __future__ import annotations

from datetime import datetime

from consumer.errors import Transient
from consumer.store import status
from consumer.store.database import Database
from procedures.client import Unavailable
from procedures.firehose_status import FirehoseState


class StoredFirehose:
    """What the tables say about the relay."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def state(self, now: float) -> FirehoseState:
        """Return how far it is at ``now`` (Unix seconds).  Raises ``Unavailable``."""
        try:
            async with self._database.transaction() as connection:
                cursors, relays = await status.firehose(connection)
        except Transient as error:
            raise Unavailable(str(error)) from error
        relay = status.last_reported(relays, now)
        of_relay = [each for each in cursors if relay is None or each.relay == relay.relay]
        cursor = of_relay[0] if of_relay else None
        return FirehoseState(
            seq=None if cursor is None else cursor.seq,
            time=None if cursor is None else _seconds(cursor.time),
            relay=None if relay is None else relay.relay,
            connected=relay is not None and relay.connected,
            since=None if relay is None else relay.since.timestamp(),
            reason=None if relay is None or relay.connected else relay.reason,
        )


def _seconds(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()
