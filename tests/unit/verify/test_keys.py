"""Keys and signatures of both curves against the public vectors."""

from __future__ import annotations

import base64

import coincurve
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from multiformats import multibase, multicodec

from consumer.errors import Reason, Refused
from consumer.verify.keys import Curve, SigningKey
from simulator.account import Account
from tests.vectors import entries, needs_vectors

K256 = "did:key:zQ3shqwJEJyMBsBXCWyCBpUBMqxcon9oHB7mCvx4sSpMdLJwc"
P256 = "did:key:zDnaembgSGUhZULN2Caob4HLJPaxBh92N7rtH21TErzqf8HQo"


def _unpadded(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4))


@needs_vectors
def test_signature_vectors() -> None:
    fixtures = entries("interop/crypto/signature-fixtures.json")
    assert len(fixtures) == 6
    for fixture in fixtures:
        key = SigningKey.from_did_key(fixture["publicKeyDid"])
        message, signature = map(_unpadded, (fixture["messageBase64"], fixture["signatureBase64"]))
        assert key.verify(message, signature) is fixture["validSignature"], fixture["comment"]
        assert not key.verify(message + b"\0", signature)
        assert not key.verify(message, signature + b"\0")


@needs_vectors
def test_did_key_vectors() -> None:
    fixtures = entries("interop/crypto/w3c_didkey_K256.json")
    for fixture in fixtures:
        private = coincurve.PrivateKey(bytes.fromhex(fixture["privateKeyBytesHex"]))
        signature = private.sign_recoverable(b"text")[:64]
        assert SigningKey.from_did_key(fixture["publicDidKey"]).verify(b"text", signature)
    for fixture in entries("interop/crypto/w3c_didkey_P256.json"):
        assert SigningKey.from_did_key(fixture["publicDidKey"]).curve is Curve.P256


@pytest.mark.parametrize("curve", list(Curve))
def test_a_shortened_signature_is_none(curve: Curve) -> None:
    """Leaving out a leading zero does not change the number, and yet there is one form only."""
    account = Account.from_seed("short", curve)
    key = SigningKey.from_did_key(account.did_key)
    for number in range(100_000):
        message = b"%d" % number
        signature = account.sign(message)
        if signature[32] == 0:
            break
    assert key.verify(message, signature)
    assert not key.verify(message, signature[:32] + signature[33:])


@pytest.mark.parametrize(
    ("codec", "private"),
    [("secp256k1-pub", ec.SECP256K1()), ("p256-pub", ec.SECP256R1())],
)
def test_a_point_that_is_not_compressed(codec: str, private: ec.EllipticCurve) -> None:
    public = ec.derive_private_key(7, private).public_key()
    for form, good in (
        (PublicFormat.CompressedPoint, True),
        (PublicFormat.UncompressedPoint, False),
    ):
        point = public.public_bytes(Encoding.X962, form)
        text = "did:key:" + multibase.encode(multicodec.wrap(codec, point), "base58btc")
        if good:
            SigningKey.from_did_key(text)
        else:
            with pytest.raises(Refused, match="not compressed"):
                SigningKey.from_did_key(text)


def test_a_key_too_long_is_not_even_decoded() -> None:
    with pytest.raises(Refused, match="not a did:key in base58"):
        SigningKey.from_did_key("did:key:z" + "Q" * 200)


def test_keys_are_cached_and_equal_by_text() -> None:
    assert SigningKey.from_did_key(K256) is SigningKey.from_did_key(K256)
    assert SigningKey.from_did_key(K256) != SigningKey.from_did_key(P256)
    assert SigningKey.from_did_key(K256).curve is Curve.K256


@pytest.mark.parametrize(
    "text",
    [
        "",
        "did:key:",
        "did:key:z",
        "did:plc:abc",
        K256[:-1],
        K256 + "1",
        K256.replace("z", "Z", 1),
        K256.replace("Q", "0", 1),
        "did:key:uQ3shqwJEJyMBsBXCWyCBpUBMqxcon9oHB7mCvx4sSpMdLJwc",
        "did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK",  # ed25519
        "did:key:z" + "Q" * 90,
    ],
)
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(Refused) as caught:
        SigningKey.from_did_key(text)
    assert caught.value.reason is Reason.KEY_UNAVAILABLE
    assert len(caught.value.detail) < 500


@given(signature=st.binary(max_size=80) | st.binary(min_size=64, max_size=64))
def test_noise_is_no_signature(signature: bytes) -> None:
    for did_key in (K256, P256):
        assert not SigningKey.from_did_key(did_key).verify(b"message", signature)


@pytest.mark.parametrize("part", [bytes(32), b"\xff" * 32, bytes(31) + b"\1"])
def test_extreme_numbers_are_no_signature(part: bytes) -> None:
    for did_key in (K256, P256):
        key = SigningKey.from_did_key(did_key)
        assert not key.verify(b"message", part + part)
        assert not key.verify(b"message", part + bytes(31) + b"\1")
        assert not key.verify(b"message", bytes(31) + b"\1" + part)
