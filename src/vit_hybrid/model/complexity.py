"""What a hybrid costs: parameters, operations, tokens and memory, by arithmetic on its configuration alone.

No model is built. The numbers are those of `ViTHybridForImageClassification`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from .configuration import ViTHybridConfig
from .geometry import (
    BOTTLENECK_RATIO,
    POOL_KERNEL,
    POOL_STRIDE,
    STEM_KERNEL,
    STEM_STRIDE,
    as_pair,
    backbone_sides,
    block_dilation,
    round_width,
    stage_strides,
    stage_widths,
)

# In the order in which an image goes through them. A norm counts with the part that it stands before, the last one with
# the head; "embeddings" are the class token and the position embeddings.
PARTS = ("stem_and_stages", "projection", "embeddings", "attention", "mlp", "head")

FLOPS_PER_MULTIPLY_ADD = 2
# The convolution in the middle of a bottleneck.
BLOCK_KERNEL = 3

# Bytes of a number.
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# Max-pooling also gives the places of its maxima, in 64 bits, and attention the logarithms of its sums, in 32.
INDEX_BYTES, LOG_SUM_BYTES = 8, 4


@dataclass(frozen=True)
class Complexity:
    """What a classifier costs, whatever the batch.

    Attributes:
        tokens: Tokens of an image, the class token included.
        parameters: Number of parameters of each of `PARTS`.
        flops: Floating-point operations of each of `PARTS` for one image.
    """

    tokens: int
    parameters: dict[str, int]
    flops: dict[str, int]

    @property
    def total_parameters(self) -> int:
        return sum(self.parameters.values())

    @property
    def total_flops(self) -> int:
        return sum(self.flops.values())


@dataclass(frozen=True)
class Memory:
    """What the tensors of inference on a batch take, in bytes.

    Attributes:
        weights: All parameters.
        folded_weights: The standardized copies of the convolutions' weights, which folding keeps beside the originals.
        activations: The batch of images, and what PyTorch makes of it, at the fullest moment of a forward pass.
    """

    weights: int
    folded_weights: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.folded_weights + self.activations


def complexity(config: ViTHybridConfig) -> Complexity:
    """Tokens, parameters and operations of a classifier.

    Operations are counted as `torch.utils.flop_counter` counts them: two for each multiply-add of convolutions, dense
    layers and attention, none for norms, activations and sums. Stages behind the map that the encoder reads have
    parameters and do not run.

    Raises:
        ValueError: If no model can run with this configuration.
    """
    config.check_runnable()
    backbone = _Backbone(config)
    patches, hidden, inner = prod(config.grid_size), config.hidden_size, config.intermediate_size
    tokens, layers, labels = 1 + patches, config.num_hidden_layers, config.num_labels
    norm = 2 * hidden  # a scale and a shift
    projection = backbone.width * prod(as_pair(config.patch_size)) * hidden
    features = config.representation_size or hidden
    pre_logits = (hidden + 1) * features if config.representation_size else 0
    parameters = (
        sum(one.parameters for one in backbone.convolutions()) + sum(2 * width for width in backbone.norm_widths()),
        projection + hidden,
        (1 + tokens) * hidden,
        layers * (4 * hidden**2 + (4 if config.qkv_bias else 1) * hidden + norm),
        layers * (2 * hidden * inner + inner + hidden + norm),
        norm + pre_logits + (features + 1) * labels,
    )
    multiply_adds = (
        sum(one.multiply_adds for one in backbone.convolutions() if one.runs),
        projection * patches,
        0,
        layers * (4 * tokens * hidden**2 + 2 * tokens**2 * hidden),
        layers * 2 * tokens * hidden * inner,
        (hidden * features if config.representation_size else 0) + features * labels,
    )
    return Complexity(
        tokens=tokens,
        parameters=dict(zip(PARTS, parameters, strict=True)),
        flops={part: FLOPS_PER_MULTIPLY_ADD * count for part, count in zip(PARTS, multiply_adds, strict=True)},
    )


def memory(config: ViTHybridConfig, batch_size: int = 1, dtype: str = "float32") -> Memory:
    """Memory for inference as `Predictor` does it: weight standardization folded, no gradients, sdpa attention.

    The weights are exact. The activations are the tensors that live at the fullest moment of a forward pass in eager
    PyTorch, followed step by step; within 0.1% of those that its operations hand out, in every dtype. What a library's
    kernels take while they run is not among them, for it is another on every processor: oneDNN's bfloat16 convolutions
    take a reordered copy of map and weights where there is AMX, which may be a quarter of the activations. What an
    allocator keeps in reserve and the process itself come on top as well.

    Args:
        config: Configuration of the classifier.
        batch_size: How many images go through the model at once.
        dtype: "float32", "bfloat16" or "float16": what weights and images are in.

    Raises:
        ValueError: If no model can run with this configuration, or `batch_size` or `dtype` cannot be used.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; expected 1 or more.")
    if dtype not in DTYPE_BYTES:
        raise ValueError(f"dtype is {dtype!r}; expected one of {', '.join(DTYPE_BYTES)}.")
    bytes_each = DTYPE_BYTES[dtype]
    parameters = complexity(config).total_parameters  # which also checks the configuration
    backbone = _Backbone(config)
    images = config.num_channels * prod(as_pair(config.image_size))
    fullest = max(*backbone.live_values(bytes_each), *_live_values_of_encoder(config, backbone, bytes_each))
    return Memory(
        weights=bytes_each * parameters,
        folded_weights=bytes_each * sum(one.parameters for one in backbone.convolutions()),
        activations=round(batch_size * bytes_each * (images + fullest)),
    )


