"""Names that a package hands on without loading the modules that define them before somebody asks."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any


def on_first_use(package: str, homes: Mapping[str, str | None]) -> Callable[[str], Any]:
    """A `__getattr__` for a package.

    Args:
        package: Its name.
        homes: Each name that it hands on, and the module that defines it, as seen from the package; None for a module
            of that name.

    Returns:
        A function that finds a name and keeps it in the package; for one that is not in `homes` it raises
        `AttributeError`.
    """

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        home = homes[name]
        module = importlib.import_module(f".{home or name}", package)
        value = module if home is None else getattr(module, name)
        setattr(sys.modules[package], name, value)
        return value

    return find


def called_as(package: str, name: str) -> None:
    """Makes a package callable as the function `name` that it hands on, whoever has imported the package first.

    Args:
        package: The package's name.
        name: What it hands on.
    """

    class Called(ModuleType):
        def __call__(self, *given: Any, **named: Any) -> Any:
            return getattr(self, name)(*given, **named)

    sys.modules[package].__class__ = Called


__all__ = ["called_as", "on_first_use"]
