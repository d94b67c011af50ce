from __future__ import annotations

import json
from typing import Any

import pytest
from atproto_crypto.did import get_did_key
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from multiformats import multibase, multicodec

from consumer.errors import Reason, Refused
from consumer.fetch import documents
from consumer.fetch.documents import Document, parse, url_of

DID = "did:plc:ewvi7nxzyoun6zhxrhs64oiz"
OTHER = "did:plc:" + "a" * 24
PLC = "https://plc.example"


def point(curve: ec.EllipticCurve, secret: int, *, compressed: bool = True) -> bytes:
    form = PublicFormat.CompressedPoint if compressed else PublicFormat.UncompressedPoint
    return ec.derive_private_key(secret, curve).public_key().public_bytes(Encoding.X962, form)


def multikey(curve: ec.EllipticCurve, codec: str, secret: int = 7) -> str:
    return multibase.encode(multicodec.wrap(codec, point(curve, secret)), "base58btc")


K256 = multikey(ec.SECP256K1(), "secp256k1-pub")
K256_OTHER = multikey(ec.SECP256K1(), "secp256k1-pub", secret=8)
P256 = multikey(ec.SECP256R1(), "p256-pub")


def method(key: str = K256, name: str = "#atproto", kind: str = "Multikey") -> dict[str, str]:
    return {"id": DID + name, "type": kind, "controller": DID, "publicKeyMultibase": key}


def service(endpoint: Any = "https://pds.example", name: str = "#atproto_pds") -> dict[str, Any]:
    return {"id": name, "type": "AtprotoPersonalDataServer", "serviceEndpoint": endpoint}


def document(**changes: Any) -> bytes:
    whole = {
        "@context": ["https://www.w3.org/ns/did/v1"],
        "id": DID,
        "alsoKnownAs": ["at://alice.example"],
        "verificationMethod": [method()],
        "service": [service()],
    }
    return json.dumps(whole | changes).encode()


def parsed(body: bytes, *, allow_loopback: bool = False) -> Document:
    return parse(DID, body, allow_loopback=allow_loopback)


def test_a_whole_document() -> None:
    assert parsed(document()) == Document(
        signing_key=f"did:key:{K256}", pds="https://pds.example", handle="alice.example"
    )


@pytest.mark.parametrize("key", [K256, P256])
@pytest.mark.parametrize("name", ["#atproto", ""])
def test_keys_of_both_curves_and_both_spellings(key: str, name: str) -> None:
    entry = method(key) | ({"id": "#atproto"} if name else {})
    assert parsed(document(verificationMethod=[entry])).signing_key == f"did:key:{key}"


@pytest.mark.parametrize(
    ("curve", "kind", "expected"),
    [
        (ec.SECP256K1(), "EcdsaSecp256k1VerificationKey2019", K256),
        (ec.SECP256R1(), "EcdsaSecp256r1VerificationKey2019", P256),
    ],
)
def test_keys_of_the_old_types(curve: ec.EllipticCurve, kind: str, expected: str) -> None:
    old = multibase.encode(point(curve, 7, compressed=False), "base58btc")
    assert get_did_key(kind, old) == f"did:key:{expected}"
    entry = method(old, kind=kind)
    assert parsed(document(verificationMethod=[entry])).signing_key == f"did:key:{expected}"


