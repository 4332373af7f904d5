"""A classifier's program for OpenVINO, operation by operation, from its configuration and its weights.

It computes what `model.modeling` and `model.token_merging` compute, and tests/bundles/test_openvino_graph.py holds it
to them. Neither torch nor transformers is needed for it. What differs from the model, for speed, is said at its line.

Shapes: N pictures, T tokens, D = hidden_size, H heads, P pairs of patch tokens next to each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from ..model.geometry import (
    BOTTLENECK_RATIO,
    POOL_KERNEL,
    POOL_STRIDE,
    STEM_BORDER,
    STEM_KERNEL,
    STEM_STRIDE,
    as_pair,
    block_dilation,
    round_width,
    same_border,
    stage_strides,
    stage_widths,
    token_grid,
)
from ..runtimes import FEATURES, LOGITS, OUTPUTS, TOKEN
from ..runtimes import openvino as load_openvino
from .plain_config import BIT, CLASSIFIER, EMBEDDINGS
from .program import MERGING

openvino = load_openvino()
ops: Any = openvino.opset13

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

INPUT = "pixel_values"
# Maps of at most so many places have their means taken by a pool over the whole map, in a fraction of what OpenVINO's
# reduction takes there; for larger ones the reduction is as quick or quicker (docs/measured.md, "OpenVINO's program").
POOLED_PLACES = 256
# PyTorch's cubic filter, and the least norm that its `normalize` divides by.
CUBIC, LEAST_NORM = -0.75, 1e-12

ACTIVATIONS: Mapping[str, Callable[[Any], Any]] = {
    "relu": ops.relu,
    "gelu": lambda x: ops.gelu(x, "erf"),
    "gelu_python": lambda x: ops.gelu(x, "erf"),
    "gelu_new": lambda x: ops.gelu(x, "tanh"),
    "gelu_fast": lambda x: ops.gelu(x, "tanh"),
    "gelu_pytorch_tanh": lambda x: ops.gelu(x, "tanh"),
    "quick_gelu": lambda x: ops.multiply(x, ops.sigmoid(ops.multiply(x, np.float32(1.702)))),
    "silu": ops.swish,
    "swish": ops.swish,
    "sigmoid": ops.sigmoid,
    "tanh": ops.tanh,
    "linear": lambda x: x,
}


class NotBuilt(Exception):
    """A model that has to be traced; the message says what there is no operation for here."""


def build(
    config: Any,
    weights: Mapping[str, Array],
    *,
    output: str = LOGITS,
    merged: Sequence[int] = (),
    dynamic: bool = False,
    for_int8: bool = False,
) -> Any:
    """A program in float32 for any number of pictures.

    Args:
        config: The configuration, or `plain_config` of its fields.
        weights: The classifier's, by their names in its state dict, float32.
        output: What it is to give, of `runtimes.OUTPUTS`.
        merged: How many tokens go at each layer; none where it is empty.
        dynamic: Whether pictures of other sizes are taken too; their position embeddings are then resized bicubically.
        for_int8: Whether it is to be quantized.

    Returns:
        An `openvino.Model`, which may share the weights' memory.

    Raises:
        NotBuilt: If the model has an activation that is not known here, or other weights than its configuration says.
    """
    backbone = config.backbone_config
    if dynamic and (backbone.global_padding != "SAME" or backbone.layer_type != "bottleneck"):
        raise NotBuilt("sizes of maps that are known while a program runs")
    graph = _Graph(config, weights, dynamic, for_int8)
    pixels = ops.parameter(
        [-1, config.num_channels, *((-1, -1) if dynamic else as_pair(config.image_size))], np.float32
    )
    pixels.set_friendly_name(INPUT)
    pixels.output(0).get_tensor().set_names({INPUT})
    found = graph.outputs(pixels, merged, OUTPUTS[output])
    # What does not run, such as stages behind the last, has weights all the same.
    unused = weights.keys() - graph.taken
    if rest := {name for name in unused if not name.startswith((f"{BIT}.", f"{CLASSIFIER}."))}:
        raise NotBuilt(f"there is no place for {min(rest)}")
    results = []
    for name in OUTPUTS[output]:
        result = ops.result(found[name])
        result.output(0).get_tensor().add_names({name})
        results.append(result)
    return openvino.Model(results, [pixels], "vit-hybrid")


class _Graph:
    """Operations of one model; each method adds some, and gives the last."""

    def __init__(self, config: Any, weights: Mapping[str, Array], dynamic: bool, for_int8: bool) -> None:
        self.config, self.weights, self.dynamic, self.for_int8 = config, weights, dynamic, for_int8
        self.taken: set[str] = set()

    def weight(self, name: str, *shape: int) -> Array:
        found = self.weights.get(name)
        if found is None or found.shape != shape:
            raise NotBuilt(f"{name} is {'missing' if found is None else found.shape}; expected {shape}")
        self.taken.add(name)
        return found

    def outputs(self, pixels: Any, merged: Sequence[int], names: Sequence[str]) -> dict[str, Any]:
        """What the classifier gives, by name, (N, ...) each."""
        config = self.config
        width = config.hidden_size
        token = ops.reshape(self.encoder(self.embeddings(pixels), merged), _ints(-1, width), False)
        scale, shift = (self.weight(f"vit.layernorm.{kind}", width) for kind in ("weight", "bias"))
        features = ops.add(ops.multiply(self.normalized(token), _fixed(scale[None])), _fixed(shift[None]))
        if config.representation_size is not None:
            features = ops.tanh(self.linear(features, "pre_logits.dense", width, config.representation_size))
            width = config.representation_size
        found = {TOKEN: token, FEATURES: features}
        if LOGITS in names:
            labels = config.num_labels
            found[LOGITS] = self.linear(features, CLASSIFIER, width, labels) if labels else features
        return found

    def feature_map(self, pixels: Any) -> tuple[Any, int]:
        """The map (N, C, h, w) that the encoder reads, and C."""
        backbone = self.config.backbone_config
        widths = stage_widths(backbone)
        last = backbone.stage_names.index(backbone.out_features[-1])
        block = {"bottleneck": self.bottleneck, "preactivation": self.preactivation}[backbone.layer_type]
        x = self.stem(pixels, widths[0])
        for stage, (stride, dilation) in enumerate(stage_strides(backbone)[:last]):
            for index in range(backbone.depths[stage]):
                x = block(
                    x,
                    f"{BIT}.encoder.stages.{stage}.layers.{index}",
                    widths[stage] if index == 0 else widths[stage + 1],
                    widths[stage + 1],
                    stride if index == 0 else 1,
                    block_dilation(backbone.layer_type, dilation, index),
                    index == 0,
                )
        return x, widths[last]

    def stem(self, pixels: Any, width: int) -> Any:
        backbone = self.config.backbone_config
        name = f"{BIT}.embedder"
        x = self.convolution(pixels, f"{name}.convolution", (self.config.num_channels, width), STEM_KERNEL, STEM_STRIDE)
        if backbone.global_padding != "SAME":
            border = _ints(0, 0, STEM_BORDER, STEM_BORDER)
            x = ops.pad(x, border, border, "constant", np.float32(0))
        if backbone.layer_type == "bottleneck":
            x = self.group_norm(x, f"{name}.norm", width)
        if backbone.embedding_dynamic_padding:
            if backbone.layer_type == "bottleneck" and backbone.hidden_act == "relu":
                # Beside ReLU's output the model's border of zeros changes no maximum, and one of nothing is the same.
                return self.pooled(x, "same_upper")
            before, after = self.same_padding(x, POOL_KERNEL, POOL_STRIDE)
            x = ops.pad(x, _ints(0, 0, *before), _ints(0, 0, *after), "constant", np.float32(0))
        return self.pooled(x, "valid")

    def pooled(self, x: Any, padding: str) -> Any:
        # Newer operation sets give the places of the maxima, too.
        strides, kernel, none = [POOL_STRIDE] * 2, [POOL_KERNEL] * 2, [0, 0]
        return openvino.opset1.max_pool(x, strides, none, none, kernel, "floor", padding)

    def bottleneck(self, x: Any, name: str, ins: int, outs: int, stride: int, dilation: int, is_first: bool) -> Any:
        mid = round_width(outs * BOTTLENECK_RATIO)
        shortcut = x
        if is_first:
            shortcut = self.convolution(x, f"{name}.downsample.conv", (ins, outs), 1, stride)
            shortcut = self.group_norm(shortcut, f"{name}.downsample.norm", outs, activate=False)
        x = self.group_norm(self.convolution(x, f"{name}.conv1", (ins, mid)), f"{name}.norm1", mid)
        x = self.convolution(x, f"{name}.conv2", (mid, mid), 3, stride, dilation)
        x = self.group_norm(x, f"{name}.norm2", mid)
        x = self.convolution(x, f"{name}.conv3", (mid, outs))
        return self.group_norm(x, f"{name}.norm3", outs, residual=shortcut)

    def preactivation(self, x: Any, name: str, ins: int, outs: int, stride: int, dilation: int, is_first: bool) -> Any:
        mid = round_width(outs * BOTTLENECK_RATIO)
        normed = self.group_norm(x, f"{name}.norm1", ins)
        shortcut = self.convolution(normed, f"{name}.downsample.conv", (ins, outs), 1, stride) if is_first else x
        x = self.group_norm(self.convolution(normed, f"{name}.conv1", (ins, mid)), f"{name}.norm2", mid)
        x = self.convolution(x, f"{name}.conv2", (mid, mid), 3, stride, dilation)
        x = self.convolution(self.group_norm(x, f"{name}.norm3", mid), f"{name}.conv3", (mid, outs))
        return ops.add(x, shortcut)

    def convolution(
        self, x: Any, name: str, widths: tuple[int, int], kernel: int = 1, stride: int = 1, dilation: int = 1
    ) -> Any:
        """A convolution whose weight is standardized beforehand, with "SAME" or PyTorch's padding."""
        ins, outs = widths
        weight = self.standardized(self.weight(f"{name}.weight", outs, ins, kernel, kernel))
        reach, padding = dilation * (kernel - 1), self.config.backbone_config.global_padding
        automatic = "explicit"
        if padding == "SAME" and (stride > 1 or reach % 2 == 1):
            if self.dynamic:
                before, after, automatic = [0, 0], [0, 0], "same_upper"
            else:
                before, after = self.same_padding(x, kernel, stride, dilation)
        else:
            before = after = [0 if padding == "VALID" else (stride - 1 + reach) // 2] * 2
        found = ops.convolution(x, _fixed(weight), [stride] * 2, before, after, [dilation] * 2, automatic)
        return _named(found, name)

    def same_padding(self, x: Any, kernel: int, stride: int, dilation: int = 1) -> tuple[list[int], list[int]]:
        """TensorFlow's: the odd row and column at the end."""
        if self.dynamic:
            raise NotBuilt("a border of zeros around maps of unknown size")
        sides = [side.get_length() for side in x.get_output_partial_shape(0)[2:]]
        before, after = zip(*(same_border(side, kernel, stride, dilation) for side in sides), strict=True)
        return [*before], [*after]

    def standardized(self, weight: Array) -> Array:
        rows = weight.reshape(len(weight), -1).astype(np.float64)
        centered = rows - rows.mean(1, keepdims=True)
        variance, eps = (centered**2).mean(1, keepdims=True), self.config.weight_standardization_eps
        is_std = self.config.weight_standardization == "std"
        deviation = np.sqrt(variance) + eps if is_std else np.sqrt(variance + eps)
        return (centered / deviation).astype(np.float32).reshape(weight.shape)

    def group_norm(self, x: Any, name: str, width: int, activate: bool = True, residual: Any = None) -> Any:
        """Group norm, what is added behind it, and the activation."""
        backbone = self.config.backbone_config
        scale, shift = self.weight(f"{name}.weight", width), self.weight(f"{name}.bias", width)
        if self.dynamic:
            groups, eps = backbone.num_groups, self.config.group_norm_eps
            x = ops.group_normalization(x, _fixed(scale), _fixed(shift), groups, eps)
        else:
            # The operation for it has OpenVINO compute shapes as it runs, and with a batch of known size it may crash
            # (docs/measured.md, "What OpenVINO does not do").
            x = (self.normalized_maps if self.for_int8 else self.normalized_channels)(x, scale, shift)
        if residual is not None:
            x = ops.add(x, residual)
        return self.activated(x, backbone.hidden_act) if activate else x

    def normalized_channels(self, x: Any, scale: Array, shift: Array) -> Any:
        """A group norm, as a factor and a shift of each channel.

        MVN over reshaped maps wants the channels first, where convolutions have them last: each norm would change the
        layout twice. Two passes take the means and the lengths of channels, and a third does the rest, with what is
        added behind it and the activation.
        """
        width, groups = len(scale), self.config.backbone_config.num_groups
        by_group = _ints(0, groups, width // groups)
        places = math.prod(_sides(x))
        mean = ops.reduce_mean(ops.reshape(_channel_means(x), by_group, True), _ints(2), True)
        lengths = ops.reshape(ops.reduce_l2(x, _ints(2, 3), True), by_group, True)
        # In half precision the square of a length may be beyond all numbers; and what is rounded for each channel evens
        # out over a group, where one length of it would not.
        typical = ops.multiply(lengths, np.float32(places**-0.5))
        square = ops.reduce_mean(ops.multiply(typical, typical), _ints(2), True)
        variance = ops.subtract(square, ops.multiply(mean, mean))  # (N, G, 1)
        # Of a map that is the same everywhere, rounding may leave it below zero.
        deviation = ops.sqrt(ops.add(ops.relu(variance), np.float32(self.config.group_norm_eps)))
        factor = ops.divide(_fixed(scale.reshape(1, groups, -1)), deviation)  # (N, G, C / G)
        rest = ops.subtract(_fixed(shift.reshape(1, groups, -1)), ops.multiply(mean, factor))
        factor, rest = (ops.reshape(one, _ints(0, width, 1, 1), True) for one in (factor, rest))
        return ops.add(ops.multiply(x, factor), rest)

    def normalized_maps(self, x: Any, scale: Array, shift: Array) -> Any:
        """The same as MVN over reshaped maps: with quantizers around the other and an open number of pictures, OpenVINO
        computes something else (docs/measured.md, "What OpenVINO does not do")."""
        shape = [side.get_length() for side in list(x.get_output_partial_shape(0))[1:]]
        groups, eps = self.config.backbone_config.num_groups, self.config.group_norm_eps
        x = ops.mvn(ops.reshape(x, _ints(0, groups, -1), True), _ints(2), True, eps, "inside_sqrt")
        x = ops.multiply(ops.reshape(x, _ints(0, *shape), True), _fixed(scale.reshape(1, -1, 1, 1)))
        return ops.add(x, _fixed(shift.reshape(1, -1, 1, 1)))

    def activated(self, x: Any, name: Any) -> Any:
        if name not in ACTIVATIONS:
            raise NotBuilt(f"the activation {name}")
        return ACTIVATIONS[name](x)

    def embeddings(self, pixels: Any) -> Any:
        """Tokens (N, T, D)."""
        config = self.config
        width, patch = config.hidden_size, as_pair(config.patch_size)
        x, channels = self.feature_map(pixels)
        name = f"{EMBEDDINGS}.patch_embeddings.projection"
        weight, bias = self.weight(f"{name}.weight", width, channels, *patch), self.weight(f"{name}.bias", width)
        x = _named(ops.convolution(x, _fixed(weight), list(patch), [0, 0], [0, 0], [1, 1]), name)
        x = ops.add(x, _fixed(bias.reshape(1, width, 1, 1)))  # (N, D, rows, columns)
        rows, columns = token_grid(config)
        positions = self.weight(f"{EMBEDDINGS}.position_embeddings", 1, 1 + rows * columns, width)
        class_token = self.weight(f"{EMBEDDINGS}.cls_token", 1, 1, width) + positions[:, :1]
        if self.dynamic:
            grid = positions[:, 1:].reshape(1, rows, columns, width).transpose(0, 3, 1, 2)
            size = ops.gather(ops.shape_of(x), _ints(2, 3), _ints(0))
            how: dict[str, Any] = {"coordinate_transformation_mode": "half_pixel", "cube_coeff": CUBIC}
            x = ops.add(x, ops.interpolate(_fixed(grid), size, "cubic", "sizes", **how, axes=_ints(2, 3)))
        count = -1 if self.dynamic else rows * columns
        x = ops.transpose(ops.reshape(x, _ints(0, width, count), True), _ints(0, 2, 1))
        if not self.dynamic:
            x = ops.add(x, _fixed(positions[:, 1:]))
        batch = ops.gather(ops.shape_of(pixels), _ints(0), _ints(0))
        class_tokens = ops.broadcast(_fixed(class_token), ops.concat([batch, _ints(1, width)], 0))
        return ops.concat([class_tokens, x], 1)

    def encoder(self, x: Any, merged: Sequence[int]) -> Any:
        """The class token (N, 1, D) behind the last layer."""
        config = self.config
        sizes = None  # how many patches each token stands for, (N, T)
        last = config.num_hidden_layers - 1
        for index in range(config.num_hidden_layers):
            x, sizes = self.layer(x, f"vit.encoder.layer.{index}", sizes, merged[index] if merged else 0, index == last)
        return x if config.num_hidden_layers else _part(x, 0, 1)

    def layer(self, x: Any, name: str, sizes: Any, merged: int, is_last: bool) -> tuple[Any, Any]:
        width, inner = self.config.hidden_size, self.config.intermediate_size
        context, keys = self.attention(x, f"{name}.attention.attention", f"{name}.layernorm_before", sizes, is_last)
        if is_last:
            x = _part(x, 0, 1)
        x = ops.add(x, self.linear(context, f"{name}.attention.output.dense", width, width))
        if merged:
            x, sizes = self.merge(x, sizes, keys, merged, name)
        fed = self.linear(self.normalized(x), f"{name}.intermediate.dense", width, inner, f"{name}.layernorm_after")
        fed = self.activated(fed, self.config.hidden_act)
        return ops.add(x, self.linear(fed, f"{name}.output.dense", inner, width)), sizes

    def attention(self, x: Any, name: str, norm: str, sizes: Any, is_last: bool) -> tuple[Any, Any]:
        """The context (N, T or 1, D) and the keys (N, T, H, D / H). In the last layer the class token alone asks."""
        config = self.config
        width, heads = config.hidden_size, config.num_attention_heads
        x = self.normalized(x)
        split = _ints(0, 0, heads, width // heads)

        def projected(kind: str, x: Any) -> Any:
            return self.linear(x, f"{name}.{kind}", width, width, norm, bool(config.qkv_bias))

        query = projected("query", _part(x, 0, 1) if is_last else x)
        key, value = projected("key", x), projected("value", x)
        query, key, value = (ops.reshape(part, split, True) for part in (query, key, value))
        bias = None if sizes is None else ops.unsqueeze(ops.log(sizes), _ints(1, 2))
        by_head = _ints(0, 2, 1, 3)
        parts = [ops.transpose(part, by_head) for part in (query, key, value)]
        context = ops.scaled_dot_product_attention(*parts, *(() if bias is None else (bias,)))
        return ops.reshape(ops.transpose(context, by_head), _ints(0, 0, width), True), key

    def normalized(self, x: Any) -> Any:
        """A layer norm without its scale and shift."""
        return ops.mvn(x, _ints(-1), True, self.config.layer_norm_eps, "inside_sqrt")

    def linear(self, x: Any, name: str, ins: int, outs: int, norm: str | None = None, bias: bool = True) -> Any:
        """A linear layer; the scale and shift of the layer norm before it, whose rest x has had, are in its weights."""
        weight = self.weight(f"{name}.weight", outs, ins)
        shift = self.weight(f"{name}.bias", outs) if bias else None
        if norm is not None:
            before = weight @ self.weight(f"{norm}.bias", ins)
            shift = before if shift is None else shift + before
            weight = weight * self.weight(f"{norm}.weight", ins)
        found = _named(ops.matmul(x, _fixed(weight), False, True), name)
        if shift is None:
            return found
        axes = len(found.get_output_partial_shape(0))
        return ops.add(found, _fixed(shift.reshape(*[1] * (axes - 1), -1)))

    def merge(self, x: Any, sizes: Any, keys: Any, merged: int, name: str) -> tuple[Any, Any]:
        """`token_merging._merge`, whose steps and names these are."""
        tokens = x.get_output_partial_shape(0)[1].get_length()
        pairs = (tokens - 1) // 2
        rest = 1 + 2 * pairs
        if sizes is None:
            batch = ops.gather(ops.shape_of(x), _ints(0), _ints(0))
            sizes = ops.broadcast(np.float32(1), ops.concat([batch, _ints(tokens)], 0))

        sources, targets = _pairs(x, pairs)  # (N, P, D)
        source_sizes, target_sizes = _pairs(sizes, pairs)  # (N, P)
        key = ops.reduce_mean(keys, _ints(2), False)  # (N, T, D / H)
        length = ops.maximum(ops.reduce_l2(key, _ints(2), True), np.float32(LEAST_NORM))
        source_keys, target_keys = _pairs(ops.divide(key, length), pairs)
        similarity = ops.matmul(source_keys, target_keys, False, True)  # (N, sources, targets)
        _named(similarity, f"{name}.{MERGING}.similarity")
        best = ops.reduce_max(similarity, _ints(2), False)  # (N, sources)
        own, other = ops.unsqueeze(best, _ints(2)), ops.unsqueeze(best, _ints(1))
        is_before = np.arange(pairs)[None] < np.arange(pairs)[:, None]
        ahead = ops.logical_or(ops.greater(other, own), ops.logical_and(ops.equal(other, own), _fixed(is_before[None])))
        rank = ops.reduce_sum(ops.convert(ahead, "i32"), _ints(2), False)  # (N, sources)

        gifts = _zero_or_one(ops.greater_equal(similarity, own))
        goes = _zero_or_one(ops.less(rank, np.int32(merged)))
        given = ops.divide(ops.multiply(goes, source_sizes), ops.reduce_sum(gifts, _ints(2), False))
        gifts = ops.transpose(ops.multiply(gifts, ops.unsqueeze(given, _ints(2))), _ints(0, 2, 1))
        new_sizes = ops.add(target_sizes, ops.reduce_sum(gifts, _ints(2), False))
        places = np.arange(merged, pairs, dtype=np.int32)[None, :, None]
        stays = _zero_or_one(ops.equal(ops.unsqueeze(rank, _ints(1)), _fixed(places)))  # (N, P - merged, sources)
        rows = ops.concat([stays, ops.divide(gifts, ops.unsqueeze(new_sizes, _ints(2)))], 1)
        mixed = _named(ops.matmul(rows, sources, False, False), f"{name}.{MERGING}.rows")  # (N, P - merged + P, D)
        staying, parts = _part(mixed, 0, pairs - merged), _part(mixed, pairs - merged, 2 * pairs - merged)
        share = ops.unsqueeze(ops.divide(target_sizes, new_sizes), _ints(2))
        targets = ops.add(ops.multiply(targets, share), parts)
        staying_sizes = ops.reduce_sum(ops.multiply(stays, ops.unsqueeze(source_sizes, _ints(1))), _ints(2), False)
        tokens_left, sizes_left = [_part(x, 0, 1), staying, targets], [_part(sizes, 0, 1), staying_sizes, new_sizes]
        if rest < tokens:
            tokens_left.append(_part(x, rest, tokens))
            sizes_left.append(_part(sizes, rest, tokens))
        return ops.concat(tokens_left, 1), ops.concat(sizes_left, 1)


def _sides(x: Any) -> list[int]:
    """Height and width of maps (N, C, H, W)."""
    return [side.get_length() for side in list(x.get_output_partial_shape(0))[2:]]


def _channel_means(x: Any) -> Any:
    """The mean of each channel's map, (N, C, 1, 1)."""
    sides = _sides(x)
    if math.prod(sides) > POOLED_PLACES:
        return ops.reduce_mean(x, _ints(2, 3), True)
    return ops.avg_pool(x, [1, 1], [0, 0], [0, 0], sides, False)


def _pairs(x: Any, pairs: int) -> tuple[Any, Any]:
    """The first and the second of each pair of tokens behind the class token."""
    first, second = (_part(x, 1 + place, 1 + 2 * pairs, 2) for place in (0, 1))
    return first, second


def _part(x: Any, start: int, stop: int, step: int = 1) -> Any:
    """Some of the tokens (N, T, ...)."""
    return ops.slice(x, _ints(start), _ints(stop), _ints(step), _ints(1))


def _zero_or_one(condition: Any) -> Any:
    return ops.select(condition, np.float32(1), np.float32(0))


def _ints(*values: int) -> Any:
    return _fixed(np.array(values, np.int64))


def _fixed(values: Array) -> Any:
    # Left to itself, an operation makes a list of an array's numbers first.
    return openvino.op.Constant(np.ascontiguousarray(values), shared_memory=False)


def _named(node: Any, name: str) -> Any:
    node.set_friendly_name(name)
    return node


__all__ = ["NotBuilt", "build"]
