"""The checked types of single settings: each refuses invalid values with one clear phrase.

Validators return the value in its one normal form; their errors never quote secrets.
NSIDs, DIDs and patterns follow https://atproto.com/specs/nsid and https://atproto.com/specs/did.
"""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import SplitResult, unquote, urlsplit

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict
from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

from consumer.config.secrets import read_secret
from consumer.scope import EVERYTHING
from consumer.shard import Shard
from procedures import syntax

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Moment = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
"""A wait in seconds, of one at most."""

PerSecond = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Bytes = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]

_SUBSCRIBE = "/xrpc/com.atproto.sync.subscribeRepos"
RELAY = "relay"
"""A source of listings: the relay's own origin."""
_ROUTE = re.compile(r"[a-z][a-z0-9-]{0,63}")
_FRAGMENT = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_MAX_SEQ = 2**53 - 1  # a seq is a number in JSON
_MAX_CREDENTIAL = 255  # bytes: the limit of SOCKS5 (RFC 1929)
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


def pattern(text: str) -> str:
    """Return ``text`` if it is a collection NSID, a wildcard over whole segments, or ``*``."""
    if text == EVERYTHING or syntax.is_nsid(text) or syntax.is_nsid_wildcard(text):
        return text
    if "*" in text and not text.endswith(".*"):
        raise ValueError(f"'{text}' is not a pattern: a wildcard is a whole last segment ('a.b.*')")
    raise ValueError(f"'{text}' is neither a collection NSID nor a pattern such as 'pub.chive.*'")


def nsid(text: str) -> str:
    """Return ``text`` if it is the NSID of a collection."""
    if not syntax.is_nsid(text):
        raise ValueError(f"'{text}' is not a collection NSID")
    return text


def patterns(given: tuple[str, ...]) -> tuple[str, ...]:
    """Return at least one pattern."""
    if not given:
        raise ValueError("no collection is wanted; for all of them write '*'")
    return given


def did(text: str) -> str:
    """Return ``text`` if it is a did:plc or did:web."""
    if not syntax.is_resolvable_did(text):
        raise ValueError(f"'{text}' is not a did:plc or did:web")
    return text


def _without_credentials(text: str) -> None:
    """Refuse credentials first: no later message may quote a part of a password."""
    if "@" in text:
        raise ValueError("credentials in a URL or address are refused")


def _split_url(text: str) -> SplitResult:
    _without_credentials(text)
    try:
        url = urlsplit(text)
        _ = url.port
    except ValueError as error:
        raise ValueError(f"not a URL: {error}") from None
    if not url.hostname:
        raise ValueError("not a URL: no host")
    if url.query or url.fragment:
        raise ValueError("the URL has a query or fragment; leave it out")
    return url


def relay_url(text: str) -> str:
    """Return the relay's origin as ``ws(s)://host[:port]``; the XRPC path may be given too."""
    url = _split_url(text)
    scheme = {"wss": "wss", "https": "wss", "ws": "ws", "http": "ws"}.get(url.scheme)
    if scheme is None:
        raise ValueError("a relay's URL starts with wss:// or ws://")
    if url.path.rstrip("/") not in ("", _SUBSCRIBE):
        raise ValueError("a relay's URL has no path: only scheme, host and port")
    return f"{scheme}://{url.netloc.lower()}"


def shard(text: str) -> str:
    """Return ``text`` if it is ``NUMBER/OF``."""
    return str(Shard.parse(text))


def start(given: object) -> object:
    """Return ``live``, ``oldest`` or a sequence number; one given as text as a number."""
    seq = int(given) if isinstance(given, str) and re.fullmatch("[0-9]{1,16}", given) else given
    if seq in ("live", "oldest") or (type(seq) is int and 0 < seq <= _MAX_SEQ):
        return seq
    raise ValueError("neither live nor oldest nor a sequence number")


def http_origin(text: str) -> str:
    """Return ``https://host[:port]``; plain http is accepted for loopback only."""
    url = _split_url(text)
    if url.scheme not in ("https", "http"):
        raise ValueError("the URL starts with https://")
    if url.scheme == "http" and url.hostname not in _LOOPBACK:
        raise ValueError("plain http is accepted for loopback only")
    if url.path not in ("", "/"):
        raise ValueError("the URL has no path: only scheme, host and port")
    return f"{url.scheme}://{url.netloc.lower()}"


