"""Training runs that take a second: made pictures, a tiny hybrid from random weights, a recipe with all that varies."""

from __future__ import annotations

import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tiny_hybrid import TINY_BACKBONE

CLASSES = {"blue": (40, 60, 200), "green": (50, 180, 60), "red": (200, 50, 40)}
PICTURE_SIZE = 24
IMAGE_SIZE = 32
ARCHITECTURE: dict[str, Any] = {
    "image_size": IMAGE_SIZE,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "backbone_config": TINY_BACKBONE,
}
# What takes seconds to load, for servers that fork processes from it.
PRELOAD = ["vit_hybrid.train.job", "vit_hybrid.train.progress", "vit_hybrid.cli.main", "kornia.augmentation"]
# 21 training pictures: an epoch is five steps of four and one of one.
FIELDS: dict[str, Any] = {
    "architecture": ARCHITECTURE,
    "epochs": 2,
    "batch_size": 4,
    "learning_rate": 0.01,
    "log_every_steps": 1,
    "workers": 0,
}
RANDOM: dict[str, Any] = {
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "drop_path": 0.3,
    "ema": 0.9,
    "mixup": 0.5,
    "cutmix": 0.5,
    "mix_until": 0.8,
    "color": 0.3,
    "erase": 0.5,
    "randaugment_layers": 2,
}


def make_pictures(folder: Path, train: int = 7, val: int = 3) -> Path:
    """A folder of train/ and val/ with `train` and `val` noisy pictures of each color."""
    random = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for name, color in CLASSES.items():
            place = folder / split / name
            place.mkdir(parents=True)
            for number in range(count):
                levels = random.normal(color, 50, (PICTURE_SIZE, PICTURE_SIZE, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(levels).save(place / f"{number}.png")
    return folder


def trained(data: Path, output: Path, options: dict[str, Any] | None = None, **fields: Any) -> Any:
    """What comes of a run of `FIELDS` with `fields` over them; `options` are more of `Run`'s."""
    from vit_hybrid.train import Run, train
    from vit_hybrid.train.recipe import build_recipe

    recipe = build_recipe({**FIELDS, **fields})
    return train(Run(str(data), output, recipe, threads=1, device="cpu", **(options or {})))


def run_command(arguments: list[str], log: str) -> None:
    """`vit-hybrid` with these arguments, in this process, which it ends; what it says goes into the file `log`."""
    from vit_hybrid.cli.main import main

    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(descriptor, stream.fileno())
    multiprocessing.set_start_method("fork", force=True)  # as where a person starts the command; it loads pictures
    sys.argv = ["vit-hybrid", *arguments]
    main()
