"""Trees: what is loaded, and every shape that no canonical tree has."""

from __future__ import annotations

from typing import Any

import libipld
import pytest

from consumer.errors import Reason, Refused
from consumer.verify import mst
from consumer.verify.mst import EMPTY_TREE, Node, load
from consumer.verify.node import encode_node
from procedures.syntax import RAW_PREFIX
from simulator import tree
from tests.vectors import entries, needs_vectors

Blocks = dict[bytes, bytes]
VALUE = tree.cid_of(b"value")


def keys_of_layer(wanted: int, count: int, start: str = "a.b.c/") -> list[bytes]:
    """Return ``count`` keys of one layer, in order."""
    found: list[bytes] = []
    number = 0
    while len(found) < count:
        key = f"{start}{number:06d}"
        if tree.layer(key) == wanted:
            found.append(key.encode())
        number += 1
    return found


def entry(key: bytes, previous: bytes = b"", link: bytes | None = None, **fields: Any) -> Any:
    shared = tree.shared_prefix(previous.decode(), key.decode())
    return {"k": key[shared:], "p": shared, "t": link, "v": VALUE} | fields


def node(*listed: Any, left: bytes | None = None, **fields: Any) -> bytes:
    return libipld.encode_dag_cbor({"e": list(listed), "l": left} | fields)


def blocks_of(*nodes: bytes) -> Blocks:
    return {tree.cid_of(block): block for block in nodes}


def problem(root: bytes, *others: bytes) -> str:
    with pytest.raises(Refused) as caught:
        load(tree.cid_of(root), blocks_of(root, *others))
    assert caught.value.reason is Reason.TREE_INVALID
    return caught.value.detail


LOW, LOW_2, LOW_3 = keys_of_layer(0, 3)
(HIGH,) = keys_of_layer(1, 1, "b.b.c/")
(TOP,) = keys_of_layer(2, 1, "c.b.c/")


@needs_vectors
def test_layers() -> None:
    for vector in entries("interop/mst/key_heights.json"):
        assert mst.layer(vector["key"].encode()) == vector["height"]


def test_layers_are_those_of_the_definition() -> None:
    for number in range(20_000):
        assert mst.layer(str(number).encode()) == tree.layer(str(number))


def test_the_empty_tree() -> None:
    assert tree.cid_of(node()) == EMPTY_TREE
    root = load(EMPTY_TREE, blocks_of(node()))
    assert (root.keys, root.children) == ([], [None])


def test_a_tree_of_three_levels_with_an_intermediate() -> None:
    leaf = node(entry(LOW), entry(LOW_2, LOW))
    middle = node(left=tree.cid_of(leaf))
    root = node(entry(TOP), left=tree.cid_of(middle))
    loaded = load(tree.cid_of(root), blocks_of(root, middle, leaf))
    assert (loaded.level, loaded.keys) == (2, [TOP])
    (between, nothing) = loaded.children
    assert isinstance(between, Node)
    assert (between.level, between.keys, nothing) == (1, [], None)
    (below,) = between.children
    assert isinstance(below, Node)
    assert (below.level, below.keys) == (0, [LOW, LOW_2])


def test_what_is_missing_stays_a_cid() -> None:
    missing = tree.cid_of(b"missing")
    root = node(entry(HIGH), left=missing)
    assert load(tree.cid_of(root), blocks_of(root)).children == [missing, None]
    with pytest.raises(Refused) as caught:
        load(missing, blocks_of(root))
    assert caught.value.reason is Reason.TREE_PARTIAL


