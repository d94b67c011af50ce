"""The fields of a decoded frame, each of the type it must have.  Pure.

Every function takes a map as libipld decodes it, where CIDs are bytes, and the name of a field;
a field of another type or form is ``Refused`` with ``FRAME_MALFORMED``, naming it.
"""

from __future__ import annotations

import re
from typing import Any, NoReturn, TypeVar

from consumer.errors import Reason, Refused
from procedures.syntax import is_cid, is_did, is_tid

Body = dict[str, Any]
T = TypeVar("T")

MAX_SEQ = 2**63 - 1
_TIME = re.compile(
    r"\d{4}-[01]\d-[0-3]\dT[0-2]\d:[0-6]\d:[0-6]\d(?:\.\d{1,20})?(?:Z|[+-][0-2]\d:[0-5]\d)",
    re.ASCII,
)
_SHOWN = 64  # of an unexpected text, in a message


def malformed(problem: str) -> NoReturn:
    raise Refused(Reason.FRAME_MALFORMED, problem)


def field(body: Body, name: str, kind: type[T]) -> T:
    value = body.get(name)
    if type(value) is not kind:
        malformed(f"{name} is {type(value).__name__}, not {kind.__name__}")
    return value


def text(body: Body, name: str) -> str:
    return field(body, name, str)


def optional_text(body: Body, name: str) -> str | None:
    return None if body.get(name) is None else field(body, name, str)


def seq(body: Body) -> int:
    seq = field(body, "seq", int)
    if not 0 <= seq <= MAX_SEQ:
        malformed(f"seq is out of range: {seq}")
    return seq


def did(body: Body, name: str) -> str:
    did = field(body, name, str)
    if not is_did(did):
        malformed(f"{name} is not a DID: {did[:_SHOWN]!r}")
    return did


def rev(body: Body, name: str) -> str:
    rev = field(body, name, str)
    if not is_tid(rev):
        malformed(f"{name} is not a TID: {rev[:_SHOWN]!r}")
    return rev


def is_time(text: str) -> bool:
    return _TIME.fullmatch(text) is not None


def time(body: Body) -> str:
    time = field(body, "time", str)
    if not is_time(time):
        malformed(f"time is not a datetime: {time[:_SHOWN]!r}")
    return time


def cid(body: Body, name: str) -> bytes:
    cid = body.get(name)
    if not is_cid(cid):
        malformed(f"{name} is not a CID")
    return cid


def optional_cid(body: Body, name: str) -> bytes | None:
    return None if body.get(name) is None else cid(body, name)


def blocks(body: Body) -> bytes:
    blocks = field(body, "blocks", bytes)
    if is_cid(blocks):  # a link, since both are bytes here; a CAR begins with another byte
        malformed("blocks is a CID, not bytes")
    return blocks


def maps(body: Body) -> list[Body]:
    ops = field(body, "ops", list)
    for op in ops:
        if type(op) is not dict:
            malformed("ops is not a list of maps")
    return ops
