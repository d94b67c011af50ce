"""Backups of a test's database, made and restored with PostgreSQL's own programs."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import pytest

from consumer.embedded.postgres import binaries
from tests.support.deployment import Deployment


@dataclass(frozen=True, slots=True)
class Backups:
    """``save`` a backup, ``restore`` it, or leave the database ``empty``."""

    deployment: Deployment
    folder: Path

    async def save(self, name: str = "backup") -> None:
        """Save the tables as they are now."""
        await self._run("pg_dump", "--format", "custom", "--file", str(self.folder / name))

    async def empty(self) -> None:
        """Remove all tables."""
        schema = self.deployment.prefix.removesuffix(".")
        await self._run("psql", "--command", f'DROP SCHEMA IF EXISTS "{schema}" CASCADE')

    async def restore(self, name: str = "backup") -> None:
        """Put the tables back as they were."""
        await self.empty()
        await self._run("pg_restore", str(self.folder / name))

    async def _run(self, program: str, *arguments: str) -> None:
        process = await asyncio.create_subprocess_exec(
            *(str(binaries() / program), "--dbname", self.deployment.dsn, *arguments),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        _, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()


@pytest.fixture
def backups(deployment: Deployment, tmp_path: Path) -> Backups:
    """Give the backups of the test's own database."""
    return Backups(deployment, tmp_path)
