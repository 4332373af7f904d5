"""Pictures without labels, however many, as a stream: folders, globs, tables, parquet and tars, here or far away."""

from typing import TYPE_CHECKING

from ...first_use import on_first_use

if TYPE_CHECKING:
    from .opening import open_stream as open_stream
    from .protocol import Change as Change
    from .protocol import Entry as Entry
    from .protocol import Outline as Outline
    from .protocol import PictureStream as PictureStream
    from .protocol import Place as Place
    from .protocol import Range as Range

__getattr__ = on_first_use(
    __name__,
    {
        "open_stream": "opening",
        **dict.fromkeys(("Change", "Entry", "Outline", "PictureStream", "Place", "Range"), "protocol"),
    },
)

__all__ = ["Change", "Entry", "Outline", "PictureStream", "Place", "Range", "open_stream"]
