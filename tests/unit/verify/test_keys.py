"""Keys and signatures of both curves against the public vectors."""

from __future__ import annotations

import base64
import hashlib

import coincurve
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from multiformats import multibase, multicodec

from consumer.errors import Reason, Refused
from consumer.verify.keys import SIGNATURE_LENGTH, Curve, SigningKey
from simulator.account import ORDERS, Account
from tests.vectors import entries, needs_vectors

K256 = "did:key:zQ3shqwJEJyMBsBXCWyCBpUBMqxcon9oHB7mCvx4sSpMdLJwc"
P256 = "did:key:zDnaembgSGUhZULN2Caob4HLJPaxBh92N7rtH21TErzqf8HQo"
MESSAGE = b"message"

_GROUPS: dict[Curve, ec.EllipticCurve] = {Curve.K256: ec.SECP256K1(), Curve.P256: ec.SECP256R1()}
_CODECS = {Curve.K256: "secp256k1-pub", Curve.P256: "p256-pub"}


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


def _numbers(r: int, s: int) -> bytes:
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def _signed_with(s: int, curve: Curve) -> tuple[SigningKey, int]:
    """Return a key whose signature of ``MESSAGE`` has this ``s``, and its ``r``.

    With the nonce and ``s`` chosen, the private key follows.
    """
    order, group, nonce = ORDERS[curve], _GROUPS[curve], 12345
    r = ec.derive_private_key(nonce, group).public_key().public_numbers().x % order
    digest = int.from_bytes(hashlib.sha256(MESSAGE).digest(), "big")
    secret = (s * nonce - digest) * pow(r, -1, order) % order
    point = ec.derive_private_key(secret, group).public_key()
    return SigningKey.from_did_key(_did_key(curve, _compressed(point))), r


def _compressed(public: ec.EllipticCurvePublicKey) -> bytes:
    return public.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)


def _did_key(curve: Curve, point: bytes) -> str:
    return "did:key:" + multibase.encode(multicodec.wrap(_CODECS[curve], point), "base58btc")


@pytest.mark.parametrize("curve", list(Curve))
def test_s_is_from_one_to_half_the_order_of_the_curve(curve: Curve) -> None:
    order = ORDERS[curve]
    for s in (1, 2, order // 2 - 1, order // 2):
        key, r = _signed_with(s, curve)
        assert key.verify(MESSAGE, _numbers(r, s))
        assert not key.verify(MESSAGE, _numbers(r, order - s))
    for s in (order // 2 + 1, order - 2, order - 1):
        key, r = _signed_with(s, curve)
        assert not key.verify(MESSAGE, _numbers(r, s))
        assert key.verify(MESSAGE, _numbers(r, order - s))


@pytest.mark.parametrize("curve", list(Curve))
def test_numbers_outside_the_order_of_the_curve_are_no_signature(curve: Curve) -> None:
    order = ORDERS[curve]
    key, r = _signed_with(1, curve)
    assert key.verify(MESSAGE, _numbers(r, 1))
    for wrong in (0, order - 1, order, order + 1, order + 2, 2**256 - 1):
        assert not key.verify(MESSAGE, _numbers(r, wrong))
        assert not key.verify(MESSAGE, _numbers(wrong, 1))
        assert not key.verify(MESSAGE, _numbers(wrong, wrong))
    assert not key.verify(MESSAGE, _numbers(order - r, 1))


@pytest.mark.parametrize("curve", list(Curve))
def test_other_lengths_and_der_are_no_signature(curve: Curve) -> None:
    account = Account.from_seed("lengths", curve)
    key = SigningKey.from_did_key(account.did_key)
    good = account.sign(MESSAGE)
    assert key.verify(MESSAGE, good)
    der = encode_dss_signature(int.from_bytes(good[:32], "big"), int.from_bytes(good[32:], "big"))
    others = [good[:length] for length in range(64)]
    others += [good[1:], good + b"\0", b"\0" + good, good + b"\x1b", good * 2]
    others += [der, der[:64], der[-64:], der.ljust(72, b"\0"), good.hex().encode()]
    assert not any(key.verify(MESSAGE, other) for other in others)


@pytest.mark.parametrize("curve", list(Curve))
def test_der_of_exactly_64_bytes_is_no_signature(curve: Curve) -> None:
    """The length alone does not tell them apart: small numbers have a short DER."""
    s = 1
    key, r = _signed_with(s, curve)
    while len(encode_dss_signature(r, s)) < SIGNATURE_LENGTH:
        s = s * 256 + 1
    key, r = _signed_with(s, curve)
    der = encode_dss_signature(r, s)
    assert len(der) == SIGNATURE_LENGTH
    assert key.verify(MESSAGE, _numbers(r, s))
    assert not key.verify(MESSAGE, der)


def test_a_signature_of_one_curve_is_none_under_a_key_of_the_other() -> None:
    accounts = {curve: Account.from_seed("both", curve) for curve in Curve}
    for curve, account in accounts.items():
        key = SigningKey.from_did_key(account.did_key)
        for other, signer in accounts.items():
            assert key.verify(MESSAGE, signer.sign(MESSAGE)) is (curve is other)


@pytest.mark.parametrize("curve", list(Curve))
def test_a_point_of_the_other_curve_is_no_key(curve: Curve) -> None:
    """Half of all numbers are on a curve; those that are on both make no key."""
    (other,) = set(Curve) - {curve}
    refused = 0
    for seed in range(20):
        account = Account.from_seed(f"{seed}", other)
        secret = ec.derive_private_key(account.secret, _GROUPS[other])
        try:
            key = SigningKey.from_did_key(_did_key(curve, _compressed(secret.public_key())))
        except Refused:
            refused += 1
        else:
            assert not key.verify(MESSAGE, account.sign(MESSAGE))
    assert refused > 3


@pytest.mark.parametrize("curve", list(Curve))
@pytest.mark.parametrize(
    "point",
    [
        b"",
        b"\0",
        b"\0" * 33,
        b"\2" + b"\xff" * 32,
        b"\4" + b"\1" * 32,
        b"\5" + b"\1" * 32,
        b"\6" + b"\1" * 32,
        b"\2" + b"\1" * 31,
        b"\2" + b"\1" * 33,
    ],
    ids=["empty", "infinity", "zeros", "beyond", "4", "5", "6", "short", "long"],
)
def test_what_is_no_compressed_point_is_no_key(curve: Curve, point: bytes) -> None:
    with pytest.raises(Refused) as caught:
        SigningKey.from_did_key(_did_key(curve, point))
    assert caught.value.reason is Reason.KEY_UNAVAILABLE


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
