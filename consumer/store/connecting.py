"""Connecting as psycopg does, with the SQLSTATE of a connection that the server refuses.

libpq keeps it to itself: there is no result to ask, and the message is in the server's language.
But it puts the code into the message when it is asked to be verbose, which psycopg has no way to
say; so this module calls libpq, at the pointer that psycopg gives for that.
"""

from __future__ import annotations

import ctypes
import re
import sys
from functools import cache
from typing import Any

import psycopg
from psycopg import pq
from psycopg.abc import PQGenConn
from psycopg.errors import finish_pgconn
from psycopg.pq.abc import PGconn
from psycopg.waiting import Wait

_DEFAULT, _VERBOSE = 1, 2  # PGVerbosity of libpq-fe.h
# "FATAL:  28P01: message", where FATAL may be in any language.
_STATE = re.compile(r":  ([0-9A-Z]{5}): ")
_LOCATION = re.compile(r"\n[^\n]+:  \w+, [\w./-]+:\d+(?=\n|$)")  # in the server's source


def connecting(conninfo: str) -> PQGenConn[PGconn]:
    """Connect, in steps for psycopg to wait between.

    Raises the psycopg error of the SQLSTATE, or ``OperationalError`` if there is none.
    """
    connection = pq.PGconn.connect_start(conninfo.encode())
    _be(_VERBOSE, connection)
    while connection.status != pq.ConnStatus.BAD:
        match connection.connect_poll():
            case pq.PollingStatus.OK:
                connection.nonblocking = 1
                _be(_DEFAULT, connection)
                return connection
            case pq.PollingStatus.READING:
                wait = Wait.R
            case pq.PollingStatus.WRITING:
                wait = Wait.W
            case _:
                break
        while not (yield connection.socket, wait):
            pass
    raise refusal(connection.get_error_message(), finish_pgconn(connection))


def refusal(message: str, connection: PGconn | None = None) -> psycopg.Error:
    """Return the error that libpq's verbose ``message`` about a connection stands for."""
    text = _LOCATION.sub("", message).strip()
    states = _STATE.findall(message)
    try:
        kind = psycopg.errors.lookup(states[-1]) if states else psycopg.OperationalError
    except KeyError:
        kind = psycopg.OperationalError
    return kind(f"connection failed: {text}", pgconn=connection)


def _be(verbosity: int, connection: PGconn) -> None:
    pointer: int = connection.pgconn_ptr  # type: ignore[attr-defined]  # of the real class alone
    _libpq().PQsetErrorVerbosity(ctypes.c_void_p(pointer), verbosity)


@cache
def _libpq() -> Any:
    """Return the libpq that psycopg is linked to: a symbol is looked for in what a library uses."""
    module = sys.modules[pq.PGconn.__module__]
    by_ctypes = getattr(module, "impl", None)  # psycopg without its compiled part
    return by_ctypes.pq if by_ctypes else ctypes.CDLL(module.__file__)
