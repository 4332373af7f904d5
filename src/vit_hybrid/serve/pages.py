"""The files of the pages, held in memory: no request has the server look for one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from starlette.responses import Response

from ..explain.drawing import STOPS
from .problems import Problem

FOLDER = Path(__file__).parent / "page"
SETTINGS_FILE = "settings.json"
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
}
# Pages have their own files alone, and pictures that they were given; nobody may put them into a frame.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "referrer-policy": "no-referrer",
    "permissions-policy": "camera=(self), geolocation=(), microphone=()",
    # They are small: a browser asks each time whether they have changed, and gets them only then.
    "cache-control": "no-cache",
}


@dataclass(frozen=True)
class File:
    """One of a page.

    Attributes:
        content: What is in it.
        media_type: What it is.
    """

    content: bytes
    media_type: str

    @property
    def tag(self) -> str:
        """What changes with it."""
        return f'"{hashlib.sha256(self.content).hexdigest()[:20]}"'


class Pages:
    """The pages.

    Args:
        needs_key: Whether the server has keys, which the page then asks for.
        explains: Whether it explains, and the page shows maps.
    """

    def __init__(self, needs_key: bool, explains: bool) -> None:
        found = {path.name: path.read_bytes() for path in FOLDER.iterdir() if path.suffix in MEDIA_TYPES}
        found[SETTINGS_FILE] = json.dumps({"needs_key": needs_key, "heat_colors": STOPS if explains else None}).encode()
        files = {name: File(content, MEDIA_TYPES[Path(name).suffix]) for name, content in found.items()}
        self._files = {name: (file, file.tag) for name, file in files.items()}

    def answer(self, name: str, asked: Mapping[str, str]) -> Response:
        """A file; or, where whoever asks has it already, that it has not changed.

        Args:
            name: Of the file.
            asked: The request's headers.

        Raises:
            Problem: 404, there is none of the name.
        """
        if name not in self._files:
            raise Problem(404, "there is nothing here", "route")
        file, tag = self._files[name]
        headers = {**HEADERS, "etag": tag}
        known = {one.strip().removeprefix("W/") for one in asked.get("if-none-match", "").split(",")}
        if known & {tag, "*"}:
            return Response(status_code=304, headers=headers)
        return Response(file.content, headers={**headers, "content-type": file.media_type})


__all__ = ["CONTENT_SECURITY_POLICY", "Pages"]
