"""What is fuzzed: a maker of cases, and the judge that must take any of them."""

from __future__ import annotations

import tempfile
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import orjson

from consumer import configuration
from consumer.errors import Fatal, Refused
from consumer.fetch import documents
from consumer.scope import Scope
from consumer.verify.car import read_car
from consumer.verify.cbor import decode
from consumer.verify.commit import CommitLimits, verify_commit
from consumer.verify.frames import CommitFrame, decode_frame, peek
from consumer.verify.keys import SigningKey
from consumer.verify.proof import verify_proof
from consumer.verify.snapshot import Snapshot, SnapshotLimits
from procedures import messages, tokens
from procedures.messages import Refusal
from simulator.account import Account
from simulator.frames import commit_frame
from simulator.network import Network
from simulator.repo import START, Repo, Write
from tests.fuzz.mutate import MAX_BYTES, mutated, resealed

NOW = START + 10**6
_PATH = "pub.chive.eprint.vote/k0007"
_SCOPE = Scope(("pub.chive.*",))
_ACCOUNT = Account.from_seed("fuzz")
_KEY = SigningKey.from_did_key(_ACCOUNT.did_key)
_DEFAULTS = Path(__file__).parents[2] / "config" / "default.toml"

Judge = Callable[[bytes], bool]


@dataclass(frozen=True)
class Target:
    """``case`` makes one input; ``accepts`` judges it, and raises only for a finding."""

    name: str
    case: Callable[[Random], bytes]
    accepts: Judge


def _frames() -> list[bytes]:
    network = Network(5, accounts=6, collections=("pub.chive.eprint.vote", "app.bsky.feed.post"))
    return [*network.introduce(5), *network.frames(80)]


def _repo() -> Repo:
    repo = Repo(_ACCOUNT)
    repo.commit(
        Write("create", f"{collection}/k{n:04}", {"n": n})
        for n in range(60)
        for collection in ("app.bsky.feed.post", "pub.chive.eprint.vote")
    )
    return repo


def _of(seeds: list[bytes]) -> Callable[[Random], bytes]:
    return lambda chance: mutated(chance.choice(seeds), seeds, chance)


def _refusing(
    judge: Callable[[bytes], object],
    errors: type[Exception] | tuple[type[Exception], ...] = Refused,
) -> Judge:
    def accepts(data: bytes) -> bool:
        try:
            judge(data)
        except errors:
            return False
        return True

    return accepts


def _frame(data: bytes) -> None:
    peek(data)
    decode_frame(data)


def _commits() -> Target:
    repo = _repo()
    writes = [Write("update", _PATH, {"n": "new"}), Write("delete", "pub.chive.eprint.vote/k0009")]
    commit = repo.commit([*writes, Write("create", "pub.chive.eprint.vote/new", {"n": 0})])

    def case(chance: Random) -> bytes:
        return resealed(commit.blocks, commit.cid, _ACCOUNT, chance)

    def judge(data: bytes) -> None:
        car = read_car(data, MAX_BYTES)
        frame = decode_frame(commit_frame(1, commit))
        assert isinstance(frame, CommitFrame)
        announced = CommitFrame(
            **{name: getattr(frame, name) for name in frame.__slots__}
            | {"blocks": data, "commit": car.roots[0]}
        )
        verify_commit(announced, _KEY, CommitLimits(), NOW)

    return Target("commit", case, _refusing(judge))


def _proofs() -> Target:
    repo = _repo()
    whole = repo.everything()
    seeds = [repo.proof(_PATH), repo.proof(_PATH + "x")]

    def case(chance: Random) -> bytes:
        if chance.random() < 0.5:
            return mutated(chance.choice(seeds), seeds, chance)
        return resealed(whole, next(iter(whole)), _ACCOUNT, chance)

    def judge(data: bytes) -> None:
        verify_proof(data, _ACCOUNT.did, _PATH, _KEY, limit=MAX_BYTES, rev_ahead=300.0, now=NOW)

    return Target("proof", case, _refusing(judge))


