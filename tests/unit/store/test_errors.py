from __future__ import annotations

import asyncio

import psycopg
import psycopg_pool
import pytest
from psycopg import errors

from consumer.errors import Fatal, Transient
from consumer.store.errors import CommitUnknown, translate, translate_commit, translated

WAITED_OUT = [
    errors.AdminShutdown(),
    errors.CannotConnectNow(),
    errors.DeadlockDetected(),
    errors.DiskFull(),
    errors.IdleInTransactionSessionTimeout(),
    errors.QueryCanceled(),
    errors.ReadOnlySqlTransaction(),
    errors.SerializationFailure(),
    errors.TooManyConnections(),
    errors.TransactionTimeout(),
    psycopg.OperationalError("the connection is lost"),
    psycopg.InterfaceError("the connection is closed"),
    psycopg_pool.PoolTimeout(),
    psycopg_pool.PoolClosed(),
]
OURS = [
    errors.CharacterNotInRepertoire(),
    errors.InFailedSqlTransaction(),
    errors.InsufficientPrivilege(),
    errors.NotNullViolation(),
    errors.SyntaxError(),
    errors.UndefinedTable(),
    psycopg.DataError("no such adaptation"),
    psycopg.ProgrammingError("no such parameter"),
]


@pytest.mark.parametrize("error", WAITED_OUT, ids=lambda e: type(e).__name__)
def test_what_waiting_can_cure_is_transient(error: psycopg.Error) -> None:
    assert isinstance(translate(error), Transient)


@pytest.mark.parametrize("error", OURS, ids=lambda e: type(e).__name__)
def test_what_the_server_never_accepts_is_fatal(error: psycopg.Error) -> None:
    assert isinstance(translate(error), Fatal)


@pytest.mark.parametrize(
    "error",
    [psycopg.OperationalError("lost"), errors.AdminShutdown(), errors.TransactionTimeout()],
    ids=lambda e: type(e).__name__,
)
def test_a_commit_without_an_answer_is_unknown(error: psycopg.Error) -> None:
    assert isinstance(translate_commit(error), CommitUnknown)


@pytest.mark.parametrize(
    "error", [errors.SerializationFailure(), errors.UniqueViolation()], ids=lambda e: e.sqlstate
)
def test_a_commit_answered_with_an_error_did_not_happen(error: psycopg.Error) -> None:
    assert not isinstance(translate_commit(error), CommitUnknown)


def test_a_time_out_is_transient() -> None:
    with pytest.raises(Transient), translated():
        raise TimeoutError


@pytest.mark.parametrize(
    "error", [psycopg.OperationalError("the connection is lost"), CommitUnknown("COMMIT")]
)
async def test_a_cancellation_outlives_the_session_that_breaks_meanwhile(error: Exception) -> None:
    began = asyncio.Event()

    async def breaks() -> None:
        with translated():
            try:
                began.set()
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise error from None

    task = asyncio.create_task(breaks())
    await began.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    with pytest.raises(type(error) if isinstance(error, CommitUnknown) else Transient):
        await not_cancelled(error)


async def not_cancelled(error: Exception) -> None:
    with translated():
        raise error
