"""What is fuzzed: a judge, good input to begin with, and how cases are made of it."""

from __future__ import annotations

import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import libipld
import orjson

from consumer.verify.car import read_car, read_header
from consumer.verify.frames import Kind, peek
from simulator.network import Network
from simulator.repo import Repo, Write
from simulator.tree import Blocks, cid_of
from tests.fuzz import judges
from tests.fuzz.judges import ACCOUNT, MAX_BYTES, METHOD, NOW, PATH, SERVICE, Judge
from tests.fuzz.mutate import mutated, resealed, signed_by

_DEFAULTS = Path(__file__).parents[2] / "config" / "default.toml"
_COLLECTIONS = ("app.bsky.feed.post", "pub.chive.graph.vote")
_SHARE = 0.5

Tampering = Callable[[list[bytes], Random], bytes]


def _changed(seeds: list[bytes], chance: Random) -> bytes:
    return mutated(chance.choice(seeds), seeds, chance)


def _changed_or(other: Callable[[Random], bytes]) -> Tampering:
    """Return what makes half of the cases in the ``other`` way."""

    def tampering(seeds: list[bytes], chance: Random) -> bytes:
        return other(chance) if chance.random() < _SHARE else _changed(seeds, chance)

    return tampering


@dataclass(frozen=True)
class Target:
    """``seeds`` is good input; ``tampering`` makes a case of it."""

    name: str
    judge: Judge
    seeds: list[bytes]
    tampering: Tampering = _changed

    def cases(self, chance: Random) -> Iterator[bytes]:
        """Yield hostile input, without an end."""
        while True:
            yield self.tampering(self.seeds, chance)

    def fuzzed(self) -> Callable[[bytes], object]:
        """Return what judges the bytes that it is given."""
        return self.judge

    def knowing(self, more: Sequence[bytes]) -> Target:
        """Return the target with more to begin with."""
        return replace(self, seeds=[*self.seeds, *more])


def judged(judge: Judge, data: bytes) -> tuple[str | None, float]:
    """Return why ``data`` is refused, or None, and the CPU seconds that the verdict took."""
    began = time.process_time()
    reason = judge(data)
    return reason, time.process_time() - began


def _repo(*without: str) -> Repo:
    repo = Repo(ACCOUNT)
    paths = {f"{of}/k{n:04}": n for n in range(60) for of in _COLLECTIONS}
    repo.commit(Write("create", path, {"n": n}) for path, n in paths.items() if path not in without)
    return repo


def _records() -> list[bytes]:
    """Return records with every kind of value, among them bytes that look like a CID."""
    link = cid_of(b"somewhere")
    values: list[Any] = [None, True, -(2**40), "é", b"\xff", link, link[:-1], [], {}]
    plain = {"$type": "pub.chive.graph.vote", "text": "x" * 40, "list": [1, [2, {"a": 3}]]}
    return [libipld.encode_dag_cbor(plain | {"value": value}) for value in values]


def _frames() -> list[bytes]:
    network = Network(5, accounts=6, collections=_COLLECTIONS)
    return [*network.introduce(5), *network.frames(80)]


def _own(frame: bytes) -> bytes:
    """Return a ``#commit`` as if it were of ``ACCOUNT``."""
    return _sealed(frame, partial(signed_by, ACCOUNT))


def _sealed(frame: bytes, seal: Callable[[Blocks, bytes], bytes]) -> bytes:
    header, body = libipld.decode_dag_cbor_multi(frame)
    car = seal(read_car(body["blocks"], MAX_BYTES).blocks, body["commit"])
    (head,), _ = read_header(car)
    body |= {"repo": ACCOUNT.did, "blocks": car, "commit": head}
    return bytes(libipld.encode_dag_cbor(header) + libipld.encode_dag_cbor(body))


def of_frames(name: str, frames: list[bytes]) -> list[Target]:
    """Return what tries ``frames``, and the commits among them."""
    commits = [_own(frame) for frame in frames if peek(frame).kind is Kind.COMMIT]

    def one_block_changed(chance: Random) -> bytes:
        return _sealed(chance.choice(commits), partial(resealed, ACCOUNT, chance))

    return [
        Target(f"{name}frame", judges.frame, frames),
        Target(f"{name}commit", judges.commit, commits, _changed_or(one_block_changed)),
    ]


def _of_repository(name: str, judge: Judge, seeds: list[bytes]) -> Target:
    """Return a target of tampered ``seeds``, and of a whole repository that is sealed anew."""
    whole = _repo().everything()
    head = next(iter(whole))

    def one_block_changed(chance: Random) -> bytes:
        return resealed(ACCOUNT, chance, whole, head)

    return Target(name, judge, seeds, _changed_or(one_block_changed))


def _command() -> Target:
    did = ACCOUNT.did
    at = "2026-07-04T14:39:14Z"
    commands = [
        {"v": 1, "id": "one", "type": "didSync", "did": did, "emit": "all"},
        {"type": "recordRefresh", "uri": f"at://{did}/{PATH}", "requestedBy": "x"},
        {"type": "cancel", "operationId": "one", "requestedAt": at},
    ]
    return Target("command", judges.command, [orjson.dumps(command) for command in commands])


CLAIMS = {
    "iss": ACCOUNT.did,
    "aud": SERVICE,
    "lxm": METHOD,
    "iat": int(NOW),
    "exp": int(NOW) + 60,
    "jti": "once",
}


def token_of(*parts: bytes) -> bytes:
    """Return the JWT of header, claims and signature."""
    return b".".join(urlsafe_b64encode(part).rstrip(b"=") for part in parts)


def _token() -> Target:
    parts = [orjson.dumps({"typ": "JWT", "alg": "ES256K"}), orjson.dumps(CLAIMS), b"\x01" * 64]

    def tampering(seeds: list[bytes], chance: Random) -> bytes:
        number = chance.randrange(2 * len(parts))
        if number >= len(parts):
            return _changed(seeds, chance)
        changed = [mutated(p, parts, chance) if n == number else p for n, p in enumerate(parts)]
        return token_of(*changed)

    return Target("token", judges.token, [token_of(*parts)], tampering)


def targets() -> list[Target]:
    """Return all targets."""
    frames, repo = _frames(), _repo()
    head, *blocks = repo.everything().values()
    nodes = [block for block in blocks if judges.node(block) is None]
    proofs = [repo.proof(PATH), _repo(PATH).proof(PATH)]
    settings = [_DEFAULTS.read_bytes(), b'[kafka]\npartitions = 8\n[scope]\nrepos = "all"\n']
    return [
        *of_frames("", frames),
        Target("cbor", judges.dag_cbor, [head, *nodes, *_records()]),
        Target("record", judges.record, _records()),
        Target("car", judges.car_file, [repo.whole()]),
        Target("node", judges.node, nodes),
        Target("signed", judges.signed, [head]),
        _of_repository("proof", judges.proof, proofs),
        _of_repository("tree", judges.tree, [repo.whole()]),
        _command(),
        _token(),
        Target("settings", judges.settings, settings),
        Target("document", judges.document, [orjson.dumps(ACCOUNT.document("https://a.example"))]),
    ]
