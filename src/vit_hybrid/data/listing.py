"""What lies in a folder: pictures, tables and folders, and what is passed over, which is counted.

Imports neither torch nor NumPy, so that a command can say what is wrong with its arguments before the model is loaded.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from typing import NamedTuple

from ..errors import shortened, shown
from ..files import MARKS, is_marked

# What counts as a picture inside a folder. A file that is named itself is tried whatever its name ends in.
IMAGE_SUFFIXES = frozenset(
    f".{name}"
    for name in (
        *("avif", "bmp", "dib", "gif", "j2k", "jfif", "jp2", "jpe", "jpeg", "jpg"),
        *("pbm", "pgm", "png", "pnm", "ppm", "tga", "tif", "tiff", "webp"),
    )
)
# As phones write them; Pillow reads them with the help of another package.
HEIC_SUFFIXES = frozenset((".heic", ".heif", ".hif"))
HEIC_PACKAGE = "pillow_heif"

# Folders that systems and tools leave beside people's files, with copies or previews of these in them.
SYSTEM_FOLDERS = frozenset(
    ("__MACOSX", "__pycache__", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information")
)

# What may be passed over: one of a kind, several, and whether an example is named.
HEIC, PICTURE, OTHER, HIDDEN, SYSTEM = "heic", "picture", "other", "hidden", "system"
FOLDER, SPECIAL, OURS, LINK, BESIDE, MASKS, NO_SPLIT, TABLE = (
    *("folder", "special", "ours", "link", "beside", "masks", "no split", "table"),
)
_WORDS = {
    HEIC: ("HEIC picture", "HEIC pictures", False),
    PICTURE: ("picture that cannot be read", "pictures that cannot be read", True),
    BESIDE: ("picture beside the class folders", "pictures beside the class folders", False),
    SPECIAL: ("pipe, socket or device", "pipes, sockets or devices", True),
    FOLDER: ("folder that cannot be read", "folders that cannot be read", True),
    OURS: ("result of vit-hybrid", "results of vit-hybrid", True),
    MASKS: ("folder of masks beside images", "folders of masks beside images", True),
    NO_SPLIT: ("folder that is neither train, val nor test", "folders that are neither train, val nor test", True),
    TABLE: ("table that is not used", "tables that are not used", True),
    LINK: ("link to a folder", "links to folders", True),
    SYSTEM: ("folder of the system's", "folders of the system's", True),
    HIDDEN: ("hidden file or folder", "hidden files or folders", False),
    OTHER: ("file of another kind", "files of other kinds", False),
}
# Endings that a line of what was passed over names.
MOST_ENDINGS = 4
MOST_OF_AN_EXAMPLE = 40  # characters
# Pictures that cannot be read and are named.
MOST_TOLD = 5


class Passed:
    """What readers passed over. A place that is looked at again is not counted again."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str, str], int] = {}
        self._examples: dict[tuple[str, str], str] = {}

    def add(self, kind: str, place: str, count: int = 1, ending: str = "") -> None:
        """Counts what lies at one place.

        Args:
            kind: One of this module's words.
            place: The path of the one thing, or of the folder in which there are several.
            count: How many.
            ending: What their names end in.
        """
        if count:
            self._counts[place, kind, ending] = count

    def update(self, other: Passed) -> None:
        """Counts what another reader passed over, too."""
        self._counts.update(other._counts)

    def absorb(self, other: Passed) -> None:
        """Counts what another reader passed over in places that are looked at once, without keeping these."""
        for (place, kind, ending), count in other._counts.items():
            first = self._examples.setdefault((kind, ending), place)
            self._counts[first, kind, ending] = self._counts.get((first, kind, ending), 0) + count

    def counts(self) -> dict[str, int]:
        """How many there are of each kind."""
        counts = Counter[str]()
        for (_, kind, _), count in self._counts.items():
            counts[kind] += count
        return {kind: counts[kind] for kind in _WORDS if counts[kind]}

    def has(self, kind: str, folder: str) -> bool:
        """Whether there are some of a kind below a folder."""
        start = os.path.join(folder, "")
        return any(other == kind and place.startswith(start) for place, other, _ in self._counts)

    def line(self) -> str:
        """All of it in one line for a person; empty where nothing was passed over."""
        texts = [self._text(kind, count) for kind, count in self.counts().items()]
        return shortened(f"passed over: {', '.join(texts)}") if texts else ""

    def _text(self, kind: str, count: int) -> str:
        one, several, is_named = _WORDS[kind]
        text = f"{count:,} {one if count == 1 else several}"
        if kind == HEIC:
            return f"{text} (pip install 'vit-hybrid[heif]' to read them)"
        if kind == OTHER:
            endings = Counter[str]()
            for (_, other, ending), number in self._counts.items():
                if other == kind:
                    endings[ending or "no ending"] += number
            order = sorted(endings, key=lambda ending: (-endings[ending], ending))
            named = [f"{endings[ending]:,} {shown(ending, MOST_OF_AN_EXAMPLE)}" for ending in order[:MOST_ENDINGS]]
            return f"{text} ({', '.join(named)}{', ...' if len(endings) > MOST_ENDINGS else ''})"
        if is_named:
            example = min(place for place, other, _ in self._counts if other == kind)
            example = os.path.join(*os.path.normpath(example).split(os.sep)[-2:])
            return f"{text} ({shown(example, MOST_OF_AN_EXAMPLE)}{', ...' if count > 1 else ''})"
        return text

    def __bool__(self) -> bool:
        return bool(self._counts)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.line() or 'nothing'}>"


