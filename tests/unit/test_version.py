"""Version and commit of a checkout, a worktree, packed references and of nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from consumer import version
from consumer.cli.main import cli
from consumer.compiled import FORM

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def git(tmp_path: Path) -> Path:
    folder = tmp_path / ".git"
    (folder / "refs" / "heads").mkdir(parents=True)
    (folder / "HEAD").write_text("ref: refs/heads/main\n")
    return folder


def test_the_commit_of_a_branch(git: Path) -> None:
    (git / "refs" / "heads" / "main").write_text(f"{COMMIT}\n")
    assert version._commit(git.parent) == COMMIT


def test_the_commit_of_a_detached_head(git: Path) -> None:
    (git / "HEAD").write_text(f"{COMMIT}\n")
    assert version._commit(git.parent) == COMMIT


def test_the_commit_of_a_packed_reference(git: Path) -> None:
    (git / "packed-refs").write_text(
        f"# pack-refs\n{'0' * 40} refs/heads/x\n{COMMIT} refs/heads/main\n"
    )
    assert version._commit(git.parent) == COMMIT


def test_the_commit_of_a_worktree(git: Path, tmp_path: Path) -> None:
    own = git / "worktrees" / "w"
    own.mkdir(parents=True)
    (own / "HEAD").write_text("ref: refs/heads/topic\n")
    (own / "commondir").write_text("../..\n")
    (git / "refs" / "heads" / "topic").write_text(f"{COMMIT}\n")
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / ".git").write_text(f"gitdir: {own}\n")
    assert version._commit(tree) == COMMIT


@pytest.mark.parametrize("head", ["", "ref: refs/heads/gone", "nonsense", "ref: "])
def test_a_broken_checkout_has_no_commit(git: Path, head: str) -> None:
    (git / "HEAD").write_text(head)
    assert version._commit(git.parent) == version.UNKNOWN


def test_what_is_no_checkout_has_no_commit(tmp_path: Path) -> None:
    assert version._commit(tmp_path) == version.UNKNOWN
    assert version._version(tmp_path) == version.UNKNOWN


def test_the_version_is_that_of_the_project(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "chive-firehose"\nversion = "9.8"\n'
    )
    assert version._version(tmp_path) == "9.8"
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "another"\nversion = "9.8"\n')
    assert version._version(tmp_path) == version.UNKNOWN


def test_the_command_line_says_all_of_it() -> None:
    result = CliRunner().invoke(cli, ["--version"])
    assert result.exit_code == 0
    said = f"{version.version()} (commit {version.commit()}, core: {FORM})"
    assert result.output == f"chive-firehose {said}\n"
