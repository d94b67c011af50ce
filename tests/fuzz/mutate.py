"""Changes of good input: of its bytes, and of one block with everything above it sealed anew."""

from __future__ import annotations

from random import Random

from consumer.verify.cbor import decode
from simulator.account import Account
from simulator.repo import car, sign_commit
from simulator.tree import Blocks, cid_of
from tests.fuzz.judges import MAX_BYTES

_TELLING = (
    b"\x00",
    b"\x7f",
    b"\x80",
    b"\xff",
    b"\xf6",
    b"\xf7",
    b"\xfb",
    b"\x1b",
    b"\x5f",
    b"\xd8\x2a",
)
_SPLICE = 64
_LARGE = 100_000


def mutated(data: bytes, others: list[bytes], chance: Random) -> bytes:
    """Return ``data`` after one to four changes; ``others`` is what may be spliced in."""
    for _ in range(chance.randint(1, 4)):
        data = _changed(data, others, chance)[:MAX_BYTES]
    return data


def _changed(data: bytes, others: list[bytes], chance: Random) -> bytes:
    at = chance.randrange(len(data) + 1)
    end = min(len(data), at + chance.randint(1, _SPLICE))
    match chance.randrange(8):
        case 0 if at < len(data):
            new, end = bytes((data[at] ^ 1 << chance.randrange(8),)), at + 1
        case 1:
            new = b""
        case 2:
            new, end = chance.randbytes(chance.randint(1, 8)), at
        case 3:
            new = chance.choice(_TELLING)
            end = at + len(new)
        case 4:
            new = data[at:end] * chance.randint(2, 20)
        case 5:
            other = chance.choice(others)
            begin = chance.randrange(len(other) + 1)
            new = other[begin : begin + _SPLICE]
        case 6:
            new, end = b"", len(data)
        case _:
            part = data[at:end] or b"\x81"
            new = part * (chance.randrange(_LARGE) // len(part))
    return data[:at] + new + data[end:]


def resealed(account: Account, chance: Random, blocks: Blocks, head: bytes) -> bytes:
    """Return a CAR in which one block was changed, and hashes and signature are right again.

    ``head`` is the CID of the commit; what refers to a changed block changes with it.
    """
    blocks = dict(blocks)
    signed = decode(blocks.pop(head))
    data = signed["data"].raw
    old = chance.choice(sorted(blocks))
    new = mutated(blocks.pop(old), list(blocks.values()) or [b"\0"], chance)
    pending = [(old, new)]
    for _ in range(2 * len(blocks)):  # a block may have got a link to one above it
        if not pending:
            break
        old, block = pending.pop()
        cid = old[:4] + cid_of(block)[4:]
        if old == data:
            data = cid
        above = [name for name, other in blocks.items() if old in other]
        pending += [(name, blocks.pop(name).replace(old, cid)) for name in above]
        blocks[cid] = block
    return _sealed(account, signed["rev"], data, blocks)


def signed_by(account: Account, blocks: Blocks, head: bytes) -> bytes:
    """Return a CAR of ``blocks`` whose commit, ``head``, is of ``account`` instead."""
    signed = decode(blocks[head])
    others = {cid: block for cid, block in blocks.items() if cid != head}
    return _sealed(account, signed["rev"], signed["data"].raw, others)


def _sealed(account: Account, rev: str, data: bytes, blocks: Blocks) -> bytes:
    commit = sign_commit(account, rev, data)
    return car(cid_of(commit), {cid_of(commit): commit, **blocks})
