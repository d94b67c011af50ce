"""A repository that makes signed commits with everything that Sync 1.1 asks for.

``Commit`` holds the fields of a ``#commit`` message before they are encoded, so that tests can
tamper with any of them (``tamper.py``) and a benchmark can encode them once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import libipld

from simulator import tree
from simulator.account import Account
from simulator.tree import Blocks, Node, cid_of

START = 1_735_689_600.0  # 2025-01-01, where the clocks of repositories begin

_TID_ALPHABET = "234567abcdefghijklmnopqrstuvwxyz"


def tid(seconds: float, clock: int = 0) -> str:
    """Return the TID of a Unix time."""
    number = (round(seconds * 1e6) << 10) | clock
    return "".join(_TID_ALPHABET[(number >> shift) & 31] for shift in range(60, -5, -5))


@dataclass(frozen=True, slots=True)
class Write:
    """A change to make; ``record`` is an object, its DAG-CBOR as bytes, or None to delete.

    CIDs inside a record are given in binary.
    """

    action: Literal["create", "update", "delete"]
    path: str
    record: Any = None


@dataclass(frozen=True, slots=True)
class Op:
    action: str
    path: str
    cid: bytes | None
    prev: bytes | None


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit as it is announced; ``cid`` names the signed block in ``blocks``."""

    did: str
    rev: str
    since: str | None
    cid: bytes
    data: bytes
    prev_data: bytes | None
    ops: tuple[Op, ...]
    blocks: Blocks

    @property
    def car(self) -> bytes:
        return car(self.cid, self.blocks)


class Repo:
    """A repository of ``account``: the tree, the records, and the head."""

    def __init__(self, account: Account, clock: float = START) -> None:
        self.account = account
        self.clock = clock
        self.root: Node = tree.EMPTY
        self.records: dict[str, tuple[bytes, bytes]] = {}
        self.rev: str | None = None
        self.head: bytes | None = None

    @property
    def data(self) -> bytes:
        return self.root.seal()

    def commit(self, writes: Iterable[Write], seconds: float = 1.0) -> Commit:
        """Apply ``writes``, each to a path of its own, ``seconds`` after the last commit."""
        since, prev_data = self.rev, self.data
        fresh: Blocks = {}
        ops = tuple([self._apply(write, fresh) for write in writes])
        self.clock += seconds
        self.rev = tid(self.clock)
        data = self.data
        signed = sign_commit(self.account, self.rev, data)
        self.head = cid_of(signed)
        blocks = {self.head: signed, **self._nodes(ops), **fresh}
        return Commit(self.account.did, self.rev, since, self.head, data, prev_data, ops, blocks)

    def sync(self, seconds: float = 1.0) -> Commit:
        """Sign the same tree again, at a newer revision, as ``#sync`` announces it."""
        return self.commit([], seconds)

    def everything(self) -> Blocks:
        """Return all blocks of the repository: commit, nodes, records; as ``getRepo`` sends."""
        if self.rev is None:
            raise ValueError("nothing was committed")
        signed = sign_commit(self.account, self.rev, self.data)
        self.head = cid_of(signed)
        found = {node.seal(): node.block for node in tree.nodes(self.root)}
        return {self.head: signed, **found, **{cid: block for block, cid in self.records.values()}}

    def whole(self) -> bytes:
        """Return the CAR of the whole repository."""
        blocks = self.everything()
        return car(next(iter(blocks)), blocks)

    def proof(self, path: str) -> bytes:
        """Return the CAR that proves what is at ``path``, as ``getRecord`` sends it."""
        everything = self.everything()
        head = next(iter(everything))
        blocks = {head: everything[head], self.root.seal(): self.root.block}
        blocks |= {node.seal(): node.block for node in tree.proof(self.root, path)}
        if path in self.records:
            block, cid = self.records[path]
            blocks[cid] = block
        return car(head, blocks)

    def _apply(self, write: Write, fresh: Blocks) -> Op:
        _, prev = self.records.get(write.path, (b"", None))
        if (prev is None) != (write.action == "create"):
            raise ValueError(f"{write.action} of {write.path}")
        if write.action == "delete":
            del self.records[write.path]
            self.root = tree.remove(self.root, write.path)
            return Op("delete", write.path, None, prev)
        record = write.record
        block = record if isinstance(record, bytes) else libipld.encode_dag_cbor(record)
        cid = cid_of(block)
        fresh[cid] = block
        self.records[write.path] = (block, cid)
        self.root = tree.put(self.root, write.path, cid)
        return Op(write.action, write.path, cid, prev)

    def _nodes(self, ops: Iterable[Op]) -> Blocks:
        """Return the nodes by which the ops can be undone; the root alone if there are none."""
        blocks = {self.root.seal(): self.root.block}
        for op in ops:
            for node in tree.proof(self.root, op.path):
                blocks[node.cid] = node.block
        return blocks


def sign_commit(account: Account, rev: str, data: bytes, **fields: Any) -> bytes:
    """Return a signed commit block; ``fields`` replace or add to those that are signed."""
    unsigned = {"did": account.did, "version": 3, "data": data, "rev": rev, "prev": None} | fields
    return encode_signed(unsigned, account.sign(libipld.encode_dag_cbor(unsigned)))


def encode_signed(unsigned: dict[str, Any], signature: bytes) -> bytes:
    """Return the commit block of ``unsigned`` with ``signature`` in it."""
    # The signature may look like a CID to the encoder: it is put in where nothing can.
    marked = libipld.encode_dag_cbor(unsigned | {"sig": b"\xff" * len(signature)})
    return bytes(marked.replace(b"\xff" * len(signature), signature))


def car(root: bytes, blocks: Blocks) -> bytes:
    """Return the CAR of ``blocks``, in their order, with one root."""
    header = libipld.encode_dag_cbor({"roots": [root], "version": 1})
    parts = [_varint(len(header)), header]
    for cid, block in blocks.items():
        parts += (_varint(len(cid) + len(block)), cid, block)
    return b"".join(parts)


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
