"""``https://host/path/model.gguf``: one GGUF file from any web server."""

from __future__ import annotations

from urllib.parse import unquote

from yarl import URL

from mooring.config import Settings
from mooring.egress import Egress
from mooring.errors import InvalidParameter
from mooring.modelstore.gather import RemoteFile
from mooring.modelstore.manifest import MODEL_TYPE
from mooring.modelstore.sources.base import Listing, local_name, name_part


class HttpsSource:
    """``#sha256=<hex>`` at the URL's end, if given, is verified."""

    def __init__(self, egress: Egress, settings: Settings) -> None:
        self._egress = egress

    async def resolve(self, ref: str) -> Listing:
        url = self._egress.check(ref)
        filename = name_part(unquote(url.name))
        if not filename.endswith(".gguf"):
            raise InvalidParameter("model", f"'{url.with_query(None)}' is not the address of a .gguf file")
        file = RemoteFile(
            url=str(url.with_fragment(None)), filename=filename, media_type=MODEL_TYPE, sha256=_pinned(url)
        )
        source = str(url.with_user(None).with_query(None).with_fragment(None))
        return Listing(source=source, suggested_name=local_name(filename), files=(file,))


def _pinned(url: URL) -> str | None:
    kind, _, value = url.fragment.partition("=")
    if not url.fragment:
        return None
    if kind != "sha256" or len(value) != 64 or not set(value.lower()) <= set("0123456789abcdef"):
        raise InvalidParameter("model", "after '#' only sha256=<64 hex digits> may follow")
    return value.lower()
