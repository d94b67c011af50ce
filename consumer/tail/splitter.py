"""Split the byte stream of a websocket server into messages.  Pure.  RFC 6455, section 5.2.

websockets parses every frame with generators and wakes a coroutine for every message, which costs
more than the rest of the tailer's work on a frame that is not wanted.  It also ends the connection
at a message above the limit, which the relay sends again after each reconnect.  The tailer
therefore splits data frames itself, and leaves the handshake and control frames to websockets.

Relays send fragmented messages: Go's writers flush a large message in several frames.
"""

from __future__ import annotations

from dataclasses import dataclass

from consumer.errors import Reason

# A message this many times above the limit is not skipped: its length is implausible.
_SKIP_FACTOR = 16
_MAX_CONTROL = 125  # bytes of a control frame's payload
_QUOTED = 200  # bytes of a text message in its refusal
_BEGINNING = 65_536  # bytes kept of a skipped message: they tell whose it is

_FIN, _RESERVED, _OPCODE = 0x80, 0x70, 0x0F
_CONTINUATION, _TEXT, _BINARY, _CONTROL = 0x0, 0x1, 0x2, 0x8
_WHOLE_BINARY = _FIN | _BINARY
_EXTENSION = {126: 2, 127: 8}  # bytes of length that follow


@dataclass(frozen=True, slots=True)
class Unusable:
    """A message that cannot be a frame of the firehose; ``data`` are the bytes that were kept."""

    reason: Reason
    detail: str
    data: bytes


Message = bytes | Unusable


class Violation(Exception):
    """The peer broke the framing: the bytes after it cannot be read."""


class Unskippable(Violation):
    """A message is too large to be skipped."""


class Splitter:
    """The whole messages of one connection.

    ``messages`` are the binary messages in order, with an ``Unusable`` for each text message
    and, with its beginning, each above ``limit`` bytes; ``size`` is their sum in bytes.
    ``control`` are whole control frames, for websockets.  The reader removes both.  Between
    calls the splitter itself holds less than one message of ``limit`` bytes.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rest = bytearray()
        self._needed = 0  # bytes of _rest from which on it can hold a whole frame
        self._skipping = 0  # bytes of an oversized message's frame still to come
        self._skipped_last = False  # and it is the message's last frame
        self._beginning = min(limit, _BEGINNING)
        self._opcode: int | None = None  # of the fragmented message under way
        self._partial = bytearray()
        self._total = 0  # its bytes so far, kept or not
        self._room = limit  # its bytes allowed; -1 once it is oversized
        self.messages: list[Message] = []
        self.control: list[bytes] = []
        self.size = 0

    def feed(self, data: bytes) -> None:
        """Add bytes of the socket.  Raises ``Violation`` where they break the framing."""
        if self._skipping:
            skipped = min(self._skipping, len(data))
            self._skipping -= skipped
            self._keep_beginning(data[: self._beginning], skipped)
            data = data[skipped:]
            if not self._skipping and self._skipped_last:
                self._finish_oversized()
        if self._rest:
            self._rest += data
            if len(self._rest) < self._needed:
                return
            data = bytes(self._rest)
            self._rest.clear()
        at = self._split(data)
        if at < len(data):
            self._rest += data[at:]

    def take(self) -> list[Message]:
        """Remove and return the messages."""
        taken, self.messages, self.size = self.messages, [], 0
        return taken

    def _split(self, data: bytes) -> int:
        """Read every whole frame of ``data``; return the offset of the rest."""
        at, end = 0, len(data)
        self._needed = 0
        while end - at > 1:
            first, length = data[at], data[at + 1]
            body = at + 2
            if length > _MAX_CONTROL:
                body += self._extension(first, length)
                if body > end:
                    self._needed = body - at
                    break
                length = int.from_bytes(data[at + 2 : body], "big")
            stop = body + length
            if length > self._room and not first & _CONTROL:
                self._oversized(first, length, data[body : min(stop, body + self._beginning)])
                self._skipping = max(0, stop - end)
                if not self._skipping and self._skipped_last:
                    self._finish_oversized()
                at = min(stop, end)
                continue
            if stop > end:
                self._needed = stop - at
                break
            if first == _WHOLE_BINARY and self._opcode is None:
                self.messages.append(data[body:stop])
                self.size += length
            elif first & _CONTROL:
                self.control.append(data[at:stop])
            else:
                self._part(first, data[body:stop])
            at = stop
        return at

    def _extension(self, first: int, length: int) -> int:
        if length not in _EXTENSION:
            raise Violation("a masked frame")
        if first & _CONTROL:
            raise Violation("a long control frame")
        return _EXTENSION[length]

    def _oversized(self, first: int, length: int, payload: bytes) -> None:
        """Begin to skip a data frame with which its message exceeds the limit.

        ``payload`` is as much of its beginning as has come.
        """
        self._enter(first)
        self._total += length
        self._keep_beginning(payload, len(payload))
        if self._total > _SKIP_FACTOR * self._limit:
            raise Unskippable(f"a message of {self._total} bytes or more")
        self._room = -1
        self._skipped_last = bool(first & _FIN)

    def _keep_beginning(self, payload: bytes, length: int) -> None:
        """Add the first ``length`` bytes of ``payload``, as far as they are of the beginning."""
        room = self._beginning - len(self._partial)
        if room > 0:
            self._partial += payload[: min(room, length)]
        else:
            del self._partial[self._beginning :]

    def _finish_oversized(self) -> None:
        self._skipped_last = False
        detail = f"{self._total} bytes, the limit is {self._limit}"
        self._finish(Unusable(Reason.FRAME_TOO_BIG, detail, bytes(self._partial)))

    def _part(self, first: int, payload: bytes) -> None:
        """Add a whole frame to the current message, or begin one with it."""
        self._enter(first)
        self._partial += payload
        self._total += len(payload)
        self._room = self._limit - self._total
        if not first & _FIN:
            return
        data = bytes(self._partial)
        if self._opcode == _TEXT:
            text = data[:_QUOTED].decode(errors="replace")
            self._finish(Unusable(Reason.FRAME_TEXT, text, data))
        else:
            self._finish(data)

    def _enter(self, first: int) -> None:
        """Check that a data frame is allowed here, and note the message that it begins."""
        opcode = first & _OPCODE
        if first & _RESERVED or opcode > _BINARY:
            raise Violation(f"a frame with the first byte {first:#04x}")
        if (opcode == _CONTINUATION) is (self._opcode is None):
            raise Violation("fragments out of order")
        if opcode != _CONTINUATION:
            self._opcode = opcode

    def _finish(self, message: Message) -> None:
        self.messages.append(message)
        self.size += len(message) if isinstance(message, bytes) else len(message.data)
        self._partial.clear()
        self._opcode, self._total, self._room = None, 0, self._limit
