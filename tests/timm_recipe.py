"""The recipe behind `tests/recorded/timm`: how weights and pixels are made.

The recording script (under timm) and the test (under transformers) both import this file, so it needs NumPy and torch
only. Nothing but names, shapes and outputs has to be stored: every value follows from a name and a shape through
NumPy's frozen legacy generator.
"""

import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch

NORM_SPREAD = 0.1  # how far norm scales and biases stand from their neutral values, so that each of them matters
TOKEN_SCALE = 0.5  # class token and position embeddings: large enough to change every output
BATCH = 2


def normal(name: str, shape: Sequence[int]) -> torch.Tensor:
    """Standard normal float32 numbers of `shape` that depend on nothing but `name` and `shape`."""
    numbers = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(shape))
    return torch.from_numpy(np.asarray(numbers, dtype=np.float32))


def weight(name: str, shape: Sequence[int]) -> torch.Tensor:
    """The value of the weight that timm calls `name`."""
    values = normal(name, shape)
    if name.endswith("bias"):
        return NORM_SPREAD * values
    if name.endswith(".weight") and len(shape) == 1:  # the scale of a norm
        return 1 + NORM_SPREAD * values
    if name.endswith(".weight"):
        return values / np.sqrt(np.prod(shape[1:]))
    return TOKEN_SCALE * values


def state_dict(layout: Mapping[str, Sequence[int]]) -> dict[str, torch.Tensor]:
    """All weights of a model whose names and shapes are `layout`."""
    return {name: weight(name, shape) for name, shape in layout.items()}


def pixels(case: str, channels: int, height: int, width: int) -> torch.Tensor:
    """Pixel values (BATCH, channels, height, width) of a recorded case."""
    return normal(f"{case}.pixels", (BATCH, channels, height, width))
