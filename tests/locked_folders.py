"""Folders that the system does not let anybody read, also where it is asked by root, who may read all."""

from __future__ import annotations

import os
from typing import Any

import pytest


def lock_folder(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuses to list any folder that is called `name`."""
    scandir = os.scandir

    def refusing(path: Any) -> Any:
        if os.path.basename(str(path)) == name:  # which may be a descriptor
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
