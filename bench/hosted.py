"""What the PDSs of the benchmark serve; for operations: a large repository and many small ones.

They are made once and kept in the user's cache.  A fifth of the records of the large repository
are wanted, and half of those of the small ones.  Each small repository has one record proof.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import orjson

from bench import cached
from simulator.account import Account
from simulator.repo import Repo, Write, car

WANTED, UNWANTED = "pub.chive.eprint.submission", "app.bsky.feed.post"
PDS = "https://pds.invalid"  # the host in documents, until it is known where that listens
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
    """The answers about accounts, by DID: DID documents, and CAR files of repositories and proofs.

    The documents name ``PDS`` as the host.  An empty proof is none.
    """

    documents: dict[str, bytes] = field(default_factory=dict)
    repos: dict[str, bytes] = field(default_factory=dict)
    proofs: dict[str, bytes] = field(default_factory=dict)


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
    found = Hosted()
    parts = cached.read(path)
    for did in parts:
        for answers in (found.documents, found.repos, found.proofs):
            answers[did.decode()] = next(parts)
    return found


def entry(repo: Repo, proof: bytes = b"") -> Iterator[bytes]:
    """Yield the parts of the account of ``repo``.

    The blocks come in the order of their CIDs: like the reference PDS, not in that of the tree.
    """
    yield repo.account.did.encode()
    yield orjson.dumps(repo.account.document(PDS))
    everything = repo.everything()
    head = next(iter(everything))
    yield car(head, {head: everything.pop(head), **dict(sorted(everything.items()))})
    yield proof


def _parts(spec: Spec) -> Iterator[bytes]:
    yield from _entry(large(), spec.large, spec.wanted)
    for number in range(spec.small):
        yield from _entry(small(number), spec.records, spec.records // 2)


def _entry(account: Account, records: int, wanted: int) -> Iterator[bytes]:
    repo = Repo(account)
    repo.commit(_write(WANTED if n < wanted else UNWANTED, n) for n in range(records))
    return entry(repo, repo.proof(f"{WANTED}/{RKEY}"))


def _write(collection: str, number: int) -> Write:
    record = {"$type": collection, "number": number, "text": _TEXT}
    return Write("create", f"{collection}/k{number:05}", record)
