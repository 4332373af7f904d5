"""The arithmetic that follows from a configuration: widths, strides and sizes of the maps in the BiT backbone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:  # what is built without transformers asks for sizes, too
    from transformers import BitConfig

# BiT's root block: a 7x7 convolution and a 3x3 max-pooling, each of stride 2 (Kolesnikov et al., arXiv 1912.11370).
STEM_KERNEL, STEM_STRIDE = 7, 2
POOL_KERNEL, POOL_STRIDE = 3, 2
# Pixels that the stem adds on each side before its norm, where padding is not "SAME".
STEM_BORDER = 1
# The bottleneck narrows a block's width to a quarter (He et al., arXiv 1512.03385).
BOTTLENECK_RATIO = 0.25
# Widths are rounded to multiples of eight, and never lose more than a tenth by it (MobileNet's rule).
WIDTH_DIVISOR = 8
MAX_WIDTH_LOSS = 0.9

# Where tokens are merged, as parts of the way through the layers: behind the third, fifth and seventh of twelve.
MERGING_PLACES = (Fraction(1, 6), Fraction(1, 3), Fraction(1, 2))


def as_pair(value: int | Sequence[int]) -> tuple[int, int]:
    """A side or a (height, width) pair as a (height, width) pair."""
    if isinstance(value, int):
        return value, value
    height, width = value
    return height, width


def round_width(value: float) -> int:
    """`value` channels, rounded to a multiple of eight without losing more than a tenth."""
    rounded = max(WIDTH_DIVISOR, int(value + WIDTH_DIVISOR / 2) // WIDTH_DIVISOR * WIDTH_DIVISOR)
    return rounded + WIDTH_DIVISOR if rounded < MAX_WIDTH_LOSS * value else rounded


def stage_widths(backbone: BitConfig) -> list[int]:
    """Output channels of the stem and of each stage; a stage without blocks hands on what it is given."""
    widths = [backbone.embedding_size]
    for width, depth in zip(backbone.hidden_sizes, backbone.depths, strict=False):
        widths.append(round_width(width * backbone.width_factor) if depth else widths[-1])
    return widths


def stage_strides(backbone: BitConfig) -> list[tuple[int, int]]:
    """(stride, dilation) of each stage; past `output_stride` the strides turn into dilation."""
    plan, reached, dilation = [], STEM_STRIDE * POOL_STRIDE, 1
    for index in range(len(backbone.depths)):
        stride = 1 if index == 0 else 2
        if reached >= backbone.output_stride:
            dilation, stride = dilation * stride, 1
        reached *= stride
        plan.append((stride, dilation))
    return plan


def map_strides(backbone: BitConfig) -> list[int]:
    """Pixels of the image to a pixel of the stem's map and of each stage's."""
    strides = [STEM_STRIDE * POOL_STRIDE]
    for stride, _ in stage_strides(backbone):
        strides.append(strides[-1] * stride)
    return strides


def block_dilation(layer_type: str, stage_dilation: int, index: int) -> int:
    """Dilation of the 3x3 convolution of block `index`; pre-activation blocks never dilate."""
    if layer_type == "preactivation":
        return 1
    if index > 0:
        return stage_dilation
    return 1 if stage_dilation in (1, 2) else 2


def feature_map_size(backbone: BitConfig, size: int | Sequence[int]) -> tuple[int, int]:
    """Height and width of the feature map that the BiT backbone makes of pixels of `size`.

    Args:
        backbone: Configuration of the backbone.
        size: Height and width of the image in pixels, or one number for both.

    Raises:
        ValueError: If the image is too small for the backbone, or if its padding makes residuals that do not fit.
    """
    wanted = backbone.stage_names.index(backbone.out_features[-1])
    height, width = (backbone_sides(backbone, side).outputs[wanted] for side in as_pair(size))
    return height, width


def same_border(side: int, kernel: int, stride: int = 1, dilation: int = 1) -> tuple[int, int]:
    """How many zeros TensorFlow's "SAME" puts before and behind a side of a map, in pixels: the odd one behind."""
    reach = dilation * (kernel - 1) + 1
    border = max(0, (-(-side // stride) - 1) * stride + reach - side)
    return border // 2, border - border // 2


def token_grid(config: Any) -> tuple[int, int]:
    """(rows, columns) of the patches that a hybrid makes of an image of its `image_size`.

    Args:
        config: The configuration, or what has the attributes of one.

    Raises:
        ValueError: As `feature_map_size`.
    """
    height, width = feature_map_size(config.backbone_config, config.image_size)
    patch = as_pair(config.patch_size)
    return height // patch[0], width // patch[1]


def feature_names(config: Any) -> list[str]:
    """What a hybrid computes on its way, in order: `stem, stage1, ...` of the ResNet's maps, as far as it runs, and
    `layer1, ...` of the encoder's.

    Args:
        config: The configuration, or what has the attributes of one.
    """
    backbone = config.backbone_config
    last = backbone.stage_names.index(backbone.out_features[-1])
    return [*backbone.stage_names[: last + 1], *(f"layer{n}" for n in range(1, config.num_hidden_layers + 1))]


def check_channels(given: int, expected: int) -> None:
    """Raises `ValueError` where images have another number of channels than the model was made for."""
    if given != expected:
        raise ValueError(
            f"The images have {given} channels, but the model was made for {expected} (num_channels). Convert the "
            "images, or load a model made for that many channels."
        )


def check_holds_patch(feature_map: Sequence[int], patch: tuple[int, int], image: Sequence[int]) -> None:
    """Raises `ValueError` where the feature map of an image, (height, width) each, is smaller than a patch."""
    if feature_map[0] < patch[0] or feature_map[1] < patch[1]:
        raise ValueError(
            f"A {image[0]}x{image[1]} image gives a feature map of {feature_map[0]}x{feature_map[1]}, smaller than a "
            f"patch of {patch[0]}x{patch[1]}. Give larger images."
        )


class BackboneSides(NamedTuple):
    """What becomes of one side of an image on its way through the BiT backbone, in pixels of each map.

    Attributes:
        stem: Behind the stem's convolution.
        bordered: Behind the border that the stem may put around that.
        outputs: Of the stem and of each stage, in the order of `stage_widths`.
        branches: Behind the 3x3 convolution of each block of each stage.
    """

    stem: int
    bordered: int
    outputs: list[int]
    branches: list[list[int]]


def backbone_sides(backbone: BitConfig, side: int) -> BackboneSides:
    """The sizes of all maps that the backbone makes of an image with a side of `side` pixels.

    Raises:
        ValueError: If the side is too small for the backbone, or if its padding makes residuals that do not fit.
    """

    def convolved(n: int, kernel: int, stride: int, dilation: int = 1) -> int:
        reach = dilation * (kernel - 1)
        if backbone.global_padding == "SAME":
            return -(-n // stride)
        padding = 0 if backbone.global_padding == "VALID" else (stride - 1 + reach) // 2
        return fits((n + 2 * padding - reach - 1) // stride + 1)

    def fits(n: int) -> int:
        if n < 1:
            raise ValueError(
                f"An image side of {side} pixels is too small for this backbone (padding "
                f"{backbone.global_padding!r}): nothing is left of it. Give a larger `image_size`."
            )
        return n

    stem = convolved(fits(side), STEM_KERNEL, STEM_STRIDE)
    bordered = stem if backbone.global_padding == "SAME" else stem + 2 * STEM_BORDER
    if backbone.embedding_dynamic_padding:
        n = -(-bordered // POOL_STRIDE)
    else:
        n = fits((bordered - POOL_KERNEL) // POOL_STRIDE + 1)

    outputs = [n]
    branches: list[list[int]] = []
    for stage, (depth, (stride, dilation)) in enumerate(
        zip(backbone.depths, stage_strides(backbone), strict=True), start=1
    ):
        branches.append([])
        for block in range(depth):
            block_stride = stride if block == 0 else 1
            shortcut = -(-n // block_stride)
            branch = convolved(n, 3, block_stride, block_dilation(backbone.layer_type, dilation, block))
            if shortcut != branch and 1 not in (shortcut, branch):
                raise ValueError(
                    f"With global_padding={backbone.global_padding!r} the residual branch of stage {stage} shrinks a "
                    f"side of {n} to {branch}, its shortcut to {shortcut}, so they cannot be added. "
                    "Use global_padding='SAME' or None."
                )
            branches[-1].append(branch)
            n = max(shortcut, branch)
        outputs.append(n)
    return BackboneSides(stem, bordered, outputs, branches)


def merged_by_layer(tokens: int, layers: int, token_merging: int) -> Iterator[int]:
    """How many tokens go at each layer. The last one's need not: only the class token goes through its second half."""
    places = sorted({int(place * layers) for place in MERGING_PLACES} - {layers - 1})
    left = token_merging * layers
    for index in range(layers):
        merged = 0
        if index in places:
            merged = min(-(-left // (len(places) - places.index(index))), (tokens - 1) // 2)
        yield merged
        left -= merged
        tokens -= merged
