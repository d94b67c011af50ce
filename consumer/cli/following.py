"""Operations as the command line follows them: sent, watched to their ends, and summed up."""

from __future__ import annotations

import asyncio
import getpass
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import replace

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from consumer.cli.output import FAILED
from consumer.control.topic import ControlTopic
from consumer.errors import Fatal, Transient
from consumer.kafka.stable import left_open, places_of
from consumer.kafka.topics import Topic
from consumer.printable import escape
from consumer.services import Services, answering
from consumer.store.operations.history import Changes, History
from procedures.client import Query, Unavailable, follow
from procedures.failures import GONE
from procedures.messages import Command
from procedures.operations import Children, Operation, Status, Type

COMPLETED, CANCELLED = 0, 3
"""Exit codes, beside those of every command."""

_LOOK_SECONDS = 5.0  # between two looks at what holds commands back
_PAGE = 1_000  # operations that are read at once
_FOLLOWED = 10  # operations that are followed at once: the oldest, which the controller works at


def requester() -> str:
    """Return who is at the command line, for the operation's record."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "unknown"
    text = f"cli:{user}@{socket.gethostname()}"
    return "".join(each if " " <= each <= "~" else "?" for each in text)[:200]


async def send(services: Services, *commands: Command) -> None:
    """Send commands.  Raises ``Fatal`` when that fails."""
    try:
        async with ControlTopic.opened(services.client, services.topics) as topic:
            for command in commands:
                async with answering(services.settings, "Kafka to take the command"):
                    await topic.send(command)
    except Unavailable as error:
        raise Fatal(f"the command was not confirmed: {error}") from error


async def watched(
    services: Services, identifiers: Sequence[str], console: Console
) -> list[Operation]:
    """Follow operations to their ends, with one progress bar where there is a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[what]}"))
    newest: dict[str, Operation] = {}
    at_once = asyncio.Semaphore(_FOLLOWED)
    try:
        with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as progress:
            task = progress.add_task("queued", total=100 * len(identifiers), what="")

            async def followed(history: History, identifier: str) -> None:
                async with at_once, aclosing(follow(history, identifier)) as steps:
                    async for operation in steps:
                        newest[identifier] = operation
                        seen = list(newest.values())
                        progress.update(
                            task,
                            completed=sum(one.progress for one in seen),
                            description=str(operation.phase or operation.status),
                            what=_how_far(seen),
                        )

            async with _history(services) as history, _warned(services, console):
                await asyncio.gather(*(followed(history, each) for each in identifiers))
    except Unavailable as error:
        first = identifiers[0]
        raise Fatal(f"operation {first} goes on, but cannot be followed: {error}") from error
    return [newest[identifier] for identifier in identifiers]


def _listed_entries(operations: Sequence[Operation]) -> str:
    return f"{sum(one.records_processed for one in operations)} entries read"


def _how_far(operations: Sequence[Operation]) -> str:
    if all(one.type is Type.DISCOVERY for one in operations):
        return _listed_entries(operations)
    records = f"{sum(one.records_processed for one in operations)} records"
    found = _all_children(operations)
    if found is None:
        return records
    expected = "?" if found.expected is None else str(found.expected)
    failed = sum(found.failed.values())
    return f"{found.done} of {expected} repositories, {failed} failed, {records}"


def _all_children(operations: Sequence[Operation]) -> Children | None:
    """Return what became of the children of all ``operations`` together; None if they have none."""
    each = [one.children for one in operations if one.children is not None]
    if not each:
        return None
    expected = [one.expected for one in each]
    return Children(
        expected=None if None in expected else sum(number or 0 for number in expected),
        chosen=sum(one.chosen for one in each),
        completed=sum(one.completed for one in each),
        failed=dict(sum((Counter(one.failed) for one in each), Counter[str]())),
        cancelled=sum(one.cancelled for one in each),
        skipped=sum(one.skipped for one in each),
        in_step=None
        if any(one.in_step is None for one in each)
        else sum(one.in_step or 0 for one in each),
    )


def exit_code(operations: Sequence[Operation]) -> int:
    """Return what the command's exit code says about the operations' ends."""
    if any(one.status is Status.CANCELLED for one in operations):
        return CANCELLED
    well = all(
        one.status is Status.COMPLETED and not (one.children and _unwell(one.children))
        for one in operations
    )
    return COMPLETED if well else FAILED


