"""The main load's network: what its hosts serve, and the commits that follow."""

from __future__ import annotations

import time
from urllib.parse import quote

import libipld
import pytest

from bench import cached
from bench.host import Answers
from bench.hosted import load
from bench.population import Population, Spec, is_made, population
from consumer.fetch.documents import parse
from consumer.verify.car import parse_car
from consumer.verify.commit import CommitLimits, verify_commit
from consumer.verify.frames import CommitFrame, decode_frame
from consumer.verify.keys import SigningKey

SPEC = Spec(accounts=11, records=60, commits=400)
PDSS = ("http://127.0.0.1:1", "http://127.0.0.1:2")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Population:
    with pytest.MonkeyPatch.context() as patch:
        cache = tmp_path_factory.mktemp("cache")
        patch.setattr(cached, "cache_home", lambda: cache)
        assert not is_made(SPEC)
        first = population(SPEC)
        assert is_made(SPEC)
        assert population(SPEC).traffic.frames == first.traffic.frames
        return first


def asked(answers: Answers, target: str) -> tuple[int, bytes]:
    head, _, body = answers.to(f"GET {target} HTTP/1.1\r\nhost: x".encode()).partition(b"\r\n\r\n")
    status, length = int(head.split()[1]), int(head.rpartition(b": ")[2])
    assert length == len(body)
    return status, body


def test_the_commits_continue_the_repositories_of_the_hosts(made: Population) -> None:
    answers = Answers(load(made.repos), PDSS)
    heads: dict[str, tuple[bytes, str]] = {}
    for number, did in enumerate(made.dids):
        status, body = asked(answers, f"/{did}")
        document = parse(did, body, allow_loopback=True)
        assert (status, document.pds) == (200, PDSS[number % 2])
        assert document.signing_key == made.traffic.keys[did]
        status, body = asked(answers, f"/xrpc/com.atproto.sync.getRepo?did={quote(did, safe='')}")
        car = parse_car(body, len(body))
        commit = libipld.decode_dag_cbor(car.blocks[car.roots[0]])
        assert (status, commit["did"]) == (200, did)
        records = [block for block in car.blocks.values() if b"$type" in block]
        assert len(records) == SPEC.records
        heads[did] = commit["data"], commit["rev"]

    keys = {did: SigningKey.from_did_key(key) for did, key in made.traffic.keys.items()}
    assert len(made.traffic.commits) == SPEC.commits
    for data in made.traffic.commits:
        frame = decode_frame(data)
        assert isinstance(frame, CommitFrame)
        verified = verify_commit(frame, keys[frame.did], CommitLimits(), time.time())
        assert (verified.prev_data, frame.since) == heads[frame.did]
        heads[frame.did] = verified.data, frame.rev


def test_a_commit_has_one_to_two_operations_in_the_collections_of_chive(made: Population) -> None:
    frames = [decode_frame(data) for data in made.traffic.commits]
    ops = [op for frame in frames if isinstance(frame, CommitFrame) for op in frame.ops]
    assert 1.0 < len(ops) / len(frames) < 1.5
    assert all(op.path.startswith("pub.chive.") for op in ops)


@pytest.mark.parametrize(
    "target",
    ["/did:plc:nobody", "/xrpc/com.atproto.sync.getRepo?did=did:plc:nobody", "/xrpc/x.y.z"],
)
def test_what_a_host_does_not_have_is_not_found(made: Population, target: str) -> None:
    assert asked(Answers(load(made.repos), PDSS), target) == (404, b"")
