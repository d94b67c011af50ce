"""Packages from npm for tests, in the cache: installed at the first use, as their lock says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.support.prepared import prepared


async def installed(package: Path, *commands: Sequence[str], scripts: bool = False) -> Path:
    """Return a copy of the folder ``package`` with what its lock names; ``scripts`` are run.

    ``commands`` are carried out in it afterwards, once.
    """
    ignored = f"--ignore-scripts={'false' if scripts else 'true'}"
    return await prepared(package, ["npm", "ci", ignored, "--no-audit", "--no-fund"], *commands)
