"""``pub.chive.sync.registerPDS``: what it asks for and what it answers.  Pure.

Chive's client calls it at every login, with the user's PDS.  So what is known already is answered
without a command, and a new host soon: its listing is read later.

- ``pending``: the command is sent, and its operation goes on.
- ``scanned``: the operation has ended well meanwhile.
- ``already_exists``: the host is, or was, a source of discovery, however it became one.

``registered`` is false where the host does not become a source; ``message`` says why.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Protocol

from procedures import hosts, refresh_record
from procedures.contract import ErrorName, XrpcError
from procedures.messages import RegisterHost
from procedures.operations import Operation, Status


class HostState(StrEnum):
    """What the deployment would do with a host."""

    NEW = "new"
    KNOWN = "known"
    FULL = "full"  # no more hosts are taken
    OFF = "off"  # repositories are not searched for
    FORBIDDEN = "forbidden"  # it may not be reached from here


class KnownHosts(Protocol):
    """The hosts that are sources of discovery."""

    async def state_of(self, host: str) -> HostState:
        """Return what would become of ``host``; raise ``Unavailable``."""


_REFUSALS: Mapping[HostState, str] = {
    HostState.FULL: "no more hosts are taken for now",
    HostState.OFF: "this service does not search for repositories",
}


def command(fields: Mapping[str, Any], identifier: str, caller: str, now: float) -> RegisterHost:
    """Return the command for a checked input, on behalf of the DID ``caller``.

    Raises ``XrpcError``: InvalidRequest for what is not the URL of a host.
    """
    host = hosts.of_origin(fields["pdsUrl"])
    if host is None:
        expected = "https://host[:port], with the name of a host and no path"
        raise XrpcError(ErrorName.INVALID_REQUEST, f"pdsUrl must be {expected}")
    return RegisterHost(id=identifier, host=host, requested_by=caller, requested_at=now)


def known(fields: Mapping[str, Any], state: HostState) -> dict[str, Any] | None:
    """Return the output where no command is needed; None: it is to be sent.

    Raises ``XrpcError``: InvalidRequest for a host that is none for this service.
    """
    if state is HostState.FORBIDDEN:
        raise XrpcError(ErrorName.INVALID_REQUEST, "pdsUrl must name a public host")
    if state is HostState.KNOWN:
        return _output(fields, "already_exists")
    if state in _REFUSALS:
        return _output(fields, "pending", registered=False, message=_REFUSALS[state])
    return None


def answer(
    fields: Mapping[str, Any], register: RegisterHost, operation: Operation | None
) -> dict[str, Any]:
    """Return the output for the operation of ``register`` as it is by now; None: not there yet."""
    if operation is not None and operation.status is Status.COMPLETED:
        return _output(fields, "scanned")
    why = f"operation {register.id}: {refresh_record.why(operation)}"
    registered = operation is None or not operation.ended
    return _output(fields, "pending", registered=registered, message=why)


def _output(
    fields: Mapping[str, Any], status: str, *, registered: bool = True, message: str | None = None
) -> dict[str, Any]:
    output = {"pdsUrl": fields["pdsUrl"], "registered": registered, "status": status}
    return output if message is None else output | {"message": message}
