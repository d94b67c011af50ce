"""Why a server refuses a connection, whatever language it speaks."""

from __future__ import annotations

import psycopg
import pytest

from consumer.store.connecting import refusal

_AT = 'connection to server at "127.0.0.1", port 5432 failed: '


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ('FATAL:  28P01: password authentication failed for user "chive"', "28P01"),
        ("SCHWERWIEGEND:  28P01: Passwort-Authentifizierung für »chive« fehlgeschlagen", "28P01"),
        ('致命的エラー:  28P01: ユーザー"chive"のパスワード認証に失敗しました', "28P01"),
        ("ВАЖНО:  57P03: система баз данных запускается", "57P03"),
        ("FATAL:  28000: no pg_hba.conf entry\n" + _AT + "FATAL:  53300: too many", "53300"),
        ("Connection refused", None),
        ("FATAL:  ZZ999: a code that psycopg does not know", None),
    ],
)
def test_a_refusal_has_the_sqlstate_of_the_server(message: str, kind: str | None) -> None:
    error = refusal(f"{_AT}{message}\nLOCATION:  auth_failed, auth.c:326\n")
    assert error.sqlstate == kind
    assert isinstance(error, psycopg.OperationalError)
    assert "auth.c" not in str(error)
