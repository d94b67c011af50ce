"""The input: a network's signed frames, made once and kept in the user's cache.

A ``Traffic`` begins with ``opening`` frames, by which all accounts introduce themselves with
their whole repositories (genesis: known, complete, active); then follow single commits.  Frames
are numbered without gaps, from a seq as large as the real ones.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.frames import framed, split
from consumer.embedded.jars import cache_home
from simulator.network import COLLECTIONS, Mix, Network

FIRST_SEQ = 30_000_000_000
UNRELATED = ("app.bsky.feed.post", "app.bsky.feed.like", "app.bsky.graph.follow")

_SIMULATOR = Path(__file__).parents[1] / "simulator"


@dataclass(frozen=True, slots=True)
class Spec:
    """What traffic to make.

    One account in ten signs with P-256.  ``related``: three of four records are in wanted
    collections, else none is, and no account introduces itself.
    """

    accounts: int
    records: int
    commits: int
    related: bool = True

    @property
    def path(self) -> Path:
        """Where it is cached, under the parameters and the code that decide it."""
        digest = hashlib.sha256(json.dumps(asdict(self)).encode())
        for source in (*sorted(_SIMULATOR.glob("*.py")), Path(__file__)):
            digest.update(source.read_bytes())
        return cache_home() / "bench" / f"{digest.hexdigest()[:16]}.frames"


@dataclass(frozen=True, slots=True)
class Traffic:
    """Frames as a relay sends them; ``keys`` are the ``did:key`` texts by DID."""

    path: Path
    opening: int
    keys: dict[str, str]
    frames: list[bytes]

    @property
    def commits(self) -> list[bytes]:
        """The frames behind the opening."""
        return self.frames[self.opening :]


def traffic(spec: Spec) -> Traffic:
    """Return the traffic of ``spec``, from the cache if it was made before."""
    if not spec.path.exists():
        _make(spec)
    return load(spec.path)


def load(path: Path) -> Traffic:
    """Read what ``traffic`` has cached."""
    data = path.read_bytes()
    head, *frames = split(data)
    described = json.loads(head)
    return Traffic(path, described["opening"], described["keys"], frames)


def _make(spec: Spec) -> None:
    mix = Mix(identity=0.0, sync=0.0, records=spec.records)
    collections = COLLECTIONS if spec.related else UNRELATED
    network = Network(accounts=spec.accounts, collections=collections, mix=mix, first_seq=FIRST_SEQ)
    opening: list[bytes] = []
    if spec.related:
        opening = list(network.introduce(spec.records))
    else:
        network.preload(spec.records)
        network.seq = FIRST_SEQ - 1
    head = json.dumps({"opening": len(opening), "keys": network.keys}).encode()
    spec.path.parent.mkdir(parents=True, exist_ok=True)
    partial = spec.path.with_suffix(".partial")
    with partial.open("wb") as file:
        file.writelines(framed([head, *opening]))
        file.writelines(framed(network.frames(spec.commits)))
    partial.replace(spec.path)