@dataclass(frozen=True)
class _Convolution:
    """A convolution without bias that makes a map of `positions` values a channel; `runs`: for the encoder to read."""

    in_channels: int
    out_channels: int
    kernel: int
    positions: int
    runs: bool = True

    @property
    def parameters(self) -> int:
        return self.in_channels * self.out_channels * self.kernel**2

    @property
    def multiply_adds(self) -> int:
        return self.parameters * self.positions

    @property
    def values(self) -> int:
        """Values of the map that it makes."""
        return self.out_channels * self.positions


@dataclass(frozen=True)
class _Block:
    """A bottleneck. `given`, `padded` and `made` count the values of its input, of the input of its second convolution
    where that is padded beforehand (else 0), and of its output."""

    first: _Convolution
    second: _Convolution
    third: _Convolution
    shortcut: _Convolution | None
    given: int
    padded: int
    made: int


class _Backbone:
    """The backbone of a configuration, with the sizes of its maps."""

    def __init__(self, config: ViTHybridConfig) -> None:
        self._config = backbone = config.backbone_config
        self._is_preactivation = backbone.layer_type == "preactivation"
        self._pads_same = backbone.global_padding == "SAME"
        self._sides = [backbone_sides(backbone, side) for side in as_pair(config.image_size)]
        self._widths = stage_widths(backbone)
        self._last = backbone.stage_names.index(backbone.out_features[-1])
        stem_positions = prod(sides.stem for sides in self._sides)
        self._stem = _Convolution(config.num_channels, self._widths[0], STEM_KERNEL, stem_positions)
        self._stages = [self._stage(index) for index in range(len(backbone.depths))]

    @property
    def width(self) -> int:
        """Channels of the map that the encoder reads."""
        return self._widths[self._last]

    @property
    def values(self) -> int:
        """Values of the map that the encoder reads."""
        return self._values(self._last)

    def convolutions(self) -> Iterator[_Convolution]:
        """All convolutions, those that do not run included."""
        yield self._stem
        for block in self._blocks():
            yield from (block.first, block.second, block.third)
            if block.shortcut is not None:
                yield block.shortcut

    def norm_widths(self) -> Iterator[int]:
        """Channels of each group norm."""
        if self._is_preactivation:
            yield self._widths[-1]  # behind the last stage, of no use to a hybrid
            for block in self._blocks():
                yield from (block.first.in_channels, block.first.out_channels, block.second.out_channels)
        else:
            yield from (convolution.out_channels for convolution in self.convolutions())

    def live_values(self, bytes_each: int) -> Iterator[float]:
        """How many values of an image are held at each step, the image itself not counted.

        A module's input lives as long as the module runs. A norm and the activation behind it make a map each, but for
        ReLU, which works in place.
        """
        maps = 2 if self._config.hidden_act == "relu" else 3  # what goes into the norm counted
        stem, pooled = self._stem, self._values(0)
        padded = stem.in_channels * self._padded([sides.stem for sides in self._sides], STEM_KERNEL, STEM_STRIDE)
        yield stem.values + (padded if self._pads_same else 0)
        bordered = stem.out_channels * prod(sides.bordered for sides in self._sides)
        if not self._pads_same:
            yield stem.values + bordered
        if not self._is_preactivation:
            yield maps * bordered
        pool_padded = 0
        if self._config.embedding_dynamic_padding:
            outputs = [sides.outputs[0] for sides in self._sides]
            pool_padded = stem.out_channels * self._padded(outputs, POOL_KERNEL, POOL_STRIDE)
        yield bordered + pool_padded + pooled * (1 + INDEX_BYTES / bytes_each)

        held = pooled  # what the stem and the stages made is kept till the last of them is through
        for index, stage in enumerate(self._stages[: self._last], start=1):
            for number, block in enumerate(stage):
                steps = _preactivation_steps if self._is_preactivation else _bottleneck_steps
                for step in steps(block, maps):
                    yield held + (block.given if number else 0) + step
            held += self._values(index) if stage else 0

    def _blocks(self) -> Iterator[_Block]:
        for stage in self._stages:
            yield from stage

    def _stage(self, index: int) -> list[_Block]:
        stage_stride, stage_dilation = stage_strides(self._config)[index]
        runs = index < self._last
        wide = self._widths[index + 1]
        narrow = round_width(wide * BOTTLENECK_RATIO)
        blocks = []
        for number in range(self._config.depths[index]):
            source, stride = (index, stage_stride) if number == 0 else (index + 1, 1)
            dilation = block_dilation(self._config.layer_type, stage_dilation, number)
            given_sides = [sides.outputs[source] for sides in self._sides]
            branch_sides = [sides.branches[index][number] for sides in self._sides]
            branch = prod(branch_sides)
            shortcut = None
            if number == 0:
                positions = prod(-(-side // stride) for side in given_sides)
                shortcut = _Convolution(self._widths[index], wide, 1, positions, runs)
            padded = 0
            if self._pads_same and stride > 1:
                padded = narrow * self._padded(branch_sides, BLOCK_KERNEL, stride, dilation)
            blocks.append(
                _Block(
                    first=_Convolution(self._widths[source], narrow, 1, prod(given_sides), runs),
                    second=_Convolution(narrow, narrow, BLOCK_KERNEL, branch, runs),
                    third=_Convolution(narrow, wide, 1, branch, runs),
                    shortcut=shortcut,
                    given=self._values(source),
                    padded=padded,
                    made=self._values(index + 1),
                )
            )
        return blocks

    def _values(self, index: int) -> int:
        """Values of the stem's map (0) or a stage's (from 1)."""
        return self._widths[index] * prod(sides.outputs[index] for sides in self._sides)

    @staticmethod
    def _padded(made: list[int], kernel: int, stride: int, dilation: int = 1) -> int:
        """Positions that a map must have for a convolution to make (height, width) `made` of it."""
        return prod((side - 1) * stride + dilation * (kernel - 1) + 1 for side in made)


def _bottleneck_steps(block: _Block, maps: int) -> Iterator[int]:
    """Values held at the steps of a block, its input not counted; `maps` for each norm with its activation."""
    shortcut = 0 if block.shortcut is None else block.shortcut.values
    first, second, third = block.first.values, block.second.values, block.third.values
    yield 2 * shortcut
    yield shortcut + maps * first
    yield shortcut + first + max(block.padded + second, maps * second)
    yield shortcut + second + 2 * third
    yield shortcut + third + (maps - 1) * block.made


def _preactivation_steps(block: _Block, maps: int) -> Iterator[int]:
    """Values held at the steps of a block, its input not counted; `maps` for each norm with its activation."""
    yield (maps - 1) * block.given
    kept = block.given + (0 if block.shortcut is None else block.shortcut.values)
    first, second, third = block.first.values, block.second.values, block.third.values
    yield kept + max(2 * first + block.padded + second, maps * first)
    yield kept + max(2 * second + third, maps * second)
    yield kept + third + block.made


def _live_values_of_encoder(config: ViTHybridConfig, backbone: _Backbone, bytes_each: int) -> Iterator[float]:
    """How many values of an image are held at each step from the feature map on, the image itself not counted."""
    patches = prod(config.grid_size)
    tokens = (1 + patches) * config.hidden_size
    inner = (1 + patches) * config.intermediate_size
    log_sums = (1 + patches) * config.num_attention_heads * LOG_SUM_BYTES / bytes_each
    yield backbone.values + patches * config.hidden_size
    yield patches * config.hidden_size + 2 * tokens
    for layer in range(min(2, config.num_hidden_layers)):  # from the second layer on they are all alike
        held = (1 + layer) * tokens  # the embeddings are kept till the last layer is through, beside a layer's input
        yield held + 5 * tokens + log_sums  # normed, queries, keys, values, and what attention makes of them
        yield held + 3 * tokens + 2 * inner  # attended, their sum and its norm, and the activation before and behind
        yield held + 4 * tokens
    yield 2 * tokens


__all__ = ["DTYPE_BYTES", "PARTS", "Complexity", "Memory", "complexity", "memory"]
