"""Identifiers against the public vectors, and the edges that those do not name."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from procedures import syntax
from tests.vectors import lines, needs_vectors


def _is_at_uri(text: str) -> bool:
    try:
        return str(syntax.parse_at_uri(text)) == text
    except syntax.SyntaxInvalid:
        return False


KINDS: dict[str, Callable[[str], bool]] = {
    "did": syntax.is_did,
    "nsid": syntax.is_nsid,
    "recordkey": syntax.is_record_key,
    "tid": syntax.is_tid,
    "aturi": _is_at_uri,
    "handle": syntax.is_handle,
}


@needs_vectors
@pytest.mark.parametrize("kind", KINDS)
def test_vectors(kind: str) -> None:
    valid = lines(f"interop/syntax/{kind}_syntax_valid.txt")
    invalid = lines(f"interop/syntax/{kind}_syntax_invalid.txt")
    assert valid
    assert invalid
    assert [text for text in valid if not KINDS[kind](text)] == []
    assert [text for text in invalid if KINDS[kind](text)] == []


@needs_vectors
def test_invalid_cids_are_refused() -> None:
    for text in lines("interop/syntax/cid_syntax_invalid.txt"):
        with pytest.raises(syntax.SyntaxInvalid):
            syntax.parse_cid(text)


RAW = syntax.DAG_CBOR_PREFIX + bytes(range(32))


def test_cid_text_round_trip() -> None:
    text = syntax.cid_text(RAW)
    assert text.startswith("bafyrei")
    assert syntax.parse_cid(text) == RAW


@pytest.mark.parametrize(
    "text",
    [
        "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi",  # dag-pb
        "zdj7WWeQ43G6JJvLWQWZpyHuAMq6uYWRjkBXFad11vE2LHhQ7",  # base58
        syntax.cid_text(RAW).upper(),
        "",
    ],
)
def test_cids_without_a_use_are_refused(text: str) -> None:
    with pytest.raises(syntax.SyntaxInvalid):
        syntax.parse_cid(text)


@pytest.mark.parametrize(
    ("raw", "good"),
    [
        (RAW, True),
        (syntax.RAW_PREFIX + bytes(32), True),
        (RAW + b"\0", False),
        (RAW[:-1], False),
        (b"\x01\x70\x12\x20" + bytes(32), False),
        (bytearray(RAW), False),
        ("x" * 36, False),
        (None, False),
    ],
)
def test_binary_cids(raw: object, good: bool) -> None:
    assert syntax.is_cid(raw) is good


@pytest.mark.parametrize("did", ["did:web:localhost%3A8099", "did:x:a_b:c", "did:plc:a%zz"])
def test_dids_of_any_method(did: str) -> None:
    assert syntax.is_did(did)
    assert syntax.parse_at_uri(f"at://{did}/a.b.c/self").authority == did


@pytest.mark.parametrize("text", ["did:plc:abc\n", "did:plc:" + "a" * 2048, "did:plc:é"])
def test_wrong_dids(text: str) -> None:
    assert not syntax.is_did(text)


@pytest.mark.parametrize(
    ("path", "good"),
    [
        ("pub.chive.eprint.submission/3jzfcijpj2z2a", True),
        ("com.example.fooBar/self", True),
        ("com.example.foo/lang:en~1", True),
        ("com.example.foo", False),
        ("com.example.foo/", False),
        ("/self", False),
        ("com.example.foo/a/b", False),
        ("com.example.foo/..", False),
        ("com.example.foo/a\n", False),
        ("com.example.foo/é", False),
        ("a.b.c/" + "k" * 512, True),
        ("a.b.c/" + "k" * 513, False),
    ],
)
def test_paths(path: str, good: bool) -> None:
    assert syntax.is_path(path) is good


def test_time_of_a_tid() -> None:
    assert syntax.tid_time("2222222222222") == 0.0
    assert syntax.tid_time("3jzfcijpj2z2a") == 1688137381.887007
