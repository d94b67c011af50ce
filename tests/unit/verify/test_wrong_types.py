"""Frames whose fields have other types than they should: refused, in both forms of the core."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import libipld
import pytest

from consumer.errors import Refused
from consumer.verify.cbor import encode
from consumer.verify.frames import decode_frame, peek
from simulator.account import Account
from simulator.frames import account_frame, commit_frame, identity_frame, sync_frame
from simulator.repo import Repo, Write

REPO = Repo(Account.from_seed("wrong types"))
COMMIT = REPO.commit([Write("create", "pub.chive.eprint.submission/one", {"n": 1})])
DID = REPO.account.did
FRAMES = {
    "commit": commit_frame(7, COMMIT),
    "sync": sync_frame(7, REPO.sync()),
    "account": account_frame(7, DID, active=False, status="takendown"),
    "identity": identity_frame(7, DID),
}
ODD: list[Any] = [None, True, 3, -1, 2**63, "", "text", b"", b"bytes", [], [1], {}, {"a": 1}]


def bodies() -> list[Any]:
    found = []
    for name, frame in FRAMES.items():
        _, body = libipld.decode_dag_cbor_multi(frame)
        found += [pytest.param(frame, field, id=f"{name}.{field}") for field in sorted(body)]
    return found


@pytest.mark.parametrize(("frame", "field"), bodies())
def test_no_field_of_another_type_is_more_than_refused(frame: bytes, field: str) -> None:
    header, body = libipld.decode_dag_cbor_multi(frame)
    for odd in ODD:
        data = encode(header) + encode({**body, field: odd})
        for read in (peek, decode_frame):
            with suppress(Refused):
                read(data)


@pytest.mark.parametrize("field", ["action", "path", "cid", "prev"])
def test_no_field_of_an_op_is_more_than_refused(field: str) -> None:
    header, body = libipld.decode_dag_cbor_multi(FRAMES["commit"])
    (op,) = body["ops"]
    for odd in ODD:
        for ops in ([{**op, field: odd}], [odd], odd):
            data = encode(header) + encode({**body, "ops": ops})
            for read in (peek, decode_frame):
                with suppress(Refused):
                    read(data)
