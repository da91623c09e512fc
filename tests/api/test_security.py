"""Who may use a server that asks for no key."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from mooring.api.security import check_host, check_origin
from mooring.config import Settings
from mooring.errors import PermissionDenied, Unauthorized
from mooring.gateway.auth import Authenticator
from mooring.storage import open_storage
from mooring.storage.keys import KeyTable, Role
from support.server import fake_server


@pytest.mark.parametrize("host", ["rebound.example", "[::1", "192.0.2.1:8000", ""])
def test_on_loopback_only_this_machines_names_are_answered(host: str) -> None:
    with pytest.raises(PermissionDenied):
        check_host({"host": host}, (), addresses=False)
    check_host({"host": "[::1]:8000"}, (), addresses=False)
    check_host({"host": "box.example:8000"}, ("Box.example",), addresses=False)


def test_an_origin_that_is_no_address_is_refused_and_a_star_admits_all() -> None:
    for origin in ("http://[", "null", "https://evil.example"):
        with pytest.raises(PermissionDenied):
            check_origin({"origin": origin, "host": "localhost"}, ())
        check_origin({"origin": origin, "host": "localhost"}, ("*",))


async def test_without_keys_on_a_network_a_page_cannot_rebind_its_name(tmp_path: Path) -> None:
    async with fake_server(tmp_path, {}, auth=False, host="0.0.0.0", allowed_hosts=["box.example"]) as (
        services,
        client,
    ):
        for host, status in (
            ("rebound.example", 403),
            ("[::1", 403),
            ("box.example", 200),
            ("192.0.2.1", 200),
        ):
            assert (await client.get("/admin/v1/keys", headers={"host": host})).status == status, host
        _, secret = await services.storage.keys.create("boss", Role.ADMIN)
        await services.auth.refresh()
        key, wrong = {"x-api-key": secret}, {"x-api-key": "unused"}
        assert (await client.get("/v1/models")).status == 200
        assert (await client.get("/v1/models", headers=wrong)).status == 200
        assert (await client.get("/metrics")).status == 200
        assert (await client.get("/admin/v1/keys")).status == 403
        assert (await client.get("/admin/v1/keys", headers=wrong)).status == 403
        assert (await client.get("/admin/v1/keys", headers=key)).status == 200


async def test_an_open_server_stays_as_it_was_while_the_database_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(_: KeyTable) -> bool:
        raise OperationalError("SELECT", {}, Exception("away"))

    async with open_storage(Settings(home=tmp_path)) as storage:
        auth = Authenticator(storage.keys, local_token="t", required=True, loopback=True)
        await auth.refresh()
        monkeypatch.setattr(KeyTable, "exist", away)
        await auth.refresh()
        assert (await auth.caller(None)).role is Role.ADMIN
        closed = Authenticator(storage.keys, local_token="t", required=True, loopback=True)
        await closed.refresh()
        with pytest.raises(Unauthorized):
            await closed.caller(None)


async def test_a_trusted_page_may_send_the_headers_of_openais_client(tmp_path: Path) -> None:
    async with fake_server(tmp_path, {}, allowed_origins=["https://trusted.example"]) as (_, client):
        asked = {
            "origin": "https://trusted.example",
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization,content-type,x-stainless-lang,x-stainless-os",
        }
        response = await client.request("OPTIONS", "/v1/chat/completions", headers=asked)
        assert response.status == 200
        assert "x-stainless-os" in response.headers["access-control-allow-headers"]
