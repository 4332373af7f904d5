"""The one model that all contenders load, in the form that each reads, with the pixels that all of them see."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import reason

if TYPE_CHECKING:
    from ..bundles.manifest import Bundle
    from ..images.preprocessing import Preprocessing

# Of random weights, so that every run has the same.
SEED = 0
# Pictures that differ; larger batches repeat them.
MOST_PICTURES = 64
# What an engine that rounds to 8 bits looks at beforehand: other pictures than those that are timed.
CALIBRATION_PICTURES = 32
ADVICE = re.compile(r"\.? \((?:write a file|Weights of other numerics [^)]*)\)")
MODES = {1: "L", 3: "RGB"}
PROCESSOR_FILE = "preprocessor_config.json"


@dataclass(frozen=True)
class Prepared:
    """A model for one image size, saved for all contenders, with what there is to know of it.

    Attributes:
        folder: As `save_pretrained` writes it, for this package and transformers 4.49.
        timm: As timm reads it; an error's line where timm has no such model; None where nobody asked.
        pixels: A file with (N, C, H, W) float32, as many as the largest batch.
        calibration: Another such file, of other pictures, for engines that round to 8 bits; None where nobody asked.
        mode: Pillow's name for the kind of pictures that the model takes.
        is_bundle: Whether it was exported, so that engine and precision are settled.
        about: Sizes, parameters, and operations of one picture, for the report.
    """

    folder: Path
    pixels: Path
    calibration: Path | None
    timm: Path | ValueError | None
    mode: str
    is_bundle: bool
    about: dict[str, Any] = field(hash=False)

    @property
    def preprocessing(self) -> Path:
        """How pictures become pixel values."""
        return self.folder / PROCESSOR_FILE


def base_name(model: str) -> str:
    """What a report calls the model: what lies on this machine by its name, without the folders it is in."""
    path = os.path.expanduser(model)
    return os.path.basename(os.path.abspath(path)) if os.path.exists(path) else model


def read_if_bundle(model: str) -> Bundle | None:
    """What an exported model says of itself; None where `model` is anything else.

    Raises:
        ValueError: It is damaged.
    """
    from ..bundles.manifest import is_bundle, read_bundle

    path = os.path.expanduser(model)
    return read_bundle(path) if is_bundle(path) else None


def prepare(
    model: str,
    image_size: tuple[int, int] | None,
    most_pictures: int,
    folder: Path,
    for_timm: bool = False,
    for_int8: bool = False,
) -> Prepared:
    """Opens the model, or draws the random weights of a preset, and saves it in `folder`, which is there.

    Args:
        model: What `checkpoints.opening` opens, or the name of a published hybrid.
        image_size: (height, width) in pixels; None for the model's own, which a bundle has to keep.
        most_pictures: The largest batch.
        folder: Where to save; it should be empty.
        for_timm: Whether timm is to read it, too.
        for_int8: Whether there are to be pixels for calibration.

    Raises:
        ValueError: The model cannot be opened or cannot be of this size.
        OSError: `folder` cannot be written to.
    """
    import torch

    from ..checkpoints import opening, published
    from ..model.configuration import ViTHybridConfig
    from ..model.geometry import as_pair

    timm: Path | ValueError | None = None
    is_bundle = read_if_bundle(model) is not None
    if is_bundle:
        own = Path(model).expanduser()
    else:
        own = folder / "model"
        source = opening.open(model, random_weights=True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            opened = source.classifier(image_size)
        processor = source.processor(image_size)
        opened.save_pretrained(own)
        processor.save_pretrained(own)
        if for_timm:
            timm = _save_for_timm(opened, processor, folder / "timm")
    config = ViTHybridConfig.from_pretrained(own)
    preprocessing = opening.open(own).preprocessing or published.preprocessing(
        as_pair(config.image_size), config.num_channels
    )
    channels = config.num_channels
    if channels not in MODES:
        raise ValueError(f"{model}: it takes images of {channels} channels; pictures can be made up for 1 and 3.")
    mode = MODES[channels]
    distinct = min(most_pictures, MOST_PICTURES)
    pixels = _save_pixels(folder / "pixels.npy", preprocessing, range(distinct), most_pictures, mode)
    calibration = None
    if for_int8:
        others = range(MOST_PICTURES, MOST_PICTURES + CALIBRATION_PICTURES)
        calibration = _save_pixels(folder / "calibration.npy", preprocessing, others, len(others), mode)
    return Prepared(own, pixels, calibration, timm, mode, is_bundle, _about(config))


def _save_for_timm(model: Any, processor: Any, folder: Path) -> Path | ValueError:
    from ..checkpoints import timm

    try:
        # Other epsilons are no other work.
        timm.save(model, folder, image_processor=processor, approximate=True)
    except ValueError as error:
        # What follows is advice for those who want a file.
        reasons = reason(error).partition("was not written: ")[2].removesuffix(".")
        return ValueError(f"timm has no such model: {ADVICE.sub('', reasons) or reason(error)}")
    return folder


def _save_pixels(path: Path, prepare: Preprocessing, numbers: Iterable[int], count: int, mode: str) -> Path:
    import numpy as np

    from ..data.made import photo_sized_picture

    distinct = [prepare([photo_sized_picture(number, mode)])[0] for number in numbers]
    pixels = np.lib.format.open_memmap(path, "w+", np.float32, (count, *distinct[0].shape))
    for index in range(count):
        pixels[index] = distinct[index % len(distinct)]
    pixels.flush()
    return path


def _about(config: Any) -> dict[str, Any]:
    from ..model.complexity import complexity
    from ..model.geometry import as_pair

    costs = complexity(config)
    return {
        "image_size": list(as_pair(config.image_size)),
        "num_labels": config.num_labels,
        "parameters": costs.total_parameters,
        "flops": costs.total_flops,
        "tokens": costs.tokens,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "maps": _maps(config),
    }


def _maps(config: Any) -> list[int]:
    """What the convolutions of 3 x 3 in the backbone's second stage, or its only one, run over: (C, H, W); of a stem
    alone, what one behind it would."""
    from ..model.geometry import as_pair

    backbone = config.backbone_config
    sizes = list(backbone.hidden_sizes) or [backbone.embedding_size]
    stage = min(1, len(sizes) - 1)
    # A bottleneck is a quarter as wide as its block; the stem divides sides by 4, each stage behind the first by 2.
    sides = (max(1, side >> (2 + stage)) for side in as_pair(config.image_size))
    return [max(1, sizes[stage] // 4), *sides]


__all__ = ["Prepared", "base_name", "prepare", "read_if_bundle"]