class Unreadable:
    """Pictures that cannot be read: the first are told of one by one, then how many there are and why.

    Args:
        total: How many pictures there are.
    """

    def __init__(self, total: int) -> None:
        self.count = 0
        self._total = total
        self._reasons = Counter[str]()

    def add(self, error: str) -> str | None:
        """Counts one of them.

        Args:
            error: Its name and what is the matter with it, as `name: reason`.

        Returns:
            The line to tell, None where enough have been told.
        """
        self.count += 1
        self._reasons[error.rpartition(": ")[2]] += 1
        return error if self.count <= MOST_TOLD else None

    def rest(self) -> str | None:
        """The line to tell at the end, None where all have been told."""
        if self.count <= MOST_TOLD:
            return None
        [(reason, count)] = self._reasons.most_common(1)
        most = "all" if count == self.count else f"{count:,}"
        return f"{self.count:,} of {self._total:,} pictures cannot be read, {most} because: {shown(reason)}"


class Listing(NamedTuple):
    """The names in one folder, sorted."""

    folders: tuple[str, ...]  # links to folders included
    links: frozenset[str]  # those of the folders that are links
    pictures: tuple[str, ...]
    others: tuple[str, ...]  # files of other kinds


def look(folder: str, passed: Passed) -> Listing:
    """What lies in a folder. What is hidden, no file at all or written by this package is passed over.

    Raises:
        OSError: The folder cannot be read.
    """
    folders, links, pictures, others = [], set(), [], []
    for entry, kind in classified(folder, passed):
        name = entry.name
        if kind == OTHER:
            others.append(name)
        elif kind == PICTURE:
            pictures.append(name)
        else:
            folders.append(name)
            if kind == LINK:
                links.add(name)
    return Listing(tuple(sorted(folders)), frozenset(links), tuple(sorted(pictures)), tuple(sorted(others)))


def classified(folder: str, passed: Passed) -> Iterator[tuple[os.DirEntry[str], str]]:
    """What lies in a folder one by one, in no order: each a picture, a folder, a link to one, or something else.

    What is hidden, no file at all or written by this package is passed over.

    Raises:
        OSError: The folder cannot be read.
    """
    hidden = 0
    heic = Counter[str]()
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            kind = kind_of(name)
            path = os.path.join(folder, name)
            if kind == HIDDEN:
                hidden += 1
            elif _is_folder(entry):
                if name in SYSTEM_FOLDERS:
                    passed.add(SYSTEM, path)
                elif is_marked(path):
                    passed.add(OURS, path)
                else:
                    yield entry, LINK if entry.is_symlink() else FOLDER
            elif _is_special(entry):
                passed.add(SPECIAL, path)
            elif kind == HEIC:
                heic[os.path.splitext(name)[1].lower()] += 1
            elif name not in MARKS:
                yield entry, kind
    passed.add(HIDDEN, folder, hidden)
    for suffix, count in heic.items():
        passed.add(HEIC, folder, count, suffix)


def kind_of(name: str) -> str:
    """What a file is by its name: `PICTURE`, `HEIC` where nothing here reads that, `HIDDEN` or `OTHER`."""
    if name.startswith("."):
        return HIDDEN
    suffix = os.path.splitext(name)[1].lower()
    if suffix in IMAGE_SUFFIXES:
        return PICTURE
    if suffix in HEIC_SUFFIXES:
        return PICTURE if _reads_heic() else HEIC
    return OTHER


def count_others(folder: str, names: tuple[str, ...], passed: Passed) -> None:
    """Counts files of other kinds as passed over."""
    for ending, count in Counter(os.path.splitext(name)[1].lower() for name in names).items():
        passed.add(OTHER, folder, count, ending)


def walk(folder: str, passed: Passed) -> Iterator[tuple[str, tuple[str, ...] | OSError]]:
    """The folders at and below `folder`, each with the names of the pictures in it, or why it cannot be read.

    Links to folders are not followed, but for `folder` itself.
    """
    waiting = [folder]
    while waiting:
        place = waiting.pop()
        try:
            found = look(place, passed)
        except OSError as error:
            passed.add(FOLDER, place)
            yield place, error
            continue
        count_others(place, found.others, passed)
        for name in found.links:
            passed.add(LINK, os.path.join(place, name))
        waiting += [os.path.join(place, name) for name in reversed(found.folders) if name not in found.links]
        yield place, found.pictures


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads around in a circle
        return False


def _is_special(entry: os.DirEntry[str]) -> bool:
    try:
        return not entry.is_file() and os.path.exists(entry.path)  # a link to nothing is a picture that is missing
    except OSError:  # the same circle
        return False


@cache
def _reads_heic() -> bool:
    return find_spec(HEIC_PACKAGE) is not None


__all__ = [
    *(
        "BESIDE",
        "FOLDER",
        "HEIC",
        "HEIC_SUFFIXES",
        "HIDDEN",
        "IMAGE_SUFFIXES",
        "LINK",
        "MASKS",
        "NO_SPLIT",
        "OTHER",
        "OURS",
    ),
    *("PICTURE", "SPECIAL", "SYSTEM", "TABLE", "Listing", "Passed", "Unreadable", "classified", "count_others"),
    *("kind_of", "look", "walk"),
]