def _unwell(found: Children) -> Mapping[str, int]:
    """Return the failures that are no result; that an account is gone is one of a reconcile."""
    if found.in_step is None:
        return found.failed
    return {name: count for name, count in found.failed.items() if name not in GONE}


def _of_reconcile(found: Children, in_step: int) -> str:
    """Return what a reconcile has found."""
    unasked = _unwell(found)
    gone = sum(found.failed.values()) - sum(unasked.values())
    names = ", ".join(f"{name} {count}" for name, count in sorted(unasked.items()))
    expected = "" if found.expected is None else f" of {found.expected}"
    return (
        f"{found.done}{expected} repositories: {in_step} in step, "
        f"{found.completed - in_step} repaired, {gone} gone, "
        f"{sum(unasked.values())} could not be asked about{f' ({names})' if names else ''}, "
        f"{found.cancelled} cancelled, {found.skipped} skipped; "
    )


def outcome(operations: Sequence[Operation]) -> str:
    """Return what came of operations, in a few words."""
    found = _all_children(operations)
    of_children = ""
    if found is not None and found.in_step is not None:
        of_children = _of_reconcile(found, found.in_step)
    elif found is not None:
        names = ", ".join(f"{name} {count}" for name, count in sorted(found.failed.items()))
        failed = f"{sum(found.failed.values())} failed{f' ({names})' if names else ''}"
        expected = "" if found.expected is None else f" of {found.expected}"
        of_children = (
            f"{found.done}{expected} repositories: {found.completed} completed, {failed}, "
            f"{found.cancelled} cancelled, {found.skipped} skipped; "
        )
    if operations and all(one.type is Type.DISCOVERY for one in operations):
        return _listed_entries(operations)
    created, updated, deleted = (
        sum(getattr(one, name) for one in operations) for name in ("created", "updated", "deleted")
    )
    return f"{of_children}{created} created, {updated} updated, {deleted} deleted"


def summary(operation: Operation) -> str:
    """Return one line about an operation."""
    what = escape(operation.uri or operation.did or operation.reason or "")
    why = ": ".join(filter(None, [operation.failure, escape(operation.error or "")]))
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(operation.requested_at))
    stage = "/".join(filter(None, [operation.status, operation.phase]))
    end = f": {why}" if why else ""
    return f"{at}  {operation.id}  {operation.type} {what}  {stage}  {outcome([operation])}{end}"


async def listed(services: Services, query: Query) -> list[Operation]:
    """Return operations, newest first.  Raises ``Fatal`` when they cannot be read."""
    database = services.database
    history = History(database, Changes(database))
    found: list[Operation] = []
    try:
        async with answering(services.settings, f"PostgreSQL at {database.address}"):
            while (left := query.limit - len(found)) > 0:
                page = await history.page(replace(query, limit=min(left, _PAGE)))
                found += page.operations
                if page.cursor is None:
                    break
                query = replace(query, cursor=page.cursor)
    except Unavailable as error:
        raise Fatal(f"operations cannot be read: {error}") from error
    return found


async def cancelled(services: Services, identifier: str, patience: float) -> Operation | None:
    """Wait until an operation has ended, at most ``patience`` seconds; None: there is none."""
    async with _history(services) as history:
        operation = await history.get(identifier)
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while operation is not None and not operation.ended:
                    operation = await history.changed(identifier, operation.version)
    return operation


async def held_back_by(services: Services) -> str | None:
    """Say what keeps commands from being read, None if nothing does.

    Raises ``Transient`` or ``Fatal``.
    """
    control = places_of(services.topics, Topic.CONTROL)
    async with answering(services.settings, "Kafka"):
        found = await left_open(services.client, control)
    return str(found[0]) if found else None


@asynccontextmanager
async def _warned(services: Services, console: Console) -> AsyncIterator[None]:
    """Say once during the block that commands are not read, if they are not."""

    async def watch() -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            with suppress(Transient):
                if (held := await held_back_by(services)) is not None:
                    console.print(f"{held}: the command waits until it ends", markup=False)
                    return

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


@asynccontextmanager
async def _history(services: Services) -> AsyncIterator[History]:
    changes, stop = Changes(services.database), asyncio.Event()
    listening = asyncio.create_task(changes.run(stop))
    try:
        yield History(services.database, changes)
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
