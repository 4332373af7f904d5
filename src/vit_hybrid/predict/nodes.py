"""A worker on a node of a cluster, where files have to be those of the driver."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ..files import LOCK
from ..inference.facts import check_alike, check_seen, stand_in, unseen
from .places import Folder, LocalFolder
from .settings import Settings
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
        stand_in(self.place)
        # While a run writes to a folder its lock lies there, which no other folder of that name has.
        if isinstance(self.folder, LocalFolder) and not self.folder.has(LOCK):
            raise ValueError(unseen(self.folder.name))
        check_seen(self.sources)
        check_alike(self.driver, self.settings.asked, lambda: replace(self.settings).asked)
        return self.make()


__all__ = ["OnNode"]
