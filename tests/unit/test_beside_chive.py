"""The examples for a gateway beside Chive name its methods, no others, and fit each other."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

from consumer.config.settings import Settings
from procedures.contract import METHODS
from procedures.service import Service

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "chive"
PATHS = {f"/xrpc/{nsid}" for nsid in METHODS}
NGINX = (EXAMPLES / "nginx.conf").read_text()


def routed_by_nginx() -> dict[str, str]:
    """Return the map of paths to upstreams."""
    (body,) = re.findall(
        r"^map \$uri \$chive_service \{\n(.*?)^\}", NGINX, re.MULTILINE | re.DOTALL
    )
    pairs = re.findall(r"^    (\S+) +(\w+);$", body, re.MULTILINE)
    assert len(dict(pairs)) == len(body.splitlines())
    return dict(pairs)


def routed_by_traefik() -> tuple[set[str], set[str]]:
    """Return the hosts and paths of the rule, which has nothing else."""
    router = tomllib.loads((EXAMPLES / "traefik.toml").read_text())["http"]["routers"]
    rule = router["chive-firehose"]["rule"]
    of = r"\({0}\(`([^`]+)`\)(?: \|\| {0}\(`[^`]+`\))*\)"
    assert re.fullmatch(of.format("Host") + " && " + of.format("Path"), rule), rule
    hosts, paths = (re.findall(rf"{what}\(`(.+?)`\)", rule) for what in ("Host", "Path"))
    assert len(paths) == len(set(paths))
    return set(hosts), set(paths)


def test_the_routes_are_the_methods() -> None:
    """A new method needs its line in both files, and its row on the page."""
    services = routed_by_nginx()
    assert services.pop("default") == "chive_api"
    assert services == dict.fromkeys(sorted(PATHS), "chive_firehose")
    assert routed_by_traefik()[1] == PATHS


def test_the_page_has_a_row_for_each_method() -> None:
    page = (ROOT / "docs" / "beside-chive.md").read_text()
    rows = re.findall(r"^\| `(pub\.chive\.\w+\.\w+)` \| ([^|]*) \|", page, re.MULTILINE)
    rows = [(nsid, who) for nsid, who in rows if not nsid.startswith("pub.chive.auth.")]
    assert sorted(nsid for nsid, _ in rows) == sorted(METHODS)
    for nsid, who in rows:
        assert (who == "`gateway.admins`") == METHODS[nsid].admin, nsid


def test_the_files_fit_each_other() -> None:
    settings = Settings.model_validate(tomllib.loads((EXAMPLES / "chive.toml").read_text()))
    document = json.loads((EXAMPLES / "did.json").read_text())
    assert document["id"] == settings.gateway.service_did
    service = Service(document["id"], settings.gateway.fragments)
    (entry,) = document["service"]
    assert document["id"] + entry["id"] in service.audiences
    assert entry["serviceEndpoint"] == service.url
    (names,) = re.findall(r"^    server_name (.+);$", NGINX, re.MULTILINE)
    hosts, _ = routed_by_traefik()
    assert urlsplit(entry["serviceEndpoint"]).hostname in hosts == set(names.split())
    port = settings.gateway.bind.rpartition(":")[2]
    for file in ("nginx.conf", "traefik.toml"):
        assert f"chive-firehose:{port}" in (EXAMPLES / file).read_text()
