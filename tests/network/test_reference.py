"""Our tree code beside the reference implementation: the same roots, the same proofs."""

from __future__ import annotations

import asyncio
import base64
import random
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from consumer.embedded.jars import cache_home
from consumer.errors import Refused
from consumer.verify.invert import TreeOp, invert
from consumer.verify.keys import SigningKey
from consumer.verify.mst import EMPTY_TREE, load
from consumer.verify.proof import verify_proof
from demo.local_network import installed
from procedures.syntax import cid_text, parse_cid
from simulator.account import Account
from simulator.repo import START, Repo, Write
from simulator.tree import cid_of

PEER = Path(__file__).with_name("peer.mjs")
EDITS = 10_000
COLLECTIONS = ("app.bsky.feed.post", "pub.chive.graph.vote", "pub.chive.review.comment")
NOW = START + 10**6

Answer = dict[str, Any]


class Peer:
    """The reference implementation, in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def answers(self, questions: Iterable[dict[str, Any]]) -> AsyncIterator[Answer]:
        """Yield an answer to each question, in their order."""
        sending = asyncio.create_task(self._send(questions))
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            yield orjson.loads(line)
        await sending
        assert await self._process.wait() == 0

    async def _send(self, questions: Iterable[dict[str, Any]]) -> None:
        pipe = self._process.stdin
        assert pipe is not None
        for question in questions:
            pipe.write(orjson.dumps(question, option=orjson.OPT_APPEND_NEWLINE))
            await pipe.drain()
        pipe.close()


@asynccontextmanager
async def peer() -> AsyncIterator[Peer]:
    packages = await installed(cache_home(), print)
    process = await asyncio.create_subprocess_exec(
        "node",
        PEER,
        packages,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=16 * 1024 * 1024,
    )
    try:
        yield Peer(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def edits(count: int) -> list[tuple[str, TreeOp]]:
    """Return random changes of a tree that is empty at first, and stays below 600 keys."""
    chance = random.Random(17)
    held: dict[str, bytes] = {}
    found = []
    for number in range(count):
        new = cid_of(b"%d" % number)
        choice = chance.random()
        if held and choice < (0.3 if len(held) < 600 else 0.8):
            path = chance.choice(sorted(held))
            found.append(("delete", TreeOp(path.encode(), None, held.pop(path))))
        elif held and choice < 0.5:
            path = chance.choice(sorted(held))
            found.append(("update", TreeOp(path.encode(), new, held[path])))
            held[path] = new
        else:
            path = f"{chance.choice(COLLECTIONS)}/{chance.getrandbits(40):010x}"
            found.append(("add", TreeOp(path.encode(), new, None)))
            held[path] = new
    return found


@pytest.mark.timeout(600)
async def test_every_change_is_inverted_from_the_reference_s_own_proof() -> None:
    before, changes = EMPTY_TREE, edits(EDITS)
    questions = (
        {"edit": kind, "key": change.path.decode(), "cid": change.cid and cid_text(change.cid)}
        for kind, change in changes
    )
    compared = 0
    async with peer() as reference:
        async for answer in reference.answers(questions):
            _, change = changes[compared]
            proof = {cid_of(block): block for block in map(base64.b64decode, answer["blocks"])}
            root = parse_cid(answer["root"])
            assert invert(load(root, proof), [change]) == before, (compared, change)
            before, compared = root, compared + 1
    assert compared == EDITS


def tampered(proof: bytes, chance: random.Random) -> bytes:
    """Return a proof with one byte changed, taken out or put in."""
    at = chance.randrange(len(proof))
    match chance.randrange(3):
        case 0:
            return proof[:at] + bytes((proof[at] ^ 1 << chance.randrange(8),)) + proof[at + 1 :]
        case 1:
            return proof[:at] + proof[at + 1 :]
    return proof[:at] + chance.randbytes(1) + proof[at:]


def ours(account: Account, path: str, cid: bytes | None, proof: bytes) -> bool:
    key = SigningKey.from_did_key(account.did_key)
    try:
        found = verify_proof(
            proof, account.did, path, key, limit=2_000_000, rev_ahead=300.0, now=NOW
        )
    except Refused:
        return False
    return found.cid == cid


def claims(repo: Repo, chance: random.Random) -> Sequence[tuple[str, bytes | None, bytes, bool]]:
    """Return (path, CID or None, proof, whether it is whole): true, false, and tampered proofs."""
    found: list[tuple[str, bytes | None, bytes, bool]] = []
    paths = sorted(repo.records)
    for path in paths[::7]:
        proof, cid = repo.proof(path), repo.records[path][1]
        found += [(path, cid, proof, True), (path, None, proof, False)]
        found += [
            (path, cid_of(b"another"), proof, False),
            (path, cid, repo.proof(paths[1]), False),
        ]
        found += [(path, cid, tampered(proof, chance), False) for _ in range(4)]
        absent = f"{path}x"
        found += [(absent, None, repo.proof(absent), True), (absent, cid, repo.proof(path), False)]
    return found


@pytest.mark.timeout(600)
async def test_the_same_proofs_are_accepted_and_refused() -> None:
    chance = random.Random(23)
    account = Account.from_seed("alice")
    repo = Repo(account)
    repo.commit(
        Write("create", f"{chance.choice(COLLECTIONS)}/{n:04}", {"n": n}) for n in range(700)
    )
    asked = claims(repo, chance)
    questions = (
        {
            "car": base64.b64encode(proof).decode(),
            "did": account.did,
            "key": account.did_key,
            "claim": {
                "collection": path.partition("/")[0],
                "rkey": path.partition("/")[2],
                "cid": cid and cid_text(cid),
            },
        }
        for path, cid, proof, _ in asked
    )
    async with peer() as reference:
        theirs = [answer["verified"] async for answer in reference.answers(questions)]
    accepted = [ours(account, path, cid, proof) for path, cid, proof, _ in asked]
    assert [verdict for verdict, claim in zip(accepted, asked, strict=True) if claim[3]] == (
        [True] * (2 * len(sorted(repo.records)[::7]))
    )
    assert accepted == theirs
    assert sum(accepted) < len(asked) / 2
