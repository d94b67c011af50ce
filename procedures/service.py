"""The gateway's own identity: its DID, its DID document, the audiences it answers to.  Pure.

Specification: https://atproto.com/specs/did (did:web on the level of host names; a port is
written ``%3A`` and is for development).  A PDS finds the gateway by the service entry that an
``atproto-proxy: did:web:…#fragment`` header names; the token that it then sends has the bare DID
as ``aud``.  Clients that get a token by OAuth name the entry there: a scope's audience has a
fragment (https://atproto.com/specs/permission).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from procedures import syntax

FRAGMENTS = ("chive_appview", "chive")

_LOOPBACK = frozenset({"localhost", "127.0.0.1"})


@dataclass(frozen=True, slots=True)
class Service:
    """``did`` of any method, with service entries named ``fragments``.

    ``endpoint`` None: derived from a did:web.
    """

    did: str
    fragments: tuple[str, ...] = FRAGMENTS
    type: str = "ChiveSyncService"
    endpoint: str | None = None

    @property
    def audiences(self) -> frozenset[str]:
        """The values of ``aud`` that mean this service: its DID and its entries."""
        return frozenset({self.did, *(f"{self.did}#{name}" for name in self.fragments)})

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
        return {
            "@context": ["https://www.w3.org/ns/did/v1"],
            "id": self.did,
            "service": [self._entry(name) for name in self.fragments],
        }

    def _entry(self, fragment: str) -> Mapping[str, Any]:
        return {"id": f"#{fragment}", "type": self.type, "serviceEndpoint": self.url}
