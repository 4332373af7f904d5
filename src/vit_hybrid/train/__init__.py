"""Training: from labeled pictures and a recipe to a fine-tuned hybrid, on transformers' Trainer."""

from importlib.util import find_spec

# Said here, in one line, because transformers says it late and in other words.
_missing = [library for library in ("accelerate", "pydantic", "yaml") if find_spec(library) is None]
if _missing:
    raise ImportError(f"training needs {' and '.join(_missing)}: pip install 'vit-hybrid[train]'")
