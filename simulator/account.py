"""Accounts that sign: a DID, a private key of either curve, and its ``did:key``.  Deterministic."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field
from typing import Any

import coincurve
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from multiformats import multibase, multicodec

ORDERS = {
    "k256": 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141,
    "p256": 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
}
_CODECS = {"k256": "secp256k1-pub", "p256": "p256-pub"}


@dataclass(frozen=True, slots=True)
class Account:
    """An account; ``secret`` is the private key as a number."""

    did: str
    curve: str
    secret: int
    did_key: str
    _key: Any = field(repr=False, compare=False)

    @classmethod
    def from_seed(cls, seed: str, curve: str = "k256", did: str | None = None) -> Account:
        """Return the account that ``seed`` stands for; ``curve`` is ``k256`` or ``p256``."""
        secret = int.from_bytes(hashlib.sha256(f"key {seed}".encode()).digest(), "big")
        secret = secret % (ORDERS[curve] - 1) + 1
        key: Any
        if curve == "k256":
            key = coincurve.PrivateKey.from_int(secret)
            point = key.public_key.format()
        else:
            key = ec.derive_private_key(secret, ec.SECP256R1())
            point = key.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
        text = multibase.encode(multicodec.wrap(_CODECS[curve], point), "base58btc")
        return cls(did or plc_did(seed), curve, secret, f"did:key:{text}", key)

    def sign(self, message: bytes) -> bytes:
        """Return the deterministic low-S signature of ``message``, 64 bytes."""
        if self.curve == "k256":
            return bytes(self._key.sign_recoverable(message)[:64])
        scheme = ec.ECDSA(SHA256(), deterministic_signing=True)
        r, s = decode_dss_signature(self._key.sign(message, scheme))
        s = min(s, ORDERS["p256"] - s)
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    def document(self, pds: str, handle: str = "someone.test") -> dict[str, Any]:
        """Return the DID document that a PLC directory would answer with."""
        return {
            "@context": ["https://www.w3.org/ns/did/v1", "https://w3id.org/security/multikey/v1"],
            "id": self.did,
            "alsoKnownAs": [f"at://{handle}"],
            "verificationMethod": [
                {
                    "id": f"{self.did}#atproto",
                    "type": "Multikey",
                    "controller": self.did,
                    "publicKeyMultibase": self.did_key.removeprefix("did:key:"),
                }
            ],
            "service": [
                {
                    "id": "#atproto_pds",
                    "type": "AtprotoPersonalDataServer",
                    "serviceEndpoint": pds,
                }
            ],
        }


def plc_did(seed: str) -> str:
    """Return a ``did:plc`` that depends on nothing but ``seed``."""
    digest = hashlib.sha256(f"did {seed}".encode()).digest()
    return "did:plc:" + base64.b32encode(digest).decode().lower()[:24]