@pytest.mark.parametrize("encoding", ["base16", "base58btc", "base64url"])
@pytest.mark.parametrize("compressed", [True, False])
def test_keys_of_the_old_types_are_points_in_any_form(encoding: str, compressed: bool) -> None:
    old = multibase.encode(point(ec.SECP256K1(), 7, compressed=compressed), encoding)
    entry = method(old, kind="EcdsaSecp256k1VerificationKey2019")
    assert parsed(document(verificationMethod=[entry])).signing_key == f"did:key:{K256}"


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("EcdsaSecp256k1VerificationKey2019", point(ec.SECP256R1(), 7, compressed=False)),
        ("EcdsaSecp256r1VerificationKey2019", point(ec.SECP256K1(), 7, compressed=False)),
        ("EcdsaSecp256k1VerificationKey2019", multicodec.wrap("secp256k1-pub", b"\2" * 33)),
        ("EcdsaSecp256k1VerificationKey2019", b"\4" + bytes(64)),
        ("EcdsaSecp256r1VerificationKey2019", b"\4" + bytes(64)),
        ("EcdsaSecp256r1VerificationKey2019", b"\0"),
        ("EcdsaSecp256k1VerificationKey2019", b""),
    ],
    ids=["P-256", "K-256", "with a codec", "no point", "no point either", "infinity", "nothing"],
)
def test_old_types_with_keys_that_do_not_fit_are_passed_over(kind: str, data: bytes) -> None:
    bad = method(multibase.encode(data, "base58btc"), kind=kind)
    with pytest.raises(Refused, match="has 0 keys"):
        parsed(document(verificationMethod=[bad]))
    assert parsed(document(verificationMethod=[bad, method()])).signing_key == f"did:key:{K256}"


def test_a_key_of_any_length_is_not_even_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []

    def decode(kind: str, text: str) -> Any:
        decoded.append(len(text))
        return get_did_key(kind, text)

    monkeypatch.setattr(documents, "get_did_key", decode)
    kinds = ("Multikey", "EcdsaSecp256k1VerificationKey2019", "EcdsaSecp256r1VerificationKey2019")
    long = [method("z" + "Q" * 100_000, kind=kind) for kind in kinds]
    assert parsed(document(verificationMethod=[*long, method()])).signing_key == f"did:key:{K256}"
    assert decoded == [len(K256)]
    many = [method(multikey(ec.SECP256K1(), "secp256k1-pub", n)) for n in range(1, 100)]
    with pytest.raises(Refused, match="has 99 keys"):
        parsed(document(verificationMethod=many))
    assert decoded == [len(K256)]


def test_other_keys_are_passed_over() -> None:
    methods = [
        method(P256, "#atproto_label"),
        method(K256[:-1]),
        method("zzz"),
        method("", "#atproto"),
        method(K256, kind="Ed25519VerificationKey2020"),
        method(P256),
    ]
    assert parsed(document(verificationMethod=methods)).signing_key == f"did:key:{P256}"


def test_the_same_key_twice_is_one_key() -> None:
    methods = [method(), method() | {"id": "#atproto"}]
    assert parsed(document(verificationMethod=methods)).signing_key == f"did:key:{K256}"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"not json",
        b'{"id":' * 2000,
        document(id=OTHER),
        document(id=DID.upper()),
        document(id=f"{DID}#atproto"),
        document(id=f" {DID}"),
        document(id=[DID]),
        document(id=None),
        document(verificationMethod=[]),
        document(verificationMethod=None),
        document(verificationMethod="x"),
        document(verificationMethod=[method(name="#other")]),
        document(verificationMethod=[method("zzz")]),
        document(verificationMethod=[method(kind="Ed25519VerificationKey2020")]),
        document(verificationMethod=[method(), method(P256)]),
        document(verificationMethod=[method(), method(P256) | {"id": "#atproto"}]),
        document(verificationMethod=[method(), method(K256_OTHER)]),
        document(verificationMethod=[method() | {"id": f"{OTHER}#atproto"}]),
        document(verificationMethod=[{**method(""), "publicKeyJwk": {"kty": "EC"}}]),
        document(verificationMethod=[method(multikey(ec.SECP256K1(), "ed25519-pub"))]),
        document(verificationMethod=[[method()]]),
        document(verificationMethod=[method() | {"publicKeyMultibase": [K256]}]),
        document(verificationMethod={"#atproto": method()}),
    ],
)
def test_documents_that_cannot_be_used(body: bytes) -> None:
    with pytest.raises(Refused) as caught:
        parsed(body)
    assert caught.value.reason == Reason.DID_INVALID


