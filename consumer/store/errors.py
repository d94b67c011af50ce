"""Translation of psycopg's errors into ``Transient`` and ``Fatal``.

Errors of the server are sorted by their SQLSTATE (PostgreSQL manual, appendix A), errors of the
client by their class.  An error that can pass with time is ``Transient``; a statement that the
server never accepts (syntax, constraint, type, permission) is ``Fatal``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from consumer.errors import Fatal, Transient
from consumer.metrics.labels import Service
from consumer.runtime.tasks import is_cancelled

# Connections, rollbacks, resources, locks, operator intervention, system errors.
_TRANSIENT_CLASSES = frozenset({"08", "40", "53", "55", "57", "58"})
# Of class 25: a server that is read-only since a failover, and the two timeouts that end a frozen
# transaction.
_TRANSIENT_STATES = frozenset({"25006", "25P03", "25P04"})
# A COMMIT answered with one of these classes certainly did not happen.
_ROLLED_BACK_CLASSES = frozenset({"23", "40"})


class CommitUnknown(Transient):
    """COMMIT was sent and its outcome is unknown: read the state again before deciding."""


def translate(error: psycopg.Error) -> Transient | Fatal:
    """Return the project's error for a psycopg error."""
    state = error.sqlstate
    text = f"PostgreSQL: {type(error).__name__}: {_said(error)}"
    # Only the answer to a statement has a message; a refused connection says itself what helps.
    if isinstance(error, psycopg.errors.InsufficientPrivilege) and error.diag.message_primary:
        text += "; 'consumer check' names every right that is missing (docs/servers.md)"
    if state is not None:
        waits = state[:2] in _TRANSIENT_CLASSES or state in _TRANSIENT_STATES
    else:
        waits = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return Transient(text, Service.POSTGRES) if waits else Fatal(text)


def translate_commit(error: psycopg.Error) -> Transient | Fatal:
    """Return the project's error for a psycopg error raised by COMMIT itself."""
    if error.sqlstate is not None and error.sqlstate[:2] in _ROLLED_BACK_CLASSES:
        return translate(error)
    return CommitUnknown(
        f"PostgreSQL: COMMIT: {type(error).__name__}: {_said(error)}", Service.POSTGRES
    )


def _said(error: psycopg.Error) -> str:
    """Return the error's message in one line, without the statement."""
    return " ".join((error.diag.message_primary or str(error)).split())


@contextmanager
def translated() -> Iterator[None]:
    """Translate psycopg's errors and ``TimeoutError`` in the block.

    A session that breaks while its task is cancelled raises in psycopg instead of the cancellation,
    which goes on here.  Raises ``Transient`` or ``Fatal``.
    """
    try:
        yield
    except (psycopg.Error, CommitUnknown) as error:
        if is_cancelled():
            raise asyncio.CancelledError from error
        if isinstance(error, CommitUnknown):
            raise
        raise translate(error) from error
    except TimeoutError as error:
        raise Transient("PostgreSQL: no answer in time", Service.POSTGRES) from error
