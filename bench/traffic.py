"""The input: a network's signed frames, made once and kept in the user's cache.

A ``Traffic`` begins with ``opening`` frames: the genesis commits of all accounts, with their whole
repositories, after which these are known, complete and active.  Single commits follow.  The seqs
of the frames have no gaps and are as large as those of the real network.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from bench import cached
from simulator.network import COLLECTIONS, Mix, Network

FIRST_SEQ = 30_000_000_000
UNRELATED = ("app.bsky.feed.post", "app.bsky.feed.like", "app.bsky.graph.follow")


@dataclass(frozen=True, slots=True)
class Spec:
    """What traffic to make: ``accounts`` with ``records`` each at the start, then ``commits``.

    One account in ten signs with P-256.  With ``related``, three of four records are in wanted
    collections; without it none is, and there are no opening frames.
    """

    accounts: int
    records: int
    commits: int
    related: bool = True

    @property
    def path(self) -> Path:
        """The file in the cache."""
        return cached.path_of(asdict(self), Path(__file__), "frames")


@dataclass(frozen=True, slots=True)
class Traffic:
    """Frames as a relay sends them, of which the first ``opening`` are genesis commits.

    ``keys`` are the ``did:key`` texts by DID, ``path`` is the file in the cache.
    """

    path: Path
    opening: int
    keys: dict[str, str]
    frames: list[bytes]

    @property
    def commits(self) -> list[bytes]:
        """The frames after the opening."""
        return self.frames[self.opening :]


def traffic(spec: Spec) -> Traffic:
    """Return the traffic of ``spec``, from the cache if it was made before."""
    if not spec.path.exists():
        cached.write(spec.path, _parts(spec))
    return load(spec.path)


def load(path: Path) -> Traffic:
    """Read what ``traffic`` has cached."""
    head, *frames = cached.read(path)
    described = json.loads(head)
    return Traffic(path, described["opening"], described["keys"], frames)


def _parts(spec: Spec) -> Iterator[bytes]:
    mix = Mix(identity=0.0, sync=0.0, records=spec.records)
    collections = COLLECTIONS if spec.related else UNRELATED
    network = Network(accounts=spec.accounts, collections=collections, mix=mix, first_seq=FIRST_SEQ)
    opening: list[bytes] = []
    if spec.related:
        opening = list(network.introduce(spec.records))
    else:
        network.preload(spec.records)
        network.seq = FIRST_SEQ - 1
    yield json.dumps({"opening": len(opening), "keys": network.keys}).encode()
    yield from opening
    yield from network.frames(spec.commits)
