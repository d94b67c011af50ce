"""The input that costs most, for each way in which it could: 2 MB of it, or the limit.

``measured`` judges each in a process of its own, so that its peak of memory is its own.
"""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import orjson

from consumer.runtime.lifecycle import spare_the_collector
from simulator.frames import commit_frame, frame
from simulator.repo import START, Commit, Op, Repo, Write, car, sign_commit, tid
from simulator.tree import Blocks, Node, cid_of, layer, plain
from tests.fuzz import judges
from tests.fuzz.heads import head
from tests.fuzz.judges import ACCOUNT, MAX_BYTES, Judge
from tests.fuzz.targets import judged, token_of

Made = tuple[bytes, Blocks]

MAX_SECONDS, MAX_MEMORY = 1.0, 256  # CPU seconds, MiB

_CLAIM = b"\x9a\x00\x07\x00\x00"  # an array of 458,752 items
_LOOKALIKE = b"\x44\x01\x55\x00\x00"  # bytes that libipld takes for a CID
_RECORD = b"\xa0"
_RECORD_CID = cid_of(_RECORD)
_DOCUMENT = 512 * 1024
_HALF = 8 * 1024  # of a command, which the gateway does not take longer


@dataclass(frozen=True, slots=True)
class Worst:
    """``make`` makes the input."""

    name: str
    judge: Judge
    make: Callable[[], bytes]


@dataclass(frozen=True, slots=True)
class Cost:
    """``size`` in bytes, CPU ``seconds``, ``memory`` of the whole process at its peak in MiB."""

    name: str
    size: int
    verdict: str
    seconds: float
    memory: float

    @property
    def too_much(self) -> bool:
        return self.seconds > MAX_SECONDS or self.memory > MAX_MEMORY


def _array(item: bytes, size: int, *more: bytes) -> bytes:
    """Return an array of ``item`` over and over, and ``more`` at its end."""
    count = (size - 5 - sum(map(len, more))) // len(item)
    return head(4, count + len(more)) + item * count + b"".join(more)


def _framed(odd: bytes) -> bytes:
    """Return an ``#identity`` with a field that is not read."""
    good = frame("#identity", {"did": ACCOUNT.did, "seq": 1, "time": "2026-07-04T14:39:14Z"})
    at = good.index(b"\xa3cdid")
    return good[:at] + b"\xa4" + good[at + 1 :] + b"fzzzzzz" + odd


def _in_a_frame(item: bytes, *more: bytes) -> Callable[[], bytes]:
    return lambda: _framed(_array(item, MAX_BYTES - 200, *more))


def _claims(size: int) -> bytes:
    return _CLAIM * 900 + bytes(size - 900 * len(_CLAIM))


def _commit_of_records(records: list[bytes]) -> bytes:
    commit = Repo(ACCOUNT).commit(
        Write("create", f"a.b.c/{number}", record) for number, record in enumerate(records)
    )
    return commit_frame(1, commit)


def _signed_over(root: bytes, blocks: Blocks) -> bytes:
    signed = sign_commit(ACCOUNT, tid(START), root)
    return car(cid_of(signed), {cid_of(signed): signed, **blocks})


def _commit_over(make: Callable[[], Made]) -> bytes:
    return _commit_of_tree(*make())


def _repository_over(make: Callable[[], Made]) -> bytes:
    return _signed_over(*make())


def _commit_of_tree(root: bytes, blocks: Blocks, ops: tuple[Op, ...] = ()) -> bytes:
    """Return a ``#commit`` with any tree in it."""
    rev, signed = tid(START), sign_commit(ACCOUNT, tid(START), root)
    blocks = {cid_of(signed): signed, **blocks}
    return commit_frame(1, Commit(ACCOUNT.did, rev, None, cid_of(signed), root, root, ops, blocks))


def _node_of(content: bytes) -> Made:
    block = b"\xa2ae" + content + b"al\xf6"
    return cid_of(block), {cid_of(block): block}


