"""Folders of programs in other languages, copied into the cache and built at their first use."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from consumer.embedded.jars import cache_home
from consumer.embedded.process import take_lock

_PATIENCE = 300.0  # seconds


async def prepared(package: Path, *commands: Sequence[str]) -> Path:
    """Return a copy of the folder ``package`` in which ``commands`` were carried out."""
    place = cache_home() / f"{package.name}-{_digest(package)}"
    place.parent.mkdir(parents=True, exist_ok=True)
    held = await take_lock(place.with_suffix(".lock"), _PATIENCE)
    assert held is not None, f"another process prepares {package.name} for too long"
    try:
        if not place.exists():
            staging = place.with_suffix(".partial")
            with suppress(FileNotFoundError):
                shutil.rmtree(staging)
            shutil.copytree(package, staging)
            for command in commands:
                await _run(staging, *command)
            staging.rename(place)
    finally:
        os.close(held)
    return place


async def _run(folder: Path, *command: str) -> None:
    out, err = asyncio.subprocess.PIPE, asyncio.subprocess.STDOUT
    process = await asyncio.create_subprocess_exec(*command, cwd=folder, stdout=out, stderr=err)
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()[-2000:]


def _digest(package: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*")):
        if file.is_file():
            digest.update(file.read_bytes())
    return digest.hexdigest()[:8]
