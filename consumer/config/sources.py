"""From the outside world to ``Settings`` and back: sources, their errors, and the masked dump.

Order: built-in defaults < TOML file < ``CHIVE_*`` variables < command line.  The file is the
one named by ``--config`` or ``CHIVE_CONFIG``, else ``./chive.toml`` if there is one.  An empty
variable counts as not set; lists are comma separated.  A secret may also be a credential of
systemd; it then has no other source.

Whatever cannot be right raises ``BadSettings`` with one line per mistake, each naming the key
as its author wrote it, and for an unknown key the nearest valid one.
"""

from __future__ import annotations

import difflib
import json
import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any

from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from consumer import compiled
from consumer.config.secrets import CREDENTIAL_PREFIX, CREDENTIALS_VARIABLE, credential_of
from consumer.config.section import Section
from consumer.config.settings import Settings, TopicSettings
from consumer.errors import Fatal
from consumer.printable import escape

PREFIX = "CHIVE_"
CONFIG_VARIABLE = "CHIVE_CONFIG"
DEFAULT_FILE = Path("chive.toml")
# Variables that mean something to the project without being settings.
NOT_SETTINGS = frozenset({CONFIG_VARIABLE, compiled.VARIABLE, "CHIVE_VECTORS"})
NOT_SETTINGS_PREFIXES = ("CHIVE_TEST_", "CHIVE_BENCH_", "CHIVE_DEMO_")
_MASK = "***"
_SECRET_PARAMETERS = frozenset(
    {"password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key"}
)
_MAX_QUOTE = 80

Key = tuple[str, ...]  # ("relay", "url")
_TOPICS: Key = ("kafka", "topics")  # a table for each topic, and keys in it
# Settings of earlier versions, and what took their place.
_SUCCESSORS: Mapping[Key, str] = {
    ("discovery", "collections"): (
        "discovery.known_collections (what is wanted is scope.collections alone)"
    ),
    ("retries", "listed_again"): "retries.renewal_first and retries.renewal_longest",
}


class BadSettings(Fatal):
    """Invalid settings; ``lines`` has one sentence per mistake."""

    def __init__(self, *lines: str) -> None:
        super().__init__("; ".join(lines))
        self.lines = lines


def paths(model: type[Section] = Settings, above: Key = ()) -> Iterator[Key]:
    """Yield the path of every single setting, in the order of the models."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from paths(field.annotation, (*above, name))
        else:
            yield (*above, name)


def secrets() -> Iterator[Key]:
    """Yield the path of every secret."""
    for name, field in Settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from ((name, secret) for secret in field.annotation.secrets)


def variable(path: Key) -> str:
    """Return the environment variable of a setting."""
    return PREFIX + "__".join(path).upper()


def _nearest(name: str, valid: Iterable[str]) -> str:
    name = name[:_MAX_QUOTE]  # comparing takes the square of its length

    def likeness(candidate: str) -> float:
        return difflib.SequenceMatcher(None, name.lower(), candidate.lower()).ratio()

    return max(valid, key=likeness)


class _Environment(EnvSettingsSource):
    """``CHIVE_*`` variables; what pydantic calls complex is a comma-separated list here."""

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:  # noqa: ARG002  # pydantic-settings calls it so
        return [part.strip() for part in str(value).split(",") if part.strip()]


def _combine(
    overrides: Mapping[str, Any], file: Mapping[str, Any], credentials: Mapping[str, Any]
) -> Settings:
    class Sources(Settings, BaseSettings):
        model_config = SettingsConfigDict(
            env_prefix=PREFIX, env_nested_delimiter="__", env_ignore_empty=True
        )

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # replaced by our own
            dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # not a source of ours
            file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # nor this
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            in_file, in_credentials = (
                InitSettingsSource(settings_cls, init_kwargs=dict(given))
                for given in (file, credentials)
            )
            return (init_settings, _Environment(settings_cls), in_file, in_credentials)

    loaded = Sources(**overrides)
    return Settings(**{name: getattr(loaded, name) for name in Settings.model_fields})


def _unknown_variables(environ: Mapping[str, str]) -> list[str]:
    known = {variable(path) for path in paths()}
    valid = known | NOT_SETTINGS
    successors = {variable(path): now for path, now in _SUCCESSORS.items()}
    return [
        f"{name}: is now {successors[name.upper()]}"
        if name.upper() in successors
        else f"{escape(name[:_MAX_QUOTE])}: unknown variable; did you mean {_nearest(name, valid)}?"
        for name in sorted(environ)
        if name.upper().startswith(PREFIX)
        and name.upper() not in valid
        and not name.upper().startswith(f"{variable(_TOPICS)}__")  # the models judge them
        and not name.startswith(NOT_SETTINGS_PREFIXES)
    ]


def _read_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadSettings(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # also numbers of thousands of digits
        raise BadSettings(f"{path}: not TOML: {error}") from None


def _credentials(environ: Mapping[str, str], data: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return the settings that systemd's credentials stand for; ``data`` is what the file says.

    Raises ``BadSettings`` for unknown names, and for secrets that have another source too.
    """
    directory = environ.get(CREDENTIALS_VARIABLE)
    if not directory:
        return {}
    try:
        found = {p.name for p in Path(directory).iterdir() if p.name.startswith(CREDENTIAL_PREFIX)}
    except OSError as error:
        raise BadSettings(f"{CREDENTIALS_VARIABLE}: {directory}: {error.strerror}") from None
    known = {credential_of(*path): path for path in secrets()}
    mistakes = [
        f"{escape(name[:_MAX_QUOTE])}: unknown credential; did you mean {_nearest(name, known)}?"
        for name in sorted(found - known.keys())
    ]
    settings: dict[str, dict[str, str]] = {}
    for name in sorted(found & known.keys()):
        section, secret = known[name]
        for key in (secret, f"{secret}_file", f"{secret}_command"):
            there = data.get(section)
            if environ.get(variable((section, key))):
                mistakes.append(f"{name} and {variable((section, key))} are given: leave out one")
            elif isinstance(there, dict) and key in there:
                mistakes.append(f"{name} and {section}.{key} are given: leave out one")
        settings.setdefault(section, {})[f"{secret}_file"] = str(Path(directory) / name)
    if mistakes:
        raise BadSettings(*mistakes)
    return settings


