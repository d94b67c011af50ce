"""One firehose connection: ``com.atproto.sync.subscribeRepos`` over a websocket.

Memory is bounded: above ``HIGH_WATER`` bytes, or ``_MANY`` messages, received and not yet taken,
the socket is not read, so that back-pressure reaches the relay.  While it is not read, silence
does not count against the relay.  Answers to pings are bounded too: a relay that leaves more than
``HIGH_WATER`` bytes of them unread is disconnected.
"""

from __future__ import annotations

import asyncio
import functools
import socket
from typing import Any, cast
from urllib.parse import urlsplit, urlunsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus, InvalidURI
from websockets.protocol import State

from consumer import metrics
from consumer.errors import Fatal
from consumer.network.proxy import Proxy
from consumer.tail.outcomes import Silent
from consumer.tail.splitter import Message, Splitter, Violation

HIGH_WATER = 1024 * 1024
_MANY = 10_000  # messages; they may be empty
_PATH = "/xrpc/com.atproto.sync.subscribeRepos"
_OPEN_SECONDS = 10.0
_CLOSE_SECONDS = 1.0
_END_OF_HEAD = b"\r\n\r\n"
_PORTS = {"ws": 80, "wss": 443}
_SCHEMES = {"http": "ws", "https": "wss"}


class Connection(ClientConnection):
    """A websocket whose data frames ``splitter`` cuts out.

    Only ``receive``, ``wake``, ``queued`` and ``close`` are for use.  ``limit``: bytes of one
    message.  ``silence``: seconds without a frame or pong after which the socket counts as
    half-open.
    """

    def __init__(
        self, protocol: ClientProtocol, *, limit: int, silence: float, **options: Any
    ) -> None:
        super().__init__(protocol, **options)
        self._splitter = Splitter(limit)
        self._silence = silence
        self._head: bytes | None = b""  # the last bytes of the HTTP answer; None behind it
        self._heard_at = self._pinged_at = self.loop.time()
        self._paused = False
        self._ended = False
        self._broken: Violation | None = None
        self._enough = 0
        self._waiter: asyncio.Future[None] | None = None

    async def receive(self, wait: float, enough: int = 0) -> list[Message]:
        """Return all messages that are there, after at most ``wait`` seconds.

        Returns before when more than ``enough`` bytes are there: with none, at the first message.
        Returns none if none came, or because of ``wake``.  Raises ``Silent``, ``Violation`` or
        websockets' ``ConnectionClosed`` once the connection has ended and everything is taken.
        """
        self._enough = enough
        if not (self._has_enough or self._ended):
            await self._wait_for_message(min(wait, self._silence / 4))
        if self._splitter.size:
            metrics.TAIL_BYTES.inc(self._splitter.size)
        messages = self._splitter.take()
        if self._paused:
            self._resume()
        if not messages:
            if self._ended:
                raise self._broken or self.close_exc
            self._check_silence()
        return messages

    def wake(self) -> None:
        """Let ``receive`` return at once."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    @property
    def queued(self) -> int:
        """Bytes received and not yet taken."""
        return self._splitter.size

    def data_received(self, data: bytes) -> None:
        """Pass data frames to the splitter and everything else to websockets."""
        if self._head is not None:
            data = self._shake_hands(data)
            if not data:
                return
        try:
            self._splitter.feed(data)
        except Violation as error:
            self._broken = error
            self.transport.abort()
        self._deliver()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the end."""
        super().connection_lost(exc)
        self._ended = True
        self.wake()

    def _shake_hands(self, data: bytes) -> bytes:
        """Give websockets the HTTP answer; return what lies behind the switch of protocols."""
        known = self._head or b""
        end = (known + data).find(_END_OF_HEAD)
        if end < 0:
            self._head = (known + data)[-len(_END_OF_HEAD) + 1 :]
            super().data_received(data)
            return b""
        end += len(_END_OF_HEAD) - len(known)
        super().data_received(data[:end])
        if self.protocol.state is State.OPEN:
            self._head = None
            self._heard_at = self.loop.time()
            return data[end:]
        if data[end:]:
            super().data_received(data[end:])  # the body of a refusal
        return b""

    def _deliver(self) -> None:
        splitter = self._splitter
        if splitter.messages or splitter.control:
            self._heard_at = self.loop.time()
        if splitter.control:
            frames, splitter.control = splitter.control, []
            for frame in frames:
                super().data_received(frame)
            if self.transport.get_write_buffer_size() > HIGH_WATER:
                self._broken = Violation("pings whose answers are not read")
                self.transport.abort()
        full = splitter.size > HIGH_WATER or len(splitter.messages) > _MANY
        if full and not self._paused:
            self._pause()
        if self._has_enough:
            self.wake()

    @property
    def _has_enough(self) -> bool:
        """Whether what is there may be taken: a full buffer always may."""
        splitter = self._splitter
        return bool(splitter.messages) and (
            splitter.size > self._enough or self._paused or self._enough == 0
        )

    def _pause(self) -> None:
        """Stop reading from the socket."""
        self._paused = True
        if not self._ended:
            self.transport.pause_reading()

    def _resume(self) -> None:
        """Read from the socket again."""
        self._paused = False
        if not self._ended:
            self._heard_at = self.loop.time()
            self.transport.resume_reading()

    async def _wait_for_message(self, wait: float) -> None:
        self._waiter = self.loop.create_future()
        timer = self.loop.call_later(wait, self.wake)
        try:
            await self._waiter
        finally:
            timer.cancel()
            self._waiter = None

    def _check_silence(self) -> None:
        """Ping a silent peer.  Raises ``Silent`` if it has been silent for too long."""
        now = self.loop.time()
        quiet = now - self._heard_at
        if quiet > self._silence:
            raise Silent(f"no frame and no pong for {quiet:.1f} s")
        unasked = min(quiet, now - self._pinged_at)
        if unasked > self._silence / 4 and self.protocol.state is State.OPEN:
            self._pinged_at = now
            self.protocol.send_ping(b"")
            self.send_data()


