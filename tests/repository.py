"""The repository, and its scripts as modules: they lie outside the package, and are run by their paths."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

REPOSITORY = Path(__file__).parents[1]


def loaded(place: str) -> ModuleType:
    """The script at a place in the repository, such as `scripts/release.py`, under its own name."""
    path = REPOSITORY / place
    specification = importlib.util.spec_from_file_location(path.stem, path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


__all__ = ["REPOSITORY", "loaded"]
