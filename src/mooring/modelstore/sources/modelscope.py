"""``modelscope:org/repo[@revision][:file-or-quantisation]``: ModelScope.

API: https://github.com/modelscope/modelscope (hub/api.py): ``/api/v1/models/{repo}/repo/files`` lists with sizes
and sha256, ``/models/{repo}/resolve/{revision}/{file}`` downloads; a token goes in the session cookie.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from mooring.config import Settings
from mooring.egress import Egress
from mooring.errors import SourceError
from mooring.modelstore.gather import RemoteFile
from mooring.modelstore.sources.base import Listing, call
from mooring.modelstore.sources.bert import is_convertible
from mooring.modelstore.sources.choice import HubFile, HubRef, choose

_NAME_HOST = "modelscope.cn"
_SHA256 = re.compile(r"[0-9a-f]{64}")


class ModelScopeSource:
    def __init__(self, egress: Egress, settings: Settings) -> None:
        self._egress = egress
        self._endpoint = settings.sources.modelscope_endpoint.rstrip("/")
        token = settings.sources.modelscope_token
        self._headers = {"Cookie": f"m_session_id={token.get_secret_value()}"} if token else {}

    async def resolve(self, ref: str) -> Listing:
        wanted = HubRef.parse(ref, "modelscope", "master")
        choice = choose(await self._list(wanted), wanted.file, wanted.repo)
        remote = [self._remote(wanted, file, media_type) for file, media_type in choice.files]
        pinned = f"modelscope:{wanted.repo}@{wanted.revision}"
        return Listing(
            source=pinned + (f":{choice.files[0][0].path}" if choice.is_gguf else ""),
            suggested_name=choice.name(_NAME_HOST, wanted.repo),
            files=tuple(remote),
            convert=not choice.is_gguf and await is_convertible(self._egress, (), remote),
        )

    async def _list(self, wanted: HubRef) -> list[HubFile]:
        reply = await call(
            self._egress,
            "GET",
            f"{self._endpoint}/api/v1/models/{wanted.repo}/repo/files",
            what=f"repository {wanted.repo}",
            headers=self._headers,
            params={"Revision": wanted.revision, "Recursive": "true"},
            login=_LOGIN,
        )
        answer = reply.json()
        try:
            entries = answer["Data"]["Files"]
            return [_hub_file(entry) for entry in entries if entry.get("Type") != "tree"]
        except (KeyError, TypeError) as error:
            message = answer.get("Message") if isinstance(answer, dict) else None
            raise SourceError(
                f"{reply.url.host} lists no files of {wanted.repo} ({message or 'unknown answer'}). Check the name."
            ) from error

    def _remote(self, wanted: HubRef, file: HubFile, media_type: str) -> RemoteFile:
        revision = quote(wanted.revision, safe="")
        return RemoteFile(
            url=f"{self._endpoint}/models/{wanted.repo}/resolve/{revision}/{quote(file.path)}",
            filename=file.path,
            media_type=media_type,
            size=file.size,
            sha256=file.sha256,
            headers=self._headers,
            login=_LOGIN,
        )


_LOGIN = "If the repository is private, set MODELSCOPE_API_TOKEN."


def _hub_file(entry: Mapping[str, Any]) -> HubFile:
    sha256 = str(entry.get("Sha256") or "").lower()
    return HubFile(str(entry["Path"]), entry.get("Size"), sha256 if _SHA256.fullmatch(sha256) else None)
