"""Pictures without labels, however many, as a stream: folders, globs, tables, parquet and tars, here or far away."""

from .protocol import Change as Change
from .protocol import Entry as Entry
from .protocol import Outline as Outline
from .protocol import PictureStream as PictureStream
from .protocol import Place as Place
from .protocol import Range as Range

__all__ = ["Change", "Entry", "Outline", "PictureStream", "Place", "Range"]
