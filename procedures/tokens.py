"""Service-auth tokens: compact JWS with JWT claims, read strictly.  Pure.

Specification: https://atproto.com/specs/xrpc (inter-service authentication), RFC 7515, 7519.
All checks that need no key of the issuer are here, before any lookup.  A token has exactly one
text: base64url without padding or spare bits, no duplicate members, at most 8 KiB.

- ``alg`` ES256 or ES256K, each for one curve; the caller compares it with the issuer's key.
- ``typ`` JWT or absent; ``kid`` absent or ``#atproto``; no ``crit``; other header members, such
  as ``jwk``, are never used.
- ``iss`` a bare DID, ``aud`` one string of the accepted ones, ``lxm`` the method itself.
- ``exp`` at most 5 minutes ahead, ``jti`` present.  Clocks may differ by ``LEEWAY`` seconds.
- The signature is 64 bytes; DER is refused.  The check with the key refuses a high S.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from procedures import strict_json, syntax

MAX_TOKEN = 8 * 1024  # bytes
MAX_AHEAD = 300.0  # seconds
LEEWAY = 5.0  # seconds

CURVES = {"ES256": "p256", "ES256K": "k256"}

_SIGNATURE_LENGTH = 64
_SEGMENTS = 3
_SEGMENT = re.compile(r"[A-Za-z0-9_-]+")
_MAX_JTI = 512


class TokenInvalid(ValueError):
    """A token breaks a rule; the message holds no secrets and is shown to the caller."""


@dataclass(frozen=True, slots=True)
class Token:
    """A well-formed token with accepted claims; its signature is not checked yet.

    ``curve`` is that of ``alg``, ``expires`` is in Unix seconds and includes ``LEEWAY``.
    ``signature`` (64 bytes) is over ``signed``.
    """

    issuer: str
    curve: str
    jti: str
    expires: float
    signed: bytes
    signature: bytes


def _decoded(segment: str, what: str) -> bytes:
    try:
        if not _SEGMENT.fullmatch(segment):
            raise TokenInvalid(f"the token's {what} is not base64url")
        data = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    except binascii.Error as error:
        raise TokenInvalid(f"the token's {what} is not base64url") from error
    if base64.urlsafe_b64encode(data).rstrip(b"=").decode() != segment:
        raise TokenInvalid(f"the token's {what} is not canonical base64url")
    return data


def _object(segment: str, what: str) -> dict[str, Any]:
    try:
        value = strict_json.loads(_decoded(segment, what))
    except strict_json.DuplicateKey as error:
        raise TokenInvalid(f"the token's {what} has a member twice") from error
    except strict_json.NotJson as error:
        raise TokenInvalid(f"the token's {what} is not JSON") from error
    if not isinstance(value, dict):
        raise TokenInvalid(f"the token's {what} is not an object")
    return value


def _curve(header: dict[str, Any]) -> str:
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in CURVES:
        raise TokenInvalid("alg must be ES256 or ES256K")
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.upper() != "JWT":
        raise TokenInvalid("typ must be JWT")
    if header.get("kid", "#atproto") != "#atproto":
        raise TokenInvalid("kid must be #atproto")
    if "crit" in header:
        raise TokenInvalid("crit is not understood")
    return CURVES[algorithm]


def _text(claims: dict[str, Any], name: str) -> str:
    value = claims.get(name)
    if not isinstance(value, str) or not value:
        raise TokenInvalid(f"{name} must be one string")
    return value


def _moment(claims: dict[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None and name not in claims:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TokenInvalid(f"{name} must be a number of seconds")
    return float(value)


def _expires(claims: dict[str, Any], now: float) -> float:
    expires = _moment(claims, "exp")
    begins = max(_moment(claims, "iat") or 0.0, _moment(claims, "nbf") or 0.0)
    if expires is None:
        raise TokenInvalid("exp is missing")
    if expires <= now - LEEWAY:
        raise TokenInvalid("the token has expired")
    if expires > now + MAX_AHEAD + LEEWAY:
        raise TokenInvalid(f"exp must not be more than {MAX_AHEAD:.0f} seconds ahead")
    if begins > now + LEEWAY or begins > expires:
        raise TokenInvalid("the token is not valid yet")
    return expires + LEEWAY


def parse(text: str, *, method: str, audiences: AbstractSet[str], now: float) -> Token:
    """Return the token in ``text``, which is for a call of ``method``.

    ``audiences`` are the accepted values of ``aud``, compared exactly; ``now`` is in Unix seconds.
    Raises ``TokenInvalid``.
    """
    if len(text) > MAX_TOKEN:
        raise TokenInvalid(f"the token is longer than {MAX_TOKEN} bytes")
    segments = text.split(".")
    if len(segments) != _SEGMENTS:
        raise TokenInvalid("the token does not have three parts")
    curve = _curve(_object(segments[0], "header"))
    claims = _object(segments[1], "payload")
    signature = _decoded(segments[2], "signature")
    if len(signature) != _SIGNATURE_LENGTH:
        raise TokenInvalid(f"the token's signature is not {_SIGNATURE_LENGTH} bytes long")
    expires = _expires(claims, now)
    issuer = _text(claims, "iss")
    if not syntax.is_did(issuer):
        raise TokenInvalid("iss must be a DID, without a fragment")
    if _text(claims, "aud") not in audiences:
        raise TokenInvalid("aud is not this service")
    if _text(claims, "lxm") != method:
        raise TokenInvalid(f"lxm must be {method}")
    jti = _text(claims, "jti")
    if len(jti) > _MAX_JTI:
        raise TokenInvalid(f"jti is longer than {_MAX_JTI} characters")
    signed = text.rpartition(".")[0].encode("ascii")
    return Token(issuer, curve, jti, expires, signed, signature)
