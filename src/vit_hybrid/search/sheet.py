"""Contact sheets: queries with the pictures that were found, in one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Mapping, Sequence
from html import escape
from typing import TextIO

from PIL import Image

from ..errors import escaped
from ..images.levels import to_rgb
from ..images.reading import ImageReadError, open_image
from ..outputs.pages import beginning, ending
from .queries import NeighborRecord

# Of a picture's longer side, in pixels: twice what is shown, for fine screens.
THUMBNAIL_SIZE = 256
JPEG_QUALITY = 80

STYLE = f""".row {{ display: flex; flex-wrap: wrap; gap: 1rem; }}
figure {{ margin: 0; width: {THUMBNAIL_SIZE // 2}px; }}
figure:first-child {{ padding-right: 1rem; border-right: 1px solid var(--line); }}
img {{ max-width: 100%; height: auto; display: block; }}
.none {{ border: 1px dashed var(--line); color: var(--faint); padding: 1rem 0.5rem; }}
figcaption {{ color: var(--faint); font-size: 0.8rem; overflow-wrap: anywhere; }}
"""


class Sheet:
    """An HTML page that grows by a row a query.

    Args:
        file: Where it is written.
        title: What it is called.
        contents: Encoded pictures by the name that queries have, of those that are in no file.
    """

    def __init__(self, file: TextIO, title: str, contents: Mapping[str, bytes] | None = None) -> None:
        self._file = file
        self._contents = {} if contents is None else contents
        file.write(beginning(title, STYLE))

    def add(self, path: str, found: Sequence[NeighborRecord]) -> None:
        """A row: a picture, and those that were found for it."""
        shown = escape(escaped(path))
        figures = [self._figure(path, shown, f"the picture {shown}")]
        for one in found:
            name, similarity = escape(escaped(one["path"])), f"{one['similarity']:.3f}"
            figures.append(self._figure(one["path"], f"{similarity} {name}", f"{name}, similarity {similarity}"))
        self._file.write(f'<section>\n<h2>{shown}</h2>\n<div class="row">\n{"".join(figures)}</div>\n</section>\n')

    def close(self) -> None:
        """Ends the page; the file stays open."""
        self._file.write(ending())

    def _figure(self, path: str, caption: str, alternative: str) -> str:
        content = thumbnail(self._contents.get(path, path))
        if content is None:
            picture = f'<div class="none" role="img" aria-label="{alternative}, cannot be read here">not here</div>'
        else:
            data = base64.b64encode(content).decode()
            picture = f'<img alt="{alternative}" src="data:image/jpeg;base64,{data}">'
        return f"<figure>{picture}<figcaption>{caption}</figcaption></figure>\n"


def thumbnail(source: str | os.PathLike[str] | bytes) -> bytes | None:
    """A small JPEG of a picture; None where it cannot be read."""
    size = (THUMBNAIL_SIZE, THUMBNAIL_SIZE)
    try:
        image = open_image(source, before_decoding=lambda picture: picture.draft("RGB", size))
        small = to_rgb(image)
    except (ImageReadError, ValueError):
        return None
    small.thumbnail(size, Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=JPEG_QUALITY)
    return file.getvalue()


__all__ = ["Sheet", "thumbnail"]
