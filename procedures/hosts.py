"""Hosts of repositories: a domain, with its port if it has one.  Pure.

This is syntax alone.  Whether a host may be reached is decided by the addresses that it has, when
it is dialled (``consumer/fetch/guard.py``).
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

_LOCAL = frozenset({"localhost", "127.0.0.1"})
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
# The last label begins with a letter, so that no other address is a domain.
_HOST = re.compile(
    rf"(?=[^:]{{1,253}}(?::|$))(?:localhost|127\.0\.0\.1|(?:{_LABEL}\.)+[a-z](?:[a-z0-9-]{{0,61}}[a-z0-9])?)"
    r"(?::[1-9][0-9]{0,4})?"
)
_MAX_PORT = 65_535
_SUBJECT = "host="


def is_host(text: str) -> bool:
    """Tell whether ``text`` is a domain in lower case or this machine, with or without a port."""
    _, _, port = text.partition(":")
    return _HOST.fullmatch(text) is not None and int(port or 1) <= _MAX_PORT


def is_local(host: str) -> bool:
    """Tell whether ``host`` is this machine, which is for development."""
    return host.partition(":")[0] in _LOCAL


def origin(host: str) -> str:
    """Return where ``host`` is asked: over https, this machine over http."""
    return f"{'http' if is_local(host) else 'https'}://{host}"


def of_origin(text: str) -> str | None:
    """Return the host of ``https://host[:port]``, which may end in a slash; None: it is none.

    Only this machine is named over http.
    """
    try:
        parts = urlsplit(text)
        host = parts.netloc.lower().removesuffix(":443" if parts.scheme == "https" else ":80")
    except ValueError:
        return None
    rest = (parts.path in ("", "/"), not parts.query, not parts.fragment, text.isprintable())
    if not all(rest) or not is_host(host) or urlsplit(origin(host)).scheme != parts.scheme:
        return None
    return host


def subject(host: str) -> str:
    """Return the reason of the operation that makes ``host`` a source of discovery."""
    return f"{_SUBJECT}{host}"


def of_subject(reason: str) -> str | None:
    """Return the host of ``subject``; None: it is another reason."""
    return reason.removeprefix(_SUBJECT) if reason.startswith(_SUBJECT) else None
