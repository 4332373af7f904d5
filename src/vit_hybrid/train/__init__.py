"""Training: from labeled pictures and a recipe to a fine-tuned hybrid, on transformers' Trainer."""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .job import train as train
    from .recipe import load_recipe as load_recipe
    from .run import Run as Run

# Said here, in one line, because transformers says it late and in other words.
_missing = [library for library in ("accelerate", "pydantic", "yaml") if find_spec(library) is None]
if _missing:
    raise ImportError(f"training needs {' and '.join(_missing)}: pip install 'vit-hybrid[train]'")

_HOMES = {"train": "job", "Run": "run", "load_recipe": "recipe"}


def __getattr__(name: str) -> object:
    # On first use: a recipe or a run is read without torch.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


__all__ = ["Run", "load_recipe", "train"]
