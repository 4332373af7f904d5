"""The published hybrids: what their names say, and how pictures are prepared for a model that does not say so itself.

Imports neither torch nor transformers: an exported model starts without them.
"""

from __future__ import annotations

import math
import os
import warnings
from typing import TYPE_CHECKING, Any

from ..errors import EngineWarning, one_line
from ..images.preprocessing import Preprocessing
from ..model.presets import NOT_BIT, Named, resolve
from .files import PICKLED_SUFFIXES, TIMM_SUFFIXES

if TYPE_CHECKING:
    from ..images.image_processing import ViTHybridImageProcessor

# How timm evaluates all of them (models/vision_transformer_hybrid.py): pixels from -1 to 1, and a crop of the middle
# that leaves a border off, but for the large ones.
MEAN = STD = (0.5, 0.5, 0.5)
CROP_SHARE = 0.9
LARGE_IMAGE, LARGE_CROP_SHARE = 384, 1.0
INTERPOLATION = "bicubic"
BICUBIC = 3  # as Pillow numbers it


def named_release(source: str) -> Named | None:
    """What the name of a published hybrid says, None for the name of anything else.

    Raises:
        ValueError: If it is a name of timm's, but of no hybrid that can run here.
    """
    if os.path.exists(source) or source.lower().endswith((*TIMM_SUFFIXES, *PICKLED_SUFFIXES)):
        return None
    name = source.partition("@")[0]
    try:
        return resolve(name)
    except ValueError:
        owner, _, model = name.rpartition("/")
        if NOT_BIT.fullmatch(model.lower()):
            resolve(model)  # says so, whoever published it
        if owner in ("", "timm", "hf-hub:timm", "hf_hub:timm"):
            resolve(model.partition(".")[0])  # with a tag that is not known here, it may be on the hub
    return None


def crop_share(size: tuple[int, int]) -> float:
    """The share of a picture's shortest edge that pictures of `size`, (height, width) in pixels, show."""
    return LARGE_CROP_SHARE if min(size) >= LARGE_IMAGE else CROP_SHARE


def fields(size: tuple[int, int], channels: int = len(MEAN), whole: bool = False) -> dict[str, Any]:
    """The fields of a `preprocessor_config.json` for pictures of `size`, (height, width) in pixels.

    Where that is no square, pictures are resized to exactly it, as no shortest edge would do for both sides.

    Args:
        size: What the model takes.
        channels: Of the pictures.
        whole: Whether no border is left off, for a model that starts from a recipe's own architecture: small pictures
            have none to spare (docs/measured.md, "Training").
    """
    height, width = size
    exactly = {"height": height, "width": width}
    share = LARGE_CROP_SHARE if whole else crop_share(size)
    return {
        "size": {"shortest_edge": math.floor(height / share)} if height == width else exactly,
        "crop_size": exactly,
        "resample": BICUBIC,
        "image_mean": [MEAN[0]] * channels,
        "image_std": [STD[0]] * channels,
        "do_convert_rgb": channels == len(MEAN),
    }


def preprocessing(size: tuple[int, int], channels: int = len(MEAN)) -> Preprocessing:
    """What turns pictures into the input of a model of `size`, (height, width) in pixels, as `fields` says."""
    return Preprocessing.from_dict(fields(size, channels))


def processor(size: tuple[int, int], channels: int = len(MEAN), whole: bool = False) -> ViTHybridImageProcessor:
    """An image processor of `fields`."""
    from ..images.image_processing import ViTHybridImageProcessor

    return ViTHybridImageProcessor(**fields(size, channels, whole))


def warn_of_stand_in(name: str, reason: object = "") -> None:
    """The word to the user where the published hybrids' preprocessing stands in for a model's own.

    Args:
        name: The model.
        reason: Why what it says of its own cannot be used; nothing where it says nothing.
    """
    why = f" ({one_line(reason).rstrip('.')})" if reason else ""
    warnings.warn(
        EngineWarning(
            f"{name}: the model does not say how images are prepared{why}; they are prepared as for the published "
            "hybrids"
        ),
        stacklevel=3,
    )


__all__ = ["crop_share", "fields", "named_release", "preprocessing", "processor", "warn_of_stand_in"]
