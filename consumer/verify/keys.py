"""Signing keys of accounts, and their signatures.  Pure.

Specification: https://atproto.com/specs/cryptography.  Two curves, compressed points as
``did:key``; a signature is ECDSA over SHA-256, ``r`` and ``s`` in 32 bytes each, ``s`` in the
lower half of the curve's order.  DER, high-S and other lengths are no signatures.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Protocol

import coincurve
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from multiformats import multibase, multicodec

from consumer.errors import Reason, Refused

SIGNATURE_LENGTH = 64

_PREFIX = "did:key:z"
_HALF = SIGNATURE_LENGTH // 2
_POINT_LENGTH = 33
_CACHED_KEYS = 65_536
_MAX_DID_KEY = 128  # base58 takes time that grows with the square of the length


class Curve(StrEnum):
    K256 = "k256"
    P256 = "p256"


_CURVES = {"secp256k1-pub": Curve.K256, "p256-pub": Curve.P256}
_HALF_ORDERS = {
    Curve.K256: 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141 >> 1,
    Curve.P256: 0xFFFFFFFF_00000000_FFFFFFFF_FFFFFFFF_BCE6FAAD_A7179E84_F3B9CAC2_FC632551 >> 1,
}


class _PublicKey(Protocol):
    def verify(self, message: bytes, signature: bytes) -> bool: ...


@dataclass(frozen=True, slots=True)
class SigningKey:
    """The public key of an account, equal by its ``did_key`` text."""

    did_key: str
    curve: Curve
    _key: _PublicKey = field(compare=False, repr=False)

    @staticmethod
    def from_did_key(did_key: str) -> SigningKey:
        """Return the key of a ``did:key``; raise ``Refused(KEY_UNAVAILABLE)`` if it is none."""
        return _parse(did_key)

    def verify(self, message: bytes, signature: bytes) -> bool:
        """Tell whether ``signature`` is this key's over ``message``, in the one legal form."""
        if len(signature) != SIGNATURE_LENGTH:
            return False
        if int.from_bytes(signature[_HALF:], "big") > _HALF_ORDERS[self.curve]:
            return False
        return self._key.verify(message, signature)


@dataclass(frozen=True, slots=True)
class _K256:
    key: coincurve.PublicKey

    def verify(self, message: bytes, signature: bytes) -> bool:
        try:
            return bool(self.key.verify(_der(signature), message))
        except ValueError:  # numbers beyond the order of the curve
            return False


@dataclass(frozen=True, slots=True)
class _P256:
    key: ec.EllipticCurvePublicKey

    def verify(self, message: bytes, signature: bytes) -> bool:
        r, s = (int.from_bytes(part, "big") for part in (signature[:_HALF], signature[_HALF:]))
        try:
            self.key.verify(encode_dss_signature(r, s), message, ec.ECDSA(SHA256()))
        except InvalidSignature:
            return False
        return True


def _der(signature: bytes) -> bytes:
    r, s = _der_integer(signature[:_HALF]), _der_integer(signature[_HALF:])
    return bytes((0x30, len(r) + len(s))) + r + s


def _der_integer(number: bytes) -> bytes:
    digits = number.lstrip(b"\x00")
    if not digits or digits[0] & 0x80:
        digits = b"\x00" + digits
    return bytes((2, len(digits))) + digits


@lru_cache(maxsize=_CACHED_KEYS)
def _parse(did_key: str) -> SigningKey:
    shown = repr(did_key[:_MAX_DID_KEY])
    if not did_key.startswith(_PREFIX) or len(did_key) > _MAX_DID_KEY:
        raise Refused(Reason.KEY_UNAVAILABLE, f"not a did:key in base58: {shown}")
    try:
        codec, point = multicodec.unwrap(multibase.decode(did_key.removeprefix("did:key:")))
        curve = _CURVES[codec.name]
        key = _public_key(curve, point)
    except (ValueError, KeyError) as error:
        raise Refused(Reason.KEY_UNAVAILABLE, f"{shown}: {error}") from error
    return SigningKey(did_key, curve, key)


def _public_key(curve: Curve, point: bytes) -> _PublicKey:
    if len(point) != _POINT_LENGTH:
        raise ValueError("point is not compressed")
    match curve:
        case Curve.K256:
            return _K256(coincurve.PublicKey(point))
        case Curve.P256:
            return _P256(ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point))
