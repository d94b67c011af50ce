"""What every command prints alike: errors as lines, JSON; and the exit codes.

Exit codes: 0 done; 1 something failed or cannot be reached; 2 wrong usage or settings;
130 interrupted.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NoReturn

import click
import orjson

from consumer.printable import escape, escape_json

FAILED, MISUSED, INTERRUPTED = 1, 2, 130


def fail(lines: Iterable[str], code: int) -> NoReturn:
    """Print each line as an error and exit with ``code``."""
    for line in lines:
        click.echo(f"error: {escape(line, keep=chr(10))}", err=True)
    raise SystemExit(code)


def print_json(value: object) -> None:
    """Print a value as indented JSON without control characters."""
    text = orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()
    click.echo(escape_json(text))
