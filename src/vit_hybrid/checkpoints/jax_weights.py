"""The weights of the JAX code: their names, shapes and layouts there, and what names and shapes tell of a model.

`NAMES` holds every weight once and is read in both directions.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from math import isqrt
from typing import NamedTuple

import numpy as np

from ..model.configuration import ViTHybridConfig
from ..model.geometry import BOTTLENECK_RATIO, POOL_STRIDE, STEM_KERNEL, STEM_STRIDE, as_pair, stage_widths
from ..model.presets import resolve
from .matching import Shape

EXPANSION = round(1 / BOTTLENECK_RATIO)
FIRST_STAGE_STRIDE = STEM_STRIDE * POOL_STRIDE
# That of all published hybrids' stems.
PRESET_WIDTH = 64

# Names that newer Flax code gives, and those of the released files.
NEWER_SPELLINGS = {
    "LayerNorm_1": "LayerNorm_2",
    "MultiHeadDotProductAttention_0": "MultiHeadDotProductAttention_1",
    "MlpBlock_0": "MlpBlock_3",
}
GROUP_NORM = re.compile(r"(^|/)gn(_root|_proj|\d)/(scale|bias)$")
UNIT = re.compile(r"block([1-9]\d*)/unit([1-9]\d*)/")
LAYER = re.compile(r"Transformer/encoderblock_(0|[1-9]\d*)/")


class Layout(NamedTuple):
    """How an array lies in memory there and here; the way back is also given the shape there."""

    to_torch: Callable[[np.ndarray], np.ndarray]
    to_jax: Callable[[np.ndarray, tuple[int, ...]], np.ndarray]


AS_IS = Layout(lambda array: array, lambda array, shape: array)
FLAT = Layout(lambda array: array.reshape(-1), lambda array, shape: array.reshape(shape))
CONVOLUTION = Layout(lambda array: array.transpose(3, 2, 0, 1), lambda array, shape: array.transpose(2, 3, 1, 0))
# Inputs on the first axis there, the outputs possibly by head; and the other way around.
DENSE = Layout(lambda array: array.reshape(array.shape[0], -1).T, lambda array, shape: array.T.reshape(shape))
DENSE_FROM_HEADS = Layout(
    lambda array: array.reshape(-1, array.shape[-1]).T, lambda array, shape: array.T.reshape(shape)
)


class Row(NamedTuple):
    """One weight: names with places for stage {s}, unit {u} and layer {n}, counted as each side does."""

    jax: str
    torch: str
    shape: str  # the shape there; numbers, and names of sizes
    layout: Layout

    @property
    def is_shortcut(self) -> bool:
        """Whether only the first unit of a stage has it."""
        return "_proj/" in self.jax


def _rows() -> Iterator[Row]:
    def norm(jax: str, torch: str, size: str) -> Iterator[Row]:
        yield Row(f"{jax}/scale", f"{torch}.weight", size, FLAT)
        yield Row(f"{jax}/bias", f"{torch}.bias", size, FLAT)

    def dense(jax: str, torch: str, kernel: str, bias: str, layout: Layout = DENSE) -> Iterator[Row]:
        yield Row(f"{jax}/kernel", f"{torch}.weight", kernel, layout)
        yield Row(f"{jax}/bias", f"{torch}.bias", bias, FLAT)

    bit = "vit.embeddings.patch_embeddings.backbone.bit"
    kernel = f"{STEM_KERNEL} {STEM_KERNEL}"
    yield Row("conv_root/kernel", f"{bit}.embedder.convolution.weight", f"{kernel} channels width", CONVOLUTION)
    yield from norm("gn_root", f"{bit}.embedder.norm", "width")
    unit, layer = "block{s}/unit{u}", bit + ".encoder.stages.{s}.layers.{u}"
    for jax, torch_conv, torch_norm, sides, inputs, outputs in (
        ("1", "conv1", "norm1", "1 1", "inputs", "narrow"),
        ("2", "conv2", "norm2", "3 3", "narrow", "narrow"),
        ("3", "conv3", "norm3", "1 1", "narrow", "wide"),
        ("_proj", "downsample.conv", "downsample.norm", "1 1", "inputs", "wide"),
    ):
        sizes = f"{sides} {inputs} {outputs}"
        yield Row(f"{unit}/conv{jax}/kernel", f"{layer}.{torch_conv}.weight", sizes, CONVOLUTION)
        yield from norm(f"{unit}/gn{jax}", f"{layer}.{torch_norm}", outputs)

    projection = "vit.embeddings.patch_embeddings.projection"
    yield from dense("embedding", projection, "patch_height patch_width features hidden", "hidden", CONVOLUTION)
    yield Row("cls", "vit.embeddings.cls_token", "1 1 hidden", AS_IS)
    positions = "Transformer/posembed_input/pos_embedding"
    yield Row(positions, "vit.embeddings.position_embeddings", "1 tokens hidden", AS_IS)

    block, layer = "Transformer/encoderblock_{n}", "vit.encoder.layer.{n}"
    attention = f"{block}/MultiHeadDotProductAttention_1"
    yield from norm(f"{block}/LayerNorm_0", f"{layer}.layernorm_before", "hidden")
    for name in ("query", "key", "value"):
        torch_name = f"{layer}.attention.attention.{name}"
        yield from dense(f"{attention}/{name}", torch_name, "hidden heads head_size", "heads head_size")
    output = f"{layer}.attention.output.dense"
    yield from dense(f"{attention}/out", output, "heads head_size hidden", "hidden", DENSE_FROM_HEADS)
    yield from norm(f"{block}/LayerNorm_2", f"{layer}.layernorm_after", "hidden")
    mlp = f"{block}/MlpBlock_3"
    yield from dense(f"{mlp}/Dense_0", f"{layer}.intermediate.dense", "hidden mlp", "mlp")
    yield from dense(f"{mlp}/Dense_1", f"{layer}.output.dense", "mlp hidden", "hidden")

    yield from norm("Transformer/encoder_norm", "vit.layernorm", "hidden")
    yield from dense("pre_logits", "pre_logits.dense", "hidden representation", "representation")
    yield from dense("head", "classifier", "head_inputs classes", "classes")


NAMES = tuple(_rows())
SIDES = {row.jax: row.shape.split() for row in NAMES}


class Weight(NamedTuple):
    """A row of `NAMES` at one place, with its shape there in numbers."""

    jax: str
    torch: str
    shape: Shape
    layout: Layout


@dataclass(frozen=True)
class Sizes:
    """The sizes of a model, by the names that `NAMES` gives them. What a damaged file does not tell is absent."""

    depths: tuple[int, ...]  # units of each stage
    layers: int
    has_pre_logits: bool
    has_head: bool
    by_name: Mapping[str, int]

    def weights(self) -> Iterator[Weight]:
        """Every weight of such a model, in the order of the forward pass."""
        for kind, rows in groupby(
            NAMES, key=lambda row: "layer" if "{n}" in row.jax else "unit" if "{u}" in row.jax else "once"
        ):
            group = [row for row in rows if self._has(row)]
            for place, sizes in self._places(kind):
                for row in group:
                    if row.is_shortcut and place["u"] > 1:
                        continue
                    shape = tuple(int(side) if side.isdecimal() else sizes.get(side) for side in row.shape.split())
                    # Stages and units are counted from 1 there and from 0 here; layers from 0 on both sides.
                    here = {name: number if name == "n" else number - 1 for name, number in place.items()}
                    yield Weight(row.jax.format(**place), row.torch.format(**here), shape, row.layout)

    def _has(self, row: Row) -> bool:
        part = row.jax.partition("/")[0]
        return {"pre_logits": self.has_pre_logits, "head": self.has_head}.get(part, True)

    def _places(self, kind: str) -> Iterator[tuple[dict[str, int], Mapping[str, int]]]:
        """The places of that kind, and the sizes that hold there."""
        if kind == "layer":
            for layer in range(self.layers):
                yield {"n": layer}, self.by_name
        elif kind == "unit":
            for stage, depth in enumerate(self.depths, start=1):
                for unit in range(1, depth + 1):
                    yield {"s": stage, "u": unit}, self._sizes_of_unit(stage, unit)
        else:
            yield {}, self.by_name

    def _sizes_of_unit(self, stage: int, unit: int) -> Mapping[str, int]:
        if "width" not in self.by_name:
            return {}
        width = self.by_name["width"]
        narrow = width * 2 ** (stage - 1)
        wide = narrow * EXPANSION
        before = width if stage == 1 else wide // 2
        return {"narrow": narrow, "wide": wide, "inputs": before if unit == 1 else wide}


def released_spelling(name: str) -> str:
    """The name as the released files have it, from newer Flax code's or from one with backslashes."""
    parts = name.replace("\\", "/").split("/")
    if len(parts) > 2 and parts[0] == "Transformer":
        parts[2] = NEWER_SPELLINGS.get(parts[2], parts[2])
    return "/".join(parts)


