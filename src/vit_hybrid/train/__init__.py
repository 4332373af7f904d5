"""Training: from labeled pictures and a recipe to a fine-tuned hybrid, on transformers' Trainer."""

from importlib.util import find_spec
from typing import TYPE_CHECKING

from ..first_use import on_first_use

if TYPE_CHECKING:
    from .job import train as train
    from .recipe import load_recipe as load_recipe
    from .run import Run as Run

# Said here, in one line, because transformers says it late and in other words.
_missing = [library for library in ("accelerate", "pydantic", "yaml") if find_spec(library) is None]
if _missing:
    raise ImportError(f"training needs {' and '.join(_missing)}: pip install 'vit-hybrid[train]'")

__getattr__ = on_first_use(__name__, {"train": "job", "Run": "run", "load_recipe": "recipe"})

__all__ = ["Run", "load_recipe", "train"]