def http_url(text: str) -> str:
    """Return an http or https URL, which may have a path, without the slash at its end."""
    url = _split_url(text)
    if url.scheme not in ("https", "http"):
        raise ValueError("the URL starts with https:// or http://")
    return f"{url.scheme}://{url.netloc.lower()}{url.path.rstrip('/')}"


def source(text: str) -> str:
    """Return ``relay``, or an origin as ``http_origin`` does."""
    return text if text == RELAY else http_origin(text)


def is_loopback(host: str) -> bool:
    """Tell whether ``host`` names this machine."""
    return host in _LOOPBACK


def host_port(text: str) -> str:
    """Return ``text`` if it is ``host:port``."""
    _without_credentials(text)
    host, colon, port = text.rpartition(":")
    if not (colon and host and port.isascii() and port.isdigit() and 0 <= int(port) <= 65535):  # noqa: PLR2004  # the last port
        raise ValueError(f"'{text}' is not host:port")
    if "/" in host or any(c.isspace() for c in host):
        raise ValueError(f"'{text}' is not host:port")
    return text


def fragment(text: str) -> str:
    """Return the name of a service entry, without the ``#`` that may lead it."""
    name = text.removeprefix("#")
    if not _FRAGMENT.fullmatch(name):
        raise ValueError(f"'{text}' is not the name of a service entry, such as '#chive'")
    return name


def servers(text: str) -> str:
    """Return a comma-separated list of ``host:port`` without blanks."""
    _without_credentials(text)
    return ",".join(host_port(part.strip()) for part in text.split(","))


def dsn(secret: SecretStr) -> SecretStr:
    """Return a PostgreSQL connection string that libpq can read."""
    text = secret.get_secret_value()
    if "://" in text and not text.startswith(("postgresql://", "postgres://")):
        raise ValueError("the connection string starts with postgresql://")
    authority, _, rest = text.partition("://")[2].partition("/")
    if "@" in rest or authority.count("@") > 1:
        # libpq would read a part of the password as the host or the database, which are shown.
        raise ValueError("in the URL's user, password and parameters @ is written %40, and / %2F")
    try:
        conninfo_to_dict(text)
    except (ProgrammingError, UnicodeError):
        # libpq quotes the string in its message, and with it the password.
        raise ValueError("not a PostgreSQL connection string") from None
    return secret


def topic_config(given: object) -> object:
    """Return a mapping of Kafka's names to values; in a variable ``name=value``, with commas."""
    return _pairs(given, "name=value (name= leaves it to the broker)")


def routes(given: object) -> object:
    """Return a mapping of patterns to topics; in a variable ``pattern=topic``, with commas."""
    return _pairs(given, "pattern=topic, such as pub.chive.eprint.*=eprints")


def _pairs(given: object, form: str) -> object:
    if not isinstance(given, str | list):
        return given
    texts = given.split(",") if isinstance(given, str) else map(str, given)
    found: dict[str, str] = {}
    for text in filter(None, map(str.strip, texts)):
        name, equals, value = (part.strip() for part in text.partition("="))
        if not (name and equals):
            raise ValueError(f"'{text}' is not {form}")
        if name in found:
            raise ValueError(f"'{name}' is given twice")
        found[name] = value
    return found


def route(text: str) -> str:
    """Return the name of a topic of events, without the deployment's prefix."""
    if text != EVENTS and text in {ALL_TOPICS, *BUILT_IN_TOPICS}:
        raise ValueError(f"'{text}' is a topic of the consumer's own; events may not go there")
    if not _ROUTE.fullmatch(text):
        raise ValueError(
            f"'{text[:64]}' is no topic's name: at most 64 lower-case letters, digits and hyphens, "
            "a letter first; kafka.topic_prefix comes before it"
        )
    return text


def topic_name(given: object) -> object:
    """Return the name of a topic as topics have it: a variable has no hyphen."""
    return given.replace("_", "-") if isinstance(given, str) else given


