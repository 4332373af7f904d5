"""What a stream of pictures is: an order that can be entered anywhere, and an outline by which it is known again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

from ..listing import Passed
from ..sources import SourceError

Stamp: TypeAlias = tuple[int, int]
"""Bytes, and when the file was last written in nanoseconds since 1970 (0 where a store does not say)."""

Content: TypeAlias = "str | bytes | Callable[[], bytes] | SourceError"
"""A local file's path; encoded bytes; what fetches them when they are needed, and fails with a `SourceError` or, of
what is not there, a `FileNotFoundError`; or why there are none."""

Outline: TypeAlias = "dict[str, Any]"
"""What a source looked like, for JSON: a value for each of its folders, tables, parquet files and tars, none for a
picture. Outlines of parts of a source are joined by `dict.update`."""


CLASS_FOLDER = "class folder"


class Teller(NamedTuple):
    """What says the labels of pictures: a column of a table, the folders' names, a member of each sample of a tar.

    Attributes:
        name: The column, `CLASS_FOLDER`, or the member's ending.
        names: The class names that integers stand for, where the file has them.
        is_text: Whether labels are text in which numbers and lists have yet to be recognized.
        parts: The columns that each label, a list, was put together from.
        is_guess: Whether nobody named these columns.
    """

    name: str
    names: tuple[str, ...] | None = None
    is_text: bool = False
    parts: tuple[str, ...] | None = None
    is_guess: bool = False


class Labeled(NamedTuple):
    """What is said of a picture.

    Attributes:
        path: What the picture is called.
        label: An integer, a number, text, a list of these; None where there is none.
        teller: What says it; None of what is no picture, but an error in the place of some.
    """

    path: str
    label: Any
    teller: Teller | None


class Place(NamedTuple):
    """Where a picture stands in the order of a source; as JSON a list of two.

    Attributes:
        unit: A folder, a block of lines of a table, a row group of a parquet file or a block of members of a tar.
        row: Which one of it, from 0.
    """

    unit: str
    row: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A picture of a source, not read yet.

    Attributes:
        path: What it is called: its path, `file.parquet#row`, or the key of a tar's member.
        place: Where it stands.
        content: See `Content`.
        look: Gives its `Stamp`, None where it is not a file or a member of a tar.
        label: What is said of it, in a stream that was opened for labels: see `Labeled`.
        teller: What says it.
    """

    path: str
    place: Place
    content: Content
    look: Callable[[], Stamp | None]
    label: Any = None
    teller: Teller | None = None

    @property
    def stamp(self) -> Stamp | None:
        """Size and time, looked up now; None where it is no file or not there, and where a store would be asked."""
        return self.look()


class Range(NamedTuple):
    """Pictures that follow each other in the order of a source.

    Attributes:
        first: Where the first of them stands.
        last: Where the last of them stands.
        rows: How many there are; more than none.
        seen: The outline of what was looked into to tell, as far as earlier ranges do not have it.
        units: The units that they lie in, in order, each with what the outline says of its folder or file: to `read`
            them where another process looks into a folder later, in which there may be more by then.
    """

    first: Place
    last: Place
    rows: int
    seen: Outline
    units: Outline


class Change(NamedTuple):
    """How a source differs from its outline.

    Attributes:
        kind: Whether it has the same pictures, more of them, others in the place of some, or fewer.
        difference: What differs, on one line for a person; empty where nothing does.
    """

    kind: Literal["same", "grew", "changed", "vanished"]
    difference: str = ""


class PictureStream(Protocol):
    """The pictures of folders, globs, tables, parquet files and tars, in one order. May be pickled.

    The order of a stream that was opened with an outline begins with what the outline has; what came since follows.
    """

    @property
    def names(self) -> tuple[str, ...]:
        """The sources as they were given."""
        ...

    @property
    def passed(self) -> Passed:
        """What was passed over so far, counted."""
        ...

    def entries(self, after: Place | None = None) -> Iterator[Entry]:
        """All pictures in order, or those behind a place; what lies before it is not read again.

        Raises:
            SourceError: The place, or the source itself, is gone.
        """
        ...

    def read(self, first: Place, count: int, units: Outline | None = None) -> Iterator[Entry]:
        """So many pictures from a place on. Opens nothing but the units that they lie in.

        Args:
            first: The place of the first.
            count: How many.
            units: Those of the range, where this stream has not planned it and was opened without its outline.

        Raises:
            SourceError: The place is gone, or there are no longer so many.
        """
        ...

    def ranges(self, size: int, after: Place | None = None) -> Iterator[Range]:
        """The whole order, or what lies behind a place, in ranges of at most so many pictures.

        No picture is read for this, and of parquet files no more than how many rows they have.
        """
        ...

    def labeled_ranges(self, sizes: Iterator[int]) -> Iterator[tuple[Range, list[Labeled]]]:
        """As `ranges` of these sizes, with what is said of each picture, in a stream that was opened for labels.

        Raises:
            SourceError: A file in it cannot be read, or says no labels.
        """
        ...

    def outline(self) -> Outline:
        """What is known of the source by now: the outline that was given, and what `ranges` or `entries` went through.

        Once `ranges` has come to its end it is whole.
        """
        ...

    def change(self) -> Change:
        """How the source differs from the outline with which the stream was opened.

        Looks at times and sizes, and into those folders alone that were written to since. Where planning had not come
        to the source's end, the rest of it counts as more.
        """
        ...


__all__ = [
    *("CLASS_FOLDER", "Change", "Content", "Entry", "Labeled", "Outline", "PictureStream", "Place", "Range", "Stamp"),
    "Teller",
]