def squeezed(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """(C) for a group-norm array of (1, 1, 1, C), as in files from before Flax 0.3.6; any other shape as it is."""
    is_group_norm = GROUP_NORM.search(name) is not None
    return shape[-1:] if is_group_norm and shape[:-1] == (1, 1, 1) else shape


def inferred_sizes(shapes: Mapping[str, tuple[int, ...]], preset_name: str | None = None) -> Sizes:
    """What the names and shapes of a file tell, and the name of a published hybrid where one is given.

    Names are in the released spelling and group norms squeezed. A size is what most arrays say it is, so that one
    damaged array is seen to misfit, instead of making all the others misfit.
    """
    votes: dict[str, Counter[int]] = defaultdict(Counter)
    units: dict[int, int] = {}
    layers = 1
    for name, shape in shapes.items():
        if unit := UNIT.match(name):
            stage = int(unit[1])
            units[stage] = max(units.get(stage, 0), int(unit[2]))
        elif layer := LAYER.match(name):
            layers = max(layers, int(layer[1]) + 1)
        sides = SIDES.get(LAYER.sub("Transformer/encoderblock_{n}/", name), [])
        if len(sides) == len(shape) and all(shape):
            for side, number in zip(sides, shape, strict=True):
                votes[side][number] += 1
    sizes = {side: counter.most_common(1)[0][0] for side, counter in votes.items() if not side.isdecimal()}

    stages = max(units, default=0)
    if "width" in sizes and "features" in sizes:
        stages = max(stages, _stages_between(sizes["width"], sizes["features"]))
    # There are fewer stages, units and layers than arrays; a name with a higher number has no place.
    most = len(shapes)
    depths = tuple(min(units.get(stage, 1), most) for stage in range(1, min(stages, most) + 1))
    layers = min(layers, most)
    if preset_name is not None:
        preset = resolve(preset_name).preset
        depths, layers = preset.depths, preset.num_hidden_layers
        sizes |= {"width": PRESET_WIDTH, "patch_height": preset.patch_size, "patch_width": preset.patch_size}
        sizes |= {"hidden": preset.hidden_size, "heads": preset.num_attention_heads, "mlp": preset.intermediate_size}
    parts = {name.partition("/")[0] for name in shapes}
    _derive(sizes, len(depths))
    return Sizes(depths, layers, "pre_logits" in parts, "head" in parts, sizes)


def _stages_between(width: int, features: int) -> int:
    """How many stages widen `width` channels to `features`, 0 where no number of stages does."""
    stages = 1
    while widths(width, stages)[-1] < features:
        stages += 1
    return stages if widths(width, stages)[-1] == features else 0


def widths(stem: int, stages: int) -> list[int]:
    """Channels of the stem and of each stage."""
    return [stem, *(stem * EXPANSION * 2**stage for stage in range(stages))]


def _derive(sizes: dict[str, int], stages: int) -> None:
    """Puts sizes that follow from others in place of what single arrays say."""
    if "width" in sizes:
        sizes["features"] = widths(sizes["width"], stages)[-1]
    if "hidden" in sizes and sizes.get("heads"):
        sizes["head_size"] = sizes["hidden"] // sizes["heads"]
    if "representation" in sizes or "hidden" in sizes:
        sizes["head_inputs"] = sizes.get("representation", sizes.get("hidden", 0))
    if {"tokens", "patch_height", "patch_width"} <= sizes.keys():
        patch = sizes["patch_height"], sizes["patch_width"]
        sizes["map_side"] = map_side(sizes["tokens"] - 1, patch)
        sizes["tokens"] = 1 + _patches(sizes["map_side"], patch)


def _patches(map_side: int, patch: tuple[int, int]) -> int:
    return (map_side // patch[0]) * (map_side // patch[1])


def map_side(patches: int, patch: tuple[int, int]) -> int:
    """Side of the smallest square feature map that holds at least so many patches, and one in any case."""
    side = max(*patch, isqrt(patches * patch[0] * patch[1]))  # no smaller one has the area
    while _patches(side, patch) < patches:
        side += 1
    return side


def total_stride(stages: int) -> int:
    """Pixels a side of the feature map's cells: each stage but the first halves the map."""
    return FIRST_STAGE_STRIDE * 2 ** max(stages - 1, 0)


def sizes_of(config: ViTHybridConfig, has_pre_logits: bool, has_head: bool) -> Sizes:
    """The sizes of a model with this configuration."""
    backbone, (rows, columns) = config.backbone_config, config.grid_size
    patch_height, patch_width = as_pair(config.patch_size)
    by_name = {
        "channels": config.num_channels,
        "width": backbone.embedding_size,
        "patch_height": patch_height,
        "patch_width": patch_width,
        "features": stage_widths(backbone)[-1],
        "hidden": config.hidden_size,
        "tokens": 1 + rows * columns,
        "heads": config.num_attention_heads,
        "head_size": config.hidden_size // config.num_attention_heads,
        "mlp": config.intermediate_size,
        "head_inputs": config.hidden_size,
        "classes": config.num_labels,
    }
    if has_pre_logits:
        by_name["representation"] = by_name["head_inputs"] = config.representation_size
    return Sizes(tuple(backbone.depths), config.num_hidden_layers, has_pre_logits, has_head, by_name)


__all__ = [
    "NAMES",
    "Sizes",
    "Weight",
    "inferred_sizes",
    "map_side",
    "released_spelling",
    "sizes_of",
    "squeezed",
    "total_stride",
    "widths",
]
