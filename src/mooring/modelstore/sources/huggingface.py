"""``hf:org/repo[@revision][:file-or-quantisation]``: the Hugging Face Hub, its mirrors, and its cache on disk.

API: https://huggingface.co/docs/hub/api; cache: https://huggingface.co/docs/huggingface_hub/guides/manage-cache.
Files that the cache holds are used where they lie; without the network the cache alone answers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mooring.config import Settings
from mooring.egress import Egress
from mooring.errors import OfflineError, SourceError
from mooring.modelstore.gather import RemoteFile
from mooring.modelstore.sources.base import Listing, LocalFile, call
from mooring.modelstore.sources.bert import is_convertible
from mooring.modelstore.sources.choice import Choice, HubFile, HubRef, choose

_NAME_HOST = "hf.co"
_SHA256 = re.compile(r"[0-9a-f]{64}")


class HuggingFaceSource:
    def __init__(self, egress: Egress, settings: Settings) -> None:
        sources = settings.sources
        self._egress = egress
        self._endpoint = sources.hf_endpoint.rstrip("/")
        token = sources.hf_token
        self._headers = {"Authorization": f"Bearer {token.get_secret_value()}"} if token else {}
        self._cache = sources.hf_cache or Path.home() / ".cache" / "huggingface" / "hub"

    async def resolve(self, ref: str) -> Listing:
        wanted = HubRef.parse(ref, "hf", "main")
        cached = _CachedRepo(self._cache, wanted.repo)
        try:
            commit, files = await self._list(wanted)
        except (OfflineError, SourceError):
            known = cached.commit(wanted.revision)
            if known is None:
                raise
            choice = choose(cached.files(known), wanted.file, wanted.repo)
            return await self._listing(wanted, known, choice, cached)
        choice = choose(files, wanted.file, wanted.repo)
        return await self._listing(wanted, commit, choice, cached)

    async def _list(self, wanted: HubRef) -> tuple[str, list[HubFile]]:
        revision = quote(wanted.revision, safe="")
        reply = await call(
            self._egress,
            "GET",
            f"{self._endpoint}/api/models/{wanted.repo}/revision/{revision}",
            what=f"repository {wanted.repo}",
            headers=self._headers,
            params={"blobs": "true"},
            login=self._login(wanted.repo),
        )
        answer = reply.json()
        try:
            return str(answer["sha"]), [_hub_file(sibling) for sibling in answer["siblings"]]
        except (KeyError, TypeError) as error:
            raise SourceError(
                f"{reply.url.host} does not answer as a Hugging Face hub; check HF_ENDPOINT."
            ) from error

    async def _listing(self, wanted: HubRef, commit: str, choice: Choice, cached: _CachedRepo) -> Listing:
        local, remote = [], []
        for file, media_type in choice.files:
            if path := cached.find(commit, file):
                local.append(LocalFile(path=path, filename=file.path, media_type=media_type))
            else:
                remote.append(self._remote(wanted.repo, commit, file, media_type))
        pinned = f"hf:{wanted.repo}@{commit}" + (f":{choice.files[0][0].path}" if choice.is_gguf else "")
        return Listing(
            source=pinned,
            suggested_name=choice.name(_NAME_HOST, wanted.repo),
            files=tuple(remote),
            local=tuple(local),
            convert=not choice.is_gguf and await is_convertible(self._egress, local, remote),
        )

    def _remote(self, repo: str, commit: str, file: HubFile, media_type: str) -> RemoteFile:
        return RemoteFile(
            url=f"{self._endpoint}/{repo}/resolve/{commit}/{quote(file.path)}",
            filename=file.path,
            media_type=media_type,
            size=file.size,
            sha256=file.sha256,
            headers=self._headers,
            login=self._login(repo),
        )

    def _login(self, repo: str) -> str:
        where = f"{self._endpoint}/{repo}"
        if self._headers:
            return f"Either there is no such repository, or your HF_TOKEN may not read it: see {where}."
        return (
            f"Either there is no such repository, or it is private or gated: see {where}, then set HF_TOKEN."
        )


class _CachedRepo:
    """``models--org--repo`` of huggingface_hub's cache."""

    def __init__(self, cache: Path, repo: str) -> None:
        self._folder = cache.expanduser() / f"models--{repo.replace('/', '--')}"

    def commit(self, revision: str) -> str | None:
        """The commit a branch or tag meant when it was cached last; None if nothing of it is here."""
        try:
            commit = (self._folder / "refs" / revision).read_text("utf-8").strip()
        except OSError:
            commit = revision
        return commit if (self._folder / "snapshots" / commit).is_dir() else None

    def files(self, commit: str) -> list[HubFile]:
        snapshot = self._folder / "snapshots" / commit
        return [
            HubFile(path.relative_to(snapshot).as_posix(), path.stat().st_size, None)
            for path in sorted(snapshot.rglob("*"))
            if path.is_file()
        ]

    def find(self, commit: str, file: HubFile) -> Path | None:
        """The file as it is cached for that commit, or for any other with the same content."""
        candidates = [self._folder / "snapshots" / commit / file.path]
        if file.sha256:
            candidates.append(self._folder / "blobs" / file.sha256)
        return next((path for path in candidates if path.is_file() and _is_whole(path, file)), None)


def _is_whole(path: Path, file: HubFile) -> bool:
    return file.size is None or path.stat().st_size == file.size


def _hub_file(sibling: Mapping[str, Any]) -> HubFile:
    lfs = sibling.get("lfs") or {}
    sha256 = str(lfs.get("sha256") or lfs.get("oid") or "").removeprefix("sha256:")
    size = lfs.get("size") or sibling.get("size")
    return HubFile(str(sibling["rfilename"]), size, sha256 if _SHA256.fullmatch(sha256) else None)
