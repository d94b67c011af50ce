"""Text that strangers wrote, made safe to print: no control characters reach a terminal.  Pure."""

MAX_TEXT = 2_000  # characters of a text in a log line or a stored error


def escape(text: str, *, keep: str = "") -> str:
    """Return ``text`` with every unprintable character but those in ``keep`` as an escape."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text
    )


def escape_json(text: str) -> str:
    """Return the JSON ``text`` with the same meaning and nothing unprintable but line breaks.

    JSON itself only forbids the oldest control characters inside strings.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else _in_json(c) for c in text)


def _in_json(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
