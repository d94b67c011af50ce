"""Options that say which repositories a command is for: one, those in a file, or a selector."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from consumer.cli.options import validated
from consumer.config import types
from consumer.config.settings import Settings
from procedures.selections import By, Selection, is_collection_pattern, is_host

_STDIN = Path("-")
_COMMAND_BYTES = 15_000  # of the DIDs in one command, which has at most 16 KiB
_AROUND_A_DID = len('"",')


def _collection(text: str) -> str:
    if not is_collection_pattern(text):
        raise ValueError(f"'{text}' is neither a collection NSID nor a pattern such as 'a.b.*'")
    return text


def _host(text: str) -> str:
    host = text.removeprefix("https://").removeprefix("http://").rstrip("/").lower()
    if not is_host(host):
        raise ValueError(f"'{text}' is not host[:port]")
    return host


def selecting(command: Callable[..., None]) -> Callable[..., None]:
    """Give ``command``, after its settings, ``did`` or ``selections``: one of them is not empty.

    A file with more DIDs than fit into one command becomes several selections.
    """

    @click.argument("did", required=False, callback=validated(types.did))
    @click.option(
        "--file",
        type=click.Path(path_type=Path, dir_okay=False, exists=True, allow_dash=True),
        help="The DIDs in this file, one a line; '-' reads standard input.",
    )
    @click.option(
        "--collection",
        callback=validated(_collection),
        help="Tracked repos with a record in it; 'a.b.*' for all that begin so.",
    )
    @click.option("--host", callback=validated(_host), help="Tracked repos at this host.")
    @click.option("--failed", is_flag=True, help="Repos whose last sync failed.")
    @click.option("--all", "everything", is_flag=True, help="Every tracked repo.")
    @functools.wraps(command)
    def selecting(
        settings: Settings,
        *,
        did: str | None,
        file: Path | None,
        collection: str | None,
        host: str | None,
        failed: bool,
        everything: bool,
        **options: Any,
    ) -> None:
        given = {
            "DID": did,
            "--file": file,
            "--collection": collection,
            "--host": host,
            "--failed": failed,
            "--all": everything,
        }
        if sum(bool(value) for value in given.values()) != 1:
            raise click.UsageError(f"Give exactly one of {', '.join(given)}.")
        selections: list[Selection] = []
        if file is not None:
            selections = list(lists_of(_dids(_lines(file), str(file))))
        elif collection is not None:
            selections = [Selection(By.COLLECTION, collection)]
        elif host is not None:
            selections = [Selection(By.HOST, host)]
        elif failed or everything:
            selections = [Selection(By.FAILED if failed else By.ALL)]
        command(settings, did=did, selections=selections, **options)

    return selecting


def lists_of(dids: Iterable[str]) -> Iterator[Selection]:
    """Return ``dids`` as selections that fit into a command each."""
    chosen: list[str] = []
    size = 0
    for did in dids:
        needed = len(did) + _AROUND_A_DID
        if chosen and size + needed > _COMMAND_BYTES:
            yield Selection(By.DIDS, dids=tuple(chosen))
            chosen, size = [], 0
        chosen.append(did)
        size += needed
    if chosen:
        yield Selection(By.DIDS, dids=tuple(chosen))


def _lines(file: Path) -> list[str]:
    try:
        return (sys.stdin.read() if file == _STDIN else file.read_text("utf-8")).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{file} cannot be read: {error}") from None


def _dids(lines: list[str], name: str) -> list[str]:
    """Return the DIDs, each once and in order; blank lines and those that begin with # are none."""
    found: set[str] = set()
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        try:
            found.add(types.did(text))
        except ValueError as error:
            raise click.BadParameter(f"{name}, line {number}: {error}") from None
    if not found:
        raise click.BadParameter(f"{name} names no DID")
    return sorted(found)
