"""What is shown to Kafka, and settings that do not go together."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from consumer.config.settings import KafkaSettings
from consumer.errors import Fatal, Transient
from consumer.kafka.credentials import Credentials
from tests.support.certificates import Authority

_SASL: dict[str, Any] = {"security_protocol": "SASL_SSL"}
_COMMAND: dict[str, Any] = {"sasl_token_command": "echo token"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (_SASL, "PLAIN needs sasl_username and sasl_password"),
        (_SASL | {"sasl_mechanism": "SCRAM-SHA-512", "sasl_username": "u"}, "needs sasl_username"),
        (_SASL | {"sasl_mechanism": "OAUTHBEARER"}, "needs sasl_token_file or sasl_token_command"),
        (_SASL | {"sasl_mechanism": "AWS_MSK_IAM"}, "needs aws_region, and SASL_SSL"),
        ({"ssl_certificate_file": __file__}, "needs security_protocol SSL or SASL_SSL"),
        ({"ssl_key_file": __file__}, "ssl_key_file needs ssl_certificate_file"),
        (
            {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "AWS_MSK_IAM"}
            | {"aws_region": "eu-central-1"},
            "needs aws_region, and SASL_SSL",
        ),
        ({"sasl_extensions": ("auth=x",)}, "the token's own name"),
        ({"sasl_extensions": ("a.b=x",)}, "is not name=value"),
        ({"sasl_extensions": ("ab=x\x01y",)}, "is not name=value"),
        (_COMMAND | {"sasl_token_file": __file__}, "sasl_token_file and sasl_token_command are"),
    ],
)
def test_what_does_not_go_together(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        KafkaSettings(**given)


async def test_a_token_of_a_command_and_its_extensions() -> None:
    extended: dict[str, Any] = {"sasl_extensions": ("logicalCluster=lkc-1", "poolId=pool=2")}
    settings = KafkaSettings(**_SASL, sasl_mechanism="OAUTHBEARER", **_COMMAND, **extended)
    credentials = Credentials(settings)
    options = await credentials.options()
    assert options["sasl_mechanism"] == "OAUTHBEARER"
    provider = options["sasl_oauth_token_provider"]
    assert await provider.token() == "token"
    assert provider.extensions() == {"logicalCluster": "lkc-1", "poolId": "pool=2"}


async def test_a_password_is_that_of_the_moment(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("one\n")
    user: dict[str, Any] = {"sasl_username": "u", "sasl_password_file": file}
    credentials = Credentials(KafkaSettings(security_protocol="SASL_PLAINTEXT", **user))
    file.write_text("two")
    assert "two" in (await credentials.options()).values()
    file.unlink()
    with pytest.raises(Transient, match=r"^kafka\.sasl_password_file: no such file"):
        await credentials.options()


def test_a_context_is_made_again_when_a_file_has_changed(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    shown = authority.issue("user", password="key")  # noqa: S106
    settings = KafkaSettings(
        security_protocol="SSL",
        ssl_ca_file=authority.certificate,
        ssl_certificate_file=shown.certificate,
        ssl_key_file=shown.key,
        ssl_key_password=SecretStr("key"),
    )
    credentials = Credentials(settings)
    before = credentials.tls()
    assert credentials.tls() is before
    os.utime(shown.certificate, ns=(1, 1))
    assert credentials.tls() is not before
    shown.certificate.write_bytes(authority.issue("another").certificate.read_bytes())
    with pytest.raises(Transient, match=r"kafka\.ssl_key_file"):
        credentials.tls()
    with pytest.raises(Fatal, match=r"kafka\.ssl_key_file"):
        Credentials(settings)


@pytest.mark.parametrize("password", ["", "hunter2", "hunter2" * 200])
def test_the_settings_of_a_key_that_cannot_be_decrypted_are_named(
    tmp_path: Path, password: str
) -> None:
    shown = Authority(tmp_path).issue("user", password="key")  # noqa: S106
    settings = KafkaSettings(
        security_protocol="SSL",
        ssl_certificate_file=shown.certificate,
        ssl_key_file=shown.key,
        ssl_key_password=SecretStr(password) if password else None,
    )
    with pytest.raises(Fatal, match=r"ssl_key_file or kafka\.ssl_key_password: ") as found:
        Credentials(settings)
    assert "hunter2" not in str(found.value)


def test_an_authority_that_is_none_is_named_alone(tmp_path: Path) -> None:
    empty = tmp_path / "ca.pem"
    empty.touch()
    with pytest.raises(Fatal, match=r"^kafka\.ssl_ca_file: "):
        Credentials(KafkaSettings(security_protocol="SSL", ssl_ca_file=empty))


def test_the_provider_of_msk_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aws_msk_iam_sasl_signer", None)
    settings = KafkaSettings(**_SASL, sasl_mechanism="AWS_MSK_IAM", aws_region="eu-central-1")
    with pytest.raises(Fatal, match=r"install chive-firehose\[msk\]"):
        Credentials(settings)
