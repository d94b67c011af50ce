"""The generated tables of docs/verification-tables.md: ``python -m tests.fuzz.tables`` writes them.

They are between two comments of the page, and a test holds them to what this module says today.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

from consumer.errors import Refused
from consumer.fetch import addresses
from consumer.verify import cbor
from consumer.verify.commit import CommitLimits, verify_commit
from consumer.verify.frames import CommitFrame, decode_frame
from consumer.verify.keys import SigningKey
from simulator import tamper
from simulator.account import Account
from simulator.frames import commit_frame
from simulator.repo import Commit, Repo, Write
from tests.fuzz.judges import NOW
from tests.fuzz.targets import Target, targets
from tests.unit.fetch.test_addresses import NOT_PUBLIC, PUBLIC
from tests.unit.verify.test_cbor import DASL
from tests.vectors import entries

PAGE = Path(__file__).parents[2] / "docs" / "verification-tables.md"
_SEED = 29
_CASES = 400
_SLOW = {"settings": 40, "tree": 200}  # cases of these
_ACCEPTED = "accepted"
_DECODER = "Failed to decode DAG-CBOR. "  # what libipld begins with


def _made(target: Target) -> Iterator[str]:
    for data in islice(target.cases(Random(_SEED)), _SLOW.get(target.name, _CASES)):
        yield target.judge(data) or _ACCEPTED


def _tampered(curve: str) -> Iterator[str]:
    """Yield what becomes of commits that break one rule each."""
    account = Account.from_seed("test", curve)
    key = SigningKey.from_did_key(account.did_key)
    repo = Repo(account)
    repo.commit([Write("create", f"a.b.c/{number}", {"n": number}) for number in range(150)])
    commit = repo.commit([Write("create", "a.b.c/new", {}), Write("delete", "a.b.c/99")])
    for tampering in tamper.TAMPERINGS:
        yield _verdict_on(tampering(commit, account), key)


def _verdict_on(commit: Commit, key: SigningKey) -> str:
    try:
        frame = decode_frame(commit_frame(1, commit))
        assert isinstance(frame, CommitFrame)
        verify_commit(frame, key, CommitLimits(), NOW)
    except Refused as error:
        return str(error.reason)
    return _ACCEPTED


def _addresses() -> Iterator[str]:
    for text in (*PUBLIC, *NOT_PUBLIC):
        address = addresses.parse(text)
        assert address is not None
        yield _ACCEPTED if addresses.is_public(address) else "fetch_forbidden"


def cases_by_class() -> str:
    """Return the table of what was tried and refused, class by class."""
    classes: dict[str, Iterable[str]] = {
        "commits, one rule broken in each, secp256k1": _tampered("k256"),
        "commits, one rule broken in each, P-256": _tampered("p256"),
        "addresses": _addresses(),
    }
    classes |= {f"{target.name}, changed at random": _made(target) for target in targets()}
    rows = []
    for name, verdicts in classes.items():
        counted = Counter(verdicts)
        tried, accepted = counted.total(), counted.pop(_ACCEPTED, 0)
        reasons = ", ".join(f"`{reason}` {n}" for reason, n in sorted(counted.items()))
        rows.append((name, f"{tried}", f"{tried - accepted}", reasons))
    return _table(("class", "tried", "refused", "for"), rows)


def dasl_cases() -> str:
    """Return the table of the public vectors of DASL with the outcome of each."""
    rows = []
    for name in DASL:
        for vector in entries(f"dasl-cbor/{name}.json"):
            data = bytes.fromhex(vector["data"])
            rows.append((name, vector["name"], _expected(vector), _outcome(data)))
    return _table(("file", "case", "the suite's word", "here"), rows)


def _expected(vector: dict[str, Any]) -> str:
    kinds = {"roundtrip": "valid", "invalid_in": "invalid", "invalid_out": "never written"}
    return f"{kinds[vector['type']]} ({', '.join(vector['tags'])})"


def _outcome(data: bytes) -> str:
    try:
        value = cbor.decode(data)
    except Refused as error:
        return f"refused: {error.detail.removeprefix(_DECODER)}"
    return "accepted" if cbor.encode(value) == data else "accepted, and written otherwise"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [tuple(head)]
    lines.append(("---",) * len(lines[0]))
    lines += [tuple(cell.replace("|", "\\|") for cell in row) for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


TABLES = {"cases": cases_by_class, "dasl": dasl_cases}


def _place(name: str) -> re.Pattern[str]:
    return re.compile(rf"(?<=<!-- {name}: begin -->\n).*?(?=<!-- {name}: end -->)", re.DOTALL)


def written(name: str) -> str:
    """Return the table ``name`` as the page has it."""
    (table,) = _place(name).findall(PAGE.read_text())
    return str(table)


def main() -> None:
    if not entries(f"dasl-cbor/{DASL[0]}.json"):
        sys.exit("CHIVE_VECTORS is not set: the vectors of DASL are needed")
    page = PAGE.read_text()
    for name, table in TABLES.items():
        page = _place(name).sub(lambda _, table=table: table(), page)  # type: ignore[misc]
    PAGE.write_text(page)


if __name__ == "__main__":
    main()
