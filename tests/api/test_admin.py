"""The admin API: what the CLI and later the web app rely on."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import aiohttp
import openapi_spec_validator
import pytest
from structlog.testing import capture_logs

from mooring.api import admin
from mooring.api.app import openapi_document
from mooring.config import Settings
from mooring.egress import Egress
from mooring.errors import MooringError
from mooring.gateway.dispatch import Dispatcher
from mooring.modelstore.pull import pull
from mooring.modelstore.store import ModelStore
from mooring.storage import open_storage
from mooring.telemetry.metrics import Metrics
from support.cluster import cluster
from support.server import fake_deployment, fake_server


async def lines(response: aiohttp.ClientResponse) -> list[dict[str, object]]:
    return [json.loads(line) for line in (await response.text()).splitlines()]


async def test_loading_reports_until_success_and_ps_shows_the_worker(tmp_path: Path) -> None:
    slow = {"tiny": fake_deployment(options={"load_time": 0.3})}
    async with fake_server(tmp_path, slow) as (_, client):
        response = await client.post("/admin/v1/models/load", json={"model": "tiny", "keep_alive": "1h"})
        reported = await lines(response)
        assert reported[0]["status"] == "loading"
        assert reported[-1] == {"status": "success"}
        worker = (await (await client.get("/admin/v1/workers")).json())["data"][0]
        assert (worker["model"], worker["state"], worker["active"]) == ("tiny:latest", "ready", 0)
        assert worker["expires_at"] - worker["loaded_at"] > 3_500_000
        assert worker["memory_bytes"] > 0
        assert await (await client.get(f"/admin/v1/workers/{worker['id']}/logs")).text()
        await client.post("/admin/v1/models/unload", json={"model": "tiny"})
        assert (await (await client.get("/admin/v1/workers")).json())["data"] == []


async def test_a_load_that_fails_ends_with_the_reason(tmp_path: Path) -> None:
    broken = {"tiny": fake_deployment(options={"fail": "no such layer"})}
    async with fake_server(tmp_path, broken) as (_, client):
        reported = await lines(await client.post("/admin/v1/models/load", json={"model": "tiny"}))
        assert "no such layer" in str(reported[-1]["error"])
        unknown = await client.post("/admin/v1/models/load", json={"model": "nothing"})
        assert unknown.status == 404


async def test_a_deployment_is_remembered_and_can_be_taken_back(tmp_path: Path) -> None:
    async with fake_server(tmp_path) as (services, client):
        wish = {"engine": "fake", "replicas_min": 1, "context": 128}
        assert (await client.put("/admin/v1/deployments/tiny", json=wish)).status == 200
        deployment, _ = services.controller.resolve("tiny")
        async with asyncio.timeout(10):
            while not deployment.ready:
                await asyncio.sleep(0.01)
        async with open_storage(Settings(home=tmp_path)) as storage:
            assert (await storage.deployments.list())["tiny:latest"].context == 128
        assert (await client.delete("/admin/v1/deployments/tiny:latest")).status == 200
        assert not deployment.replicas
        assert (await client.delete("/admin/v1/deployments/tiny:latest")).status == 404


async def test_a_deployment_goes_by_any_name_that_it_came_by_also_without_its_model(tmp_path: Path) -> None:
    async with fake_server(tmp_path, {"Crew:1b": fake_deployment()}) as (services, client):
        for name, gone in (("crew", False), ("CREW:1B", True)):
            assert (await client.put("/admin/v1/deployments/crew", json={"engine": "fake"})).status == 200
            if gone:
                services.store.remove("crew")
            assert (await client.delete(f"/admin/v1/deployments/{name}")).status == 200
            assert await services.storage.deployments.list() == {}


async def test_a_keep_alive_of_ages_is_for_ever(tmp_path: Path) -> None:
    async with fake_server(tmp_path) as (_, client):
        await client.post("/admin/v1/models/load", json={"model": "tiny", "keep_alive": 1e308})
        response = await client.get("/admin/v1/workers")
        assert (await response.json())["data"][0]["expires_at"] is None


async def test_an_unforeseen_error_is_openais_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with fake_server(tmp_path) as (services, client):
        monkeypatch.setattr(services.storage.keys, "list", None)
        with capture_logs() as logs:
            response = await client.get("/admin/v1/keys")
        assert [(line["event"], line["path"]) for line in logs] == [("unexpected error", "/admin/v1/keys")]
        assert (response.status, (await response.json())["error"]["code"]) == (500, "internal_error")
        unreadable = await client.post(
            "/admin/v1/keys", data=b'"\xff"', headers={"content-type": "application/json"}
        )
        assert (unreadable.status, (await unreadable.json())["error"]["code"]) == (400, "invalid_json")


async def test_wrong_admin_requests_are_told_what_is_wrong(tmp_path: Path) -> None:
    async with fake_server(tmp_path) as (_, client):
        for method, path, body, status in [
            ("PUT", "/admin/v1/deployments/tiny", {"replicas": 2}, 400),
            ("PUT", "/admin/v1/deployments/tiny", {"replicas_min": 3, "replicas_max": 1}, 400),
            ("PUT", "/admin/v1/deployments/tiny", {"engine": "steam"}, 400),
            ("PUT", "/admin/v1/deployments/tiny", {"context": 1025}, 400),
            ("PUT", "/admin/v1/deployments/tiny", {"keep_alive": float("nan")}, 400),
            ("PUT", "/admin/v1/deployments/tiny", {"options": {"memory": float("inf")}}, 400),
            ("PUT", "/admin/v1/deployments/nothing", {}, 404),
            ("POST", "/admin/v1/keys", {"name": "late", "expires_at": 2**63}, 400),
            ("POST", "/admin/v1/keys", {"name": ""}, 400),
            ("DELETE", "/admin/v1/keys/none", None, 404),
            ("GET", "/admin/v1/nothing", None, 404),
        ]:
            response = await client.request(method, path, json=body)
            assert response.status == status, (method, path, await response.text())
            assert (await response.json())["error"]["message"]


async def test_a_pull_over_the_api_cannot_reach_files_or_private_addresses(tmp_path: Path) -> None:
    async with fake_server(tmp_path) as (_, client):
        for reference in (
            str(tmp_path / "tiny.gguf"),
            "http://169.254.169.254/x.gguf",
            "http://10.0.0.1/x.gguf",
        ):
            response = await client.post("/admin/v1/models/pull", json={"model": reference})
            reported = await lines(response)
            assert "error" in reported[-1], (reference, reported)
            assert "model_roots" in str(reported[-1]) or "private" in str(reported[-1])


async def test_a_pull_over_the_api_does_not_tell_which_files_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.gguf").touch()
    (tmp_path / "link").symlink_to(tmp_path / "here.gguf")
    settings = Settings(home=tmp_path, offline=True)

    async def told(reference: str) -> str:
        with pytest.raises(MooringError) as caught:
            await pull(ModelStore(settings.store_dir), egress, settings, reference)
        return caught.value.message

    async with Egress(settings, public_only=True) as egress:
        for there, absent in (
            (f"{tmp_path}/here.gguf", f"{tmp_path}/gone.gguf"),
            (f"{tmp_path}/link", f"{tmp_path}/gone"),
            ("./here.gguf", "./gone.gguf"),
            ("here.gguf", "gone.gguf"),
            ("~root/x", "~nobody-of-that-name/x"),
        ):
            assert (await told(there)).replace(there, "") == (await told(absent)).replace(absent, "")


async def test_following_a_log_ends_when_the_log_or_the_server_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin, "_FOLLOW_SECONDS", 0)
    log = tmp_path / "tiny--worker_1.log"
    log.write_text("one\n")
    async with cluster(tmp_path, "tiny") as (controller, _):
        dispatcher = Dispatcher(controller, controller.settings, Metrics())
        followed = admin.follow_log(log, 10, dispatcher)
        assert await anext(followed) == b"one\n"
        log.unlink()
        assert [piece async for piece in followed] == []
        log.write_text("two\n")
        followed = admin.follow_log(log, 10, dispatcher)
        assert await anext(followed) == b"two\n"
        dispatcher.draining = True
        assert [piece async for piece in followed] == []


async def test_a_key_is_shown_once_and_can_be_revoked(tmp_path: Path) -> None:
    async with fake_server(tmp_path) as (services, client):
        made = await (await client.post("/admin/v1/keys", json={"name": "ci", "role": "admin"})).json()
        headers = {"authorization": f"Bearer {made['key']}"}
        listed = await (await client.get("/admin/v1/keys", headers=headers)).text()
        assert made["id"] in listed
        assert made["key"] not in listed
        token = {"authorization": f"Bearer {services.local_token}"}
        await client.delete(f"/admin/v1/keys/{made['id']}", headers=token)
        assert (await client.get("/v1/models", headers=token)).status == 200
        assert (await client.get("/v1/models", headers=headers)).status == 401
        assert (await client.get("/v1/models")).status == 401


async def test_the_status_says_what_the_machine_has(tmp_path: Path) -> None:
    async with fake_server(tmp_path) as (services, client):
        status = await (await client.get("/admin/v1/status")).json()
    assert status["url"] == services.url
    assert status["machine"]["ram_total"] >= status["machine"]["ram_available"] > 0


def test_the_published_document_is_valid_openapi() -> None:
    document = openapi_document()
    openapi_spec_validator.validate(document)
    assert "/v1/chat/completions" in document["paths"]
    assert "/admin/v1/workers" in document["paths"]
