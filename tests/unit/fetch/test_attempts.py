"""One attempt at an operation: races of a host, records without bytes, proofs that are none."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import orjson
import pytest

from consumer.backfill import Chunk, Entry, IdentityAnswer, Proof, Via
from consumer.config.settings import FetchSettings, LimitSettings
from consumer.fetch import attempts
from consumer.fetch.attempts import TRIES, Attempts
from consumer.fetch.documents import Document
from consumer.fetch.failed import FetchFailed
from consumer.fetch.hosts import HostPolicy, Hosts
from consumer.fetch.http import HttpClient
from consumer.fetch.repos import RepoSource
from consumer.scope import Scope
from consumer.state.accounts import AccountRules
from consumer.store.operations.claims import Claim
from procedures import operations, transitions
from procedures.failures import PERMANENT, Failure
from procedures.operations import Type
from procedures.retries import DEFAULT
from simulator.account import Account
from simulator.repo import Repo, Write, car
from tests.support.pds import COLLECTION, record_path, repo_path
from tests.support.web import Web, response, web

ACCOUNT = Account.from_seed("alice")
DID = ACCOUNT.did
PATH, OTHER = f"{COLLECTION}/one", f"{COLLECTION}/two"


@dataclass
class Made:
    """Stands for the directory, the database and the injector of an attempt."""

    site: Web
    put_messages: list[Chunk | Proof] = field(default_factory=list)

    async def document(self, _did: str) -> Document:
        return Document(ACCOUNT.did_key, self.site.origin, None)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        yield

    async def put(
        self, message: Chunk | Proof, *, rows: int = 0, before: IdentityAnswer | None = None
    ) -> int:
        assert rows == 0
        # What a sync has learned of the identity comes with its first chunk.
        first = isinstance(message, Chunk) and message.after is None
        assert (before is not None) == first
        if before is not None:
            assert (before.did, before.signing_key, before.pds) == (
                DID,
                ACCOUNT.did_key,
                self.site.origin,
            )
        self.put_messages.append(message)
        return len(self.put_messages)

    def answer(self, path: str, replies: Sequence[bytes]) -> None:
        """Answer ``path`` with each of ``replies``, the last again and again."""
        left = list(replies)

        async def next_reply(writer: Any) -> None:
            writer.write(left.pop(0) if len(left) > 1 else left[0])
            await writer.drain()

        self.site.replies[path] = next_reply

    def asked(self, path: str) -> int:
        return self.site.paths.count(path)


@pytest.fixture
async def made(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Made]:
    monkeypatch.setattr(attempts, "_PAUSE", 0.0)
    async with web() as site:
        yield Made(site)


@pytest.fixture
async def trying(made: Made) -> AsyncIterator[Attempts]:
    async with HttpClient(allow_loopback=True) as http:
        hosts = Hosts(HostPolicy(4, DEFAULT.host), {}, DEFAULT)
        source = RepoSource(http, hosts, LimitSettings(), FetchSettings())
        fake = cast("Any", made)
        yield Attempts(fake, source, fake, fake, Scope((COLLECTION,)), fake, AccountRules(), fake)


def claim_of(kind: Type, uri: str | None = None) -> Claim:
    operation = operations.queued("op", kind, DID, 0.0, uri=uri)
    return Claim("lease", transitions.start(operation, 1.0), 0, 0, None, None)


SYNC = claim_of(Type.DID_SYNC)
REFRESH = claim_of(Type.RECORD_REFRESH, f"at://{DID}/{PATH}")


def repo_with(*paths: str) -> Repo:
    repo = Repo(ACCOUNT)
    repo.commit([Write("create", path, {"text": path}) for path in paths])
    return repo


def without(repo: Repo, *cids: bytes) -> bytes:
    blocks = repo.everything()
    left = {cid: block for cid, block in blocks.items() if cid not in cids}
    return response(200, car(next(iter(blocks)), left))


def entry_of(repo: Repo, path: str) -> Entry:
    record, cid = repo.records[path]
    return Entry(path, cid, record)


async def sync(trying: Attempts) -> list[str]:
    phases: list[str] = []
    await trying.sync(SYNC, lambda phase, *_: phases.append(phase.value))
    return phases


async def test_blocks_that_are_missing_once_are_fetched_again_at_once(
    trying: Attempts, made: Made
) -> None:
    repo = repo_with(PATH, OTHER)
    complete = without(repo)
    lacking = [without(repo, repo.data), without(repo, repo.records[PATH][1])]
    made.answer(repo_path(DID), [*lacking, complete])
    phases = await sync(trying)
    (chunk,) = made.put_messages
    assert isinstance(chunk, Chunk)
    assert (chunk.entries, chunk.unknown, chunk.warnings) == (
        (entry_of(repo, PATH), entry_of(repo, OTHER)),
        (),
        (),
    )
    assert made.asked(repo_path(DID)) == 3
    assert phases == sorted(phases, key=["downloading", "verifying", "injecting"].index)


async def test_a_record_without_bytes_is_unknown_when_all_tries_agree(
    trying: Attempts, made: Made
) -> None:
    repo = repo_with(PATH, OTHER, "app.bsky.feed.post/one")
    made.answer(repo_path(DID), [without(repo, repo.records[PATH][1])])
    await sync(trying)
    (chunk,) = made.put_messages
    assert isinstance(chunk, Chunk)
    assert (chunk.entries, chunk.unknown) == ((entry_of(repo, OTHER),), (PATH,))
    assert chunk.warnings == (("block_missing", 1),)
    assert made.asked(repo_path(DID)) == TRIES


async def test_bytes_of_what_is_not_wanted_are_not_asked_for(trying: Attempts, made: Made) -> None:
    repo = repo_with(PATH, "app.bsky.feed.post/one")
    made.answer(repo_path(DID), [without(repo, repo.records["app.bsky.feed.post/one"][1])])
    await sync(trying)
    (chunk,) = made.put_messages
    assert isinstance(chunk, Chunk)
    assert (chunk.entries, chunk.unknown) == ((entry_of(repo, PATH),), ())
    assert made.asked(repo_path(DID)) == 1


async def test_a_tree_without_a_node_is_no_tree_when_all_tries_agree(
    trying: Attempts, made: Made
) -> None:
    repo = repo_with(PATH)
    made.answer(repo_path(DID), [without(repo, repo.data)])
    with pytest.raises(FetchFailed) as caught:
        await sync(trying)
    assert caught.value.failure is Failure.REPO_INVALID
    assert made.asked(repo_path(DID)) == TRIES
    assert made.put_messages == []


async def test_tries_that_do_not_agree_are_no_verdict(trying: Attempts, made: Made) -> None:
    repo = repo_with(PATH, OTHER)
    replies = [without(repo, repo.data)]
    for number in range(2):
        repo.commit([Write("create", f"{COLLECTION}/more{number}", {})])
        replies.append(without(repo, repo.data))
    made.answer(repo_path(DID), replies)
    with pytest.raises(FetchFailed) as caught:
        await sync(trying)
    assert caught.value.failure is Failure.REPO_INCOMPLETE
    assert caught.value.failure not in PERMANENT
    assert made.put_messages == []


async def test_what_is_no_record_is_named(trying: Attempts, made: Made) -> None:
    repo = repo_with(
        PATH, "pub.chive.eprint.Submission_x/a", "COM.example.a/b", f"{COLLECTION}/a@b"
    )
    made.answer(repo_path(DID), [without(repo)])
    await sync(trying)
    (chunk,) = made.put_messages
    assert isinstance(chunk, Chunk)
    assert chunk.entries == (entry_of(repo, PATH),)
    assert chunk.warnings == (("path_invalid", 3),)


async def refresh(trying: Attempts, made: Made) -> Proof:
    await trying.refresh(REFRESH, lambda *_: None)
    (proof,) = made.put_messages
    assert isinstance(proof, Proof)
    return proof


async def test_a_proof_is_enough(trying: Attempts, made: Made) -> None:
    repo = repo_with(PATH)
    made.answer(record_path(DID, PATH), [response(200, repo.proof(PATH))])
    proof = await refresh(trying, made)
    assert (proof.entry, proof.via, proof.rev) == (entry_of(repo, PATH), Via.RECORD, repo.rev)
    assert made.asked(repo_path(DID)) == 0


@pytest.mark.parametrize(
    "reply",
    [
        response(400, orjson.dumps({"error": "RecordNotFound", "message": "no"})),
        response(400, orjson.dumps({"error": "InvalidRequest"})),
        response(404, b"<html>"),
        response(501, b"not implemented"),
    ],
)
@pytest.mark.parametrize("there", [True, False])
async def test_without_a_proof_the_repository_is_read(
    trying: Attempts, made: Made, reply: bytes, there: bool
) -> None:
    repo = repo_with(PATH, OTHER) if there else repo_with(OTHER)
    made.answer(record_path(DID, PATH), [reply])
    made.answer(repo_path(DID), [without(repo)])
    proof = await refresh(trying, made)
    assert (proof.entry, proof.via) == (entry_of(repo, PATH) if there else None, Via.REPOSITORY)
    assert proof.rev == repo.rev


async def test_a_proof_without_the_nodes_on_the_way_is_none(trying: Attempts, made: Made) -> None:
    repo = repo_with(PATH, OTHER)
    made.answer(record_path(DID, PATH), [without(repo, repo.data)])
    made.answer(repo_path(DID), [without(repo)])
    proof = await refresh(trying, made)
    assert (proof.entry, proof.via) == (entry_of(repo, PATH), Via.REPOSITORY)
    assert made.asked(record_path(DID, PATH)) == TRIES


async def test_a_record_without_bytes_is_neither_there_nor_gone(
    trying: Attempts, made: Made
) -> None:
    repo = repo_with(PATH, OTHER)
    made.answer(record_path(DID, PATH), [without(repo, repo.records[PATH][1])])
    with pytest.raises(FetchFailed) as caught:
        await refresh(trying, made)
    assert caught.value.failure is Failure.REPO_INVALID
    made.answer(record_path(DID, PATH), [response(404)])
    made.answer(repo_path(DID), [without(repo, repo.records[PATH][1])])
    with pytest.raises(FetchFailed) as caught:
        await refresh(trying, made)
    assert caught.value.failure is Failure.REPO_INVALID
    assert made.put_messages == []


@pytest.mark.parametrize(
    ("name", "failure"),
    [
        ("RepoNotFound", Failure.REPO_NOT_FOUND),
        ("RepoDeactivated", Failure.REPO_DEACTIVATED),
    ],
)
async def test_a_refusal_of_the_repository_is_one(
    trying: Attempts, made: Made, name: str, failure: Failure
) -> None:
    made.answer(record_path(DID, PATH), [response(400, orjson.dumps({"error": name}))])
    with pytest.raises(FetchFailed) as caught:
        await refresh(trying, made)
    assert caught.value.failure is failure
    assert made.asked(repo_path(DID)) == 0


async def test_one_repository_that_fails_does_not_stop_its_host(
    trying: Attempts, made: Made
) -> None:
    made.answer(repo_path(DID), [response(500)])
    for _ in range(7):
        with pytest.raises(FetchFailed) as caught:
            await sync(trying)
        assert caught.value.failure is Failure.HOST_ERROR
    assert made.asked(repo_path(DID)) == 7
    repo = repo_with(PATH)
    made.answer(record_path(DID, PATH), [response(200, repo.proof(PATH))])
    assert (await refresh(trying, made)).entry == entry_of(repo, PATH)
