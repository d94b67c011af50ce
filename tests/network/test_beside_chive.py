"""The gateway beside Chive: behind nginx with the example's routes, called as Chive's users do."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from demo.local_network import LocalNetwork
from procedures.contract import METHODS, REFRESH_RECORD, TRIGGER_DID_SYNC
from tests.network.test_gateway import free_port, people
from tests.support.consumer import ROOT, Start
from tests.support.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.nginx import nginx
from tests.support.services import own_directory
from tests.support.web import response, web

EXAMPLES = ROOT / "examples" / "chive"
OTHERS = "/xrpc/pub.chive.eprint.getSubmission?uri=x"


def document(did: str, origin: str) -> bytes:
    """Return the example's DID document, of ``did`` at ``origin``."""
    text = (EXAMPLES / "did.json").read_text()
    text = text.replace("did:web:chive.pub", did).replace("https://chive.pub", origin)
    return json.dumps(json.loads(text)).encode()


@pytest.mark.timeout(600)
async def test_its_methods_come_to_us_and_all_others_to_chive(
    nginx_program: str,
    pds_network: LocalNetwork,
    deployment: Deployment,
    consumer: Start,
    server_directory: Path,
) -> None:
    gateway, name = free_port(), secrets.token_hex(4)
    with own_directory(server_directory, "nginx", ports=1) as directory:
        port = int((directory / "ports.json").read_text().strip("[]"))
        did = f"did:web:{quote(f'localhost:{port}')}"
        async with (
            web() as chive,
            people(pds_network, f"admin{name}", f"user{name}") as (admin, user),
            httpx.AsyncClient(timeout=60, trust_env=False) as client,
        ):
            put = {
                "listen 80;": f"listen 127.0.0.1:{port};",
                "server chive-firehose:8480;": f"server 127.0.0.1:{gateway};",
                "server chive-api:3000;": f"server 127.0.0.1:{chive.port};",
            }
            process = await consumer(
                *("run", "--config", str(EXAMPLES / "chive.toml")),
                env={
                    **deployment.environment(),
                    **pds_network.endpoints.environment(),
                    "CHIVE_GATEWAY__BIND": f"127.0.0.1:{gateway}",
                    "CHIVE_GATEWAY__TRUSTED_PROXIES": "127.0.0.1",
                    "CHIVE_GATEWAY__SERVICE_DID": did,
                    "CHIVE_GATEWAY__ADMINS": admin.author.did,
                },
            )
            await process.saying("server_listening", server="gateway", deadline=90)
            await process.saying("relay_connected", deadline=90)
            site = (EXAMPLES / "nginx.conf").read_text()
            async with nginx(nginx_program, directory, port, site, put) as origin:
                chive.replies["/.well-known/did.json"] = response(200, document(did, origin))
                chive.replies[OTHERS] = response(200, b"from Chive")

                # What is Chive's reaches Chive, with the token in it.
                headers = {"Authorization": "Bearer chives-own"}
                answer = await client.get(origin + OTHERS, headers=headers)
                assert answer.text == "from Chive"
                head = chive.requests[-1].lower()
                assert "authorization: bearer chives-own\r\n" in head
                assert "host: localhost\r\n" in head
                for inside in (
                    "/metrics",
                    "/livez",
                    "/readyz",
                    "/xrpc/pub.chive.sync.deleteRecord",
                ):
                    await client.get(origin + inside)
                    assert chive.paths[-1] == inside

                # Each method of ours reaches the gateway.
                asked = len(chive.requests)
                for method in METHODS.values():
                    answer = await client.request(method.verb, f"{origin}/xrpc/{method.nsid}")
                    assert (answer.status_code, answer.json()["error"]) == (
                        401,
                        "AuthenticationRequired",
                    ), method.nsid
                assert len(chive.requests) == asked

                # By way of the PDS, which finds the gateway by Chive's DID document.
                paper = user.author.written[0]
                body, service = {"uri": paper.uri}, f"{did}#chive_appview"

                async def refreshed() -> bool:
                    answer = await user.proxied(service, REFRESH_RECORD, body)
                    return bool(
                        answer.status_code == 200 and answer.json().get("newCid") == paper.cid
                    )

                await eventually(refreshed, what="the record is refreshed", deadline=60, every=1.5)

                # With a token, as the web client calls; the caller's address is what nginx saw.
                token = await admin.token(did, TRIGGER_DID_SYNC)
                answer = await client.post(
                    f"{origin}/xrpc/{TRIGGER_DID_SYNC}",
                    json={"did": user.author.did},
                    headers={"Authorization": f"Bearer {token}", "X-Forwarded-For": "203.0.113.9"},
                )
                assert answer.status_code == 200, answer.text
                served = await process.saying("request_served", method=TRIGGER_DID_SYNC, status=200)
                assert (served["caller"], served["address"]) == (admin.author.did, "127.0.0.1")
            assert await process.stopped() == 0