def endpoint(relay: str, cursor: int | None) -> str:
    """Return the address to connect to; ``relay`` may be given as http(s) or ws(s)."""
    parts = urlsplit(relay)
    scheme = _SCHEMES.get(parts.scheme, parts.scheme)
    query = "" if cursor is None else f"cursor={cursor}"
    return urlunsplit((scheme, parts.netloc, parts.path.rstrip("/") + _PATH, query, ""))


async def subscribe(
    relay: str, cursor: int | None, *, limit: int, silence: float, proxy: Proxy | None = None
) -> Connection:
    """Connect to ``relay`` at ``cursor`` (None: live), through ``proxy`` and no other.

    ``limit`` bounds a message in bytes; ``silence`` is in seconds.  Raises ``Fatal`` if ``relay``
    is no websocket address, and what ``outcomes.classify`` tells apart.
    """
    address = endpoint(relay, cursor)
    tunnel = None if proxy is None else await _opened(proxy, address)
    factory = functools.partial(Connection, limit=limit, silence=silence)
    try:
        connection = await connect(
            address,
            compression=None,
            proxy=None,
            sock=tunnel,
            max_size=limit,
            open_timeout=_OPEN_SECONDS,
            close_timeout=_CLOSE_SECONDS,
            ping_interval=None,
            user_agent_header="chive-firehose",
            create_connection=cast("type[ClientConnection]", factory),
        )
    except InvalidURI as error:
        raise Fatal(f"relay.url is not a websocket address: {relay}") from error
    except ValueError as error:
        # websockets follows no redirect on a connection that it did not make itself.
        if isinstance(error.__cause__, InvalidStatus):
            raise error.__cause__ from error
        raise
    return cast("Connection", connection)


async def _opened(proxy: Proxy, address: str) -> socket.socket:
    parts = urlsplit(address)
    if parts.hostname is None:
        raise Fatal(f"relay.url is not a websocket address: {address}")
    return await proxy.open(parts.hostname, parts.port or _PORTS.get(parts.scheme, 443))
