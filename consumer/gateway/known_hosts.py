"""Which hosts are sources of discovery, for ``registerPDS``."""

from __future__ import annotations

from consumer.config.settings import Settings
from consumer.errors import Transient
from consumer.scope import History, Scope
from consumer.state.discovery import listings
from consumer.store.database import Database
from consumer.store.registrations import Registrations
from procedures.client import Unavailable
from procedures.register_pds import HostState


class StoredHosts:
    """The searches of the deployment, judged by the settings of this process."""

    def __init__(self, settings: Settings, scope: Scope, database: Database) -> None:
        wanted = listings(scope, settings.discovery.known_collections)
        self._rules = Registrations(
            most=settings.discovery.registered_hosts,
            searching=scope.history is History.FULL and bool(wanted),
            allow_loopback=settings.network.allow_loopback,
        )
        self._database = database

    async def state_of(self, host: str) -> HostState:
        """Return what would become of ``host``.  Raises ``Unavailable``."""
        try:
            async with self._database.transaction() as connection:
                return await self._rules.state_of(connection, host)
        except Transient as error:
            raise Unavailable(str(error)) from error
