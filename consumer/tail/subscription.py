"""One firehose connection: ``com.atproto.sync.subscribeRepos`` over a websocket.

Everything received and not yet taken is bounded: above ``HIGH_WATER`` bytes, or very many messages,
the socket is not read, so that back-pressure reaches the relay.  While we do not read, silence is
our own.  Nor do answers to pings heap up: a relay that leaves more than ``HIGH_WATER`` bytes of
them unread is given up.
"""

from __future__ import annotations

import asyncio
import functools
from typing import Any, cast
from urllib.parse import urlsplit, urlunsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidURI
from websockets.protocol import State

from consumer import metrics
from consumer.errors import Fatal
from consumer.tail.outcomes import Silent
from consumer.tail.splitter import Message, Splitter, Violation

HIGH_WATER = 1024 * 1024
_MANY = 10_000  # messages; they may be empty
_PATH = "/xrpc/com.atproto.sync.subscribeRepos"
_OPEN_SECONDS = 10.0
_CLOSE_SECONDS = 1.0
_END_OF_HEAD = b"\r\n\r\n"
_SCHEMES = {"http": "ws", "https": "wss"}


class Connection(ClientConnection):
    """A websocket whose data frames we cut out ourselves; see ``splitter``.

    Only ``receive``, ``wake`` and ``close`` are for use.  ``silence``: seconds without a frame
    or pong after which the socket is taken for half-open.
    """

    def __init__(
        self, protocol: ClientProtocol, *, limit: int, silence: float, **options: Any
    ) -> None:
        super().__init__(protocol, **options)
        self._splitter = Splitter(limit)
        self._silence = silence
        self._head: bytes | None = b""  # the last bytes of the HTTP answer; None behind it
        self._heard = self._pinged = self.loop.time()
        self._held = False
        self._ended = False
        self._broken: Violation | None = None
        self._waiter: asyncio.Future[None] | None = None

    async def receive(self, wait: float) -> list[Message]:
        """Return all messages that are there, waiting up to ``wait`` seconds for the first.

        May return none: in vain, or because of ``wake``.  Raises ``Silent``, ``Violation`` or
        websockets' ``ConnectionClosed`` when the connection is over and everything taken.
        """
        if not self._splitter.messages and not self._ended:
            await self._rest(min(wait, self._silence / 4))
        if self._splitter.size:
            metrics.TAIL_BYTES.inc(self._splitter.size)
        messages = self._splitter.take()
        if self._held:
            self._hold(on=False)
        if not messages:
            if self._ended:
                raise self._broken or self.close_exc
            self._listen()
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
        """Sort what arrives: messages for us, the rest for websockets."""
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
            self._heard = self.loop.time()
            return data[end:]
        if data[end:]:
            super().data_received(data[end:])  # the body of a refusal
        return b""

    def _deliver(self) -> None:
        splitter = self._splitter
        if splitter.messages or splitter.control:
            self._heard = self.loop.time()
        if splitter.control:
            frames, splitter.control = splitter.control, []
            for frame in frames:
                super().data_received(frame)
            if self.transport.get_write_buffer_size() > HIGH_WATER:
                self._broken = Violation("pings whose answers are not read")
                self.transport.abort()
        full = splitter.size > HIGH_WATER or len(splitter.messages) > _MANY
        if full and not self._held:
            self._hold(on=True)
        if splitter.messages:
            self.wake()

    def _hold(self, *, on: bool) -> None:
        """Stop or resume reading from the socket."""
        self._held = on
        if self._ended:
            return
        if on:
            self.transport.pause_reading()
        else:
            self._heard = self.loop.time()
            self.transport.resume_reading()

    async def _rest(self, wait: float) -> None:
        self._waiter = self.loop.create_future()
        timer = self.loop.call_later(wait, self.wake)
        try:
            await self._waiter
        finally:
            timer.cancel()
            self._waiter = None

    def _listen(self) -> None:
        """Nothing came: ask the peer whether it is there, and give it up after a while."""
        now = self.loop.time()
        quiet = now - self._heard
        if quiet > self._silence:
            raise Silent(f"no frame and no pong for {quiet:.1f} s")
        if min(quiet, now - self._pinged) > self._silence / 4 and self.protocol.state is State.OPEN:
            self._pinged = now
            self.protocol.send_ping(b"")
            self.send_data()


def endpoint(relay: str, cursor: int | None) -> str:
    """Return the address to connect to; ``relay`` may be given as http(s) or ws(s)."""
    parts = urlsplit(relay)
    scheme = _SCHEMES.get(parts.scheme, parts.scheme)
    query = "" if cursor is None else f"cursor={cursor}"
    return urlunsplit((scheme, parts.netloc, parts.path.rstrip("/") + _PATH, query, ""))


async def subscribe(relay: str, cursor: int | None, *, limit: int, silence: float) -> Connection:
    """Connect to ``relay`` at ``cursor`` (None: live).

    ``limit`` bounds a message in bytes.  Raises what ``outcomes.classify`` understands.
    """
    factory = functools.partial(Connection, limit=limit, silence=silence)
    try:
        connection = await connect(
            endpoint(relay, cursor),
            compression=None,
            max_size=limit,
            open_timeout=_OPEN_SECONDS,
            close_timeout=_CLOSE_SECONDS,
            ping_interval=None,
            user_agent_header="chive-firehose",
            create_connection=cast("type[ClientConnection]", factory),
        )
    except InvalidURI as error:
        raise Fatal(f"relay.url is not a websocket address: {relay}") from error
    return cast("Connection", connection)
