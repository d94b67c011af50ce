"""Free loopback ports: the last ones again if they are free, others if not."""

from __future__ import annotations

import json
import socket
from pathlib import Path

LOOPBACK = "127.0.0.1"


def _bound(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((LOOPBACK, port))
    except OSError:
        listener.close()
        raise
    return listener


def _take(port: int) -> socket.socket:
    try:
        return _bound(port)
    except OSError:
        return _bound(0)


def choose(path: Path, count: int) -> list[int]:
    """Return ``count`` free ports: those remembered in ``path`` where they are free.

    Keeping them lets clients of a restarted server find it again.  Nothing reserves them
    between this call and the server's bind, so a server that finds its port taken is
    started again with others.
    """
    try:
        remembered = [int(port) for port in json.loads(path.read_text())]
    except (OSError, ValueError):
        remembered = []
    remembered = (remembered + [0] * count)[:count]
    listeners = [_take(port) for port in remembered]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    path.write_text(json.dumps(ports))
    return ports