def _keys(start: str, count: int, level: int = 0) -> Iterator[str]:
    number = 0
    while count:
        key = f"{start}{number:07x}"
        if layer(key) == level:
            count -= 1
            yield key
        number += 1


def _wide(start: str, count: int) -> Made:
    """Return a tree of one node."""
    keys = tuple(_keys(start, count))
    node = Node(0, keys, (_RECORD_CID,) * count, (None,) * (count + 1))
    return node.seal(), {node.seal(): node.block, _RECORD_CID: _RECORD}


def _many_nodes() -> Made:
    root, blocks = plain({f"a.b.c/{number:x}": _RECORD_CID for number in range(20_000)})
    return root, blocks | {_RECORD_CID: _RECORD}


def _many_ops() -> bytes:
    """Return 200 creates in a node that is as wide as a commit lets it be."""
    root, blocks = _wide("a.b.c/", 30_000)
    paths = list(_keys("a.b.c/", 30_000))[::150]
    return _commit_of_tree(
        root, blocks, tuple([Op("create", path, _RECORD_CID, None) for path in paths])
    )


def _many_deletes() -> bytes:
    """Return 200 deletes of keys that split a wide node each."""
    root, blocks = _wide("a.b.c/", 30_000)
    paths = list(_keys("a.b.c/", 200, level=2))
    return _commit_of_tree(
        root, blocks, tuple([Op("delete", path, None, _RECORD_CID) for path in paths])
    )


