"""Service-auth tokens: the good ones, and every attack that is known."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from procedures.auth import KeyMissing, KeyUnavailable, ServiceAuth, VerifyingKey
from procedures.contract import (
    METHODS,
    REFRESH_RECORD,
    TRIGGER_DID_SYNC,
    ErrorName,
    XrpcError,
)
from procedures.tokens import LEEWAY
from tests.unit.procedures.service_auth import (
    ADMIN,
    ALGORITHMS,
    ALICE,
    NOW,
    SERVICE,
    Key,
    Keys,
    b64,
    claims,
    header,
    signing_input,
    token,
)

K256, P256, OTHER = Key.make("k256"), Key.make("p256"), Key.make("k256")
REFRESH, TRIGGER = METHODS[REFRESH_RECORD], METHODS[TRIGGER_DID_SYNC]


@pytest.fixture
def keys() -> Keys:
    source = Keys()
    source.cached = {ALICE: K256, ADMIN: P256}
    return source


@pytest.fixture
def auth(keys: Keys) -> ServiceAuth:
    return _auth(keys)


def _auth(keys: Keys, **options: Any) -> ServiceAuth:
    audiences = options.pop("audiences", {SERVICE})
    admins = options.pop("admins", {ADMIN})
    return ServiceAuth(keys, audiences, admins, clock=lambda: NOW, **options)


async def _refused(auth: ServiceAuth, text: str, message: str = "signature is not") -> None:
    with pytest.raises(XrpcError, match=message) as caught:
        await auth.authenticate([f"Bearer {text}"], REFRESH)
    assert caught.value.name == ErrorName.AUTHENTICATION_REQUIRED
    assert caught.value.status == 401
    assert caught.value.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("key", [K256, P256], ids=lambda key: key.curve)
@pytest.mark.parametrize("changes", [{}, {"kid": "#atproto"}, {"typ": None}, {"typ": "jwt"}])
async def test_good_tokens(keys: Keys, key: Key, changes: dict[str, Any]) -> None:
    keys.cached[ALICE] = key
    text = token(key, claims(REFRESH_RECORD), header(key, **changes))
    assert (await _auth(keys).authenticate([f"Bearer {text}"], REFRESH)).issuer == ALICE
    assert keys.lookups == {False: 1}


async def test_an_admin_may_call_admin_methods(auth: ServiceAuth) -> None:
    text = token(P256, claims(TRIGGER_DID_SYNC, ADMIN))
    assert (await auth.authenticate([f"bearer {text}"], TRIGGER)).issuer == ADMIN


async def test_a_claim_may_be_a_fraction_and_clocks_may_differ(auth: ServiceAuth) -> None:
    for times in (
        {"exp": NOW + 60.5, "iat": NOW + 4.5},
        {"exp": NOW - 4, "iat": NOW - 64},
        {"exp": NOW + 304, "iat": None, "nbf": NOW},
    ):
        text = token(K256, claims(REFRESH_RECORD, **times))
        assert (await auth.authenticate([f"Bearer {text}"], REFRESH)).issuer == ALICE


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"aud": "did:web:other.example"}, "aud is not this service"),
        ({"aud": f"{SERVICE}#chive"}, "aud is not this service"),
        ({"aud": [SERVICE]}, "aud must be one string"),
        ({"aud": None}, "aud must be one string"),
        ({"lxm": TRIGGER_DID_SYNC}, "lxm must be"),
        ({"lxm": "*"}, "lxm must be"),
        ({"lxm": [REFRESH_RECORD]}, "lxm must be one string"),
        ({"lxm": None}, "lxm must be one string"),
        ({"exp": NOW - 6}, "expired"),
        ({"exp": NOW + 306}, "ahead"),
        ({"exp": 10**400}, "not JSON"),
        ({"exp": 10**18}, "ahead"),
        ({"exp": -(10**18)}, "expired"),
        ({"exp": str(int(NOW) + 60)}, "exp must be a number"),
        ({"exp": True}, "exp must be a number"),
        ({"exp": None}, "exp is missing"),
        ({"iat": NOW + 6}, "not valid yet"),
        ({"nbf": NOW + 6}, "not valid yet"),
        ({"iat": "now"}, "iat must be a number"),
        ({"iat": NOW, "exp": NOW - 1}, "not valid yet"),
        ({"jti": None}, "jti must be one string"),
        ({"jti": ""}, "jti must be one string"),
        ({"jti": 7}, "jti must be one string"),
        ({"jti": "j" * 513}, "jti is longer"),
        ({"iss": f"{ALICE}#atproto_labeler"}, "iss must be a DID"),
        ({"iss": "alice.test"}, "iss must be a DID"),
        ({"iss": [ALICE]}, "iss must be one string"),
        ({"iss": None}, "iss must be one string"),
    ],
)
async def test_wrong_claims_cause_no_lookup(
    auth: ServiceAuth, keys: Keys, changes: dict[str, Any], message: str
) -> None:
    await _refused(auth, token(K256, claims(REFRESH_RECORD, **changes)), message)
    assert not keys.lookups


async def test_infinite_exp(auth: ServiceAuth) -> None:
    payload = json.dumps(claims(REFRESH_RECORD)).replace(str(int(NOW) + 60), "1e999").encode()
    await _refused(auth, token(K256, payload), "not JSON")


async def test_bare_did_where_only_the_service_is_accepted(keys: Keys) -> None:
    auth = _auth(keys, audiences={f"{SERVICE}#chive"})
    await _refused(auth, token(K256, claims(REFRESH_RECORD)), "aud is not this service")
    text = token(K256, claims(REFRESH_RECORD, aud=f"{SERVICE}#chive"))
    assert (await auth.authenticate([f"Bearer {text}"], REFRESH)).issuer == ALICE


def _rsa(signed: str) -> bytes:
    key = rsa.generate_private_key(65537, 2048)
    return key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())


def _hmac(signed: str) -> bytes:
    return hmac.digest(K256.point, signed.encode(), hashlib.sha256)


def _hmac_of_pem(signed: str) -> bytes:
    pem = K256.private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hmac.digest(pem, signed.encode(), hashlib.sha256)


@pytest.mark.parametrize(
    ("algorithm", "sign"),
    [
        ("none", lambda _: b""),
        ("None", lambda _: bytes(64)),
        ("HS256", _hmac),
        ("HS256", _hmac_of_pem),
        ("RS256", _rsa),
        ("ES384", lambda signed: K256.sign(signed.encode())),
        ("es256k", lambda signed: K256.sign(signed.encode())),
        (None, lambda signed: K256.sign(signed.encode())),
        (["ES256K"], lambda signed: K256.sign(signed.encode())),
    ],
)
async def test_other_algorithms(auth: ServiceAuth, keys: Keys, algorithm: Any, sign: Any) -> None:
    signed = signing_input(header(K256, alg=algorithm), claims(REFRESH_RECORD))
    await _refused(auth, f"{signed}.{b64(sign(signed))}", "alg must be|not base64url")
    assert not keys.lookups


@pytest.mark.parametrize(
    "changes",
    [
        {"typ": "at+jwt"},
        {"typ": "dpop+jwt"},
        {"typ": 1},
        {"kid": "#other"},
        {"kid": f"{ALICE}#atproto"},
        {"kid": 1},
        {"crit": ["exp"]},
        {"crit": []},
    ],
)
async def test_wrong_headers(auth: ServiceAuth, keys: Keys, changes: dict[str, Any]) -> None:
    text = token(K256, claims(REFRESH_RECORD), header(K256, **changes))
    await _refused(auth, text, next(iter(changes)))
    assert not keys.lookups


async def test_a_key_inside_the_token_is_never_used(auth: ServiceAuth) -> None:
    jwk = {"kty": "EC", "crv": "secp256k1", "x": b64(OTHER.point[1:]), "y": b64(bytes(32))}
    head = header(OTHER, jwk=jwk, jku="https://evil.example/keys")
    await _refused(auth, token(OTHER, claims(REFRESH_RECORD), head), "signature is not")


async def test_a_token_is_as_good_the_second_time(auth: ServiceAuth) -> None:
    """What may be done with it again is for ``procedures.once``."""
    text = token(K256, claims(REFRESH_RECORD, jti="mine", exp=NOW + 60))
    first, second = [await auth.authenticate([f"Bearer {text}"], REFRESH) for _ in range(2)]
    assert first == second
    assert (first.jti, first.expires) == ("mine", NOW + 60 + LEEWAY)


async def test_a_token_that_expires_while_its_key_is_looked_up_is_not_used(keys: Keys) -> None:
    """A replay of it, under way at the same time, would not be known as one."""
    times = iter([NOW, NOW + 66])
    auth = ServiceAuth(keys, {SERVICE}, clock=lambda: next(times))
    await _refused(auth, token(K256, claims(REFRESH_RECORD, exp=NOW + 60)), "expired")


async def test_another_issuer_may_use_the_same_jti(auth: ServiceAuth, keys: Keys) -> None:
    keys.cached["did:plc:bob"] = OTHER
    for key, issuer in ((K256, ALICE), (OTHER, "did:plc:bob")):
        text = token(key, claims(REFRESH_RECORD, issuer, jti="same"))
        assert (await auth.authenticate([f"Bearer {text}"], REFRESH)).issuer == issuer


async def test_another_key(auth: ServiceAuth, keys: Keys) -> None:
    await _refused(auth, token(OTHER, claims(REFRESH_RECORD)), "signature is not the issuer's")
    assert keys.lookups == {False: 1, True: 1}


async def test_a_forged_token_takes_nothing_from_the_real_one(auth: ServiceAuth) -> None:
    payload = claims(REFRESH_RECORD)
    await _refused(auth, token(OTHER, payload))
    assert (await auth.authenticate([f"Bearer {token(K256, payload)}"], REFRESH)).issuer == ALICE


@pytest.mark.parametrize("new", [OTHER, P256], ids=["same curve", "other curve"])
async def test_a_rotated_key_is_found_by_one_forced_refresh(
    auth: ServiceAuth, keys: Keys, new: Key
) -> None:
    keys.rotated[ALICE] = new
    for _ in range(2):
        text = token(new, claims(REFRESH_RECORD))
        assert (await auth.authenticate([f"Bearer {text}"], REFRESH)).issuer == ALICE
    assert keys.lookups == {False: 2, True: 1}


@pytest.mark.parametrize(("key", "curve"), [(K256, "p256"), (P256, "k256")])
async def test_the_algorithm_is_bound_to_the_curve(keys: Keys, key: Key, curve: str) -> None:
    keys.cached[ALICE] = key
    text = token(key, claims(REFRESH_RECORD), header(key, alg=ALGORITHMS[curve]))
    await _refused(_auth(keys), text, "signature is not the issuer's")


async def test_one_changed_byte(auth: ServiceAuth) -> None:
    signed, _, signature = token(K256, claims(REFRESH_RECORD)).rpartition(".")
    payload = claims(REFRESH_RECORD)
    await _refused(auth, f"{signing_input(header(K256), payload)}.{signature}", "signature is not")
    flipped = ("B" if signature[0] == "A" else "A") + signature[1:]
    await _refused(auth, f"{signed}.{flipped}", "signature is not")


@pytest.mark.parametrize("key", [K256, P256], ids=lambda key: key.curve)
async def test_high_s_and_der(keys: Keys, key: Key) -> None:
    keys.cached[ALICE] = key
    signed = signing_input(header(key), claims(REFRESH_RECORD))
    high = b64(key.sign(signed.encode(), high=True))
    await _refused(_auth(keys), f"{signed}.{high}", "signature is not the issuer's")
    der = b64(key.der(signed.encode()))
    await _refused(_auth(keys), f"{signed}.{der}", "signature is not 64 bytes")


@pytest.mark.parametrize(
    ("issuer", "admins"),
    [(ALICE, {ADMIN}), (ADMIN, set()), (f"{ADMIN}x", {ADMIN}), (ADMIN.upper(), {ADMIN})],
)
async def test_who_is_no_admin_causes_no_lookup(keys: Keys, issuer: str, admins: set[str]) -> None:
    text = token(P256, claims(TRIGGER_DID_SYNC, issuer))
    with pytest.raises(XrpcError) as caught:
        await _auth(keys, admins=admins).authenticate([f"Bearer {text}"], TRIGGER)
    expected = ErrorName.ADMIN_REQUIRED
    if issuer == ADMIN.upper():
        expected = ErrorName.AUTHENTICATION_REQUIRED
    assert caught.value.name == expected
    assert not keys.lookups


async def test_the_name_of_an_admin_is_not_enough(auth: ServiceAuth) -> None:
    text = token(OTHER, claims(TRIGGER_DID_SYNC, ADMIN))
    with pytest.raises(XrpcError) as caught:
        await auth.authenticate([f"Bearer {text}"], TRIGGER)
    assert caught.value.name == ErrorName.AUTHENTICATION_REQUIRED


async def test_a_token_is_for_one_method(auth: ServiceAuth) -> None:
    text = token(P256, claims(REFRESH_RECORD, ADMIN))
    with pytest.raises(XrpcError, match="lxm must be"):
        await auth.authenticate([f"Bearer {text}"], TRIGGER)


_GOOD = token(K256, claims(REFRESH_RECORD))
_HEAD, _BODY, _SIG = _GOOD.split(".")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "three parts"),
        (_HEAD, "three parts"),
        (f"{_HEAD}.{_BODY}", "three parts"),
        (f"{_GOOD}.", "three parts"),
        (f"{_HEAD}.{_BODY}.", "signature is not base64url"),
        (f"{_HEAD}..{_SIG}", "payload is not base64url"),
        (f"{_HEAD}=.{_BODY}.{_SIG}", "header is not base64url"),
        (f"{_HEAD}.{_BODY}.{_SIG}==", "signature is not base64url"),
        (f"{_HEAD}.{_BODY}.{_SIG}\n", "signature is not base64url"),
        (f" {_GOOD}", "header is not base64url"),
        (f"{_HEAD}.{_BODY}.+{_SIG[1:]}", "signature is not base64url"),
        (f"{_HEAD}.{_BODY}.{_SIG[:-2]}", "signature is not"),
        (f"{_HEAD}.{_BODY}.{_SIG}AAAA", "signature is not 64 bytes"),
        (f"{_HEAD}.{_BODY}.A", "signature is not base64url"),
        (f"{b64(b'[]')}.{_BODY}.{_SIG}", "header is not an object"),
        (f"{b64(b'{')}.{_BODY}.{_SIG}", "header is not JSON"),
        (f"{_HEAD}.{b64(b'null')}.{_SIG}", "payload is not an object"),
        (f"{_HEAD}.{b64(b'A' * 9_000)}.{_SIG}", "longer than 8192"),
        (f"{_HEAD}.\u00e9.{_SIG}", "payload is not base64url"),
    ],
)
async def test_malformed_tokens(auth: ServiceAuth, keys: Keys, text: str, message: str) -> None:
    await _refused(auth, text, message)
    assert not keys.lookups


async def test_spare_bits_of_base64_are_zero(auth: ServiceAuth) -> None:
    signed, _, signature = token(K256, claims(REFRESH_RECORD)).rpartition(".")
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    sibling = signature[:-1] + alphabet[alphabet.index(signature[-1]) + 1]
    await _refused(auth, f"{signed}.{sibling}", "not canonical")


@pytest.mark.parametrize("part", ["header", "payload"])
async def test_duplicate_members(auth: ServiceAuth, keys: Keys, part: str) -> None:
    head = json.dumps(header(K256)).encode()
    payload = json.dumps(claims(REFRESH_RECORD)).encode()
    if part == "header":
        head = head.replace(b'"alg"', b'"alg": "none", "alg"')
    else:
        payload = payload.replace(b'"iss"', b'"iss": "did:plc:admin", "iss"')
    await _refused(auth, token(K256, payload, head), f"{part} has a member twice")
    assert not keys.lookups


@pytest.mark.parametrize(
    "authorization",
    [[], [f"Bearer {_GOOD}"] * 2, [f"Basic {_GOOD}"], [_GOOD], ["Bearer"], [f"DPoP {_GOOD}"]],
)
async def test_exactly_one_bearer(auth: ServiceAuth, authorization: list[str]) -> None:
    with pytest.raises(XrpcError) as caught:
        await auth.authenticate(authorization, REFRESH)
    assert caught.value.name == ErrorName.AUTHENTICATION_REQUIRED


async def test_an_issuer_without_a_key(auth: ServiceAuth, keys: Keys) -> None:
    keys.error = KeyMissing()
    await _refused(auth, token(K256, claims(REFRESH_RECORD)), "no signing key")


async def test_a_directory_that_is_away_refuses_no_token(auth: ServiceAuth, keys: Keys) -> None:
    keys.error = KeyUnavailable()
    text = token(K256, claims(REFRESH_RECORD))
    with pytest.raises(XrpcError) as caught:
        await auth.authenticate([f"Bearer {text}"], REFRESH)
    assert (caught.value.name, caught.value.status) == (ErrorName.SERVICE_UNAVAILABLE, 503)
    assert caught.value.headers["Retry-After"] == "5"


class _Hanging(Keys):
    async def key(self, did: str, *, refresh: bool) -> VerifyingKey:
        await asyncio.Event().wait()
        return await super().key(did, refresh=refresh)


async def test_a_directory_that_hangs_is_waited_for_no_longer_than_allowed() -> None:
    text = token(K256, claims(REFRESH_RECORD))
    with pytest.raises(XrpcError) as caught:
        await _auth(_Hanging(), lookup_timeout=0.01).authenticate([f"Bearer {text}"], REFRESH)
    assert caught.value.name == ErrorName.SERVICE_UNAVAILABLE
