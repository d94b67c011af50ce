"""Commits that break one rule each, to be refused for exactly that.

Every function of ``TAMPERINGS`` takes a good commit and its account and returns a bad commit; the
commit should have at least two ops, the first of which creates a record.  What is broken
inside a signed part is signed again by the account, so that nothing else is wrong.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import libipld

from simulator.account import ORDERS, Account
from simulator.repo import Commit, Op, encode_signed, sign_commit, tid
from simulator.tree import cid_of

OTHER = Account.from_seed("another account")
FORGER_SEED = "forger"
FLOAT_RECORD = b"\xa2\x61x\xfb\x3f\xf8\x00\x00\x00\x00\x00\x00\x65$type\x65a.b.c"

Tampering = Callable[[Commit, Account], Commit]


def signed_block(commit: Commit, block: bytes) -> Commit:
    """Return ``commit`` with another signed block."""
    blocks = {cid: other for cid, other in commit.blocks.items() if cid != commit.cid}
    return replace(commit, cid=cid_of(block), blocks={cid_of(block): block, **blocks})


def resigned(commit: Commit, account: Account, **fields: Any) -> Commit:
    """Return ``commit`` signed again with other ``fields`` in the signed block."""
    signed = {"data": commit.data, "rev": commit.rev} | fields
    return signed_block(commit, sign_commit(account, **signed))


def with_signature(commit: Commit, change: Callable[[bytes], bytes]) -> Commit:
    """Return ``commit`` with its signature put through ``change``."""
    fields = libipld.decode_dag_cbor(commit.blocks[commit.cid])
    return signed_block(commit, encode_signed(fields, change(fields.pop("sig"))))


def with_root(commit: Commit, account: Account, change: Callable[[dict[str, Any]], None]) -> Commit:
    """Return ``commit`` with its tree's root node changed in place, and signed again."""
    node = libipld.decode_dag_cbor(commit.blocks[commit.data])
    change(node)
    return with_root_block(commit, account, libipld.encode_dag_cbor(node))


def with_root_block(commit: Commit, account: Account, block: bytes) -> Commit:
    """Return ``commit`` with other bytes for its tree's root node, and signed again."""
    blocks = commit.blocks | {cid_of(block): block}
    return resigned(replace(commit, data=cid_of(block), blocks=blocks), account)


def with_op(commit: Commit, **fields: Any) -> Commit:
    """Return ``commit`` with ``fields`` of its first op replaced."""
    first, *rest = commit.ops
    return replace(commit, ops=(replace(first, **fields), *rest))


def without_block(commit: Commit, cid: bytes | None) -> Commit:
    """Return ``commit`` without one of its blocks."""
    return replace(
        commit, blocks={key: block for key, block in commit.blocks.items() if key != cid}
    )


def forged(commit: Commit, account: Account) -> Commit:
    forger = Account.from_seed(FORGER_SEED, account.curve, account.did)
    return resigned(commit, forger)


def high_s(commit: Commit, account: Account) -> Commit:
    order = ORDERS[account.curve]
    return with_signature(
        commit,
        lambda sig: sig[:32] + (order - int.from_bytes(sig[32:], "big")).to_bytes(32, "big"),
    )


def long_signature(commit: Commit, _: Account) -> Commit:
    return with_signature(commit, lambda sig: sig + b"\0")


def future_rev(commit: Commit, account: Account) -> Commit:
    rev = tid(time.time() + 3600)
    return resigned(replace(commit, rev=rev), account)


def announced_for_another(commit: Commit, _: Account) -> Commit:
    return replace(commit, did=OTHER.did)


def signed_for_another(commit: Commit, account: Account) -> Commit:
    return resigned(commit, account, did=OTHER.did)


def other_rev(commit: Commit, _: Account) -> Commit:
    return replace(commit, rev=tid(0))


def old_version(commit: Commit, account: Account) -> Commit:
    return resigned(commit, account, version=2)


def extra_signed_field(commit: Commit, account: Account) -> Commit:
    return resigned(commit, account, note="x")


def no_commit_block(commit: Commit, _: Account) -> Commit:
    return without_block(commit, commit.cid)


def no_root_node(commit: Commit, _: Account) -> Commit:
    return without_block(commit, commit.data)


def flipped_byte(commit: Commit, _: Account) -> Commit:
    block = commit.blocks[commit.data]
    return replace(commit, blocks=commit.blocks | {commit.data: block[:-1] + b"\xff"})


def huge(commit: Commit, _: Account) -> Commit:
    block = bytes(2_000_000)
    return replace(commit, blocks=commit.blocks | {cid_of(block): block})


def wrong_prev_data(commit: Commit, _: Account) -> Commit:
    return replace(commit, prev_data=commit.data)


def no_prev_data(commit: Commit, _: Account) -> Commit:
    return replace(commit, prev_data=None)


def wrong_op_cid(commit: Commit, _: Account) -> Commit:
    other = libipld.encode_dag_cbor({"$type": "a.b.c", "other": True})
    blocks = commit.blocks | {cid_of(other): other}
    return with_op(replace(commit, blocks=blocks), cid=cid_of(other))


