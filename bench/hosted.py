"""What the PDS of the benchmark has: one large repository and many small ones.

Made once and kept in the user's cache.  A fifth of the large one's records are wanted, and half
of those of the small ones; each small one has a record proof ready.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.frames import framed, split
from consumer.embedded.jars import cache_home
from simulator.account import Account
from simulator.repo import Repo, Write

WANTED, UNWANTED = "pub.chive.eprint.submission", "app.bsky.feed.post"
RKEY = "k00000"  # of the record that every small repository proves
_SIMULATOR = Path(__file__).parents[1] / "simulator"
_TEXT = "enough words so that a record has the size of a short post, or of a vote with its subject"


@dataclass(frozen=True, slots=True)
class Spec:
    """How many records the large repository has, how many small ones there are, of how many."""

    large: int = 100_000
    small: int = 2_000
    records: int = 20

    @property
    def wanted(self) -> int:
        """The number of wanted records of the large repository."""
        return self.large // 5

    @property
    def path(self) -> Path:
        """Where it is cached, under the parameters and the code that decide it."""
        digest = hashlib.sha256(json.dumps(asdict(self)).encode())
        for source in (*sorted(_SIMULATOR.glob("*.py")), Path(__file__)):
            digest.update(source.read_bytes())
        return cache_home() / "bench" / f"{digest.hexdigest()[:16]}.repos"


@dataclass(frozen=True, slots=True)
class Hosted:
    """Repositories and proofs by DID, as ``getRepo`` and ``getRecord`` answer with them."""

    repos: dict[str, bytes]
    proofs: dict[str, bytes]


def large() -> Account:
    """Return the account with the large repository."""
    return Account.from_seed("bench large")


def small(number: int) -> Account:
    """Return one of the accounts with a small repository."""
    return Account.from_seed(f"bench small {number}")


def make(spec: Spec) -> Path:
    """Make it, unless it is in the cache, and return where it lies."""
    if not spec.path.exists():
        spec.path.parent.mkdir(parents=True, exist_ok=True)
        partial = spec.path.with_suffix(".partial")
        with partial.open("wb") as file:
            file.writelines(framed(_parts(spec)))
        partial.replace(spec.path)
    return spec.path


def load(path: Path) -> Hosted:
    """Read what ``make`` has written."""
    found = Hosted({}, {})
    parts = split(path.read_bytes())
    for did in parts:
        found.repos[did.decode()] = next(parts)
        found.proofs[did.decode()] = next(parts)
    return found


def _parts(spec: Spec) -> Iterator[bytes]:
    yield from _entry(_repo(large(), spec.large, spec.wanted))
    for number in range(spec.small):
        yield from _entry(_repo(small(number), spec.records, spec.records // 2))


def _repo(account: Account, records: int, wanted: int) -> Repo:
    repo = Repo(account)
    repo.commit(_write(WANTED if n < wanted else UNWANTED, n) for n in range(records))
    return repo


def _write(collection: str, number: int) -> Write:
    record = {"$type": collection, "number": number, "text": _TEXT}
    return Write("create", f"{collection}/k{number:05}", record)


def _entry(repo: Repo) -> Iterator[bytes]:
    yield repo.account.did.encode()
    yield repo.whole()
    yield repo.proof(f"{WANTED}/{RKEY}")
