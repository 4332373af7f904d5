"""The recipe behind `tests/recorded/jax`: how weights, pixels and position embeddings are made.

The recording script (under JAX) and the tests both import this file, so it needs NumPy only. Nothing but names, shapes
and outputs has to be stored: every value follows from a name and a shape through NumPy's frozen legacy generator.
"""

import zlib
from collections.abc import Mapping, Sequence

import numpy as np

NORM_SPREAD = 0.1  # how far norm scales and biases stand from their neutral values, so that each of them matters
# Small enough that the epsilon beside each of these shows in the logits, as it would not where deviations are near 1.
PIXEL_SCALE = 0.0003
CONVOLUTION_SCALE = 0.0003
TOKEN_SCALE = 0.02
# So that the MLP reaches where the two forms of GELU differ most.
MLP_GAIN = 2.0
BATCH, CHANNELS = 2, 3


def normal(name: str, shape: Sequence[int]) -> np.ndarray:
    """Standard normal float32 numbers of `shape` that depend on nothing but `name` and `shape`."""
    numbers = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(shape))
    return np.asarray(numbers, dtype=np.float32)


def weight(name: str, shape: Sequence[int]) -> np.ndarray:
    """The value of the weight that Flax calls `name`."""
    values = normal(name, shape)
    if name == "embedding/kernel":
        values *= TOKEN_SCALE / np.sqrt(np.prod(shape[:-1]))
    elif name.endswith("kernel") and len(shape) == 4:
        values *= CONVOLUTION_SCALE
    elif name.endswith("kernel"):
        outputs = shape[-1] if "/out/" in name or len(shape) == 2 else shape[1] * shape[2]
        values *= (MLP_GAIN if "Dense_0" in name else 1.0) / np.sqrt(np.prod(shape) / outputs)
    elif name.endswith("scale"):
        values = 1 + NORM_SPREAD * values
    elif name == "embedding/bias" or not name.endswith("bias"):
        values *= TOKEN_SCALE
    else:
        values *= NORM_SPREAD
    return values.astype(np.float32)


def weights(shapes: Mapping[str, Sequence[int]]) -> dict[str, np.ndarray]:
    """All weights of a model whose names and shapes these are."""
    return {name: weight(name, shape) for name, shape in shapes.items()}


def pixels(image_size: int) -> np.ndarray:
    """Images as the JAX code takes them, (N, height, width, C)."""
    return PIXEL_SCALE * normal("pixels", (BATCH, image_size, image_size, CHANNELS))


def positions(side: int, width: int) -> np.ndarray:
    """Position embeddings of a class token and a square grid, (1, 1 + side * side, width)."""
    return normal("positions", (1, 1 + side * side, width))