@pytest.mark.parametrize(
    ("root", "text"),
    [
        (b"", "form"),
        (b"\xff", "form"),
        (b"\x81" * 5000 + b"\0", "form"),
        (libipld.encode_dag_cbor([]), "form"),
        (libipld.encode_dag_cbor({"e": []}), "form"),
        (libipld.encode_dag_cbor({"l": None}), "form"),
        (node(x=1), "form"),
        (libipld.encode_dag_cbor({"e": {}, "l": None}), "form"),
        (libipld.encode_dag_cbor({"e": None, "l": None}), "form"),
        (node(1), "form"),
        (node([]), "form"),
        (node(entry(LOW, x=1)), "form"),
        (node({"k": LOW, "p": 0, "v": VALUE, "x": None}), "link"),
        (node({"k": LOW, "p": 0, "t": None}), "form"),
        (node(entry(LOW, p=False)), "form"),
        (node(entry(LOW, p=None)), "form"),
        (node(entry(LOW, p="0")), "form"),
        (node(entry(LOW, k="text")), "form"),
        (node(entry(LOW, k=None)), "form"),
        (node(entry(LOW, k=b"a.b.c/" + b"k" * 1019)), "1025 bytes"),
        (node(entry(LOW, v=None)), "value"),
        (node(entry(LOW, v="x" * 36)), "value"),
        (node(entry(LOW, v=VALUE[:-1])), "value"),
        (node(entry(LOW, v=VALUE + b"x")), "value"),
        (node(entry(LOW, v=[])), "value"),
        (node(entry(LOW, t=1)), "link"),
        (node(entry(LOW, t="x" * 36)), "link"),
        (node(entry(LOW, t=[])), "link"),
        (node(entry(LOW, t=RAW_PREFIX + bytes(32))), "link"),
        (node(left=VALUE[:-1]), "link"),
        (node(entry(LOW, k=b"")), "order"),
        (node(entry(LOW), entry(LOW, LOW)), "order"),
        (node(entry(LOW_2), entry(LOW, LOW_2)), "order"),
        (node(entry(LOW, p=1)), "prefix"),
        (node(entry(LOW, p=-1)), "form"),
        (node(entry(LOW), entry(LOW_2, b"")), "prefix"),
        (node(entry(LOW), entry(LOW_2, LOW, p=len(LOW) + 1)), "prefix"),
        (node(entry(LOW), entry(LOW_2, LOW, p=2**64 - 1)), "form"),
        (node(entry(LOW), entry(LOW_2, k=LOW_2[len(LOW) - 1 :], p=-1)), "form"),
        (node(entry(b"\x01\x55\x00\x00")), "form"),  # a CID in the place of a key
        (node(entry(RAW_PREFIX + b"/" * 32)), "form"),
        (node(entry(LOW, v=VALUE[:1] + b"\x70" + VALUE[2:])), "value"),
        (node(entry(LOW), entry(HIGH, LOW)), "layer"),
        (node(entry(LOW), left=VALUE), "below layer 0"),
        (node(entry(LOW, link=VALUE)), "below layer 0"),
        (node(left=VALUE), "root without keys"),
        (node(entry(LOW)).replace(b"ap\x00", b"ap\x18\x00"), "shortest"),
        (node(entry(LOW)).replace(b"\x81\xa4", b"\x98\x01\xa4"), "shortest"),
        (node(entry(LOW)).replace(b"\x81\xa4", b"\x9f\xa4") + b"\xff", "form"),
        (node(entry(LOW)).replace(b"\x81\xa4", b"\x82\xa4"), "cut off"),
        (node(entry(LOW))[:-1], "link"),
        (node(entry(LOW)) + b"\xf6", "link"),
        (node(entry(HIGH), left=VALUE) + b"\xf6", "form"),
    ],
)
def test_roots_of_the_wrong_form(root: bytes, text: str) -> None:
    assert text in problem(root)


def test_a_node_is_not_read_beyond_what_is_wrong_with_it() -> None:
    keys = [b"a.b.c/%05d" % number for number in range(2_000)]
    dense = [{"k": b"%d" % (n % 10), "p": 0, "t": None, "v": VALUE} for n in range(2_000)]
    assert "order" in problem(node(*dense))
    listed = [entry(key, previous) for previous, key in zip([b"", *keys], keys, strict=False)]
    assert "layer" in problem(node(*listed))
    assert "form" in problem(node(*[[]] * 10_000))
    assert "form" in problem(b"\xa2ae" + b"\x99\x20\x00" * 900 + bytes(9_000))


