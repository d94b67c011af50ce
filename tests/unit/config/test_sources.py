"""Sources of settings: their order, their mistakes, and the masked dump."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from psycopg.pq import Conninfo, ConninfoOption

from consumer.config.settings import Settings
from consumer.config.sources import BadSettings, dump, load


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("CHIVE_VECTORS", "CHIVE_CONFIG", "CHIVE_LOG__LEVEL", "CREDENTIALS_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)


def mistakes(file: Path | None = None) -> list[str]:
    with pytest.raises(BadSettings) as caught:
        load(file)
    return list(caught.value.lines)


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_nothing_given_is_the_defaults() -> None:
    assert load() == Settings()


def test_file_then_environment_then_command_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = '[relay]\nurl = "wss://file"\nforward = "all"\nsilence = 5\n[scope]\ndids = []\n'
    written(tmp_path / "chive.toml", file)
    assert load().relay.url == "wss://file"
    monkeypatch.setenv("CHIVE_RELAY__URL", "wss://variable")
    assert load().relay.url == "wss://variable"
    settings = load(overrides={"relay": {"url": "wss://flag"}})
    assert settings.relay.url == "wss://flag"
    assert settings.relay.forward == "all"
    assert settings.relay.silence == 5.0


def test_which_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    written(tmp_path / "chive.toml", 'data_dir = "a"')
    named = written(tmp_path / "named.toml", 'data_dir = "b"')
    flag = written(tmp_path / "flag.toml", 'data_dir = "c"')
    assert load().data_dir == Path("a")
    monkeypatch.setenv("CHIVE_CONFIG", str(named))
    assert load().data_dir == Path("b")
    assert load(flag).data_dir == Path("c")


def test_a_file_that_is_named_must_be_there(tmp_path: Path) -> None:
    (line,) = mistakes(tmp_path / "gone.toml")
    assert "gone.toml: cannot be read" in line


def test_what_is_not_toml(tmp_path: Path) -> None:
    (line,) = mistakes(written(tmp_path / "x.toml", "[relay\nurl=1"))
    assert "x.toml: not TOML" in line


def test_lists_are_comma_separated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHIVE_SCOPE__COLLECTIONS", "app.bsky.feed.*, pub.chive.*,")
    assert load().scope.collections == ("app.bsky.feed.*", "pub.chive.*")


def test_routes_are_pairs_in_a_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "chive.toml"
    file.write_text('[kafka.routes]\n"pub.chive.*" = "chive"\n')
    assert load(file=file).kafka.routes == {"pub.chive.*": "chive"}
    monkeypatch.setenv("CHIVE_KAFKA__ROUTES", "pub.chive.eprint.*=eprints, at.margin.note=notes")
    routes = {"pub.chive.eprint.*": "eprints", "at.margin.note": "notes"}
    assert load(file=file).kafka.routes == routes


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("ROUTES", "a.b.*=x,a.b.*=y", "'a.b.*' is given twice"),
        ("ROUTES", "=x", "'=x' is not pattern=topic"),
        ("ROUTES", "a.b.*", "'a.b.*' is not pattern=topic"),
        ("ROUTES", f"a.b.*={'x' * 65}", "at most 64 lower-case letters"),
        ("TOPICS__EVENTS__CONFIG", "a=1,b=2, a=3", "'a' is given twice"),
        ("TOPICS__EVENTS__CONFIG", "a", "'a' is not name=value (name= leaves it to the broker)"),
    ],
)
def test_what_is_no_list_of_pairs_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(f"CHIVE_KAFKA__{name}", value)
    with pytest.raises(BadSettings, match=re.escape(said)):
        load()


def test_an_empty_variable_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KAFKA__BOOTSTRAP_SERVERS", "SCOPE__COLLECTIONS", "HTTP__PORT", "CONFIG"):
        monkeypatch.setenv(f"CHIVE_{name}", "")
    assert load() == Settings()


def test_variables_of_others_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHIVE_VECTORS", "/somewhere")
    monkeypatch.setenv("CHIVE_TEST_ANYTHING", "1")
    assert load() == Settings()


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("CHIVE_RELAY_URL", "CHIVE_RELAY__URL"),
        ("CHIVE_KAFKA__PARTITONS", "CHIVE_KAFKA__PARTITIONS"),
        ("CHIVE_DATADIR", "CHIVE_DATA_DIR"),
        ("CHIVE_CONFIGS", "CHIVE_CONFIG"),
        ("CHIVE_RELAY", "CHIVE_RELAY__URL"),
        ("CHIVE_COLLECTIONS", "CHIVE_SCOPE__COLLECTIONS"),
    ],
)
def test_an_unknown_variable_names_its_nearest(
    monkeypatch: pytest.MonkeyPatch, name: str, nearest: str
) -> None:
    monkeypatch.setenv(name, "x")
    assert mistakes() == [f"{name}: unknown variable; did you mean {nearest}?"]


@pytest.mark.parametrize(
    ("text", "key", "nearest"),
    [
        ('[relay]\nulr = "x"', "relay.ulr", "relay.url"),
        ('[rely]\nurl = "x"', "rely", "relay.url"),
        ('datadir = "x"', "datadir", "data_dir"),
    ],
)
def test_an_unknown_key_names_its_nearest(
    tmp_path: Path, text: str, key: str, nearest: str
) -> None:
    file = written(tmp_path / "x.toml", text)
    assert mistakes(file) == [f"{key} in {file}: unknown key; did you mean {nearest}?"]


def test_a_trusted_proxy_is_an_address_or_network(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = written(tmp_path / "x.toml", '[gateway]\ntrusted_proxies = ["10.0.0.0/8", "nonsense"]')
    (line,) = mistakes(file)
    assert line.startswith("gateway.trusted_proxies in ")
    assert line.endswith("not 'nonsense'")
    monkeypatch.setenv("CHIVE_GATEWAY__TRUSTED_PROXIES", "::1,10.0.0.0/8")
    assert dump(load())["gateway"]["trusted_proxies"] == ["::1/128", "10.0.0.0/8"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("http.port = 1" + "0" * 5_000, "not TOML"),
        ("http.port = 1" + "0" * 30, "http.port in"),
        ("http.port = nan", "http.port in"),
        ("relay = " + "[" * 5_000, "not TOML"),
    ],
)
def test_numbers_and_nesting_beyond_sense(tmp_path: Path, text: str, said: str) -> None:
    (line,) = mistakes(written(tmp_path / "x.toml", text))
    assert said in line


def test_a_key_of_any_length_is_quoted_in_part(tmp_path: Path) -> None:
    file = written(tmp_path / "x.toml", f"[relay]\n{'u' * 70_000} = 1")
    (line,) = mistakes(file)
    assert line.startswith("relay.uuuu")
    assert len(line) < 300


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('[kafka]\npartitions = "8"', "kafka.partitions"),
        ("[kafka]\npartitions = true", "kafka.partitions"),
        ("[kafka]\npartitions = 0", "kafka.partitions"),
        ("[relay]\nurl = 1", "relay.url"),
        ("[relay]\nstart = 0", "relay.start"),
        ("[relay]\nstart = true", "relay.start"),
        ("relay = 1", "relay"),
        ('[scope]\ncollections = "pub.chive.*"', "scope.collections"),
        ('[scope]\ncollections = ["pub.chive.*", 1]', "scope.collections"),
        ('[scope]\ncollections = ["pub.chive*"]', "scope.collections"),
        ("[http]\nready_lag = nan", "http.ready_lag"),
        ("[http]\nready_lag = 1979-05-27", "http.ready_lag"),
    ],
)
def test_wrong_types_and_values_in_a_file(tmp_path: Path, text: str, key: str) -> None:
    (line,) = mistakes(written(tmp_path / "x.toml", text))
    assert line.startswith(f"{key} in ")
    assert "\n" not in line


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CHIVE_KAFKA__PARTITIONS", "many"),
        ("CHIVE_KAFKA__PARTITIONS", "-1"),
        ("CHIVE_RELAY__FORWARD", "some"),
        ("CHIVE_RELAY__START", "yesterday"),
        ("CHIVE_RELAY__SILENCE", "inf"),
        ("CHIVE_NETWORK__ALLOW_LOOPBACK", "perhaps"),
        ("CHIVE_SCOPE__DIDS", "did:plc:x"),
        ("CHIVE_SCOPE__REPOS", "none"),
        ("CHIVE_SCOPE__COLLECTIONS", ","),
        ("CHIVE_KAFKA__SSL_CA_FILE", "/no/such/file"),
        ("CHIVE_LOG__LEVEL", "\x1b[31mloud\n"),
    ],
)
def test_wrong_types_and_values_in_variables(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    (line,) = mistakes()
    assert line.startswith(f"{name}: ")
    assert line.isprintable()


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    file = written(tmp_path / "x.toml", '[relay]\nulr = "x"\nforward = "y"\n[http]\nport = -1')
    assert len(mistakes(file)) == 3


def test_a_rule_over_two_sources_sees_both(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = '[kafka]\nsecurity_protocol = "SASL_SSL"\nsasl_username = "u"\n'
    file = written(tmp_path / "x.toml", text)
    assert "sasl_password" in mistakes(file)[0]
    monkeypatch.setenv("CHIVE_KAFKA__SASL_PASSWORD", "p")
    assert load(file).kafka.sasl_username == "u"


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://u:hidden@h/db",
        "postgresql://u:%68idden@h/db",
        "postgresql://u:a%2Fhidden%40b@h/db",
        "postgresql://u:a:hidden?b#c@h/db",
        "postgresql://u@h/db?password=hidden",
        "postgresql://u@h/db?sslkey=/key&sslpassword=hidden",
        "host=h user=u password=hidden",
        "host=h user=u password='a\\' hidden'",
        "host=h user=u sslkey=/key sslpassword = hidden",
    ],
)
def test_secrets_are_never_shown(monkeypatch: pytest.MonkeyPatch, dsn: str) -> None:
    monkeypatch.setenv("CHIVE_POSTGRES__DSN", dsn)
    monkeypatch.setenv("CHIVE_KAFKA__BOOTSTRAP_SERVERS", "h:1")
    monkeypatch.setenv("CHIVE_KAFKA__SASL_PASSWORD", "hidden")
    shown = dump(load())
    assert "hidden" not in repr(shown)
    assert "host=h" in shown["postgres"]["dsn"]
    assert set(shown["kafka"]["sasl_password"]) == {"*"}


def test_every_parameter_that_libpq_keeps_secret_is_masked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    marked = {option.keyword.decode() for option in Conninfo.get_defaults() if _is_secret(option)}
    assert {"password", "sslpassword"} <= marked
    monkeypatch.setenv("CHIVE_KAFKA__BOOTSTRAP_SERVERS", "h:1")
    for name in marked:
        for dsn in (f"host=h {name}='hid\\' den'", f"postgresql://h/db?{name}=hid%27%20den"):
            monkeypatch.setenv("CHIVE_POSTGRES__DSN", dsn)
            shown = dump(load())["postgres"]["dsn"]
            assert "den" not in shown
            assert "host=h" in shown


def _is_secret(option: ConninfoOption) -> bool:
    """Tell whether libpq says so, or calls it a debug option, as it does with keys of SCRAM."""
    return option.dispchar == b"*" or option.keyword.startswith(b"scram_")


@pytest.mark.parametrize(
    "dsn",
    [
        "hidden",
        "mysql://u:hidden@h/db",
        "postgresql://u:hidden@[h/db",
        "postgresql://u:some/hidden@h/db",
        "postgresql://u:hidden/some@h/db",
        "postgresql://u:some@hidden@h/db",
        "postgresql://u:12/34hidden@h/db",
        "postgresql://u:some?hidden/@h/db",
        "postgresql://u:hidden%zz@h/db",
        "postgresql://u:hidden some@h/db",
        "postgresql:u:hidden@h/db",
        "host=h password=some hidden",
        "host=h password='hidden",
        "host=h passwd=hidden",
    ],
)
def test_a_wrong_dsn_does_not_show_its_password(monkeypatch: pytest.MonkeyPatch, dsn: str) -> None:
    monkeypatch.setenv("CHIVE_POSTGRES__DSN", dsn)
    (line,) = mistakes()
    assert line.startswith("CHIVE_POSTGRES__DSN: ")
    assert "hidden" not in line


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CHIVE_KAFKA__BOOTSTRAP_SERVERS", "u:hidden@h:9092"),
        ("CHIVE_KAFKA__BOOTSTRAP_SERVERS", "SASL_SSL://u:hidden@h:9092"),
        ("CHIVE_KAFKA__BOOTSTRAP_SERVERS", "a:1,u:hidden,some@h:9092"),
        ("CHIVE_RELAY__URL", "wss://u:hidden@h"),
        ("CHIVE_RELAY__URL", "wss://u:hidden/some@h"),
        ("CHIVE_RELAY__URL", "wss://h/?token=hidden"),
        ("CHIVE_RELAY__URL", "wss://h/hidden"),
        ("CHIVE_IDENTITY__PLC_URL", "https://u:hidden/some@h"),
    ],
)
def test_credentials_where_there_are_none_are_not_shown(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    (line,) = mistakes()
    assert line.startswith(f"{name}: ")
    assert "hidden" not in line


@pytest.mark.parametrize(
    "text",
    [
        'postgres = "postgresql://u:hidden@h/db"',
        'postgres = ["hidden"]',
        '[[postgres]]\ndsn = "hidden"',
        '[postgres]\ndsn = ["hidden"]',
        '[postgres.dsn]\npassword = "hidden"',
        '[postgres]\ndsn = "hidden" hidden',
        'dsn = "hidden"',
        'kafka = "hidden"',
        '[kafka.sasl_password]\nvalue = "hidden"',
        '[kafka]\nsecurity_protocol = "SASL_SSL"\nsasl_password = "hidden"',
    ],
)
def test_a_secret_in_the_wrong_place_of_a_file_is_not_shown(tmp_path: Path, text: str) -> None:
    (line,) = mistakes(written(tmp_path / "x.toml", text))
    assert "hidden" not in line


def test_one_server_alone_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHIVE_KAFKA__BOOTSTRAP_SERVERS", "h:1")
    (line,) = mistakes()
    assert line.startswith("postgres.dsn: not set")
    monkeypatch.setenv("CHIVE_POSTGRES__DSN", "postgresql://h/db")
    assert load().kafka.bootstrap_servers == "h:1"


def test_a_setting_of_an_earlier_version_names_its_successor(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    now = "is now discovery.known_collections (what is wanted is scope.collections alone)"
    (line,) = mistakes(written(tmp_path / "x.toml", '[discovery]\ncollections = ["a.b.c"]'))
    assert line == f"discovery.collections in {tmp_path / 'x.toml'}: {now}"
    monkeypatch.setenv("CHIVE_DISCOVERY__COLLECTIONS", "a.b.c")
    assert mistakes() == [f"CHIVE_DISCOVERY__COLLECTIONS: {now}"]


def test_a_proxy_is_shown_without_user_and_password(monkeypatch: pytest.MonkeyPatch) -> None:
    for given, shown in {
        "http://hidd%40en:hid%2Fden@proxy.example:3128": "http://***@proxy.example:3128",
        "socks5://[2001:db8::1]:1080": "socks5://[2001:db8::1]:1080",
    }.items():
        monkeypatch.setenv("CHIVE_NETWORK__PROXY", given)
        settings = load()
        assert dump(settings)["network"]["proxy"] == shown
        assert "hid" not in repr(settings)


@pytest.mark.parametrize(
    "url",
    [
        "proxy.example:3128",
        "hidden@proxy.example:3128",
        "https://u:hidden@proxy.example:3128",
        "socks4://u:hidden@proxy.example:3128",
        "socks5h://u:hidden@proxy.example:3128",
        "http://u:hidden@proxy.example",
        "http://u:hidden@proxy.example:port",
        "http://u:hidden@proxy.example:99999",
        "http://u:hid@den@proxy.example:3128",
        "http://u:hid/den@proxy.example:3128",
        "http://u:hid den@proxy.example:3128",
        "http://u:hidden@[proxy.example:3128",
        "http://u:hidden@proxy.example:3128/path",
        "http://u:hidden@proxy.example:3128?x=hidden",
        "http://hidden@proxy.example:3128",
        "http://:hidden@proxy.example:3128",
        "http://hidden%3Ahidden:hidden@proxy.example:3128",
        f"http://u:{'hidden' * 50}@proxy.example:3128",
    ],
)
def test_a_wrong_proxy_does_not_show_its_password(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("CHIVE_NETWORK__PROXY", url)
    (line,) = mistakes()
    assert line.startswith("CHIVE_NETWORK__PROXY: ")
    assert "hid" not in line
    assert "den" not in line
