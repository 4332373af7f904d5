"""Programs that OpenVINO has compiled, kept between runs: to take one up again is a fraction of compiling it.

A file a program: beside a bundle of the cache, with which it goes, and for other bundles in the cache's folder. Its
name says all that decides what compiling makes: the checksums of the program and its weights, OpenVINO's release, the
processor, the settings and the number of pictures. Weights stay where they are, beside the program. A file that is
damaged, or that OpenVINO does not take, is replaced; where none can be kept, programs are compiled at each start.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..bundles.cache import CacheUnusable, cache_folder, key_of
from ..bundles.manifest import installed_version
from ..files import replacing
from ..runtimes import RUNTIMES
from .processor import processor

# Where they lie in those folders.
FOLDER = "compiled"
DIGEST_BYTES = hashlib.sha256().digest_size
ROW = RUNTIMES["openvino"]
DEVICE = ROW.devices["cpu"]


class KeptPrograms:
    """Compiled forms of one program on disk.

    Args:
        core: OpenVINO's.
        program: The `.xml` file; its weights are beside it.
        checksums: The SHA-256 of the program and of its weights, by the names of their files.
        settings: What it is compiled with.
    """

    def __init__(self, core: Any, program: Path, checksums: Mapping[str, str], settings: Mapping[str, Any]) -> None:
        self._core = core
        self._program = program
        self._weights = program.with_suffix(".bin")
        self._of = self._state()
        # So that a file holds the program alone: else it would be as large as the weights, for each number of pictures.
        self._settings = {**settings, "CACHE_MODE": "OPTIMIZE_SIZE", "WEIGHTS_PATH": os.fspath(self._weights)}
        self._about = {
            "checksums": [checksums.get(name) for name in (program.name, self._weights.name)],
            "openvino": installed_version(ROW.package),
            "settings": dict(settings),
            **processor(),
        }

    def compiled(self, program: Any, count: int | None) -> Any:
        """The compiled program, from its file if there is one, which else is written.

        Args:
            program: OpenVINO's model, of that number of pictures.
            count: The number; None if it is left open.
        """
        path = self._path(count)
        if path is None or self._state() != self._of:
            # Other weights lie there now, to which the file of the former would refer.
            return self._core.compile_model(program, DEVICE, self._settings)
        found = self._taken_up(path)
        if found is None:
            found = self._core.compile_model(program, DEVICE, self._settings)
            self._keep(found, path)
        return found

    def _state(self) -> tuple[int, ...] | None:
        """What changes when another file takes the place of the weights; None where there is none."""
        try:
            state = self._weights.stat()
        except OSError:
            return None
        return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns

    def _path(self, count: int | None) -> Path | None:
        try:
            if None in self._about["checksums"]:  # of weights that a bundle does not vouch for
                return None
            cache = cache_folder()
            place = self._program.parent if self._program.parent.parent == cache else cache
            return place / FOLDER / f"{key_of({**self._about, 'count': count})}.blob"
        except CacheUnusable:
            return None

    def _taken_up(self, path: Path) -> Any:
        try:
            content = path.read_bytes()
        except OSError:
            return None
        digest, blob = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
        if hashlib.sha256(blob).digest() != digest:
            return None
        try:
            return self._core.import_model(blob, DEVICE, self._settings)
        except RuntimeError:  # of another build that calls itself the same release
            return None

    def _keep(self, compiled: Any, path: Path) -> None:
        # Without a word where there is no place: whoever keeps nothing was told so when the model was converted, and a
        # bundle that somebody made needs no cache.
        try:
            blob = compiled.export_model().getvalue()
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as unfinished:
                unfinished.write_bytes(hashlib.sha256(blob).digest() + blob)
        except (OSError, RuntimeError):
            return


__all__ = ["FOLDER", "KeptPrograms"]
