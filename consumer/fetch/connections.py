"""HTTP/1.1 on guarded connections: one request at a time on each, which is kept for the next one.

h11 knows the protocol; here are connections that wait, and what is done with them.  Timeouts are
their callers'.  Times are in seconds.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import cast

import h11

from consumer.fetch.guard import ConnectionBroken, Guard

_MAX_AT_ONCE = 128  # requests
_MAX_IDLE = 64  # connections
_IDLE_SECONDS = 30.0
_MAX_HEAD = 100 * 1024  # bytes of a head, a trailer or the line before a chunk
_HELD = 256 * 1024  # bytes that were received and not asked for

Headers = Iterable[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request goes; ``host`` is a name or an address in ASCII, without brackets."""

    scheme: str
    host: str
    port: int


class _Unanswered(ConnectionBroken):
    """The host closed the connection without a byte of an answer."""


class _Connection(asyncio.Protocol):
    """One connection.  ``on_idle_end`` is called when it ends while nothing is asked."""

    def __init__(self, origin: Origin, on_idle_end: Callable[[_Connection], None]) -> None:
        self.origin = origin
        self.idle_since: float | None = None
        self._on_idle_end = on_idle_end
        self._protocol = h11.Connection(h11.CLIENT, _MAX_HEAD)
        self._transport: asyncio.Transport | None = None
        self._received: list[bytes] = []
        self._held = 0
        self._paused = False
        self._over = False
        self._failure: Exception | None = None
        self._arrived: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class

    def data_received(self, data: bytes) -> None:
        """Keep ``data`` until it is asked for."""
        if self.idle_since is not None:  # nothing was asked
            self._end()
            return
        self._received.append(data)
        self._held += len(data)
        if self._held > _HELD and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> None:
        """Note that nothing more comes."""
        self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that nothing more comes, and why."""
        self._failure = self._failure or exc
        self._end()

    def abort(self) -> None:
        """Close the connection."""
        self._over, self.idle_since = True, None
        if self._transport is not None:
            self._transport.abort()

    async def ask(self, target: bytes, headers: Headers) -> h11.Response:
        """Send a GET request, and return the head of the answer.  Raises ``ConnectionBroken``."""
        self.idle_since = None
        assert self._transport is not None  # noqa: S101 - the connection was made
        try:
            request = h11.Request(method=b"GET", target=target, headers=list(headers))
            self._transport.write(self._protocol.send(request) or b"")
            self._protocol.send(h11.EndOfMessage())
        except h11.LocalProtocolError as error:
            raise ConnectionBroken(f"this cannot be asked: {error}") from error
        while not isinstance(event := await self._next(), h11.Response):
            pass  # an interim answer
        return event

    async def part(self) -> bytes | None:
        """Return the next part of the body, None at its end.  Raises ``ConnectionBroken``."""
        event = await self._next()
        return bytes(event.data) if isinstance(event, h11.Data) else None

    def reuse(self, now: float) -> bool:
        """Tell whether it can be asked again, and is idle since ``now``."""
        states = {self._protocol.our_state, self._protocol.their_state}
        if self._over or self._received or states != {h11.DONE} or self._protocol.trailing_data[0]:
            return False
        self._protocol.start_next_cycle()
        self.idle_since = now
        return True

    async def _next(self) -> object:
        """Return the next event of h11.  Raises ``ConnectionBroken``."""
        try:
            while (event := self._protocol.next_event()) is h11.NEED_DATA:
                self._protocol.receive_data(await self._receive())
        except h11.RemoteProtocolError as error:
            raise ConnectionBroken(str(error)) from error
        return event

    async def _receive(self) -> bytes:
        """Return what has come, nothing at the end.  Raises ``ConnectionBroken``."""
        while not (self._received or self._over):
            self._arrived = asyncio.get_running_loop().create_future()
            await self._arrived
        if not self._received:
            self._check_end()
        data = b"".join(self._received)
        self._received.clear()
        self._held = 0
        if self._paused and self._transport is not None and not self._over:
            self._paused = False
            self._transport.resume_reading()
        return data

    def _check_end(self) -> None:
        """Raise ``ConnectionBroken`` if the connection should not have ended here."""
        protocol, why = self._protocol, self._failure
        if protocol.their_state is h11.SEND_RESPONSE and not protocol.trailing_data[0]:
            said = f"the connection ended without an answer{f': {why}' if why else ''}"
            raise _Unanswered(said) from why
        if why is not None:
            raise ConnectionBroken(str(why)) from why

    def _end(self) -> None:
        was_idle, self._over = self.idle_since is not None, True
        if was_idle:
            self.abort()
            self._on_idle_end(self)
        self._wake()

    def _wake(self) -> None:
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)


class Response:
    """An answer whose body is not read yet; close it in any case."""

    def __init__(
        self, connection: _Connection, head: h11.Response, release: Callable[[_Connection], None]
    ) -> None:
        self.status = head.status_code
        self._headers = head.headers
        self._connection = connection
        self._release = release

    def header(self, name: bytes) -> str | None:
        """Return the values of the header ``name``, which is in lower case; None without any."""
        values = [value for each, value in self._headers if each == name]
        return _text(b", ".join(values)) if values else None

    async def part(self) -> bytes | None:
        """Return the next part of the body, None at its end.  Raises ``ConnectionBroken``."""
        return await self._connection.part()

    def close(self) -> None:
        """Give the connection back.  One whose body was not read to its end is closed."""
        self._release(self._connection)


class Connections:
    """Connections to any number of origins; ``guards`` by scheme.  Close it after use."""

    def __init__(self, guards: Mapping[str, Guard], tls: ssl.SSLContext) -> None:
        self._guards = guards
        self._tls = tls
        self._places = asyncio.Semaphore(_MAX_AT_ONCE)
        self._idle: dict[_Connection, None] = {}  # those that are idle for the longest time first
        self._idle_at: defaultdict[Origin, list[_Connection]] = defaultdict(list)
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    async def get(self, origin: Origin, target: bytes, headers: Headers) -> Response:
        """Send a request for ``target``, and return the answer without its body.

        Raises ``ConnectionBroken``, and like ``Guard.dial``.
        """
        await self._places.acquire()
        try:
            while True:
                connection = self._take(origin)
                reused = connection is not None
                if connection is None:
                    connection = await self._connected(origin)
                try:
                    head = await connection.ask(target, headers)
                except _Unanswered:
                    connection.abort()
                    if not reused:
                        raise
                    # The host closed it while it was idle: asking again does no harm.
                except BaseException:
                    connection.abort()
                    raise
                else:
                    return Response(connection, head, self._release)
        except BaseException:
            self._places.release()
            raise

    def close(self) -> None:
        """Close every idle connection, and keep none from now on."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for connection in list(self._idle):
            self._drop(connection)

    async def _connected(self, origin: Origin) -> _Connection:
        guard, tls = self._guards[origin.scheme], origin.scheme == "https"
        dialled = await guard.dial(origin.host, origin.port)
        try:
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: _Connection(origin, self._forget),
                sock=dialled,
                ssl=self._tls if tls else None,
                server_hostname=origin.host if tls else None,
            )
        except (OSError, ValueError) as error:  # of the connection, of TLS, of a name for TLS
            dialled.close()
            raise ConnectionBroken(str(error)) from error
        except BaseException:
            dialled.close()
            raise
        return connection

    def _take(self, origin: Origin) -> _Connection | None:
        if not self._idle_at.get(origin):
            return None
        connection = self._idle_at[origin][-1]
        self._forget(connection)
        return connection

    def _release(self, connection: _Connection) -> None:
        self._places.release()
        loop = asyncio.get_running_loop()
        if self._closed or not connection.reuse(loop.time()):
            connection.abort()
            return
        self._idle[connection] = None
        self._idle_at[connection.origin].append(connection)
        if len(self._idle) > _MAX_IDLE:
            self._drop(next(iter(self._idle)))
        if self._timer is None:
            self._timer = loop.call_later(_IDLE_SECONDS, self._expire)

    def _expire(self) -> None:
        """Close what has been idle for too long; come back for the others."""
        loop = asyncio.get_running_loop()
        self._timer = None
        for connection in list(self._idle):
            end = (connection.idle_since or 0.0) + _IDLE_SECONDS
            if end > loop.time():
                self._timer = loop.call_at(end, self._expire)
                break
            self._drop(connection)

    def _drop(self, connection: _Connection) -> None:
        self._forget(connection)
        connection.abort()

    def _forget(self, connection: _Connection) -> None:
        """Count ``connection`` no more among the idle ones."""
        del self._idle[connection]
        idle = self._idle_at[connection.origin]
        idle.remove(connection)
        if not idle:
            del self._idle_at[connection.origin]


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