# Documents as the field has them: a strict schema refuses each of these.
DRESSES: dict[str, dict[str, Any]] = {
    "no controller": {
        "verificationMethod": [{k: v for k, v in method().items() if k != "controller"}]
    },
    "controllers": {"controller": [DID], "verificationMethod": [method() | {"controller": [DID]}]},
    "a service without id": {"service": [{"type": "X", "serviceEndpoint": "y"}, service()]},
    "a service without endpoint": {"service": [{"id": "#x", "type": "X"}, service()]},
    "a service with types": {"service": [service(name="#x") | {"type": ["A", "B"]}, service()]},
    "our service with types": {
        "service": [service() | {"type": ["AtprotoPersonalDataServer", "X"]}]
    },
    "a full id": {"service": [service(name=f"{DID}#atproto_pds")]},
    "one service, no list": {"service": service()},
    "one method, no list": {"verificationMethod": method()},
    "a method with types": {"verificationMethod": [method() | {"type": ["X", "Multikey"]}]},
    "a method as a reference": {"verificationMethod": [f"{DID}#other", method()]},
    "a method without type": {"verificationMethod": [{"id": "#x"}, method()]},
    "numbers and lists": {"verificationMethod": [7, None, [], method()], "service": [7, service()]},
    "other names": {"alsoKnownAs": [7, None, {"a": 1}, "at://alice.example"]},
    "one name, no list": {"alsoKnownAs": "at://alice.example"},
    "odd contexts": {"@context": {"a": [1, 2]}, "authentication": 7, "proof": True},
    "many keys": {f"key{n}": n for n in range(30_000)},
}


@pytest.mark.parametrize("changes", DRESSES.values(), ids=DRESSES)
def test_what_atproto_does_not_read_may_be_anything(changes: dict[str, Any]) -> None:
    assert parsed(document(**changes)) == parsed(document())


def test_what_atproto_does_not_read_may_be_nested_deeply() -> None:
    deep = b"[" * 1_000 + b"]" * 1_000
    for place in ("extra", "alsoKnownAs"):
        body = document(**{place: ["DEEP", "at://alice.example"]}).replace(b'"DEEP"', deep)
        assert parsed(body) == parsed(document())
    with pytest.raises(Refused, match="has no id"):
        parsed(document(id="DEEP").replace(b'"DEEP"', deep))


@pytest.mark.parametrize(
    ("endpoint", "origin"),
    [
        ("https://pds.example", "https://pds.example"),
        ("https://pds.example/", "https://pds.example"),
        ("https://PDS.Example:8443", "https://pds.example:8443"),
        ("https://[2606:4700::1]:8443/", "https://[2606:4700::1]:8443"),
        ("https://under_score.example.", "https://under_score.example."),
        ("https://nul\0.example", None),
        ("https://blank .example", None),
        ("https://" + "a" * 254, None),
        ("https://[fe80::1%25eth0]", None),
        ("http://pds.example", None),
        ("https://user@pds.example", None),
        ("https://pds.example/path", None),
        ("https://pds.example?a=b", None),
        ("https://pds.example#a", None),
        ("https://pds.example:port", None),
        ("https://", None),
        ("ftp://pds.example", None),
        ("pds.example", None),
        ({"uri": "https://pds.example"}, None),
    ],
)
def test_the_pds_is_an_origin_or_nothing(endpoint: Any, origin: str | None) -> None:
    assert parsed(document(service=[service(endpoint)])).pds == origin


@pytest.mark.parametrize(
    ("services", "reason"),
    [
        ([], "it names no PDS"),
        (
            [service("https://pds.example/xrpc")],
            "its PDS endpoint has a path: https://pds.example/xrpc",
        ),
        ([service("https://pds.example/?a=b")], "has a query or a fragment: https://pds"),
        ([service("http://pds.example/xrpc")], "is not https: http://pds.example/xrpc"),
        ([service("https://user@pds.example")], "has a user name"),
        ([service("https://pds.example:port")], "is no URL: https://pds.example:port"),
        ([service("https://")], "has no usable host name"),
        ([service(["https://pds.example"])], "its PDS endpoint is no text"),
        ([service()], ""),
        ([service("https://pds.example/")], ""),
    ],
)
def test_the_document_says_why_it_has_no_pds(services: Any, reason: str) -> None:
    found = parsed(document(service=services))
    assert reason in found.no_pds
    assert (found.pds is None) == bool(found.no_pds)


