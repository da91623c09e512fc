"""``ollama:[host/][namespace/]name[:tag]``: Ollama's registry, or any other that speaks OCI distribution.

Specification: https://github.com/opencontainers/distribution-spec/blob/main/spec.md; sign-in:
https://distribution.github.io/distribution/spec/auth/token/
"""

from __future__ import annotations

import base64
import re
from collections.abc import Collection, Mapping
from urllib.parse import quote

from yarl import URL

from mooring.config import Settings
from mooring.egress import Egress, explain, is_loopback
from mooring.errors import DigestMismatch, InvalidModelFile, ModelNotFound, SourceError
from mooring.modelstore.gather import RemoteFile
from mooring.modelstore.manifest import (
    ADAPTER_TYPE,
    FILE_TYPE,
    LICENSE_TYPE,
    MANIFEST_TYPE,
    MODEL_TYPE,
    PROJECTOR_TYPE,
    Layer,
    Manifest,
    sha256_digest,
)
from mooring.modelstore.names import DEFAULT_HOST, ModelName
from mooring.modelstore.sources.base import Listing, Reply, call

OCI_MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"

# Docker's packaging of models carries the same contents under other names.
_SAME = {
    "application/vnd.docker.ai.gguf.v3": MODEL_TYPE,
    "application/vnd.docker.ai.mmproj": PROJECTOR_TYPE,
    "application/vnd.docker.ai.license": LICENSE_TYPE,
}
_OURS = ("application/vnd.ollama.image.", FILE_TYPE)
_FILES = {
    MODEL_TYPE: "{stem}.gguf",
    PROJECTOR_TYPE: "{stem}-mmproj.gguf",
    ADAPTER_TYPE: "{stem}-adapter.gguf",
}
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')


class Registry:
    """One registry host. Signs in when it is challenged, by token or by password, and remembers it."""

    def __init__(self, egress: Egress, settings: Settings, host: str) -> None:
        sources = settings.sources
        bare = host.rpartition(":")[0] if re.search(r":\d+$", host) else host
        plain = is_loopback(bare) or host in sources.insecure_registries
        default = sources.ollama_registry.rstrip("/")
        self.host = host
        self.base = default if host.casefold() == DEFAULT_HOST else f"{'http' if plain else 'https'}://{host}"
        self._egress = egress
        secret = sources.registry_tokens.get(host)
        self._password = secret.get_secret_value() if secret else ""
        self.authorization: dict[str, str] = {}
        self._challenge = ""

    def url(self, name: ModelName, rest: str) -> str:
        return f"{self.base}/v2/{name.namespace}/{name.model}/{rest}"

    async def call(
        self,
        method: str,
        url: str | URL,
        *,
        what: str,
        headers: Mapping[str, str] | None = None,
        data: bytes | None = None,
        expect: Collection[int] = (200,),
    ) -> Reply:
        """As ``base.call``, signing in once when the registry asks for it."""
        for allowed in ({*expect, 401}, {*expect}):
            reply = await call(
                self._egress,
                method,
                url,
                what=what,
                headers={**(headers or {}), **self.authorization},
                data=data,
                expect=allowed,
                login=self.login,
            )
            if reply.status != 401:
                break
            self._challenge = reply.headers.get("WWW-Authenticate", "")
            await self.sign_in()
        return reply

    async def sign_in(self) -> Mapping[str, str]:
        """Answer the last challenge; the headers to send from now on. Raises SourceError."""
        scheme, _, rest = self._challenge.partition(" ")
        if scheme.lower() == "basic":
            if not self._password:
                raise SourceError(explain(self.base, f"asks for a password. {self.login.rstrip('.')}"))
            self.authorization = _basic(self._password)
        elif scheme.lower() == "bearer":
            self.authorization = {
                "Authorization": f"Bearer {await self._token(dict(_CHALLENGE.findall(rest)))}"
            }
        else:
            raise SourceError(explain(self.base, f"asks for an unknown sign-in ({scheme or 'none named'})"))
        return self.authorization

    async def _token(self, challenge: Mapping[str, str]) -> str:
        realm = URL(challenge.get("realm", ""))
        if not realm.host or (realm.scheme != "https" and self.base.startswith("https")):
            raise SourceError(explain(self.base, f"names no safe place to sign in ({realm})"))
        params = {key: challenge[key] for key in ("service", "scope") if key in challenge}
        reply = await call(
            self._egress,
            "GET",
            realm,
            what="a token",
            params=params,
            headers=_basic(self._password) if self._password else {},
            login=self.login,
        )
        answer = reply.json()
        token = answer.get("token") or answer.get("access_token") if isinstance(answer, dict) else None
        if not isinstance(token, str):
            raise SourceError(explain(realm, "gives no token"))
        return token

    @property
    def login(self) -> str:
        if self.host.casefold() == DEFAULT_HOST:
            return "Pushing there needs Ollama's own client and key; push to another registry host instead."
        return f"Set sources.registry_tokens for '{self.host}' to user:password in mooring.yaml."


class OciSource:
    def __init__(self, egress: Egress, settings: Settings) -> None:
        self._egress = egress
        self._settings = settings

    async def resolve(self, ref: str) -> Listing:
        name = ModelName.parse(ref)
        registry = Registry(self._egress, self._settings, name.host)
        manifest = await self._manifest(registry, name)
        layers = [_translated(layer, name) for layer in manifest.layers]
        if not any(layer.media_type in (MODEL_TYPE, FILE_TYPE) for layer in layers):
            raise SourceError(f"{name} in {registry.host} is no model: it has no weights.")
        files = tuple(_remote(registry, name, layer) for layer in layers)
        return Listing(source=f"ollama:{name.short}", suggested_name=name, files=files)

    async def _manifest(self, registry: Registry, name: ModelName) -> Manifest:
        reply = await registry.call(
            "GET",
            registry.url(name, f"manifests/{quote(name.tag)}"),
            what=f"model {name.short}",
            headers={"Accept": f"{MANIFEST_TYPE}, {OCI_MANIFEST_TYPE}"},
            expect=(200, 404),
        )
        if reply.status == 404:
            raise ModelNotFound(
                name.short, hint=f"{registry.host} has no such model; check its name and tag."
            )
        promised = reply.headers.get("Docker-Content-Digest", "")
        if promised.startswith("sha256:") and sha256_digest(reply.body) != promised:
            raise DigestMismatch(f"The manifest of {name} from {registry.host} is damaged; pull again.")
        try:
            return Manifest.from_bytes(reply.body)
        except InvalidModelFile as error:
            raise SourceError(f"{name} in {registry.host} is not a model: {error.message}") from error


def _translated(layer: Layer, name: ModelName) -> Layer:
    media_type = _SAME.get(layer.media_type, layer.media_type)
    if not media_type.startswith(_OURS):
        raise SourceError(
            f"{name} has a layer of an unknown kind ({media_type}); it is not a model for Mooring."
        )
    plain = Layer(media_type, layer.digest, layer.size)
    title = layer.title or _FILES.get(media_type, "").format(stem=f"{name.model}-{name.tag}")
    return plain.with_title(title) if title else plain


def _remote(registry: Registry, name: ModelName, layer: Layer) -> RemoteFile:
    return RemoteFile(
        url=registry.url(name, f"blobs/{layer.digest}"),
        filename=layer.title,
        media_type=layer.media_type,
        size=layer.size,
        sha256=layer.digest.removeprefix("sha256:"),
        headers=dict(registry.authorization),
        refresh=registry.sign_in,
        login=registry.login,
    )


def _basic(password: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(password.encode()).decode()}"}