def wrong_op_prev(commit: Commit, _: Account) -> Commit:
    return with_op(commit, action="update", prev=commit.ops[0].cid)


def op_left_out(commit: Commit, _: Account) -> Commit:
    return replace(commit, ops=commit.ops[1:])


def op_twice(commit: Commit, _: Account) -> Commit:
    return replace(commit, ops=(*commit.ops, commit.ops[0]))


def op_made_up(commit: Commit, _: Account) -> Commit:
    made_up = Op("delete", "a.b.c/never-was", None, commit.ops[0].cid)
    return replace(commit, ops=(*commit.ops, made_up))


def too_many_ops(commit: Commit, _: Account) -> Commit:
    more = [Op("delete", f"a.b.c/more-{number}", None, commit.data) for number in range(200)]
    return replace(commit, ops=(*commit.ops, *more))


def bad_path(commit: Commit, _: Account) -> Commit:
    return with_op(commit, path="not a path")


def unknown_action(commit: Commit, _: Account) -> Commit:
    return with_op(commit, action="replace")


def create_with_prev(commit: Commit, _: Account) -> Commit:
    return with_op(commit, prev=commit.data)


def delete_without_prev(commit: Commit, _: Account) -> Commit:
    return with_op(commit, action="delete", cid=None)


def create_said_to_be_delete(commit: Commit, _: Account) -> Commit:
    return with_op(commit, action="delete", cid=None, prev=commit.ops[0].cid)


def keys_out_of_order(commit: Commit, account: Account) -> Commit:
    def repeat(node: dict[str, Any]) -> None:
        first = node["e"][0]
        node["e"].insert(1, first | {"p": len(first["k"]), "k": b"", "t": None})

    return with_root(commit, account, repeat)


def loose_prefix(commit: Commit, account: Account) -> Commit:
    def loosen(node: dict[str, Any]) -> None:
        first = node["e"][0]
        node["e"].insert(1, first | {"p": 0, "k": first["k"] + b"x", "t": None})

    return with_root(commit, account, loosen)


def wrong_layer(commit: Commit, account: Account) -> Commit:
    def add(node: dict[str, Any]) -> None:
        last = node["e"][-1]
        node["e"].append(last | {"p": 0, "k": b"zz/x", "t": None})

    return with_root(commit, account, add)


def empty_kid(commit: Commit, account: Account) -> Commit:
    empty = libipld.encode_dag_cbor({"e": [], "l": None})

    def link(node: dict[str, Any]) -> None:
        node["l"] = cid_of(empty)

    commit = replace(commit, blocks=commit.blocks | {cid_of(empty): empty})
    return with_root(commit, account, link)


def kid_twice(commit: Commit, account: Account) -> Commit:
    def repeat(node: dict[str, Any]) -> None:
        node["l"] = next(entry["t"] for entry in node["e"] if entry["t"] in commit.blocks)

    return with_root(commit, account, repeat)


def root_without_keys(commit: Commit, account: Account) -> Commit:
    def wrap(node: dict[str, Any]) -> None:
        node["e"], node["l"] = [], commit.data

    return with_root(commit, account, wrap)


def unknown_node_field(commit: Commit, account: Account) -> Commit:
    return with_root(commit, account, lambda node: node.update(x=1))


def node_not_canonical(commit: Commit, account: Account) -> Commit:
    block = commit.blocks[commit.data]
    count = block[3]  # a2 61 "e", then the head of an array of fewer than 24
    return with_root_block(commit, account, block[:3] + bytes((0x98, count & 31)) + block[4:])


BEFORE_SIGNATURE: dict[Tampering, str] = {
    forged: "signature_invalid",
    high_s: "signature_invalid",
    long_signature: "signature_invalid",
    future_rev: "rev_future",
    announced_for_another: "commit_mismatch",
    signed_for_another: "commit_mismatch",
    other_rev: "commit_mismatch",
    old_version: "commit_malformed",
    extra_signed_field: "commit_malformed",
    no_commit_block: "block_missing",
    huge: "car_too_big",
}

AFTER_SIGNATURE: dict[Tampering, str] = {
    no_root_node: "tree_partial",
    flipped_byte: "block_hash",
    wrong_prev_data: "inversion_failed",
    no_prev_data: "prev_data_missing",
    wrong_op_cid: "ops_mismatch",
    wrong_op_prev: "inversion_failed",
    op_left_out: "inversion_failed",
    op_twice: "ops_invalid",
    op_made_up: "inversion_failed",
    too_many_ops: "ops_invalid",
    bad_path: "ops_mismatch",
    unknown_action: "ops_invalid",
    create_with_prev: "ops_invalid",
    delete_without_prev: "ops_invalid",
    create_said_to_be_delete: "ops_mismatch",
    keys_out_of_order: "tree_invalid",
    loose_prefix: "tree_invalid",
    wrong_layer: "tree_invalid",
    empty_kid: "tree_invalid",
    kid_twice: "tree_invalid",
    root_without_keys: "tree_invalid",
    unknown_node_field: "tree_invalid",
    node_not_canonical: "tree_invalid",
}

TAMPERINGS: dict[Tampering, str] = BEFORE_SIGNATURE | AFTER_SIGNATURE
