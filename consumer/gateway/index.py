"""What the index has of a record, for ``verify`` and ``checkStaleness``."""

from __future__ import annotations

from consumer.errors import Transient
from consumer.store import identities, records
from consumer.store.database import Database
from procedures.client import Unavailable
from procedures.comparison import Indexed
from procedures.syntax import cid_text


class StoredIndex:
    """The records of the deployment."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def indexed(self, uri: str) -> Indexed:
        """Return what is known of the record at ``uri``.  Raises ``Unavailable``."""
        did, _, path = uri.removeprefix("at://").partition("/")
        try:
            async with self._database.transaction() as connection:
                rows = await records.read(connection, [(did, path)])
                known = await identities.read(connection, [did])
        except Transient as error:
            raise Unavailable(str(error)) from error
        live = [cid for _, _, cid, _ in rows if cid is not None]
        return Indexed(cid_text(live[0]) if live else None, known[0].pds if known else None)
