"""Everything one server is made of, built once and handed down."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from mooring.api.security import is_loopback
from mooring.cluster.controller import Controller
from mooring.cluster.launch_local import LocalLauncher
from mooring.cluster.replica import Launcher
from mooring.config import DeploymentSettings, Settings
from mooring.egress import Egress
from mooring.gateway.auth import Authenticator
from mooring.gateway.dispatch import Dispatcher
from mooring.gateway.proxy import Proxy
from mooring.gateway.service import Gateway
from mooring.modelstore.store import ModelStore
from mooring.storage import Storage, open_storage
from mooring.telemetry.logging import get_logger
from mooring.telemetry.metrics import Metrics

log = get_logger(__name__)


@dataclass(slots=True)
class Services:
    settings: Settings
    storage: Storage
    store: ModelStore
    egress: Egress
    metrics: Metrics
    controller: Controller
    dispatcher: Dispatcher
    proxy: Proxy
    gateway: Gateway
    auth: Authenticator
    local_token: str
    url: str = ""
    started_at: float = field(default_factory=time.time)


@asynccontextmanager
async def open_services(
    settings: Settings,
    declared: Mapping[str, DeploymentSettings] | None = None,
    launcher: Launcher | None = None,
) -> AsyncIterator[Services]:
    """Build the services and restore what was deployed; on leaving, every worker is ended.

    ``declared``: deployments asked for on the command line; they are remembered.
    """
    async with contextlib.AsyncExitStack() as stack:
        storage = await stack.enter_async_context(open_storage(settings))
        egress = await stack.enter_async_context(Egress(settings, public_only=True))
        proxy = await stack.enter_async_context(Proxy())
        store, metrics = ModelStore(settings.store_dir), Metrics()
        await asyncio.to_thread(store.prune)
        launcher = launcher or LocalLauncher(settings.logs_dir, settings.load_timeout)
        controller = Controller(settings, store, launcher, metrics)
        stack.push_async_callback(controller.close)
        dispatcher = Dispatcher(controller, settings, metrics)
        token = secrets.token_urlsafe(32)
        loopback = is_loopback(settings.host)
        auth = Authenticator(storage.keys, local_token=token, required=settings.auth, loopback=loopback)
        await auth.refresh()
        for name, wish in (declared or {}).items():
            await storage.deployments.put(store.get(name).name.short, wish)
        controller.restore(_known(store, settings.deployments) | await storage.deployments.list())
        yield Services(
            settings=settings,
            storage=storage,
            store=store,
            egress=egress,
            metrics=metrics,
            controller=controller,
            dispatcher=dispatcher,
            proxy=proxy,
            gateway=Gateway(controller, dispatcher, proxy, metrics),
            auth=auth,
            local_token=token,
        )


def _known(store: ModelStore, wishes: Mapping[str, DeploymentSettings]) -> dict[str, DeploymentSettings]:
    """The settings' deployments under their models' own names. Raises ModelNotFound."""
    return {store.get(name).name.short: wish for name, wish in wishes.items()}
