"""What the PDS of the benchmark serves: one large repository and many small ones.

They are made once and kept in the user's cache.  A fifth of the records of the large repository
are wanted, and half of those of the small ones.  Each small repository has one record proof.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from bench import cached
from simulator.account import Account
from simulator.repo import Repo, Write

WANTED, UNWANTED = "pub.chive.eprint.submission", "app.bsky.feed.post"
RKEY = "k00000"  # of the record that every small repository proves
_TEXT = "enough words so that a record has the size of a short post, or of a vote with its subject"


@dataclass(frozen=True, slots=True)
class Spec:
    """The large repository has ``large`` records, ``small`` others have ``records`` each."""

    large: int = 100_000
    small: int = 2_000
    records: int = 20

    @property
    def wanted(self) -> int:
        """The number of wanted records of the large repository."""
        return self.large // 5

    @property
    def path(self) -> Path:
        """The file in the cache."""
        return cached.path_of(asdict(self), Path(__file__), "repos")


@dataclass(frozen=True, slots=True)
class Hosted:
    """Repositories and proofs (CAR files) by DID: the answers of ``getRepo`` and ``getRecord``."""

    repos: dict[str, bytes]
    proofs: dict[str, bytes]


def large() -> Account:
    """Return the account with the large repository."""
    return Account.from_seed("bench large")


def small(number: int) -> Account:
    """Return one of the accounts with a small repository."""
    return Account.from_seed(f"bench small {number}")


def make(spec: Spec) -> Path:
    """Make the file unless it is in the cache, and return its path."""
    if not spec.path.exists():
        cached.write(spec.path, _parts(spec))
    return spec.path


def load(path: Path) -> Hosted:
    """Read what ``make`` has written."""
    found = Hosted({}, {})
    parts = cached.read(path)
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
