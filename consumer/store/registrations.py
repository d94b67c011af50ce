"""What becomes of a host that is registered, by the settings and by the searches so far."""

from __future__ import annotations

from dataclasses import dataclass

from consumer.store import searches
from consumer.store.database import Connection
from procedures import hosts
from procedures.register_pds import HostState


@dataclass(frozen=True, slots=True)
class Registrations:
    """The rules.

    At most ``most`` hosts are registered; ``searching``: repositories are searched for at all;
    ``allow_loopback``: this machine may be one of the hosts.
    """

    most: int
    searching: bool
    allow_loopback: bool

    async def state_of(self, connection: Connection, host: str) -> HostState:
        """Return what would become of ``host``."""
        if hosts.is_local(host) and not self.allow_loopback:
            return HostState.FORBIDDEN
        if not self.searching:
            return HostState.OFF
        if await searches.is_known(connection, hosts.origin(host)):
            return HostState.KNOWN
        if await searches.places_taken(connection) >= self.most:
            return HostState.FULL
        return HostState.NEW
