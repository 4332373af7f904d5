"""From a request's body to the pictures in it: raw, multipart or JSON. All in memory."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass, field
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from .problems import Problem

RAW, MULTIPART, JSON = "raw", "multipart/form-data", "application/json"
FILE_FIELD, TOP_K_FIELD, IMAGES_FIELD = "file", "top_k", "images"
MOST_DIGITS = 9
EXPECTED = (
    "send a picture as it is with its Content-Type (image/jpeg, say, or application/octet-stream), multipart/form-data "
    f"with the field {FILE_FIELD}, or application/json with base64 in {IMAGES_FIELD}"
)


@dataclass
class Body:
    """What a request asks.

    Attributes:
        pictures: Files of pictures, encoded as they came.
        top_k: How many labels it wants of each, where the body says so.
    """

    pictures: list[bytes]
    top_k: int | None = None


def kind_of(content_type: str, content_encoding: str) -> str:
    """Which of the three a body is, by its headers.

    Raises:
        Problem: 415, it is none of them.
    """
    if content_encoding not in ("", "identity"):
        raise Problem(415, "Content-Encoding is not supported; send the body as it is", "encoding")
    kind = content_type.partition(";")[0].strip().lower()
    if kind in (MULTIPART, JSON):
        return kind
    if kind.startswith("image/") or kind in ("", "application/octet-stream"):
        return RAW
    raise Problem(415, f"this Content-Type is not supported; {EXPECTED}", "content type")


def read(kind: str, content_type: str, body: bytes, max_files: int) -> Body:
    """The pictures in a body.

    Args:
        kind: As `kind_of` says.
        content_type: The header.
        body: All of it.
        max_files: How many pictures it may have.

    Raises:
        Problem: 413, it has more pictures; 422, it is not what its type says, or has none.
    """
    if kind == RAW:
        return Body([body])
    found = _from_multipart(content_type, body, max_files) if kind == MULTIPART else _from_json(body, max_files)
    if not found.pictures:
        raise Problem(422, f"there is no picture in the body; {EXPECTED}", "no picture")
    return found


def too_many(max_files: int) -> Problem:
    """What is answered where a request has more pictures than it may."""
    pictures = "1 picture" if max_files == 1 else f"{max_files} pictures"
    return Problem(413, f"a request may have {pictures}; send several requests", "files")


@dataclass
class _Part:
    """One of a multipart body.

    Attributes:
        headers: By name.
        content: What is in it, where it lies in the body.
    """

    headers: dict[str, str] = field(default_factory=dict)
    content: bytearray = field(default_factory=bytearray)

    @property
    def name(self) -> str:
        """Of the form's field."""
        _, options = parse_options_header(self.headers.get("content-disposition", ""))
        return options.get(b"name", b"").decode("latin-1")


def _from_multipart(content_type: str, body: bytes, max_files: int) -> Body:
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if not boundary:
        raise Problem(422, "the Content-Type multipart/form-data names no boundary", "multipart")
    parts: list[_Part] = []
    name, value = bytearray(), bytearray()
    ended = False

    def begin() -> None:
        if len(parts) > max_files + 1:  # a field besides
            raise too_many(max_files)
        parts.append(_Part())

    def header_end() -> None:
        parts[-1].headers[name.decode("latin-1").lower()] = value.decode("latin-1")
        name.clear()
        value.clear()

    def end() -> None:
        nonlocal ended
        ended = True

    callbacks: Any = {
        "on_part_begin": begin,
        "on_header_field": lambda data, start, stop: name.extend(data[start:stop]),
        "on_header_value": lambda data, start, stop: value.extend(data[start:stop]),
        "on_header_end": header_end,
        "on_part_data": lambda data, start, stop: parts[-1].content.extend(data[start:stop]),
        "on_end": end,
    }
    try:
        parser = MultipartParser(boundary, callbacks)
        parser.write(body)
        parser.finalize()
    except FormParserError:
        raise Problem(422, "the body is no multipart/form-data as its Content-Type says", "multipart") from None
    if not ended:
        raise Problem(422, "the multipart body breaks off", "multipart")
    found = Body([])
    for part in parts:
        if part.name == FILE_FIELD:
            found.pictures.append(bytes(part.content))
        elif part.name == TOP_K_FIELD:
            found.top_k = top_k_of(part.content.decode("latin-1"))
        else:
            raise Problem(422, f"expected the field {FILE_FIELD}, repeated, and {TOP_K_FIELD}", "multipart")
    if len(found.pictures) > max_files:
        raise too_many(max_files)
    return found


def _from_json(body: bytes, max_files: int) -> Body:
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        raise Problem(422, "the body is no JSON, as its Content-Type says it is", "json") from None
    if not isinstance(said, dict) or not said.keys() <= {IMAGES_FIELD, TOP_K_FIELD}:
        raise Problem(422, f'expected {{"{IMAGES_FIELD}": ["BASE64", ...], "{TOP_K_FIELD}": 5}}', "json")
    images = said.get(IMAGES_FIELD)
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise Problem(422, f"expected a list of base64 texts in {IMAGES_FIELD}", "json")
    if len(images) > max_files:
        raise too_many(max_files)
    pictures = []
    for position, image in enumerate(images, start=1):
        try:
            pictures.append(base64.b64decode(image, validate=True))
        except (binascii.Error, ValueError):
            raise Problem(422, f"image {position} is no base64", "json") from None
    top_k = said.get(TOP_K_FIELD)
    return Body(pictures, top_k_of(top_k))


def top_k_of(value: object) -> int | None:
    """How many labels a request asks for, by a number or a text; None where it says nothing.

    Raises:
        Problem: 422, it is no such number.
    """
    if value is None:
        return None
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= MOST_DIGITS:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise Problem(422, f"{TOP_K_FIELD} is how many labels to give of each picture, 1 or more", "top_k")
    return value


__all__ = ["FILE_FIELD", "IMAGES_FIELD", "TOP_K_FIELD", "Body", "kind_of", "read", "top_k_of"]
