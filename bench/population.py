"""The network of the main load: accounts with whole repositories, and then their commits.

Everything is in collections of Chive; one account in ten signs with P-256.  A commit has 1.2
operations on average, its frame 3.8 kB.  Repositories keep the size that they begin with.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from bench import cached, hosted
from bench.traffic import FIRST_SEQ, Traffic, load
from simulator.network import Mix, Network

_COLLECTIONS = (
    "pub.chive.eprint.submission",
    "pub.chive.review.comment",
    "pub.chive.review.endorsement",
    "pub.chive.graph.vote",
)
_SEVERAL = 0.04  # the share of commits with two to ten operations


@dataclass(frozen=True, slots=True)
class Spec:
    """``accounts`` with ``records`` each, and then ``commits`` of theirs."""

    accounts: int = 300
    records: int = 500
    commits: int = 0


@dataclass(frozen=True, slots=True)
class Population:
    """``repos``: the file that ``bench.host`` serves; ``traffic``: the commits, no opening."""

    spec: Spec
    repos: Path
    traffic: Traffic

    @property
    def dids(self) -> list[str]:
        """The accounts."""
        return list(self.traffic.keys)


def is_made(spec: Spec) -> bool:
    """Tell whether ``population`` finds it in the cache."""
    return all(path.exists() for path in _paths(spec))


def population(spec: Spec) -> Population:
    """Return the population of ``spec``, from the cache if it was made before."""
    repos, frames = _paths(spec)
    if not is_made(spec):
        mix = Mix(identity=0.0, sync=0.0, several=_SEVERAL, records=spec.records)
        network = Network(
            accounts=spec.accounts, collections=_COLLECTIONS, mix=mix, first_seq=FIRST_SEQ
        )
        network.preload(spec.records)
        network.seq = FIRST_SEQ - 1
        cached.write(repos, _repos(network))
        cached.write(frames, _frames(network, spec.commits))
    return Population(spec, repos, load(frames))


def _paths(spec: Spec) -> tuple[Path, Path]:
    repos, frames = (
        cached.path_of(asdict(spec), Path(__file__), suffix) for suffix in ("repos", "frames")
    )
    return repos, frames


def _repos(network: Network) -> Iterator[bytes]:
    for repo in network.repos.values():
        yield from hosted.entry(repo)


def _frames(network: Network, commits: int) -> Iterator[bytes]:
    yield json.dumps({"opening": 0, "keys": network.keys}).encode()
    yield from network.frames(commits)