def _setting_of(error: Mapping[str, Any]) -> Key:
    """Return the path of the setting (items of lists and mappings belong to these)."""
    path = tuple(part for part in error["loc"] if isinstance(part, str) and part != "[key]")
    return path[:4] if path[:2] == _TOPICS else path[:2]


def _may_hold_a_secret(path: Key) -> bool:
    """Tell whether ``path`` is a secret or a section with one, whatever its value is."""
    return any(secret[: len(path)] == path for secret in secrets())


def _sentence(error: Mapping[str, Any], name: str) -> str:
    path = _setting_of(error)
    if path in _SUCCESSORS:
        return f"{name}: is now {_SUCCESSORS[path]}"
    if error["type"] == "extra_forbidden":
        topic = [(*path[:3], key) for key in TopicSettings.model_fields if path[:2] == _TOPICS]
        names = [".".join(p) for p in topic or paths()]
        return f"{name}: unknown key; did you mean {_nearest('.'.join(path), names)}?"
    message = error["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if error["type"] != "value_error" and not _may_hold_a_secret(path):
        message += f", not {str(error['input'])[:_MAX_QUOTE]!r}"
    return escape(f"{name}: {message}")


def _check_file(data: Mapping[str, Any], file: Path) -> None:
    """Refuse unknown keys and wrong types in the file: TOML has types, so no text for numbers.

    Rules that span several settings wait until all sources are combined.
    """
    try:
        Settings.model_validate_json(json.dumps(data, default=str), strict=True)
    except RecursionError:
        raise BadSettings(f"{file}: nested too deeply") from None
    except ValidationError as invalid:
        lines = [
            _sentence(error, f"{escape('.'.join(_setting_of(error))[:_MAX_QUOTE])} in {file}")
            for error in invalid.errors()
            if not (error["type"] == "value_error" and len(error["loc"]) <= 1)
        ]
        if lines:
            raise BadSettings(*lines) from None


def _source_of(path: Key, environ: Mapping[str, str], file: Path | None) -> str:
    """Name the setting in the form of its source: variable, key in a file, or key."""
    if environ.get(variable(path)):
        return variable(path)
    return ".".join(path) + (f" in {file}" if file else "")


def _chosen_file(file: Path | None, environ: Mapping[str, str]) -> Path | None:
    if file is not None:
        return file
    if named := environ.get(CONFIG_VARIABLE):
        return Path(named)
    return DEFAULT_FILE if DEFAULT_FILE.is_file() else None


def load(file: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Return the effective settings of this process.

    ``overrides`` is nested like the models and comes from the command line.  Raises
    ``BadSettings``.
    """
    if unknown := _unknown_variables(os.environ):
        raise BadSettings(*unknown)
    file = _chosen_file(file, os.environ)
    data = _read_file(file) if file else {}
    if file:
        _check_file(data, file)
    try:
        settings = _combine(overrides or {}, data, _credentials(os.environ, data))
    except ValidationError as invalid:
        raise BadSettings(
            *(_sentence(e, _source_of(_setting_of(e), os.environ, file)) for e in invalid.errors())
        ) from None
    _check_servers(settings)
    return settings


def _check_servers(settings: Settings) -> None:
    given = {
        "kafka.bootstrap_servers": settings.kafka.bootstrap_servers,
        "postgres.dsn": settings.postgres.dsn,
    }
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == 1:
        raise BadSettings(f"{missing[0]}: not set; set both {' and '.join(given)}, or neither")


def _masked_dsn(dsn: str) -> str:
    parts = conninfo_to_dict(dsn)
    masked = {k: _MASK if k in _SECRET_PARAMETERS else v for k, v in parts.items()}
    return make_conninfo("", **masked)


def _masked_url(url: str) -> str:
    scheme, _, rest = url.partition("://")
    _, at, place = rest.rpartition("@")
    return f"{scheme}://{f'{_MASK}@' if at else ''}{place}"


def _masked(value: Any) -> Any:
    match value:
        case Section():
            return {name: _masked(getattr(value, name)) for name in type(value).model_fields}
        case SecretStr():
            return _MASK
        case tuple():
            return [_masked(item) for item in value]
        case dict():
            return {name: _masked(item) for name, item in value.items()}
        case Path() | IPv4Network() | IPv6Network():
            return str(value)
        case _:
            return value


def dump(settings: Settings) -> dict[str, Any]:
    """Return the settings as plain nested values, secrets masked, in the order of the models."""
    plain: dict[str, Any] = _masked(settings)
    for name in ("dsn", "direct_dsn"):
        if (secret := getattr(settings.postgres, name)) is not None:
            plain["postgres"][name] = _masked_dsn(secret.get_secret_value())
    if settings.network.proxy is not None:
        plain["network"]["proxy"] = _masked_url(settings.network.proxy.get_secret_value())
    return plain
