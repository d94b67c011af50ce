"""Authentication of callers by the service-auth token of a request.

The checks are in this order, cheap and local ones first: form and claims (``tokens``), the
allow-list, the issuer's key, the signature.

- Admin methods are for the DIDs of the allow-list alone.  An issuer that is not on it causes no
  lookup.  Without a list there are no administrators.
- A signature that fails, or a curve that does not fit ``alg``, causes one lookup past the cache:
  the key may have been rotated.
- Only a token whose signature is good is returned, so that a stranger cannot use it up.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import Protocol

from procedures import tokens
from procedures.contract import ErrorName, Method, XrpcError
from procedures.tokens import Token, TokenInvalid

LOOKUP_TIMEOUT = 3.0  # a forced refresh included, twice: below the time a PDS waits for us
_RETRY_AFTER = {"Retry-After": "5"}
_SCHEME = "bearer "


class VerifyingKey(Protocol):
    """The public signing key of an account."""

    @property
    def curve(self) -> str:
        """``k256`` or ``p256``."""

    def verify(self, message: bytes, signature: bytes) -> bool:
        """Tell whether the 64 bytes are this key's ECDSA signature over SHA-256 of the message."""


class KeyMissing(Exception):
    """There is no such DID, or no usable signing key in its document."""


class KeyUnavailable(Exception):
    """The DID could not be resolved for now."""


class KeySource(Protocol):
    """The ``#atproto`` signing keys of accounts.

    The source caches, guards and bounds its outgoing requests (a known key never waits behind
    them), and limits forced refreshes per DID: when it refuses one it returns the key it has.
    """

    async def key(self, did: str, *, refresh: bool) -> VerifyingKey:
        """Return the key of ``did``; ``refresh``: not from the cache.

        Raises ``KeyMissing`` or ``KeyUnavailable``.
        """


def _unauthenticated(message: str) -> XrpcError:
    headers = {"WWW-Authenticate": "Bearer"}
    return XrpcError(ErrorName.AUTHENTICATION_REQUIRED, message, headers)


def bearer(authorization: Sequence[str]) -> str:
    """Return the token of the ``Authorization`` headers of a request: exactly one Bearer.

    Raises ``XrpcError(AuthenticationRequired)``.
    """
    if len(authorization) != 1:
        problem = "more than one" if authorization else "missing"
        raise _unauthenticated(f"Authorization is {problem}: a service-auth token is required")
    if not authorization[0].lower().startswith(_SCHEME):
        raise _unauthenticated("Authorization must be a Bearer token")
    return authorization[0][len(_SCHEME) :]


class ServiceAuth:
    """Checks service-auth tokens of callers.

    ``audiences`` are the accepted values of ``aud`` exactly as they are written (``did:web:…``
    and ``did:web:…#service`` are two); ``admins`` the allow-list; ``clock`` gives Unix seconds.
    """

    def __init__(
        self,
        keys: KeySource,
        audiences: AbstractSet[str],
        admins: AbstractSet[str] = frozenset(),
        *,
        clock: Callable[[], float] = time.time,
        lookup_timeout: float = LOOKUP_TIMEOUT,
    ) -> None:
        self._keys = keys
        self._audiences = frozenset(audiences)
        self._admins = frozenset(admins)
        self._clock = clock
        self._lookup_timeout = lookup_timeout

    async def authenticate(self, authorization: Sequence[str], method: Method) -> Token:
        """Return the good token of a call of ``method`` with these ``Authorization`` headers.

        Raises ``XrpcError``: AuthenticationRequired, AdminRequired, or ServiceUnavailable when the
        issuer's key cannot be had for now.
        """
        try:
            token = tokens.parse(
                bearer(authorization),
                method=method.nsid,
                audiences=self._audiences,
                now=self._clock(),
            )
        except TokenInvalid as error:
            raise _unauthenticated(str(error)) from error
        if method.admin and token.issuer not in self._admins:
            raise XrpcError(ErrorName.ADMIN_REQUIRED, "this method is for administrators")
        await self._check_signature(token)
        if token.expires <= self._clock():  # since it was read: its replay might be forgotten
            raise _unauthenticated("the token has expired")
        return token

    async def _check_signature(self, token: Token) -> None:
        if _signs(await self._key(token.issuer, refresh=False), token):
            return
        if not _signs(await self._key(token.issuer, refresh=True), token):
            raise _unauthenticated("the signature is not the issuer's")

    async def _key(self, did: str, *, refresh: bool) -> VerifyingKey:
        try:
            async with asyncio.timeout(self._lookup_timeout):
                return await self._keys.key(did, refresh=refresh)
        except KeyMissing as error:
            raise _unauthenticated("the issuer has no signing key") from error
        except (KeyUnavailable, TimeoutError) as error:
            message = "the issuer's signing key cannot be looked up for now"
            raise XrpcError(ErrorName.SERVICE_UNAVAILABLE, message, _RETRY_AFTER) from error


def _signs(key: VerifyingKey, token: Token) -> bool:
    return key.curve == token.curve and key.verify(token.signed, token.signature)
