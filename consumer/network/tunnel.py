"""How a proxy is asked for a connection: HTTP CONNECT and SOCKS5.  Pure.

CONNECT: RFC 9110, section 9.3.6, with Basic credentials (RFC 7617).  SOCKS5: RFC 1928, with user
and password (RFC 1929).

An exchange is a generator.  It yields what is to be sent, which may be nothing, and is sent what
has come: at least one byte, or none once the proxy has closed the connection.  It returns when the
connection to the target is open; the client speaks first on it.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Generator, Mapping
from ipaddress import IPv4Address, IPv6Address

Target = IPv4Address | IPv6Address | str
"""An address, or a name that the proxy resolves."""
Credentials = tuple[str, str]
Exchange = Generator[bytes, bytes, None]

_MAX_HEAD = 16 * 1024
_MAX_REASON = 100
_MAX_NAME = 253
_DIGITS = 3  # of a status
_END_OF_HEAD = b"\r\n\r\n"
_CREDENTIALS_WANTED = 407
_TARGET_AWAY = frozenset({502, 503, 504})

_VERSION, _CONNECT = 5, 1
_NO_CREDENTIALS, _PASSWORD, _NO_METHOD = 0, 2, 0xFF
_GRANTED = 0
_TARGET_REPLIES: Mapping[int, str] = {
    1: "general failure",
    2: "not allowed by its rules",
    3: "network unreachable",
    4: "host unreachable",
    5: "connection refused",
    6: "TTL expired",
    8: "address type not supported",
}
_ADDRESS_BYTES = {1: 4, 4: 16}


class TunnelFailed(Exception):
    """The proxy opens no connection.

    ``about_target``: it may well open one to another target.
    """

    def __init__(self, detail: str, *, about_target: bool = False) -> None:
        super().__init__(detail)
        self.about_target = about_target


def connect(target: Target, port: int, credentials: Credentials | None) -> Exchange:
    """Ask an HTTP proxy for ``target`` at ``port``.  Raises ``TunnelFailed``."""
    host = f"[{target}]" if isinstance(target, IPv6Address) else _checked(str(target))
    head = [f"CONNECT {host}:{port} HTTP/1.1", f"Host: {host}:{port}"]
    if credentials is not None:
        encoded = b64encode(":".join(credentials).encode()).decode()
        head.append(f"Proxy-Authorization: Basic {encoded}")
    inbox = _Inbox()
    answer = yield from inbox.head("\r\n".join([*head, "", ""]).encode())
    status, reason = _status(answer)
    if status == _CREDENTIALS_WANTED:
        raise _unauthorized(credentials)
    if not 200 <= status < 300:  # noqa: PLR2004 - the successful ones
        words = "cannot reach" if status in _TARGET_AWAY else "refuses a connection to"
        raise TunnelFailed(f"{words} {host}:{port}: HTTP {status} {reason}", about_target=True)
    inbox.close()


def socks5(target: Target, port: int, credentials: Credentials | None) -> Exchange:
    """Ask a SOCKS5 proxy for ``target`` at ``port``.  Raises ``TunnelFailed``."""
    inbox = _Inbox()
    methods = [_NO_CREDENTIALS] if credentials is None else [_NO_CREDENTIALS, _PASSWORD]
    version, method = yield from inbox.take(2, bytes([_VERSION, len(methods), *methods]))
    _check_version(version)
    if method == _NO_METHOD:
        raise _unauthorized(credentials)
    if method not in methods:
        raise TunnelFailed(f"chooses a way to authenticate that was not offered: {method}")
    if method == _PASSWORD and credentials is not None:
        user, password = (text.encode() for text in credentials)
        request = bytes([1, len(user), *user, len(password), *password])
        _, status = yield from inbox.take(2, request)
        if status != _GRANTED:
            raise _unauthorized(credentials)
    request = bytes([_VERSION, _CONNECT, 0, *_address(target), *port.to_bytes(2, "big")])
    version, reply = yield from inbox.take(2, request)
    _check_version(version)
    if reply != _GRANTED:
        said = _TARGET_REPLIES.get(reply, "SOCKS5 reply")
        detail = f"opens no connection to {target}, port {port}: {said} ({reply})"
        raise TunnelFailed(detail, about_target=reply in _TARGET_REPLIES)
    # What is left is the address that the proxy speaks from; it is not needed.
    _, kind = yield from inbox.take(2)
    size = _ADDRESS_BYTES[kind] if kind in _ADDRESS_BYTES else (yield from inbox.take(1))[0]
    yield from inbox.take(size + 2)
    inbox.close()


class _Inbox:
    """What has come and is not taken yet."""

    def __init__(self) -> None:
        self._held = b""

    def take(self, size: int, request: bytes = b"") -> Generator[bytes, bytes, bytes]:
        """Send ``request``; return the next ``size`` bytes."""
        while len(self._held) < size:
            yield from self._more(request)
            request = b""
        taken, self._held = self._held[:size], self._held[size:]
        return taken

    def head(self, request: bytes) -> Generator[bytes, bytes, bytes]:
        """Send ``request``; return the head of an HTTP answer."""
        while _END_OF_HEAD not in self._held:
            if len(self._held) > _MAX_HEAD:
                raise TunnelFailed("is no HTTP proxy: the head of its answer has no end")
            yield from self._more(request)
            request = b""
        head, _, self._held = self._held.partition(_END_OF_HEAD)
        return head

    def close(self) -> None:
        """Refuse what came before it was asked for."""
        if self._held:
            raise TunnelFailed("says more than it was asked")

    def _more(self, request: bytes) -> Generator[bytes, bytes, None]:
        received = yield request
        if not received:
            raise TunnelFailed("closes the connection without an answer")
        self._held += received


def _unauthorized(credentials: Credentials | None) -> TunnelFailed:
    wrong = "wants a user and a password" if credentials is None else "refuses user or password"
    return TunnelFailed(wrong)


def _check_version(version: int) -> None:
    if version != _VERSION:
        raise TunnelFailed("is no SOCKS5 proxy")


def _status(head: bytes) -> tuple[int, str]:
    version, _, rest = head.partition(b"\r\n")[0].decode("latin-1").partition(" ")
    status, _, reason = rest.partition(" ")
    if not (version.startswith("HTTP/1.") and len(status) == _DIGITS and status.isdecimal()):
        raise TunnelFailed("is no HTTP proxy: its answer is not HTTP/1.1")
    return int(status), reason[:_MAX_REASON]


def _address(target: Target) -> bytes:
    match target:
        case IPv4Address():
            return b"\x01" + target.packed
        case IPv6Address():
            return b"\x04" + target.packed
    name = _checked(target).encode()
    return bytes([3, len(name)]) + name


def _checked(name: str) -> str:
    """Return ``name`` if it is of the characters and the length of a host's name."""
    if not (name.isascii() and name.isprintable() and " " not in name and len(name) <= _MAX_NAME):
        raise TunnelFailed(f"is not asked for {name[:_MAX_NAME]!r}", about_target=True)
    return name
