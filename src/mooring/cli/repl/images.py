"""Images in a prompt: paths of image files become attachments, for models that can see."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

from mooring.errors import InvalidParameter, UnsupportedCapability

MAX_IMAGE_BYTES = 20 * 1024 * 1024

_PATH = re.compile(
    r"""(?P<quote>['"])(?P<quoted>[^'"\n]+\.(?:png|jpe?g|webp|gif|bmp))(?P=quote)"""
    r"""|(?P<plain>(?:\\\ |[^\s'"])+\.(?:png|jpe?g|webp|gif|bmp))(?=$|[\s,;:!?.)])""",
    re.IGNORECASE,
)
_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
)


def split_images(text: str) -> tuple[str, list[Path]]:
    """The prompt without the paths of image files that exist, and those files in order.

    A path may be quoted, or have its spaces escaped as a terminal does on drag and drop.
    """
    found: list[Path] = []

    def take(match: re.Match[str]) -> str:
        written = match["quoted"] or match["plain"].replace("\\ ", " ")
        path = Path(written).expanduser()
        if not _is_file(path):
            return match[0]
        found.append(path)
        return ""

    rest = _PATH.sub(take, text)
    return (rest.strip() if found else text), found


def attach_images(model: str, capabilities: frozenset[str], text: str) -> str | list[dict[str, Any]]:
    """The message content for a prompt: text alone, or OpenAI's content parts with data URLs.

    Raises UnsupportedCapability if there are images and the model cannot see, InvalidParameter for a file
    that is no image or too large.
    """
    rest, paths = split_images(text)
    if not paths:
        return text
    if "vision" not in capabilities:
        names = ", ".join(str(path) for path in paths)
        raise UnsupportedCapability(
            model,
            f"images ({names})",
            "use a model that can see (`mooring list --catalogue`), or leave the path out.",
        )
    parts: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": data_url(path)}} for path in paths
    ]
    return [*([{"type": "text", "text": rest}] if rest else []), *parts]


def data_url(path: Path) -> str:
    """The file as a ``data:`` URL. Raises InvalidParameter."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidParameter(str(path), f"cannot be read ({error.strerror}); check the path") from error
    if len(data) > MAX_IMAGE_BYTES:
        raise InvalidParameter(str(path), f"is larger than {MAX_IMAGE_BYTES // 1024**2} MiB; scale it down")
    return f"data:{_media_type(path, data)};base64,{base64.b64encode(data).decode()}"


def _media_type(path: Path, data: bytes) -> str:
    for signature, media_type in _SIGNATURES:
        if data.startswith(signature):
            return media_type
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    raise InvalidParameter(str(path), "is no PNG, JPEG, GIF, BMP or WebP image; convert it")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
