"""Pictures that are broken in ten ways, each of another kind for those who read them."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image


def sound(form: str = "JPEG", seed: int = 0) -> bytes:
    """A picture of noise."""
    levels = np.random.default_rng(seed).integers(0, 255, (40, 50, 3), np.uint8)
    target = io.BytesIO()
    Image.fromarray(levels).save(target, form)
    return target.getvalue()


def damaged_png() -> bytes:
    """One whose pixels do not unpack."""
    content = bytearray(sound("PNG"))
    content[len(content) // 2 : len(content) // 2 + 64] = bytes(64)
    return bytes(content)


def huge_png() -> bytes:
    """One that says it has 3.6 billion pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def negative_tiff() -> bytes:
    """One with levels below zero."""
    target = io.BytesIO()
    Image.fromarray(np.full((8, 8), -1.0, np.float32)).save(target, "TIFF")
    return target.getvalue()


# What a file holds, None for a link to nothing; and the kind of error that it is.
WAYS: tuple[tuple[Callable[[], bytes | None], str], ...] = (
    (lambda: b"", "empty"),
    (lambda: b"not a picture at all", "not a picture"),
    (lambda: sound("JPEG")[:300], "damaged"),
    (lambda: sound("PNG")[:900], "damaged"),
    (damaged_png, "damaged"),
    (huge_png, "too large"),
    (lambda: None, "missing"),
    (lambda: b"\x00\x00\x00\x18ftypheic" + bytes(64), "damaged"),
    (negative_tiff, "levels"),
    (lambda: sound("BMP")[:1000], "damaged"),
)


def break_picture(path: Path, way: int) -> str:
    """Puts a broken picture in the place of one; returns its kind of error."""
    make, kind = WAYS[way % len(WAYS)]
    path.unlink(missing_ok=True)
    content = make()
    if content is None:
        os.symlink("nothing", path)
    else:
        path.write_bytes(content)
    return kind
