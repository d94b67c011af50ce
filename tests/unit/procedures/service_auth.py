"""Accounts that sign real service-auth tokens, and a source of their keys."""

from __future__ import annotations

import base64
import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from multiformats import multibase, multicodec

from consumer.verify.keys import SigningKey
from procedures.auth import KeyMissing, VerifyingKey

NOW = 1_783_175_954.0
SERVICE = "did:web:chive.example"
ALICE = "did:plc:alice"
ADMIN = "did:plc:admin"

_CURVES: dict[str, tuple[ec.EllipticCurve, str, int]] = {
    "k256": (
        ec.SECP256K1(),
        "secp256k1-pub",
        0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141,
    ),
    "p256": (
        ec.SECP256R1(),
        "p256-pub",
        0xFFFFFFFF_00000000_FFFFFFFF_FFFFFFFF_BCE6FAAD_A7179E84_F3B9CAC2_FC632551,
    ),
}
ALGORITHMS = {"k256": "ES256K", "p256": "ES256"}


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@dataclass(frozen=True)
class Key:
    """A private key; ``public`` is what production makes of its did:key."""

    curve: str
    private: ec.EllipticCurvePrivateKey

    @classmethod
    def make(cls, curve: str = "k256") -> Key:
        return cls(curve, ec.generate_private_key(_CURVES[curve][0]))

    @property
    def point(self) -> bytes:
        return self.private.public_key().public_bytes(
            serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint
        )

    @property
    def public(self) -> SigningKey:
        wrapped = multicodec.wrap(_CURVES[self.curve][1], self.point)
        return SigningKey.from_did_key("did:key:" + multibase.encode(wrapped, "base58btc"))

    def der(self, message: bytes) -> bytes:
        return self.private.sign(message, ec.ECDSA(hashes.SHA256()))

    def sign(self, message: bytes, *, high: bool = False) -> bytes:
        r, s = decode_dss_signature(self.der(message))
        order = _CURVES[self.curve][2]
        if (s > order // 2) != high:
            s = order - s
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")


_serial = iter(range(1_000_000))


def claims(method: str, issuer: str = ALICE, **changes: Any) -> dict[str, Any]:
    """Return the claims of a good token; a change to None leaves the claim out."""
    good = {
        "iat": int(NOW),
        "iss": issuer,
        "aud": SERVICE,
        "exp": int(NOW) + 60,
        "lxm": method,
        "jti": f"jti-{next(_serial)}",
    }
    return {name: value for name, value in (good | changes).items() if value is not None}


def header(key: Key, **changes: Any) -> dict[str, Any]:
    good = {"typ": "JWT", "alg": ALGORITHMS[key.curve]}
    return {name: value for name, value in (good | changes).items() if value is not None}


def signing_input(head: object, payload: object) -> str:
    """Return the first two segments; a part given as bytes goes in as it is."""
    parts = [p if isinstance(p, bytes) else json.dumps(p).encode() for p in (head, payload)]
    return ".".join(b64(part) for part in parts)


def token(key: Key, payload: object, head: object | None = None) -> str:
    signed = signing_input(header(key) if head is None else head, payload)
    return f"{signed}.{b64(key.sign(signed.encode()))}"


class Keys:
    """A key source that counts; ``rotated`` keys are found only by a refresh."""

    def __init__(self, **_: object) -> None:
        self.cached: dict[str, Key] = {}
        self.rotated: dict[str, Key] = {}
        self.lookups: Counter[bool] = Counter()
        self.error: Exception | None = None

    async def key(self, did: str, *, refresh: bool) -> VerifyingKey:
        self.lookups[refresh] += 1
        if self.error is not None:
            raise self.error
        if refresh and did in self.rotated:
            self.cached[did] = self.rotated.pop(did)
        if did not in self.cached:
            raise KeyMissing
        return self.cached[did].public
