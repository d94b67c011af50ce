"""Where sessions connect to, and as whom: asked anew for every connection."""

from __future__ import annotations

import os

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from consumer.config.settings import PostgresSettings
from consumer.errors import Fatal
from consumer.metrics.labels import Service
from consumer.runtime.secrets import Secret

CONNECT_SECONDS = 10
"""For a connection to one host, and then for the first answer."""

_WRITABLE = {"target_session_attrs": "read-write"}


class Target:
    """A connection string of the settings, and the password that it may be without.

    ``name`` is its key, ``dsn`` or ``direct_dsn``; ``patience``: seconds after which
    unacknowledged data end a connection.  Raises ``Fatal`` if it is not a connection string.
    """

    def __init__(self, settings: PostgresSettings, name: str, patience: float) -> None:
        self._dsn = Secret(settings, name, Service.POSTGRES)
        self._password = Secret(settings, "password", Service.POSTGRES)
        self._patience = patience
        given = getattr(settings, name)
        self._first = dsn_of(given.get_secret_value(), f"postgres.{name}", patience)

    @property
    def address(self) -> str:
        """Host, port and database, for people, as they were at the start."""
        given = conninfo_to_dict(self._first)
        hosts = str(given.get("host", "localhost"))
        return f"{hosts}:{given.get('port', 5432)}/{given.get('dbname', '')}"

    @property
    def identity(self) -> str:
        """The settings that say who we are, for people."""
        if "password" in conninfo_to_dict(self._first):
            return self._dsn.setting
        return f"{self._dsn.setting}, {self._password.setting}"

    async def conninfo(self) -> str:
        """Return what to connect with now.

        Raises ``Transient`` if a file or command gives no secret, ``Fatal`` if the connection
        string has become none.
        """
        text = self._dsn.at_once()
        dsn = self._first if text is None else dsn_of(text, self._dsn.setting, self._patience)
        if "password" in conninfo_to_dict(dsn):
            return dsn
        password = await self._password.read()
        return dsn if password is None else make_conninfo(dsn, password=password)

    def refused(self) -> None:
        """Note that the server has refused what was given."""
        self._password.refused()


def dsn_of(text: str, key: str, patience: float) -> str:
    """Return the connection string ``text`` with what every connection needs.

    ``key`` is the setting's name; ``patience``: seconds after which unacknowledged data end a
    connection.  Of several hosts the first that can be written to is taken, unless ``text`` or the
    environment says otherwise.  Raises ``Fatal`` if it is not a connection string.
    """
    try:
        given = conninfo_to_dict(text)
        attributes = {} if "PGTARGETSESSIONATTRS" in os.environ else _WRITABLE
        return make_conninfo(
            text,
            connect_timeout=CONNECT_SECONDS,
            keepalives_idle=15,
            keepalives_interval=5,
            keepalives_count=3,
            tcp_user_timeout=int(patience * 1000),
            **{name: value for name, value in attributes.items() if name not in given},
        )
    except psycopg.ProgrammingError:
        # libpq quotes the string in its message, and with it the password.
        raise Fatal(
            f"{key} is not a connection string: write postgresql://user:password@host/database"
        ) from None
