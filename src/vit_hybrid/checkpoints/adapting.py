"""Another image size or another number of classes than the checkpoint has: what every loader does about it."""

from __future__ import annotations

from collections.abc import Sequence

from ..model.geometry import as_pair
from ..model.modeling import ViTHybridForImageClassification


def adapt(
    model: ViTHybridForImageClassification,
    image_size: int | Sequence[int] | None = None,
    num_labels: int | None = None,
    positions: str = "bilinear-jax",
    antialias: bool = False,
) -> ViTHybridForImageClassification:
    """Fits a loaded model to images of `image_size` and to `num_labels` classes, in place.

    Args:
        model: A model with its checkpoint's weights.
        image_size: Side or (height, width) in pixels that the position embeddings are resized for; None leaves them.
            The class token's stays as it is.
        num_labels: Classes of a new, zero-initialized classifier (arXiv 2010.11929, section 3.2; the log says so), also
            where the checkpoint has as many; 0 for none; None leaves the checkpoint's.
        positions: How to resize: "bilinear-jax" as the authors' code does, "bilinear" or "bicubic".
        antialias: Whether "bilinear" and "bicubic" smooth when they make the grid smaller.

    Returns:
        The model itself.

    Raises:
        ValueError: If no model can run at that size, or an argument is none of the above.
    """
    if image_size is not None:
        height, width = as_pair(image_size)
        size = height if height == width else (height, width)
        model.resize_position_embeddings(size, mode=positions, antialias=antialias)
    if num_labels is not None:
        model.reset_classifier(num_labels)
    return model


__all__ = ["adapt"]
