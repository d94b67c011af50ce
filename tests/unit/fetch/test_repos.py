"""Repositories and records from a scripted host: the reasons of its failures, what is left."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest

from consumer.config.settings import FetchSettings, LimitSettings
from consumer.errors import Reason, Refused
from consumer.fetch import repos
from consumer.fetch.documents import Document
from consumer.fetch.failed import FetchFailed, of_resolving
from consumer.fetch.hosts import HostPolicy, Hosts
from consumer.fetch.http import HttpClient
from consumer.fetch.repos import RepoSource
from procedures.failures import Failure
from procedures.retries import DEFAULT
from simulator.account import Account
from simulator.repo import Repo, Write
from tests.support.eventually import eventually
from tests.support.pds import COLLECTION, cut_off, record_path, repo_path
from tests.support.web import Reply, Web, redirect, response, web

ACCOUNT = Account.from_seed("alice")
PATH = f"{COLLECTION}/one"
GARBLED = orjson.dumps({"error": "a\0b\x9b\u202e" + "c" * 9_000})


@pytest.fixture
async def site() -> AsyncIterator[Web]:
    async with web() as running:
        yield running


@pytest.fixture
async def source() -> AsyncIterator[RepoSource]:
    async with HttpClient(allow_loopback=True) as http:
        limits = LimitSettings(repo=10_000)
        yield RepoSource(
            http, Hosts(HostPolicy(4, DEFAULT.host), {}, DEFAULT), limits, FetchSettings()
        )


@pytest.fixture
def spools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the directory where downloads are written."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(repos, "WHOLE", 1)  # a repository of more bytes is in a file
    return tmp_path


def whole() -> bytes:
    repo = Repo(ACCOUNT)
    repo.commit([Write("create", PATH, {"text": "x"})])
    return repo.whole()


def files(folder: Path) -> list[str]:
    """Return the files without a name that this process has open in the folder (Linux)."""
    assert list(folder.iterdir()) == []
    opened = [str(fd.readlink()) for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()]
    return [name for name in opened if name.startswith(f"{folder}/")]


async def fetched(source: RepoSource, site: Web, spools: Path) -> int:
    """Fetch the repository; return how many downloads lay there meanwhile."""
    document = Document(ACCOUNT.did_key, site.origin, None)
    async with source.snapshot(
        ACCOUNT.did, document, (), progress=lambda _: None, verifying=lambda: None
    ):
        return len(files(spools))


async def test_why_a_document_has_no_host_is_said(source: RepoSource) -> None:
    document = Document(ACCOUNT.did_key, None, None, "its PDS endpoint has a path: https://a/b")
    with pytest.raises(FetchFailed, match="its PDS endpoint has a path: https://a/b") as failed:
        await source.proof(ACCOUNT.did, document, PATH)
    assert failed.value.failure is Failure.DID_DOCUMENT


LIES: dict[str, tuple[Reply, Failure]] = {
    "endless": (response(200, bytes(20_000)), Failure.REPO_TOO_BIG),
    "compressed": (response(200, whole(), content_encoding="gzip"), Failure.HOST_FORBIDDEN),
    "private": (redirect("http://169.254.169.254/"), Failure.HOST_FORBIDDEN),
    "nonsense": (redirect("mailto:x"), Failure.HOST_FORBIDDEN),
    "cut short": (cut_off(whole(), 50), Failure.REPO_TRUNCATED),
    "garbled": (response(400, GARBLED), Failure.HOST_ERROR),
    "no object": (response(400, b"[]"), Failure.HOST_ERROR),
    "a table for a name": (response(400, b'{"error":{"a":"\\u0000"}}'), Failure.HOST_ERROR),
    "no repository": (response(200, b"<html>" * 99), Failure.REPO_INVALID),
}


@pytest.mark.parametrize(("reply", "failure"), LIES.values(), ids=LIES)
async def test_a_lie_has_a_name_and_leaves_no_file(
    source: RepoSource, site: Web, spools: Path, reply: Reply, failure: Failure
) -> None:
    site.replies[repo_path(ACCOUNT.did)] = response(200, whole())
    assert await fetched(source, site, spools) == 1
    site.replies[repo_path(ACCOUNT.did)] = reply
    with pytest.raises(FetchFailed) as caught:
        await fetched(source, site, spools)
    assert caught.value.failure is failure
    assert caught.value.detail.isprintable()
    assert files(spools) == []


async def test_what_a_host_calls_its_error_can_be_kept(source: RepoSource, site: Web) -> None:
    """PostgreSQL knows no NUL: the text of a stranger must not be our own fault."""
    site.replies[record_path(ACCOUNT.did, PATH)] = response(400, GARBLED)
    with pytest.raises(FetchFailed) as caught:
        await source.proof(ACCOUNT.did, Document(ACCOUNT.did_key, site.origin, None), PATH)
    assert caught.value.detail.isprintable()
    assert r"a\x00b\x9b\u202ec" in caught.value.detail
    assert len(caught.value.detail) < 3_000
    told = of_resolving(Refused(Reason.DID_INVALID, "calls itself a\0b"))
    assert told.detail.isprintable()


async def test_an_error_that_is_no_text_is_an_error_of_the_host(
    source: RepoSource, site: Web
) -> None:
    """JSON may nest deeper than Python can show."""
    site.replies[record_path(ACCOUNT.did, PATH)] = response(
        400, b'{"error":' + b"[" * 1_000 + b"]" * 1_000 + b"}"
    )
    with pytest.raises(FetchFailed) as caught:
        await source.proof(ACCOUNT.did, Document(ACCOUNT.did_key, site.origin, None), PATH)
    assert caught.value.failure is Failure.HOST_ERROR


async def test_of_large_repositories_there_are_few_at_once(
    source: RepoSource, site: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repos, "LARGE_BYTES", 100)
    source._large = asyncio.Semaphore(1)
    site.replies[repo_path(ACCOUNT.did)] = response(200, whole())
    document = Document(ACCOUNT.did_key, site.origin, None)
    inside = asyncio.Event()
    leave = asyncio.Event()

    async def sync(told: list[int]) -> None:
        async with source.snapshot(
            ACCOUNT.did, document, (), progress=told.append, verifying=lambda: None
        ):
            inside.set()
            await leave.wait()

    first, second = list[int](), list[int]()
    one = asyncio.create_task(sync(first))
    await asyncio.wait_for(inside.wait(), 30)
    inside.clear()
    other = asyncio.create_task(sync(second))

    async def waits() -> bool:
        return bool(second)

    await eventually(waits, what="the second one turns out to be large")
    assert not inside.is_set()
    leave.set()
    await asyncio.gather(one, other)
    assert inside.is_set()
    assert not source._large.locked()
