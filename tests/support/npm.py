"""Packages from npm for tests, in the cache: installed at the first use, as their lock says."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

from consumer.embedded.jars import cache_home
from consumer.embedded.process import take_lock

_PATIENCE = 300.0  # seconds


async def installed(package: Path, *, scripts: bool = False) -> Path:
    """Return a copy of the folder ``package`` with what its lock names; ``scripts`` are run."""
    place = cache_home() / f"{package.name}-{_digest(package)}"
    place.parent.mkdir(parents=True, exist_ok=True)
    held = await take_lock(place.with_suffix(".lock"), _PATIENCE)
    assert held is not None, f"another process installs {package.name} for too long"
    try:
        if not place.exists():
            staging = place.with_suffix(".partial")
            with suppress(FileNotFoundError):
                shutil.rmtree(staging)
            shutil.copytree(package, staging)
            ignored = f"--ignore-scripts={'false' if scripts else 'true'}"
            command = ["npm", "ci", ignored, "--no-audit", "--no-fund"]
            await asyncio.to_thread(
                subprocess.run, command, cwd=staging, check=True, capture_output=True
            )
            staging.rename(place)
    finally:
        os.close(held)
    return place


def _digest(package: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(package.iterdir()):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:8]
