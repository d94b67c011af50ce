"""What each XRPC method does with an authenticated, validated call.

The gateway decides nothing about repositories: it sends commands to ``chive.control`` and reads
operations.  Every command is logged with who asked for what under which id.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import structlog

from procedures import (
    backfills,
    comparison,
    contract,
    dead_letters,
    firehose_status,
    index_record,
    refresh_record,
    register_pds,
    sync_did,
    trigger_backfill,
)
from procedures.client import (
    CommandSink,
    CursorInvalid,
    Operations,
    Query,
    Unavailable,
    new_id,
    outcome,
)
from procedures.comparison import Index, Indexed
from procedures.contract import ErrorName, XrpcError
from procedures.dead_letters import Letters
from procedures.firehose_status import Firehose
from procedures.messages import (
    Cancel,
    Command,
    DidSync,
    RecordRefresh,
    RegisterHost,
    WorkCommand,
    is_operation_id,
)
from procedures.operations import Operation, Status
from procedures.register_pds import KnownHosts

_LISTED_WITHIN_SECONDS = 2.0  # a login does not wait longer for the listing of a new host
_APPEARS_WITHIN_SECONDS = 1.0  # between the broker's acknowledgement of a command and its operation

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Call:
    """A call by the DID ``caller``, with its checked ``fields``.

    What it asks for becomes the operation ``identifier``.  It must be answered by ``deadline``, in
    seconds of the event loop's clock.
    """

    caller: str
    identifier: str
    fields: Mapping[str, Any]
    deadline: float


@dataclass(frozen=True, slots=True)
class CallResult:
    """The output of a method, and the id of the operation that it is about.

    ``refusal``: the error that a command ended in, which is the answer then; what is refused
    without a command is raised.  ``repeated``: it came of the same request before.
    """

    output: dict[str, Any]
    operation: str | None = None
    refusal: XrpcError | None = None
    repeated: bool = False


Handler = Callable[[Call], Awaitable[CallResult]]


def _nowhere(_did: str) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Ports:
    """What the handlers ask of the deployment.

    ``elsewhere``: for people, which other deployment has the account of a DID; None: this one.
    """

    commands: CommandSink
    operations: Operations
    hosts: KnownHosts
    index: Index
    firehose: Firehose
    letters: Letters
    elsewhere: Callable[[str], str | None] = _nowhere


class Calls:
    """The handlers of the methods, by NSID.

    ``admins`` may index the records of others; ``clock`` gives Unix seconds.
    """

    def __init__(
        self,
        ports: Ports,
        admins: AbstractSet[str] = frozenset(),
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._ports = ports
        self._known = ports.operations
        self._admins = frozenset(admins)
        self._clock = clock
        self.handlers: Mapping[str, Handler] = {
            contract.TRIGGER_DID_SYNC: self._trigger_did_sync,
            contract.REFRESH_RECORD: self._refresh_record,
            contract.INDEX_RECORD: self._index_record,
            contract.REGISTER_PDS: self._register_pds,
            contract.VERIFY: self._verify,
            contract.CHECK_STALENESS: self._check_staleness,
            contract.GET_BACKFILL_STATUS: self._get_backfill_status,
            contract.GET_BACKFILL_HISTORY: self._get_backfill_history,
            contract.CANCEL_BACKFILL: self._cancel_backfill,
            contract.TRIGGER_BACKFILL: self._trigger_backfill,
            contract.GET_FIREHOSE_STATUS: self._get_firehose_status,
            contract.LIST_DLQ_ENTRIES: self._list_dlq_entries,
            contract.RETRY_DLQ_ENTRY: self._retry_dlq_entry,
        }

    async def _send(self, command: Command, deadline: float) -> None:
        if isinstance(command, WorkCommand):
            self._require_here(command.did)
        async with asyncio.timeout_at(deadline):
            await self._ports.commands.send(command)
        log.info(
            "command_sent",
            audit=True,
            command=type(command).__name__,
            subject=command.subject,
            requested_by=command.requested_by,
            operation=command.id,
        )

    def _require_here(self, did: str) -> None:
        """Raise ``XrpcError`` (OtherShard) if another deployment has the account."""
        if elsewhere := self._ports.elsewhere(did):
            raise XrpcError(ErrorName.OTHER_SHARD, elsewhere)

    async def _trigger_did_sync(self, call: Call) -> CallResult:
        sync = sync_did.command(call.fields, call.identifier, call.caller, self._clock())
        await self._begin(sync, call.deadline)
        return CallResult(sync_did.answer(sync), sync.id)

    async def _trigger_backfill(self, call: Call) -> CallResult:
        sync = trigger_backfill.command(call.fields, call.identifier, call.caller, self._clock())
        await self._begin(sync, call.deadline)
        return CallResult(trigger_backfill.answer(sync), sync.id)

    async def _begin(self, command: DidSync | RegisterHost, deadline: float) -> None:
        """Send ``command``.  Raises ``XrpcError`` where the broker does not confirm it."""
        try:
            await self._send(command, deadline)
        except (Unavailable, TimeoutError) as error:
            raise _in_doubt(command.id) from error

    async def _register_pds(self, call: Call) -> CallResult:
        register = register_pds.command(call.fields, call.identifier, call.caller, self._clock())
        async with asyncio.timeout_at(call.deadline):
            state = await self._ports.hosts.state_of(register.host)
        output = register_pds.known(call.fields, state)
        if output is not None:
            return CallResult(output)
        await self._begin(register, call.deadline)
        soon = asyncio.get_running_loop().time() + _LISTED_WITHIN_SECONDS
        operation = None
        with suppress(Unavailable):  # it is registered all the same
            operation = await outcome(self._known, register.id, min(soon, call.deadline))
        return CallResult(register_pds.answer(call.fields, register, operation), register.id)

    async def _refresh_record(self, call: Call) -> CallResult:
        refresh = refresh_record.command(call.fields, call.identifier, call.caller, self._clock())
        return await self._refreshed(
            call, refresh, refresh_record.answer, refresh_record.unfinished
        )

    async def _index_record(self, call: Call) -> CallResult:
        refresh = index_record.command(
            call.fields, call.identifier, call.caller, self._clock(), admins=self._admins
        )
        return await self._refreshed(call, refresh, index_record.answer, index_record.unfinished)

    async def _refreshed(
        self,
        call: Call,
        refresh: RecordRefresh,
        answer: Callable[[RecordRefresh, Operation | None], dict[str, Any]],
        unfinished: Callable[[str, str, str], dict[str, Any]],
    ) -> CallResult:
        """Send ``refresh``, and return the answer to its outcome."""
        try:
            await self._send(refresh, call.deadline)
        except Unavailable as error:
            raise _in_doubt(refresh.id) from error
        except TimeoutError:
            why = "its command is not confirmed yet"
            return CallResult(unfinished(refresh.uri, refresh.id, why), refresh.id)
        try:
            operation = await outcome(self._known, refresh.id, call.deadline)
        except Unavailable:
            why = "accepted, but how far it is cannot be read for now"
            return CallResult(unfinished(refresh.uri, refresh.id, why), refresh.id)
        try:
            return CallResult(answer(refresh, operation), refresh.id)
        except XrpcError as refusal:
            return CallResult({}, refresh.id, refusal)

    async def _verify(self, call: Call) -> CallResult:
        return await self._compared(call, comparison.verify)

    async def _check_staleness(self, call: Call) -> CallResult:
        return await self._compared(call, comparison.staleness)

    async def _compared(
        self,
        call: Call,
        answer: Callable[[RecordRefresh, Indexed, Operation | None], dict[str, Any]],
    ) -> CallResult:
        """Return the answer to what the index had, and what its repository has now.

        Each call is a refresh of its own: a query may come again with its token.
        """
        refresh = refresh_record.command(call.fields, new_id(), call.caller, self._clock())
        self._require_here(refresh.did)
        async with asyncio.timeout_at(call.deadline):
            before = await self._ports.index.indexed(refresh.uri)
        try:
            await self._send(refresh, call.deadline)
        except (Unavailable, TimeoutError) as error:
            raise _in_doubt(refresh.id) from error
        operation = await outcome(self._known, refresh.id, call.deadline)
        return CallResult(answer(refresh, before, operation), refresh.id)

    async def _get_backfill_status(self, call: Call) -> CallResult:
        identifier = call.fields.get("id")
        if identifier is not None:
            operation = await self._operation(identifier)
            return CallResult({"operation": backfills.shown(operation)}, identifier)
        return await self._page(backfills.status_query(call.fields))

    async def _get_backfill_history(self, call: Call) -> CallResult:
        query = backfills.history_query(call.fields)
        if query.did is not None:
            self._require_here(query.did)
        return await self._page(query)

    async def _page(self, query: Query) -> CallResult:
        try:
            page = await self._known.page(query)
        except CursorInvalid as error:
            raise XrpcError(ErrorName.INVALID_REQUEST, "cursor is not valid") from error
        output: dict[str, Any] = {"operations": [backfills.shown(o) for o in page.operations]}
        return CallResult(output if page.cursor is None else output | {"cursor": page.cursor})

    async def _cancel_backfill(self, call: Call) -> CallResult:
        identifier = backfills.cancelled_id(call.fields)
        operation = await self._operation(identifier, wait=True)
        if not operation.ended:
            cancel = Cancel(
                id=call.identifier,
                operation_id=identifier,
                requested_by=call.caller,
                requested_at=self._clock(),
            )
            try:
                await self._send(cancel, call.deadline)
            except TimeoutError as error:
                raise _in_doubt(identifier) from error
            operation = await outcome(self._known, identifier, call.deadline) or operation
        return CallResult({"success": operation.status == Status.CANCELLED}, identifier)

    async def _get_firehose_status(self, call: Call) -> CallResult:
        now = self._clock()
        async with asyncio.timeout_at(call.deadline):
            state = await self._ports.firehose.state(now)
            letters = await self._ports.letters.newest()
        return CallResult(firehose_status.answer(state, len(letters), now))

    async def _list_dlq_entries(self, call: Call) -> CallResult:
        async with asyncio.timeout_at(call.deadline):
            letters = await self._ports.letters.newest()
        return CallResult(dead_letters.page(letters, call.fields))

    async def _retry_dlq_entry(self, call: Call) -> CallResult:
        async with asyncio.timeout_at(call.deadline):
            letters = await self._ports.letters.newest()
        letter = dead_letters.named(letters, call.fields)
        sync = dead_letters.command(letter, call.identifier, call.caller, self._clock())
        if sync is None:
            return CallResult(dead_letters.answer(letter, None))
        await self._begin(sync, call.deadline)
        return CallResult(dead_letters.answer(letter, sync), sync.id)

    async def _operation(self, identifier: str, *, wait: bool = False) -> Operation:
        """Return an operation; ``wait``: its command may be on its way still."""
        operation = None
        if is_operation_id(identifier):
            operation = await self._known.get(identifier)
            if operation is None and wait:
                soon = asyncio.get_running_loop().time() + _APPEARS_WITHIN_SECONDS
                operation = await _first(self._known, identifier, soon)
        if operation is None:
            raise XrpcError(ErrorName.NOT_FOUND, "there is no such operation")
        return operation


async def _first(known: Operations, identifier: str, deadline: float) -> Operation | None:
    try:
        async with asyncio.timeout_at(deadline):
            return await known.changed(identifier, 0)
    except TimeoutError:
        return None


def _in_doubt(identifier: str) -> XrpcError:
    message = f"the broker has not confirmed the command; operation {identifier} may yet begin"
    return XrpcError(ErrorName.SERVICE_UNAVAILABLE, message, {"Retry-After": "5"})
