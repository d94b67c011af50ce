"""Blocks of nodes, against a decoder: read alike, refused alike, written alike."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from consumer.errors import Reason, Refused
from consumer.verify.cbor import Link, decode, encode
from consumer.verify.node import encode_node, head_of, parse_node
from procedures.syntax import DAG_CBOR_PREFIX, MAX_PATH
from simulator import tree

CID = tree.cid_of(b"node")
LINKS = st.sampled_from([None, *(tree.cid_of(b"%d" % number) for number in range(3))])
KEYS = st.lists(
    st.binary(min_size=1, max_size=4) | st.binary(min_size=1, max_size=1_100),
    unique=True,
    max_size=30,
).map(sorted)


def shared_prefix(left: bytes, right: bytes) -> int:
    pairs = enumerate(zip(left, right, strict=False))
    return next((at for at, (a, b) in pairs if a != b), len(left))


def heads_of(keys: Sequence[bytes]) -> list[bytes]:
    pairs = pairwise([b"", *keys])
    return [head_of(key, shared_prefix(before, key)) for before, key in pairs]


def decoded(block: bytes) -> tuple[list[bytes], list[bytes], list[bytes | None]] | None:
    """Return keys, values and links as a decoder finds them, None if it is no node."""
    try:
        node = decode(block)
        left, listed = _link(node.pop("l")), node.pop("e")
        keys, values, links = [b""], [], [left]
        for entry in listed:
            suffix, shared, value = entry.pop("k"), entry.pop("p"), entry.pop("v")
            links.append(_link(entry.pop("t")))
            assert not entry
            assert type(suffix) is bytes
            assert type(shared) is int
            assert isinstance(value, Link)
            key = keys[-1][:shared] + suffix
            assert keys[-1] < key
            assert shared == shared_prefix(keys[-1], key)
            assert len(key) <= MAX_PATH
            keys.append(key)
            values.append(value.raw)
        assert not node
    except (AssertionError, AttributeError, KeyError, Refused, TypeError):
        return None
    return keys[1:], values, links


def _link(value: Any) -> bytes | None:
    if value is None:
        return None
    assert isinstance(value, Link)
    assert value.raw[:4] == DAG_CBOR_PREFIX
    return value.raw


def parsed(block: bytes) -> tuple[list[bytes], list[bytes], list[bytes | None]] | None:
    try:
        keys, values, heads, links = parse_node(CID, block)
    except Refused as refused:
        if refused.reason is not Reason.TREE_INVALID:
            raise
        return None
    assert encode_node(heads, values, links) == block
    return keys, values, links


def of(keys: list[bytes], links: list[bytes | None]) -> bytes:
    values = [tree.cid_of(key) for key in keys]
    return encode_node(heads_of(keys), values, (links * (len(keys) + 1))[: len(keys) + 1])


@given(keys=KEYS, links=st.lists(LINKS, min_size=1, max_size=5))
def test_nodes_are_written_as_an_encoder_does(keys: list[bytes], links: list[bytes | None]) -> None:
    block = of(keys, links)
    if all(len(key) <= MAX_PATH for key in keys):
        assert parsed(block) == decoded(block) is not None
    else:
        assert parsed(block) is None
    assert encode(decode(block)) == block


@given(
    keys=KEYS,
    links=st.lists(LINKS, min_size=1, max_size=5),
    at=st.integers(0, 3_000),
    gone=st.integers(0, 3),
    put=st.binary(max_size=3) | st.sampled_from([b"\xf6", b"\x18\x17", b"\xa4ak", b"\x58\x00"]),
)
@example(keys=[b"a"], links=[None], at=6, gone=2, put=b"\x58\x01a")
@example(keys=[b"a"], links=[None], at=3, gone=1, put=b"\x98\x01")
@settings(max_examples=500)
def test_what_is_changed_is_refused_as_by_a_decoder(
    keys: list[bytes], links: list[bytes | None], at: int, gone: int, put: bytes
) -> None:
    block = of(keys, links)
    at %= len(block)
    changed = block[:at] + put + block[at + gone :]
    assert parsed(changed) == decoded(changed)


@given(block=st.binary(max_size=200))
def test_other_bytes_are_refused_as_by_a_decoder(block: bytes) -> None:
    assert parsed(block) == decoded(block)
    assert parsed(b"\xa2ae" + block) == decoded(b"\xa2ae" + block)
