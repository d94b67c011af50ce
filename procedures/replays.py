"""What was asked with each service-auth token, so that it is carried out once.  Pure.

Clients keep a token until it expires and use it for many calls, and proxies send a call again.  So
a *request* of a procedure is what one token asks of one method with one body.  The same request
is carried out once; another body with the same token is another request.

The id of the operation that a request becomes is derived from the request.  Carried
out again, after a crash or without the memory, it asks for the operation that exists already.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Any, Protocol

PER_TOKEN = 32
_ID_DIGITS = 32


@dataclass(frozen=True, slots=True)
class Limits:
    """How many requests are remembered at a time: of an issuer, of an administrator, in all.

    Requests of administrators do not count in all: strangers cannot shut them out.
    """

    per_token: int = PER_TOKEN
    per_issuer: int = 1_000
    per_admin: int = 10_000
    strangers: int = 100_000


LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """What the token ``jti`` of ``issuer``, which expires at ``expires``, asks for.

    ``expires`` is in Unix seconds; ``digest`` is of method and body, empty for a token that may be
    used once for anything; ``admin``: of a method for administrators.
    """

    issuer: str
    jti: str
    expires: float
    admin: bool
    digest: bytes = b""

    def again(self, number: int) -> TokenRequest:
        """Return the same, made for the ``number``-th time after it was answered."""
        if not number:
            return self
        digest = hashlib.sha256(self.digest + number.to_bytes(4)).digest()
        return replace(self, digest=digest)

    @property
    def issuer_digest(self) -> bytes:
        """SHA-256 of the issuer."""
        return hashlib.sha256(self.issuer.encode()).digest()

    @property
    def token_digest(self) -> bytes:
        """SHA-256 of issuer and jti; a DID has no blanks."""
        return hashlib.sha256(f"{self.issuer} {self.jti}".encode()).digest()

    @property
    def identifier(self) -> str:
        """The id of the operation that this request becomes, wherever it is carried out."""
        return f"call-{hashlib.sha256(self.token_digest + self.digest).hexdigest()[:_ID_DIGITS]}"


def digest_of(method: str, body: Mapping[str, Any]) -> bytes:
    """Return the digest of a call: of what the body says, not of how it is written."""
    text = json.dumps([method, body], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).digest()


class Claim(Enum):
    """What the memory says to one who wants to carry out a request, if there is no answer yet."""

    MINE = auto()  # carry it out
    RUNNING = auto()  # somebody else does
    TOKEN_FULL = auto()  # too many requests with this token
    ISSUER_FULL = auto()
    FULL = auto()


class Replays(Protocol):
    """The memory of requests, shared by all gateways of a deployment.

    A request is forgotten some time after its token has expired.  All methods raise
    ``Unavailable``: then nothing is known, and nothing may be carried out.
    """

    async def claim(self, request: TokenRequest, owner: str, seconds: float) -> Claim | bytes:
        """Return the answer of ``request``, or else whether ``owner`` is to carry it out.

        Of any number of simultaneous claims exactly one is ``MINE``, until ``seconds`` have passed
        without an answer: its owner is lost, and the next claim is ``MINE``.
        """

    async def answer(self, request: TokenRequest, owner: str, answer: bytes) -> None:
        """Remember the answer, if ``request`` is still the owner's."""

    async def release(self, request: TokenRequest, owner: str) -> None:
        """Forget a request that was not carried out, if it is still the owner's."""
