"""Which version and which commit this is.

An installed package knows both from its metadata (PEP 566, PEP 610); in a checkout they stand
in ``pyproject.toml`` and ``.git``.  Files are read when asked, and no process is started.
"""

from __future__ import annotations

import json
import tomllib
from functools import cache
from importlib import metadata
from pathlib import Path

UNKNOWN = "unknown"
_NAME = "chive-firehose"
_ROOT = Path(__file__).parents[1]
_COMMIT_DIGITS = frozenset("0123456789abcdef")


@cache
def version() -> str:
    """Return the version, such as ``0.2.0``."""
    return _version(_ROOT)


@cache
def commit() -> str:
    """Return the commit as hexadecimal digits, or ``unknown``."""
    return _commit(_ROOT)


def _version(root: Path) -> str:
    try:
        project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        if project["name"] == _NAME:
            return str(project["version"])
    except (OSError, ValueError, KeyError):
        pass  # not a checkout
    try:
        return metadata.version(_NAME)
    except metadata.PackageNotFoundError:
        return UNKNOWN


def _commit(root: Path) -> str:
    found: str | None
    try:
        found = _of_checkout(root / ".git")
    except (OSError, ValueError):
        found = _of_package()
    return found if found and _COMMIT_DIGITS.issuperset(found) else UNKNOWN


def _of_checkout(git: Path) -> str:
    """Read what HEAD points at (gitrepository-layout(5)).  Raises OSError without a checkout."""
    if git.is_file():  # a worktree: "gitdir: PATH"
        git = (git.parent / git.read_text(encoding="utf-8").partition(":")[2].strip()).resolve()
    head = (git / "HEAD").read_text(encoding="utf-8").strip()
    if not head.startswith("ref:"):
        return head
    reference = head.partition(":")[2].strip()
    shared = git / "commondir"
    common = git / shared.read_text(encoding="utf-8").strip() if shared.is_file() else git
    for folder in (git, common):
        if (file := folder / reference).is_file():
            return file.read_text(encoding="utf-8").strip()
    for line in (common / "packed-refs").read_text(encoding="utf-8").splitlines():
        digits, _, name = line.partition(" ")
        if name == reference:
            return digits
    return UNKNOWN


def _of_package() -> str | None:
    try:
        text = metadata.distribution(_NAME).read_text("direct_url.json")
        found = json.loads(text)["vcs_info"]["commit_id"] if text else None
    except (metadata.PackageNotFoundError, ValueError, KeyError):
        return None
    return str(found)
