"""OUT: a folder of parts, or one file that parts become in the end, with what a later run needs to go on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ..errors import argument, shown
from ..files import MARK_AMONG_ROWS, locked
from ..outputs.vectors import HIDDEN
from .lines import lines
from .manifest import Manifest, ManifestError, State
from .places import LocalFolder, RemoteFolder, folder
from .rows import CSV, FORMATS, PARQUET, PART, Columns, header, part_name

# What parts lie in that become one file.
PARTS = ".parts"
# The manifest: beside the parts, or beside the one file.
MANIFEST, MANIFEST_BESIDE = "_manifest.jsonl", ".manifest.jsonl"


class OutputTaken(ValueError):
    """OUT is there already, or is something else; the message is one line that says what to do."""


class Output:
    """What a run writes to.

    Args:
        name: A path or an address; its ending says what is written.

    Attributes:
        name: As given.
        form: One of `FORMATS`.
        folder: Where the parts lie.
        manifest: What is kept of the run.

    Raises:
        ValueError: The name ends in none of these.
    """

    def __init__(self, name: str) -> None:
        stem = name.rstrip("/")
        endings = [form for form in FORMATS if stem.lower().endswith(form)]
        if not endings:
            raise ValueError(
                f"{shown(name)}: expected a name that ends in {', '.join(FORMATS[:-1])} or {FORMATS[-1]}, which says "
                "what is written."
            )
        self.name = name
        [self.form] = endings
        self.is_folder = self.form == PARQUET
        self.folder = folder(stem if self.is_folder else stem + PARTS)
        self._file = file = stem.rpartition("/")[2]
        self._parent = folder(stem.removesuffix(file) or ".")
        if self.is_folder:
            self.manifest = Manifest(lines(self.folder, MANIFEST))
        else:
            self.manifest = Manifest(lines(self._parent, file + MANIFEST_BESIDE))

    def check_free(self) -> None:
        """Raises `OutputTaken` where something lies there."""
        if self.manifest.is_there():
            raise OutputTaken(
                f"{shown(self.name)}: a run has written here; {argument('resume', True)} goes on with it, "
                f"{argument('overwrite', True)} begins anew."
            )
        self.check_ours()

    def check_ours(self) -> None:
        """Raises `OutputTaken` where something lies there that no run wrote."""
        if self.manifest.is_there():
            return
        is_file = isinstance(self.folder, LocalFolder) and self.is_folder and self.folder.path.is_file()
        if (
            is_file
            or (not self.is_folder and self._parent.has(self._file))
            or any(not name.startswith(HIDDEN) for name in self.folder.names())
        ):
            raise OutputTaken(
                f"{shown(self.name)}: something lies here that this command did not write; give another place, or move "
                "it away."
            )

    def remove(self) -> None:
        """Takes away what a run wrote."""
        self.folder.remove(name for name in self.folder.names() if name.startswith(PART))
        if not self.is_folder:
            self._parent.remove([self._file])
        self.manifest.remove()
        self.manifest.state = State()

    @contextmanager
    def for_this_run(self) -> Iterator[None]:
        """Keeps the place for this process, as far as the system can, and takes away what has nothing in it at the end.

        Raises:
            Locked: Another run writes there.
            OSError: It cannot be written to.
        """
        if isinstance(self.folder, RemoteFolder):
            yield
            return
        try:
            with locked(self.folder.path):
                yield
        finally:
            if not self.is_folder and (self.manifest.state.is_joined or not self._parts()):
                self.folder.remove([*self._parts(), MARK_AMONG_ROWS])
            with suppress(OSError):
                self.folder.path.rmdir()

    def begin(self) -> None:
        """Makes the place one of results."""
        if isinstance(self.folder, LocalFolder):
            self.folder.make()

    def done(self) -> set[int]:
        """The shards whose parts are there and known, by number; also where they have become one file."""
        known = self.manifest.state.done
        if self.manifest.state.is_joined:
            return set(known) if self._parent.has(self._file) else set()
        found = self._parts()
        return {number for number in known if part_name(number, self.form) in found}

    def contents(self) -> Iterator[tuple[int, bytes | None]]:
        """The parts in their order, by number, as far as they are done; None for one that is not what was written."""
        state = self.manifest.state
        for number, content in self._contents():
            is_sound = content is not None and hashlib.sha256(content).hexdigest() == state.done[number].sha256
            yield number, content if is_sound else None

    def take_apart(self) -> None:
        """Makes parts again of the one file that they became, where they did.

        Raises:
            ManifestError: The file is no longer what was written.
        """
        if not self.manifest.state.is_joined:
            return
        self.folder.remove(self._parts())
        if self._parent.has(self._file):
            self.begin()
            for number, content in self.contents():
                if content is None:
                    self.folder.remove(self._parts())
                    raise ManifestError(
                        f"{shown(self.name)}: this is not what was written, so rows cannot be added to it; write to "
                        f"another place, or {argument('overwrite', True)}."
                    )
                self.folder.write(part_name(number, self.form), content)
        self.manifest.join(False)

    def join(self, columns: Columns) -> None:
        """Makes one file of the parts, and takes them away, where OUT is one file.

        Raises:
            NoRoom: There is no room for it.
        """
        if self.is_folder or self.manifest.state.is_joined:
            return
        found = self._parts()
        with self._parent.writing(self._file) as file:
            file.write(header(columns, self.form))
            for name in sorted(found, key=_number):
                file.write(self.folder.read(name))
        self.manifest.join(True)
        self.folder.remove(found)

    def _contents(self) -> Iterator[tuple[int, bytes | None]]:
        known = self.manifest.state.done
        if not self.manifest.state.is_joined:
            found = self._parts()
            for number in sorted(known):
                name = part_name(number, self.form)
                yield number, self.folder.read(name) if name in found else None
            return
        with self._parent.reading(self._file) as file:
            if self.form == CSV:
                file.readline()
            for number in sorted(known):
                yield number, file.read(known[number].bytes)

    def _parts(self) -> set[str]:
        return {name for name in self.folder.names() if name.startswith(PART) and name.endswith(self.form)}


def _number(part: str) -> int:
    return int(part.removeprefix(PART).partition(".")[0])


__all__ = ["Output", "OutputTaken"]
