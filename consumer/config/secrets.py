"""Secrets in files: how one is read, at the start and again whenever it is needed.

Three kinds of files hold secrets: those that settings named ``…_file`` name, mounted secrets of
an orchestrator, which are files too, and systemd's credentials (``credential_of``).
"""

from __future__ import annotations

import stat
from pathlib import Path

CREDENTIALS_VARIABLE = "CREDENTIALS_DIRECTORY"
"""Where systemd puts credentials: https://systemd.io/CREDENTIALS."""

CREDENTIAL_PREFIX = "chive."

_MAX_BYTES = 64 * 1024


def credential_of(section: str, secret: str) -> str:
    """Return the name of a setting's credential: ``chive.kafka.sasl_password``."""
    return f"{CREDENTIAL_PREFIX}{section}.{secret}"


def read_secret(path: Path) -> str:
    """Return what the file ``path`` holds, without the newline that ends it.

    Raises ``ValueError`` that says why there is no secret, and never quotes the file.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe could be read only once
            raise ValueError(f"not a regular file: {path}")
        if status.st_size > _MAX_BYTES:
            raise ValueError(f"larger than {_MAX_BYTES} bytes: {path}")
        text = path.read_bytes().decode()
    except FileNotFoundError:
        raise ValueError(f"no such file: {path}") from None
    except OSError as error:
        raise ValueError(f"cannot be read: {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"not UTF-8 text: {path}") from None
    secret = text.removesuffix("\n").removesuffix("\r")
    if not secret:
        raise ValueError(f"empty file: {path}")
    if "\0" in secret:
        raise ValueError(f"a NUL byte is no part of a secret: {path}")
    return secret
