"""The predictor that a subcommand works with, loaded as its options say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .output import loading, refuse

if TYPE_CHECKING:
    from ..inference.predictor import Predictor


def opened_predictor(model: str, **options: Any) -> Predictor:
    """Loads a predictor, saying on a terminal what is being done; ends the command where it cannot be used.

    Args:
        model: The model's name or place.
        options: What `Predictor.from_pretrained` takes besides.
    """
    with loading(model, lazily=True) as say:
        from ..inference.predictor import Predictor

        try:
            return Predictor.from_pretrained(model, progress=say, **options)
        except ValueError as error:
            refuse(error)


__all__ = ["opened_predictor"]
