"""Labeled pictures as Trainer's loaders take them: augmented for training, as users give them for validation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, Sampler

from ..data import LabeledPictures
from ..images.levels import to_rgb
from ..images.preparing import preparing
from ..images.preprocessing import Preprocessing
from ..images.reading import ImageReadError
from .cropping import CropAndFlip
from .recipe import Recipe

# How many other pictures are tried in place of one that cannot be read before the data are taken to be gone.
SUBSTITUTES = 16


class EpochSampler(Sampler):
    """Every picture once an epoch, in an order that the seed and the epoch alone decide.

    Yields `epoch * len + index`: what is done to a picture then depends on the picture and the epoch, not on the worker
    process that does it, nor on what was drawn before, so that a resumed run sees what an unbroken one does.

    The epoch's last batch is filled up with its first pictures: all batches are of one size then, which several
    processes can share equally. Only where there are fewer pictures than one batch takes, it stays smaller.

    Args:
        length: How many pictures there are.
        seed: Of the order.
        batch_size: Pictures of one optimizer step, over all processes.
    """

    def __init__(self, length: int, seed: int, batch_size: int = 1) -> None:
        self.length, self.seed, self.epoch = length, seed, 0
        self.repeated = -length % batch_size if length > batch_size else 0

    def set_epoch(self, epoch: int) -> None:
        """Which epoch the next iteration is for, counted from 0."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length + self.repeated

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.length)
        yield from (self.epoch * self.length + np.concatenate((order, order[: self.repeated]))).tolist()


class TrainingPictures(Dataset):
    """Randomly cropped and mirrored pictures: `{"pixels": (C, H, W) uint8, "targets": ..., "unreadable": name}`.

    Indexed by what `EpochSampler` yields. A picture that cannot be read (any more) is replaced by the next that can,
    and named under `unreadable`.

    Args:
        pictures: The training pictures.
        recipe: Its crop, flip and growing picture size are used.
        image_size: (height, width) of the model's images, in pixels.
        channels: Of the model's images.
        seed: Of the crops.
    """

    def __init__(
        self, pictures: LabeledPictures, recipe: Recipe, image_size: tuple[int, int], channels: int, seed: int
    ) -> None:
        self.pictures, self.recipe, self.image_size, self.seed = pictures, recipe, image_size, seed
        self.channels = channels
        self.crop = CropAndFlip(scale=recipe.crop_scale, ratio=recipe.crop_ratio, flip=recipe.flip, shift=recipe.shift)

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, key: int) -> dict[str, Any]:
        epoch, index = divmod(key, len(self.pictures))
        random = np.random.default_rng((self.seed, epoch, index))
        picture, index, failed = self._readable(index)
        pixels = self.crop(_in_mode(picture, self.channels), self.size_in(epoch), random)
        return {"pixels": pixels, "targets": self.pictures.targets[index], "unreadable": failed}

    def size_in(self, epoch: int) -> tuple[int, int]:
        """(height, width) of the pictures of an epoch."""
        if not self.recipe.growing:
            return self.image_size
        side = self.recipe.size_in(epoch, self.image_size[0])
        return side, side

    def _readable(self, index: int) -> tuple[Image.Image, int, str | None]:
        failed: ImageReadError | None = None
        for step in range(min(SUBSTITUTES, len(self.pictures))):
            other = (index + step) % len(self.pictures)
            try:
                return self.pictures.picture(other), other, None if failed is None else str(failed)
            except ImageReadError as error:
                failed = failed or error
        assert failed is not None
        raise failed


class ValidationPictures(Dataset):
    """Pictures as the saved model will see them: `{"pixel_values": (C, H, W) float32, "targets": ...}`."""

    def __init__(self, pictures: LabeledPictures, preprocessing: Preprocessing) -> None:
        self.pictures = pictures
        self.prepare = preparing(preprocessing, max_pixels=pictures.max_pixels)

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> dict[str, Any]:
        pixels = self.prepare(self.pictures.source(index), self.pictures.name(index))
        return {"pixel_values": pixels, "targets": self.pictures.targets[index]}


def collate(examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A batch: arrays stacked to tensors; the names of unreadable pictures as a list."""
    batch: dict[str, Any] = {
        name: torch.from_numpy(np.stack([example[name] for example in examples]))
        for name in examples[0]
        if name != "unreadable"
    }
    if "unreadable" in examples[0]:
        batch["unreadable"] = [example["unreadable"] for example in examples if example["unreadable"]]
    return batch


def _in_mode(picture: Image.Image, channels: int) -> Image.Image:
    if channels == 3:
        return to_rgb(picture)
    if picture.mode[0] in "IP":  # of 16 bits, which Pillow would cut off; or a palette, whose numbers are no levels
        picture = to_rgb(picture)
    return picture.convert("L" if channels == 1 else "RGBA")


__all__ = ["EpochSampler", "TrainingPictures", "ValidationPictures", "collate"]
