"""Secrets: as they are, in files, by commands, and as credentials of systemd."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import SecretStr

from consumer.config.secrets import read_secret
from consumer.config.section import Section
from consumer.config.settings import Settings
from consumer.config.sources import BadSettings, dump, load, secrets, variable


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [n for n in os.environ if n.startswith("CHIVE_")] + ["CREDENTIALS_DIRECTORY"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CHIVE_KAFKA__BOOTSTRAP_SERVERS", "h:1")


def mistakes() -> list[str]:
    with pytest.raises(BadSettings) as caught:
        load()
    return list(caught.value.lines)


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def value_of(settings: Settings, path: tuple[str, ...]) -> str:
    section, name = path
    secret: SecretStr = getattr(getattr(settings, section), name)
    return secret.get_secret_value()


SECRETS = [path for path in secrets() if hasattr(getattr(Settings(), path[0]), path[1])]
DSN = "postgresql://chive@h/db"


def example(path: tuple[str, ...]) -> str:
    if path[1].endswith("dsn"):
        return f"{DSN}_hidden"
    return "http://user:hidden@proxy.example:3128" if path[1] == "proxy" else "hidden"


def with_dsn(monkeypatch: pytest.MonkeyPatch, path: tuple[str, ...]) -> None:
    if path != ("postgres", "dsn"):
        monkeypatch.setenv("CHIVE_POSTGRES__DSN", DSN)


def test_every_secret_is_named_as_one_and_has_a_file() -> None:
    found = set()
    for name, section in Settings.model_fields.items():
        if isinstance(section.annotation, type) and issubclass(section.annotation, Section):
            fields = section.annotation.model_fields
            found |= {(name, key) for key, field in fields.items() if "SecretStr" in str(field)}
            for secret in section.annotation.secrets:
                assert f"{secret}_file" in fields
    assert found == set(SECRETS)


@pytest.mark.parametrize("path", SECRETS)
@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_secret_in_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, path: tuple[str, ...], end: str
) -> None:
    with_dsn(monkeypatch, path)
    file = written(tmp_path / "secret", example(path) + end)
    monkeypatch.setenv(variable(path) + "_FILE", str(file))
    settings = load()
    assert value_of(settings, path) == example(path)
    shown = dump(settings)
    assert shown[path[0]][f"{path[1]}_file"] == str(file)
    if not path[1].endswith("dsn"):
        assert "hidden" not in repr(shown)


@pytest.mark.parametrize("path", SECRETS)
def test_a_secret_as_a_credential(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, path: tuple[str, ...]
) -> None:
    with_dsn(monkeypatch, path)
    written(tmp_path / f"chive.{path[0]}.{path[1]}", example(path) + "\n")
    written(tmp_path / "of-another-service", "other")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert value_of(load(), path) == example(path)


@pytest.mark.parametrize("path", SECRETS)
def test_a_secret_is_given_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, path: tuple[str, ...]
) -> None:
    with_dsn(monkeypatch, path)
    file = written(tmp_path / "secret", example(path))
    monkeypatch.setenv(variable(path), example(path))
    monkeypatch.setenv(variable(path) + "_FILE", str(file))
    (line,) = mistakes()
    assert line.endswith(f"{path[1]} and {path[1]}_file are given: leave out all but one")
    assert "hidden" not in line
    monkeypatch.delenv(variable(path))
    directory = tmp_path / "credentials"
    directory.mkdir()
    written(directory / f"chive.{path[0]}.{path[1]}", example(path))
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(directory))
    (line,) = mistakes()
    name = f"chive.{path[0]}.{path[1]}"
    assert line == f"{name} and {variable(path)}_FILE are given: leave out one"


def test_a_credential_beside_the_file_of_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    written(tmp_path / "chive.toml", '[kafka]\nsasl_password = "hidden"\n')
    directory = tmp_path / "credentials"
    directory.mkdir()
    written(directory / "chive.kafka.sasl_password", "hidden")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(directory))
    (line,) = mistakes()
    assert line == "chive.kafka.sasl_password and kafka.sasl_password are given: leave out one"


def test_an_unknown_credential_names_its_nearest(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    written(tmp_path / "chive.kafka.sasl_pasword", "hidden")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    said = "chive.kafka.sasl_pasword: unknown credential; did you mean chive.kafka.sasl_password?"
    assert mistakes() == [said]
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "gone"))
    (line,) = mistakes()
    assert line.startswith("CREDENTIALS_DIRECTORY: ")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such file: "),
        ("", "empty file: "),
        ("\n", "empty file: "),
        (b"\xff\xfehidden", "not UTF-8 text: "),
        ("hidden\0", "a NUL byte is no part of a secret: "),
        ("hidden" * 20_000, "larger than 65536 bytes: "),
    ],
)
def test_a_file_without_a_secret(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str | bytes | None, said: str
) -> None:
    monkeypatch.setenv("CHIVE_POSTGRES__DSN", DSN)
    file = tmp_path / "secret"
    if content is not None:
        written(file, content)
    monkeypatch.setenv("CHIVE_KAFKA__SASL_PASSWORD_FILE", str(file))
    assert mistakes() == [f"CHIVE_KAFKA__SASL_PASSWORD_FILE: {said}{file}"]


def test_a_file_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ValueError, match=r"cannot be read: .*loop: "):
        read_secret(tmp_path / "loop")
    with pytest.raises(ValueError, match="not a regular file: "):
        read_secret(tmp_path)

    def refused(_path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refused)  # tests may run as root, who may read all
    with pytest.raises(ValueError, match=r"cannot be read: .*secret: Permission denied"):
        read_secret(written(tmp_path / "secret", "hidden"))


def test_a_file_must_hold_a_connection_string(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = written(tmp_path / "secret", "mysql://u:hidden@h/db")
    monkeypatch.setenv("CHIVE_POSTGRES__DSN_FILE", str(file))
    (line,) = mistakes()
    assert line.endswith("dsn_file: the connection string starts with postgresql://")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("", None),
        ("'", "not a command line: No closing quotation"),
        (" # ", "no such program: #"),
        ("no-such-program --of ours", "no such program: no-such-program"),
    ],
)
def test_commands(monkeypatch: pytest.MonkeyPatch, given: str, said: str | None) -> None:
    monkeypatch.setenv("CHIVE_POSTGRES__DSN", DSN)
    monkeypatch.setenv("CHIVE_POSTGRES__PASSWORD_COMMAND", given)
    if said is None:
        assert load().postgres.password_command is None
    else:
        assert mistakes() == [f"CHIVE_POSTGRES__PASSWORD_COMMAND: {said}"]