def _snapshots() -> Target:
    repo = _repo()
    whole, seeds = repo.everything(), [repo.whole()]

    def case(chance: Random) -> bytes:
        if chance.random() < 0.5:
            return mutated(seeds[0], seeds, chance)
        return resealed(whole, next(iter(whole)), _ACCOUNT, chance)

    def judge(data: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            spool = Path(folder) / "repo.car"
            spool.write_bytes(data)
            snapshot = Snapshot.open(
                spool,
                _ACCOUNT.did,
                _KEY,
                SnapshotLimits(),
                _SCOPE.intervals,
                now=NOW,
                alive=lambda: None,
            )
            try:
                list(snapshot.cuts(lambda: None))
            finally:
                snapshot.close()

    return Target("snapshot", case, _refusing(judge))


def _controls() -> Target:
    did = _ACCOUNT.did
    seeds = [
        orjson.dumps({"v": 1, "id": "one", "type": "didSync", "did": did, "emit": "all"}),
        orjson.dumps({"type": "recordRefresh", "uri": f"at://{did}/{_PATH}", "requestedBy": "x"}),
        orjson.dumps(
            {"type": "cancel", "operationId": "one", "requestedAt": "2026-07-04T14:39:14Z"}
        ),
    ]
    return Target(
        "control",
        _of(seeds),
        lambda data: not isinstance(messages.decode(data, 7, 1_783_175_954_000), Refusal),
    )


def _tokens() -> Target:
    claims = {
        "iss": _ACCOUNT.did,
        "aud": "did:web:x",
        "lxm": "a.b.c",
        "iat": int(NOW),
        "exp": int(NOW) + 60,
        "jti": "once",
    }
    parts = [orjson.dumps({"typ": "JWT", "alg": "ES256K"}), orjson.dumps(claims), b"\x01" * 64]

    def case(chance: Random) -> bytes:
        number = chance.randrange(2 * len(parts))
        changed = [mutated(p, parts, chance) if n == number else p for n, p in enumerate(parts)]
        text = b".".join(urlsafe_b64encode(part).rstrip(b"=") for part in changed)
        return text if number < len(parts) else mutated(text, [text], chance)

    def judge(data: bytes) -> None:
        text = data.decode("utf-8", "replace")
        tokens.parse(text, method="a.b.c", audiences={"did:web:x"}, now=NOW)

    return Target("token", case, _refusing(judge, tokens.TokenInvalid))


def _settings() -> Target:
    seeds = [_DEFAULTS.read_bytes(), b'[kafka]\npartitions = 8\n[scope]\ncollections = ["a.b.*"]\n']

    def judge(data: bytes) -> None:
        with tempfile.NamedTemporaryFile(suffix=".toml") as file:
            file.write(data)
            file.flush()
            configuration.load(Path(file.name))

    return Target("settings", _of(seeds), _refusing(judge, Fatal))


def _documents() -> Target:
    seeds = [orjson.dumps(_ACCOUNT.document("https://pds.example"))]

    def judge(data: bytes) -> None:
        documents.parse(_ACCOUNT.did, data, allow_loopback=False)

    return Target("document", _of(seeds), _refusing(judge))


def targets() -> list[Target]:
    """Return all targets."""
    frames, repo = _frames(), _repo()
    blocks = [*repo.everything().values()]
    return [
        Target("frame", _of(frames), _refusing(_frame)),
        Target("cbor", _of([*frames, *blocks]), _refusing(decode)),
        Target("car", _of([repo.whole()]), _refusing(lambda data: read_car(data, MAX_BYTES))),
        _commits(),
        _proofs(),
        _snapshots(),
        _controls(),
        _tokens(),
        _settings(),
        _documents(),
    ]


def judged(target: Target, data: bytes) -> tuple[bool, float]:
    """Return whether ``target`` accepts ``data``, and the seconds that took."""
    began = time.perf_counter()
    accepted = target.accepts(data)
    return accepted, time.perf_counter() - began