def _small_blocks() -> bytes:
    root, found = _wide("a.b.c/", 1)
    numbers = (number.to_bytes(3, "big") for number in range(MAX_BYTES // 41))
    return _signed_over(root, found | {cid_of(block): block for block in numbers})


def _document(field: str, item: object) -> bytes:
    document = ACCOUNT.document("https://pds.example")
    size = len(orjson.dumps(item)) + 1
    document[field] = [item] * ((_DOCUMENT - 2_000) // size)
    return orjson.dumps(document)


def _key(fragment: str) -> dict[str, str]:
    return {
        "id": f"{ACCOUNT.did}#{fragment}",
        "type": "Multikey",
        "controller": ACCOUNT.did,
        "publicKeyMultibase": ACCOUNT.did_key.removeprefix("did:key:"),
    }


def _trees() -> dict[str, Callable[[], Made]]:
    long_start = "a.b.c/" + "k" * 1_000
    return {
        "a node of empty arrays": lambda: _node_of(_array(b"\x80", MAX_BYTES - 1_000)),
        "a node of claims in claims": lambda: _node_of(_claims(MAX_BYTES - 1_000)),
        "30,000 keys in one node": lambda: _wide("a.b.c/", 30_000),
        "28,000 keys of 1,013 bytes in one node": lambda: _wide(long_start, 28_000),
        "20,000 keys in small nodes": _many_nodes,
    }


def _frames() -> dict[str, Callable[[], bytes]]:
    return {
        "empty arrays": _in_a_frame(b"\x80"),
        "maps of one": _in_a_frame(b"\xa1\x60\x80"),
        "links": _in_a_frame(b"\xd8\x2a\x58\x25\x00" + _RECORD_CID),
        "nests": _in_a_frame(b"\x81" * 30 + b"\x80"),
        "texts, and bytes like a CID": _in_a_frame(b"\x78\x64" + b"x" * 100, _LOOKALIKE),
        "claims in claims": lambda: _framed(_claims(MAX_BYTES - 200)),
        "arrays without an end": lambda: b"\x80" * MAX_BYTES,
    }


def _commits() -> dict[str, Callable[[], bytes]]:
    records = {
        "20 records of empty arrays": [
            b"\xa2aa" + _array(b"\x80", 95_000) + b"ab\x61" + bytes((0x61 + n,)) for n in range(20)
        ],
        "the same with what could be a float": [
            b"\xa2aa" + _array(b"\x80", 95_000) + b"ab\x42\xfb" + bytes((n,)) for n in range(20)
        ],
        "20 records of bytes": [
            b"\xa2aa" + _array(b"\x41\x01", 95_000) + b"ab\x41" + bytes((n,)) for n in range(20)
        ],
        "20 records of bytes of 15": [
            b"\xa2aa" + _array(b"\x4f" + b"\xff" * 15, 95_000) + b"ab\x41" + bytes((n,))
            for n in range(20)
        ],
        "200 records of claims in claims": [
            b"\xa1aa" + b"\x99\x04\x00" * 300 + bytes(8_000) + bytes((n,)) for n in range(200)
        ],
        "2 records of 1 MB of integers": [
            b"\xa1a" + bytes((0x61 + n,)) + _array(b"\x01", 980_000) for n in range(2)
        ],
    }
    return {
        **{name: partial(_commit_of_records, made) for name, made in records.items()},
        **{name: partial(_commit_over, made) for name, made in _trees().items()},
        "200 creates in one node of 30,000 keys": _many_ops,
        "200 deletes that split it": _many_deletes,
    }


def _documents() -> dict[str, Callable[[], bytes]]:
    service = {"id": "#a", "type": "a", "serviceEndpoint": ""}
    return {
        "keys": partial(_document, "verificationMethod", _key("atproto")),
        "other keys": partial(_document, "verificationMethod", _key("other")),
        "names": partial(_document, "alsoKnownAs", "at://a.test"),
        "services": partial(_document, "service", service),
        "nests": lambda: b"[" * (_DOCUMENT // 2) + b"]" * (_DOCUMENT // 2),
    }


def _others() -> list[Worst]:
    return [
        Worst("CAR: small blocks", judges.car_file, _small_blocks),
        Worst(
            "CAR: header of claims", judges.car_file, lambda: b"\xc0\x84\x7a" + _claims(MAX_BYTES)
        ),
        Worst("command: nests", judges.command, lambda: b"[" * _HALF + b"]" * _HALF),
        Worst("command: digits", judges.command, lambda: b'{"v":' + b"9" * (2 * _HALF - 6) + b"}"),
        Worst(
            "token: nests", judges.token, lambda: token_of(b"[" * _HALF + b"]" * _HALF, b"", b"")
        ),
    ]


def worst() -> list[Worst]:
    """Return the catalogue."""
    return [
        *(Worst(f"frame: {name}", judges.frame, make) for name, make in _frames().items()),
        *(Worst(f"commit: {name}", judges.commit, make) for name, make in _commits().items()),
        *(
            Worst(f"repository: {name}", judges.snapshot, partial(_repository_over, made))
            for name, made in _trees().items()
        ),
        *(Worst(f"document: {name}", judges.document, make) for name, make in _documents().items()),
        *_others(),
    ]


def measured(name: str) -> Cost:
    """Judge the input ``name`` in a process of its own."""
    argv = [sys.executable, "-m", "tests.fuzz.worst", name]
    ended = subprocess.run(argv, capture_output=True, text=True, check=True)
    return Cost(**json.loads(ended.stdout))


def _peak() -> float:
    """Return the peak of memory in MiB; Linux counts the parent's in with ``ru_maxrss``."""
    status = Path("/proc/self/status")
    if status.exists():
        (peak,) = re.findall(r"VmHWM:\s*(\d+) kB", status.read_text())
        return int(peak) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(name: str) -> None:
    """Judge one input, and write what it cost."""
    spare_the_collector()
    (chosen,) = (input_ for input_ in worst() if input_.name == name)
    data = chosen.make()
    reason, seconds = judged(chosen.judge, data)
    cost = Cost(name, len(data), reason or "accepted", seconds, _peak())
    sys.stdout.write(json.dumps(asdict(cost)))


if __name__ == "__main__":
    main(*sys.argv[1:])
