"""The gateway's own identity: its DID, its DID document, the audiences it answers to.  Pure.

Specification: https://atproto.com/specs/did (did:web on the level of host names; a port is
written ``%3A`` and is for development).  A PDS finds the gateway by the service entry that an
``atproto-proxy: did:web:…#fragment`` header names; the token that it then sends has the bare DID
as ``aud``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from procedures import syntax

_LOOPBACK = frozenset({"localhost", "127.0.0.1"})


@dataclass(frozen=True, slots=True)
class Service:
    """``did`` of any method; ``endpoint`` None: derived from a did:web."""

    did: str
    fragment: str = "chive"
    type: str = "ChiveSyncService"
    endpoint: str | None = None

    @property
    def audiences(self) -> frozenset[str]:
        """The values of ``aud`` that mean this service, by default: its DID and its entry."""
        return frozenset({self.did, f"{self.did}#{self.fragment}"})

    @property
    def url(self) -> str | None:
        """The service endpoint; None if it is neither given nor in the DID."""
        host = syntax.web_host(self.did)
        if self.endpoint is not None or host is None:
            return self.endpoint
        scheme = "http" if host.partition(":")[0] in _LOOPBACK else "https"
        return f"{scheme}://{host}"

    def document(self) -> dict[str, Any] | None:
        """Return the DID document for ``/.well-known/did.json``; None unless it is a did:web."""
        if syntax.web_host(self.did) is None:
            return None
        entry = {"id": f"#{self.fragment}", "type": self.type, "serviceEndpoint": self.url}
        return {
            "@context": ["https://www.w3.org/ns/did/v1"],
            "id": self.did,
            "service": [entry],
        }
