"""A worker on a node of a cluster, where files have to be those of the driver."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from ..errors import shown
from ..files import LOCK
from .places import SCHEME, Folder, LocalFolder
from .settings import Settings, difference
from .work import PartWorker


@dataclass(frozen=True)
class OnNode:
    """Makes a worker that works as it would where the driver is.

    Attributes:
        make: Makes it there.
        settings: What to do.
        folder: Where the parts go.
        sources: As they were given.
        place: The folder in which the driver was started, of which names are relative.
        driver: The driver's machine.
    """

    make: Callable[[], PartWorker]
    settings: Settings
    folder: Folder
    sources: tuple[str, ...]
    place: str
    driver: str

    def __call__(self) -> PartWorker:
        """The worker.

        Raises:
            ValueError: This node does not see the driver's files, or has another model.
        """
        with suppress(OSError):  # where all are addresses it need not be there
            os.chdir(self.place)
        # While a run writes to a folder its lock lies there, which no other folder of that name has.
        if isinstance(self.folder, LocalFolder) and not self.folder.has(LOCK):
            raise ValueError(self._unseen(self.folder.name))
        for name in self.sources:
            if SCHEME not in name and not _is_there(name):
                raise ValueError(self._unseen(name))
        if platform.node() != self.driver:
            how = difference(self.settings.asked, replace(self.settings).asked)
            if how is not None:
                raise ValueError(f"the node {shown(platform.node())} would work with something else: {how}.")
        return self.make()

    def _unseen(self, name: str) -> str:
        return (
            f"{shown(name)}: the node {shown(platform.node())} does not see this; expected a file system that all "
            "nodes share, or an address such as s3://bucket/pictures."
        )


def _is_there(name: str) -> bool:
    """Whether a file or folder is there, or the folder in which a glob begins."""
    if os.path.lexists(os.path.expanduser(name)):
        return True
    before, *rest = re.split(r"[*?[{]", name, maxsplit=1)
    return bool(rest) and os.path.isdir(os.path.dirname(before) or ".")


__all__ = ["OnNode"]