def proxy_url(secret: SecretStr) -> SecretStr:
    """Return ``http://`` or ``socks5://`` with host and port, and maybe a user and a password."""
    text = secret.get_secret_value()
    scheme, _, rest = text.partition("://")
    if scheme not in ("http", "socks5"):
        wrong = "a proxy's URL starts with http:// or socks5://"
        raise ValueError(f"{wrong}, not https://" if scheme == "https" else wrong)
    credentials, at, place = rest.rpartition("@")
    if not credentials.isascii() or any(c in "@/?#[]" or c.isspace() for c in credentials):
        raise ValueError("in user and password @ is written %40, other characters in the same way")
    try:
        url = urlsplit(f"{scheme}://{place}")
        found = bool(url.hostname and url.port) and not (url.path.strip("/") or url.query)
    except ValueError:  # it may quote the password
        found = False
    if not found:
        raise ValueError("a proxy's URL has a host and a port, and nothing behind them")
    if at:
        user, colon, password = (unquote(part) for part in credentials.partition(":"))
        if not (user and colon and password):
            raise ValueError("a proxy's URL has both a user and a password, or neither")
        if ":" in user or max(len(user.encode()), len(password.encode())) > _MAX_CREDENTIAL:
            raise ValueError("the user has a colon, or user or password are longer than 255 bytes")
    return secret


def existing_file(path: Path) -> Path:
    """Return ``path`` if a readable file is there."""
    if not path.is_file():
        raise ValueError(f"no such file: {path}")
    return path


def secret_file(path: Path) -> Path:
    """Return ``path`` if a secret can be read there."""
    read_secret(path)
    return path


def command(text: str) -> str:
    """Return a command line of a program that is there; no shell reads it."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ValueError(f"not a command line: {error}") from None
    if not words:
        raise ValueError("not a command line: it is empty")
    if shutil.which(words[0]) is None:
        raise ValueError(f"no such program: {words[0]}")
    return text


def extension(text: str) -> str:
    """Return ``name=value`` if RFC 7628, section 3.1, allows it as an extension of OAUTHBEARER."""
    name, equals, value = text.partition("=")
    if not (equals and name.isascii() and name.isalpha() and value.isprintable()):
        raise ValueError(f"'{text}' is not name=value, with letters in the name")
    if name == "auth":
        raise ValueError("auth is the token's own name")
    return text


Pattern = Annotated[str, AfterValidator(pattern)]
Nsid = Annotated[str, AfterValidator(nsid)]
Patterns = Annotated[tuple[Pattern, ...], AfterValidator(patterns)]
Did = Annotated[str, AfterValidator(did)]
Fragment = Annotated[str, AfterValidator(fragment)]
ShardName = Annotated[str, AfterValidator(shard)]
Start = Annotated[Literal["live", "oldest"] | int, BeforeValidator(start)]
RelayUrl = Annotated[str, AfterValidator(relay_url)]
HttpOrigin = Annotated[str, AfterValidator(http_origin)]
HttpUrl = Annotated[str, AfterValidator(http_url)]
Source = Annotated[str, AfterValidator(source)]
HostPort = Annotated[str, AfterValidator(host_port)]
Servers = Annotated[str, AfterValidator(servers)]
ProxyUrl = Annotated[SecretStr, AfterValidator(proxy_url)]
Dsn = Annotated[SecretStr, AfterValidator(dsn)]
ConfigName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9.]*$")]
ConfigValue = Annotated[str, Field(pattern=r"^[ -~]*$")]
TopicConfig = Annotated[dict[ConfigName, ConfigValue], BeforeValidator(topic_config)]
Codec = Literal["none", "gzip", "snappy", "lz4", "zstd"]
"""How a batch of records is compressed, in Kafka's names."""

ALL_TOPICS = "all"
EVENTS = "events"
BUILT_IN_TOPICS = frozenset(
    {"firehose", "backfill", "cursor", "control", EVENTS, "operations", "published", "dead-letter"}
)
TopicName = Annotated[str, BeforeValidator(topic_name)]
Routes = Annotated[
    dict[Annotated[str, AfterValidator(pattern)], Annotated[str, AfterValidator(route)]],
    BeforeValidator(routes),
]
ExistingFile = Annotated[Path, AfterValidator(existing_file)]
Extension = Annotated[str, AfterValidator(extension)]
SecretFile = Annotated[Path, AfterValidator(secret_file)]
Command = Annotated[str, AfterValidator(command)]
