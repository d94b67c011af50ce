"""The readers of hostile input, one function each: bytes in, the reason of a refusal out.

None means that the input was accepted.  Anything that is raised is a finding.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from consumer.config import sources
from consumer.errors import Fatal, Refused
from consumer.events.atproto_json import to_json
from consumer.fetch import documents
from consumer.fetch.spool import SpooledBlocks
from consumer.scope import Scope
from consumer.verify import cbor, scan
from consumer.verify.car import Car, read_car
from consumer.verify.commit import CommitLimits, verify_commit
from consumer.verify.frames import CommitFrame, decode_frame, peek
from consumer.verify.glance import glance
from consumer.verify.keys import SigningKey
from consumer.verify.mst import Node, load
from consumer.verify.proof import verify_proof
from consumer.verify.signed import read_signed
from consumer.verify.snapshot import Snapshot, SnapshotLimits
from procedures import messages, tokens
from procedures.messages import Refusal
from procedures.syntax import DAG_CBOR_PREFIX, is_path
from simulator.account import Account
from simulator.repo import START
from simulator.tree import cid_of

Judge = Callable[[bytes], str | None]

MAX_BYTES = 2_000_000
NOW = START + 10**6
_LATER = START + 10**9  # than anything that the reference PDS has signed
PATH = "pub.chive.graph.vote/k0007"
ACCOUNT = Account.from_seed("fuzz")
METHOD, SERVICE = "a.b.c", "did:web:x"

_KEY = SigningKey.from_did_key(ACCOUNT.did_key)
_EVERYTHING = Scope(("*",)).intervals
_MAX_JSON = 4 * 1024 * 1024


def refusing(
    judge: Callable[[bytes], object], *errors: type[Exception], reason: str | None = None
) -> Judge:
    """Return a judge that takes ``Refused`` and ``errors`` for refusals, for ``reason``."""

    def judged(data: bytes) -> str | None:
        try:
            judge(data)
        except Refused as error:
            return str(error.reason)
        except errors:
            return reason
        return None

    return judged


def _frame(data: bytes) -> None:
    look = glance(data)
    seen = peek(data)
    decode_frame(data)
    if look is not None and look != seen:
        raise AssertionError("a glance at a good frame shows another one")


def _cbor(data: bytes) -> object:
    """Decode, the fast way and the plain one, which have to agree."""
    try:
        value = cbor.decode(data)
    except Refused:
        if len(data) <= scan.SMALL and _plainly(data) is not None:
            raise AssertionError("only the fast way refuses it") from None
        raise
    if len(data) <= scan.SMALL and _plainly(data) != (value,):
        raise AssertionError("only the fast way accepts it, or as something else")
    return value


def _plainly(data: bytes) -> tuple[object] | None:
    reader = scan.Reader(data, cbor.RECORD_DEPTH)
    try:
        value = reader.item()
    except Refused:
        return None
    return (value,) if reader.finished else None


def _node(data: bytes) -> None:
    load(cid_of(data), {cid_of(data): data})


def _signed(data: bytes) -> None:
    read_signed((cid_of(data),), {cid_of(data): data}.get, ACCOUNT.did)


def _record(data: bytes) -> str | None:
    return None if to_json(data, _MAX_JSON) is not None else "no_json"


def _commit(data: bytes) -> None:
    """Verify a frame as a commit of ``ACCOUNT``, and make events of its records."""
    frame = decode_frame(data)
    assert isinstance(frame, CommitFrame)
    for op in verify_commit(frame, _KEY, CommitLimits(), _LATER).ops:
        if op.record is not None:
            to_json(op.record, _MAX_JSON)


def _proof(data: bytes) -> None:
    verify_proof(data, ACCOUNT.did, PATH, _KEY, limit=MAX_BYTES, rev_ahead=300.0, now=NOW)


def _snapshot(data: bytes) -> list[str]:
    """Return the paths of the records of a whole repository, whether their bytes are there."""
    with tempfile.TemporaryDirectory() as folder:
        spool = Path(folder) / "repo.car"
        spool.write_bytes(data)
        snapshot = Snapshot.open(
            SpooledBlocks(spool.open("rb")),
            ACCOUNT.did,
            _KEY,
            SnapshotLimits(),
            _EVERYTHING,
            now=NOW,
            alive=lambda: None,
        )
        try:
            return sorted(
                path
                for chunk in snapshot.chunks(lambda: None)
                for path in (*(entry.path for entry in chunk.entries), *chunk.unknown)
            )
        finally:
            snapshot.close()


def _tree(data: bytes) -> None:
    """Check a repository in memory and in a file, which have to agree on its records."""
    paths = _snapshot(data)
    car = read_car(data, MAX_BYTES)
    assert _record_paths(load(_root(car), car.blocks)) == paths


def _root(car: Car) -> bytes:
    return read_signed(car.roots, car.blocks.get, ACCOUNT.did).data


def _record_paths(node: Node | bytes | None) -> list[str]:
    assert not isinstance(node, bytes)
    if node is None:
        return []
    found = _record_paths(node.children[0])
    for key, value, child in zip(node.keys, node.values, node.children[1:], strict=True):
        path = key.decode("ascii", "replace")
        if is_path(path) and value[:4] == DAG_CBOR_PREFIX:
            found.append(path)
        found += _record_paths(child)
    return found


def _command(data: bytes) -> str | None:
    command = messages.decode(data, 7, 1_783_175_954_000)
    return str(command.reason) if isinstance(command, Refusal) else None


def _token(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    tokens.parse(text, method=METHOD, audiences={SERVICE}, now=NOW)


def _settings(data: bytes) -> None:
    with tempfile.NamedTemporaryFile(suffix=".toml") as file:
        file.write(data)
        file.flush()
        sources.load(Path(file.name))


def _document(data: bytes) -> None:
    documents.parse(ACCOUNT.did, data, allow_loopback=False)


frame = refusing(_frame)
dag_cbor = refusing(_cbor)
car_file = refusing(lambda data: read_car(data, MAX_BYTES))
node = refusing(_node)
signed = refusing(_signed)
record: Judge = _record
commit = refusing(_commit)
proof = refusing(_proof)
snapshot = refusing(_snapshot)
tree = refusing(_tree)
command: Judge = _command
token = refusing(_token, tokens.TokenInvalid, reason="token_invalid")
settings = refusing(_settings, Fatal, reason="settings_invalid")
document = refusing(_document)