@pytest.mark.parametrize("digits", [b"\x1a" + b"\xff" * 4, b"\x1b" + b"\xff" * 8])
@pytest.mark.parametrize(
    "before", [b"\xa2ae\x80", b"\xa2ae\x81\xa4ak\x40", b"\xa2ae\x81\xa4akAaap\x00"]
)
def test_numbers_that_no_block_has_room_for(before: bytes, digits: bytes) -> None:
    head = bytes((before[-1] | digits[0],)) + digits[1:]
    assert problem(before[:-1] + head)
    assert problem(before[:-1] + head + b"at\xf6av" + node(entry(LOW)))


def test_a_value_that_is_bytes_not_a_cid() -> None:
    tagged = node(entry(LOW))
    untagged = tagged.replace(b"\xd8\x2a\x58\x25\x00" + VALUE, b"\x58\x24" + VALUE)
    assert untagged != tagged
    assert "value" in problem(untagged)


@pytest.mark.parametrize(
    "key",
    [
        "a.b.c/good@x",
        "com.example.thread_record/1",
        "COM.example.record/1",
        "a b/c",
        "é",
        "a.b.c/\x00",
        "\x01\x71\x12 " + "k" * 32,
        "\x01\x71\x12 " + "k" * 40,
        "\x12 " + "k" * 32,
        "\x01",
    ],
)
def test_what_a_key_or_value_is_good_for_is_not_the_trees_matter(key: str) -> None:
    root, blocks = tree.plain({key: VALUE, "a.b.c/1": RAW_PREFIX + bytes(32)})
    node, keys = load(root, blocks), set()
    pending = [node]
    for one in pending:
        keys |= set(one.keys)
        pending += [child for child in one.children if isinstance(child, Node)]
        assert (
            encode_node(one.heads, one.values, [_link(child) for child in one.children])
            == blocks[one.cid or b""]
        )
    assert keys == {key.encode(), b"a.b.c/1"}


def _link(child: Node | bytes | None) -> bytes | None:
    return child.cid if isinstance(child, Node) else child


@pytest.mark.parametrize(
    ("child", "text"),
    [
        (node(), "empty"),
        (node(entry(HIGH)), "bounds"),
        (node(entry(keys_of_layer(0, 1, "d.b.c/")[0])), "bounds"),
        (node(entry(keys_of_layer(2, 1, "a.b.c/")[0])), "layer"),
        (node(left=tree.cid_of(node(entry(LOW)))), "below layer 0"),
        (b"a record", "node"),
        (libipld.encode_dag_cbor({"$type": "a.b.c"}), "form"),
    ],
)
def test_kids_of_the_wrong_form(child: bytes, text: str) -> None:
    root = node(entry(HIGH), left=tree.cid_of(child))
    assert text in problem(root, child)


def test_keys_left_of_where_they_should_be() -> None:
    child = node(entry(LOW))
    root = node(entry(HIGH, link=tree.cid_of(child)))
    assert "bounds" in problem(root, child)


def test_a_node_stands_in_one_place() -> None:
    """A chain without keys, hung up many times, would cost more than there are keys."""
    top, top_2 = keys_of_layer(3, 2)
    chain = node(left=tree.cid_of(b"missing"))
    first = node(left=tree.cid_of(chain))
    root = node(entry(top, link=tree.cid_of(first)), entry(top_2, top), left=tree.cid_of(first))
    assert "two places" in problem(root, first, chain)


def test_a_node_below_itself_cannot_be() -> None:
    """Hashes forbid it; given unchecked blocks, loading still ends."""
    cid = tree.cid_of(b"itself")
    looped = node(entry(TOP), left=cid)
    inner = node(left=cid)
    with pytest.raises(Refused) as caught:
        load(VALUE, {VALUE: looped, cid: inner})
    assert "two places" in caught.value.detail


def test_height_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mst, "MAX_HEIGHT", 1)
    assert "height 2" in problem(node(entry(TOP)))
