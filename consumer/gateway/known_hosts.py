"""Which hosts are sources of discovery, for ``registerPDS``."""

from __future__ import annotations

from consumer.config.settings import Settings
from consumer.errors import Transient
from consumer.scope import History, Scope
from consumer.state.discovery import listings
from consumer.store import searches
from consumer.store.database import Database
from procedures import hosts
from procedures.client import Unavailable
from procedures.register_pds import HostState


class StoredHosts:
    """The searches of the deployment, judged by the settings of this process."""

    def __init__(self, settings: Settings, scope: Scope, database: Database) -> None:
        wanted = listings(scope, settings.discovery.known_collections)
        self._searching = scope.history is History.FULL and bool(wanted)
        self._most = settings.discovery.registered_hosts
        self._loopback = settings.network.allow_loopback
        self._database = database

    async def state_of(self, host: str) -> HostState:
        """Return what would become of ``host``.  Raises ``Unavailable``."""
        if hosts.is_local(host) and not self._loopback:
            return HostState.FORBIDDEN
        if not self._searching:
            return HostState.OFF
        try:
            async with self._database.transaction() as connection:
                if await searches.is_known(connection, hosts.origin(host)):
                    return HostState.KNOWN
                if await searches.places_taken(connection) >= self._most:
                    return HostState.FULL
        except Transient as error:
            raise Unavailable(str(error)) from error
        return HostState.NEW
