"""Kafka's jars: a directory in the cache is complete and checked, or it is not there."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
from jgo.maven import Artifact, PythonResolver

from consumer.embedded.jars import cache_home, kafka_jars
from consumer.embedded.releases import CURRENT, Jar, Release
from consumer.errors import Fatal, Transient
from tests.support.oldest_kafka import OLDEST


def jar(name: str, content: bytes) -> Jar:
    return Jar(f"org.example:{name}:1.0", hashlib.sha256(content).hexdigest())


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Serve artifacts from a dictionary; two of them are locked."""
    files = {"one": b"1", "two": b"2"}
    folder = tmp_path / "repository"
    folder.mkdir()

    def download(_: PythonResolver, artifact: Artifact) -> Path:
        if artifact.artifactId not in files:
            raise RuntimeError("not found in remote repositories")
        path = folder / f"{artifact.artifactId}.jar"
        path.write_bytes(files[artifact.artifactId])
        return path

    monkeypatch.setattr(PythonResolver, "download", download)
    monkeypatch.setattr(Release, "jars", lambda _: [jar("one", b"1"), jar("two", b"2")])
    return files


def directories(cache: Path) -> list[Path]:
    return [path for path in cache.iterdir() if path.is_dir() and path.suffix != ".partial"]


async def test_they_are_downloaded_once(tmp_path: Path, repository: dict[str, bytes]) -> None:
    cache = tmp_path / "cache"
    found = await kafka_jars(cache)
    assert [path.read_bytes() for path in found] == [b"1", b"2"]
    repository.clear()
    assert await kafka_jars(cache) == found
    assert len(directories(cache)) == 1


async def test_a_changed_file_is_refused(tmp_path: Path, repository: dict[str, bytes]) -> None:
    repository["two"] = b"evil"
    with pytest.raises(Fatal, match=r"org\.example:two:1\.0 has SHA-256"):
        await kafka_jars(tmp_path / "cache")
    assert directories(tmp_path / "cache") == []
    repository["two"] = b"2"
    assert len(await kafka_jars(tmp_path / "cache")) == 2


async def test_a_failed_download_leaves_nothing_and_may_be_tried_again(
    tmp_path: Path, repository: dict[str, bytes]
) -> None:
    content = repository.pop("two")
    with pytest.raises(Transient, match="cannot download"):
        await kafka_jars(tmp_path / "cache")
    assert directories(tmp_path / "cache") == []
    repository["two"] = content
    assert len(await kafka_jars(tmp_path / "cache")) == 2


async def test_a_leftover_of_a_failed_download_blocks_no_other(
    tmp_path: Path, repository: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    remove = shutil.rmtree

    def removed_too_soon(path: Path, *, ignore_errors: bool = False) -> None:
        remove(path, ignore_errors=ignore_errors)
        # As a thread does that has not noticed yet; a real one may be as late.
        (path / "jars").mkdir(parents=True, exist_ok=True)

    monkeypatch.setattr(shutil, "rmtree", removed_too_soon)
    content = repository.pop("two")
    with pytest.raises(Transient, match="cannot download"):
        await kafka_jars(tmp_path / "cache")
    repository["two"] = content
    assert len(await kafka_jars(tmp_path / "cache")) == 2


@pytest.mark.parametrize("release", [CURRENT, OLDEST], ids=lambda each: each.version)
def test_the_lock_names_one_kafka_and_no_address(release: Release) -> None:
    found = release.jars()
    kafka = {each.coordinate for each in found if each.coordinate.startswith("org.apache.kafka:")}
    assert f"org.apache.kafka:kafka_2.13:{release.version}" in kafka
    assert {each.rsplit(":", 1)[1] for each in kafka} == {release.version}
    assert all(len(each.sha256) == 64 for each in found)
    assert "://" not in release.lock.read_text()


def test_the_cache_is_the_users_unless_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_home() == tmp_path / "chive"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_home() == tmp_path / ".cache" / "chive"
    assert cache_home(tmp_path / "mine") == tmp_path / "mine"


@pytest.mark.usefixtures("repository")
async def test_a_cache_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    with pytest.raises(Fatal, match=r"/cache cannot be written to .*set cache_dir"):
        await kafka_jars(tmp_path / "cache")