def test_a_long_endpoint_is_not_shown_whole() -> None:
    found = parsed(document(service=[service("https://pds.example/" + "a" * 10_000)]))
    assert len(found.no_pds) < 300


def test_a_pds_that_is_no_text_is_none() -> None:
    """JSON may nest deeper than Python can show."""
    deep = b"[" * 1_000 + b"]" * 1_000
    assert parsed(document(service=[service("DEEP")]).replace(b'"DEEP"', deep)).pds is None


def test_plain_http_to_a_pds_is_for_development() -> None:
    body = document(service=[service("http://localhost:2583")])
    assert parsed(body).pds is None
    assert parsed(body, allow_loopback=True).pds == "http://localhost:2583"


@pytest.mark.parametrize(
    "services",
    [None, [], "x", 7, [service(name="#bsky_fg")], [service() | {"type": "Other"}]],
)
def test_a_document_without_a_pds_still_has_a_key(services: Any) -> None:
    assert parsed(document(service=services)).pds is None


@pytest.mark.parametrize(
    ("names", "handle"),
    [
        (["at://alice.example"], "alice.example"),
        (["https://alice.example", "at://bob.example", "at://alice.example"], "bob.example"),
        (["at://no handle"], None),
        ([], None),
        (None, None),
    ],
)
def test_handles(names: Any, handle: str | None) -> None:
    assert parsed(document(alsoKnownAs=names)).handle == handle


@pytest.mark.parametrize(
    ("did", "url"),
    [
        (DID, f"{PLC}/{DID}"),
        ("did:web:example.com", "https://example.com/.well-known/did.json"),
        ("did:web:pds.example.co.uk", "https://pds.example.co.uk/.well-known/did.json"),
    ],
)
def test_where_documents_are(did: str, url: str) -> None:
    assert url_of(did, PLC + "/", allow_loopback=False) == url


@pytest.mark.parametrize(
    "did",
    [
        "did:plc:short",
        "did:plc:ewvi7nxzyoun6zhxrhs64oi1",
        "did:plc:ewvi7nxzyoun6zhxrhs64oiz/../x",
        "did:key:zQ3sh",
        "did:web:",
        "did:web:localhost",
        "did:web:localhost%3A8080",
        "did:web:127.0.0.1",
        "did:web:127.0.0.1%3A8080",
        "did:web:127.1",
        "did:web:2130706433",
        "did:web:0x7f000001",
        "did:web:0x7f.0x1",
        "did:web:%5B%3A%3A1%5D",
        "did:web:[::1]",
        "did:web:::1",
        "did:web:169.254.169.254",
        "did:web:169.254.169.254.",
        "did:web:example.com.",
        "did:web:localhost.",
        "did:web:example.com:8080",
        "did:web:example.com%3A8080",
        "did:web:example.com%3a443",
        "did:web:example.com%2Fpath",
        "did:web:user%40example.com",
        "did:web:%65xample.com",
        "did:web:example.com#atproto",
        "did:web:example.com?a=b",
        "did:web:example.com\n",
        "did:web:ex\u00e4mple.com",
        "did:web:127\u3002example.com",
        "did:web:example.com:user:alice",
        "did:web:user@example.com",
        "did:web:example.com/path",
        "did:web:example.com\\@other.example",
        "did:web:exa_mple.com",
    ],
)
def test_dids_that_cannot_be_resolved(did: str) -> None:
    with pytest.raises(Refused) as caught:
        url_of(did, PLC, allow_loopback=False)
    assert caught.value.reason == Reason.DID_UNSUPPORTED


def test_localhost_is_for_development() -> None:
    url = "http://localhost:8080/.well-known/did.json"
    assert url_of("did:web:localhost%3A8080", PLC, allow_loopback=True) == url
    for did in (
        "did:web:127.0.0.1",
        "did:web:127.0.0.1%3A80",
        "did:web:%5B%3A%3A1%5D",
        "did:web:localhost%3A80%2Fpath",
        "did:web:localhost:path",
        "did:web:example.com%3A80",
    ):
        with pytest.raises(Refused):
            url_of(did, PLC, allow_loopback=True)
