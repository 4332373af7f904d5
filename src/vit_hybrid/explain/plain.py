"""A hybrid in PyTorch alone, from its files.

It computes what `model.modeling` computes, in float32 and evaluation mode, and tests/explain/test_plain.py holds it to
that. The classes themselves need transformers, which takes longer to load than a picture to be explained.

Shapes: N images, T = 1 + patches tokens, D = hidden_size, H heads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch.nn import functional

from ..bundles.plain_config import BIT, CLASSIFIER, EMBEDDINGS, plain_config
from ..checkpoints.files import safetensors_alone
from ..model.geometry import (
    BOTTLENECK_RATIO,
    POOL_KERNEL,
    POOL_STRIDE,
    STEM_BORDER,
    STEM_KERNEL,
    STEM_STRIDE,
    as_pair,
    block_dilation,
    check_channels,
    check_holds_patch,
    feature_map_size,
    feature_names,
    round_width,
    same_border,
    stage_strides,
    stage_widths,
    token_grid,
)
from ..model.positions import resize_positions
from .hybrid import LOGITS

PROJECTION = f"{EMBEDDINGS}.patch_embeddings.projection"
LAYER = "vit.encoder.layer"
PRE_LOGITS = "pre_logits.dense"
# Fields with which the weights are not what their names say.
OTHER_WEIGHTS = "quantization_config"

ACTIVATIONS: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "gelu_python": functional.gelu,
    **dict.fromkeys(("gelu_new", "gelu_fast", "gelu_pytorch_tanh"), partial(functional.gelu, approximate="tanh")),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    **dict.fromkeys(("silu", "swish"), functional.silu),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "linear": lambda x: x,
}


def from_files(fields: Mapping[str, Any], weights: Sequence[Path], device: torch.device) -> PlainHybrid | None:
    """A classifier that `save_pretrained` wrote.

    Args:
        fields: The content of its `config.json`.
        weights: Its files of weights.
        device: Where it is to compute.

    Returns:
        None where the files are not plainly such a model's: whoever loads it then says what they are, or what is wrong.
    """
    config = None if fields.get(OTHER_WEIGHTS) else plain_config(fields)
    if config is None or not _is_computed_here(config, fields):
        return None
    with torch.inference_mode(False):  # or no gradient would go through
        found = _read(weights)
        if found is None or {name: tuple(one.shape) for name, one in found.items()} != shapes(config):
            return None
        return PlainHybrid(config, found, device)


def _is_computed_here(config: Any, fields: Mapping[str, Any]) -> bool:
    """Whether a model can run with this, and every activation is known."""
    backbone = config.backbone_config
    if not {config.hidden_act, backbone.hidden_act} <= ACTIVATIONS.keys():
        return False
    stem, *stages = stage_widths(backbone)
    built = [width for width, depth in zip(stages, backbone.depths, strict=True) if depth]
    normed = {stem, *built, *(round_width(width * BOTTLENECK_RATIO) for width in built)}
    try:
        height, width = feature_map_size(backbone, config.image_size)
    except ValueError:
        return False
    last = backbone.stage_names.index(backbone.out_features[-1])
    return (
        min(token_grid(config)) > 0
        and not any(width % backbone.num_groups for width in normed)
        and fields.get("backbone_featmap_shape") in (None, [1, stage_widths(backbone)[last], height, width])
    )


def _read(paths: Sequence[Path]) -> dict[str, torch.Tensor] | None:
    """The weights by name, as they were saved; None where a file is of another kind."""
    files = safetensors_alone(paths)
    if files is None:
        return None
    found: dict[str, torch.Tensor] = {}
    try:
        for path in files:
            with safe_open(path, framework="pt") as file:
                found.update((name, file.get_tensor(name)) for name in file.keys())  # noqa: SIM118 - no other way
    except (SafetensorError, OSError):
        return None
    return found if all(tensor.is_floating_point() for tensor in found.values()) else None


def shapes(config: Any) -> dict[str, tuple[int, ...]]:
    """The weights of a classifier of this configuration, by their names in its state dict."""
    backbone, width, inner = config.backbone_config, config.hidden_size, config.intermediate_size
    widths, patch = stage_widths(backbone), as_pair(config.patch_size)
    is_bottleneck = backbone.layer_type == "bottleneck"
    found: dict[str, tuple[int, ...]] = {}

    def linear(name: str, ins: int, outs: int, bias: bool = True) -> None:
        found[f"{name}.weight"] = (outs, ins)
        if bias:
            found[f"{name}.bias"] = (outs,)

    def norm(name: str, channels: int) -> None:
        found[f"{name}.weight"] = found[f"{name}.bias"] = (channels,)

    def convolution(name: str, ins: int, outs: int, kernel: int = 1) -> None:
        found[f"{name}.weight"] = (outs, ins, kernel, kernel)

    convolution(f"{BIT}.embedder.convolution", config.num_channels, widths[0], STEM_KERNEL)
    norm(f"{BIT}.embedder.norm" if is_bottleneck else f"{BIT}.norm", widths[0 if is_bottleneck else -1])
    for stage, depth in enumerate(backbone.depths):
        outs = widths[stage + 1]
        mid = round_width(outs * BOTTLENECK_RATIO)
        for index in range(depth):
            name, ins = f"{BIT}.encoder.stages.{stage}.layers.{index}", widths[stage] if index == 0 else outs
            if index == 0:
                convolution(f"{name}.downsample.conv", ins, outs)
                if is_bottleneck:
                    norm(f"{name}.downsample.norm", outs)
            convolution(f"{name}.conv1", ins, mid)
            convolution(f"{name}.conv2", mid, mid, 3)
            convolution(f"{name}.conv3", mid, outs)
            for place, channels in enumerate((mid, mid, outs) if is_bottleneck else (ins, mid, mid), start=1):
                norm(f"{name}.norm{place}", channels)

    last = backbone.stage_names.index(backbone.out_features[-1])
    rows, columns = token_grid(config)
    found[f"{PROJECTION}.weight"], found[f"{PROJECTION}.bias"] = (width, widths[last], *patch), (width,)
    found[f"{EMBEDDINGS}.cls_token"] = (1, 1, width)
    found[f"{EMBEDDINGS}.position_embeddings"] = (1, 1 + rows * columns, width)
    for index in range(config.num_hidden_layers):
        name = f"{LAYER}.{index}"
        for part in ("query", "key", "value"):
            linear(f"{name}.attention.attention.{part}", width, width, bool(config.qkv_bias))
        linear(f"{name}.attention.output.dense", width, width)
        linear(f"{name}.intermediate.dense", width, inner)
        linear(f"{name}.output.dense", inner, width)
        norm(f"{name}.layernorm_before", width)
        norm(f"{name}.layernorm_after", width)
    norm("vit.layernorm", width)
    if config.representation_size is not None:
        linear(PRE_LOGITS, width, config.representation_size)
        width = config.representation_size
    if config.num_labels:
        linear(CLASSIFIER, width, config.num_labels)
    return found


class PlainHybrid:
    """A classifier that computes, and can do nothing else: a `Hybrid`.

    Args:
        config: `plain_config` of its fields.
        weights: Of the names and shapes that `shapes` gives.
        device: Where it computes.
    """

    dtype = torch.float32

    def __init__(self, config: Any, weights: Mapping[str, torch.Tensor], device: torch.device) -> None:
        self.config, self.device = config, device
        self._weights = {
            # All convolutions of the ResNet are standardized, once for all pictures.
            name: (self._standardized(weight.float()) if name.startswith(BIT) and weight.ndim == 4 else weight.float())
            for name, weight in ((name, weight.to(device)) for name, weight in weights.items())
        }

    @property
    def position_embeddings(self) -> torch.Tensor:
        return self._weights[f"{EMBEDDINGS}.position_embeddings"]

    @property
    def stem_filters(self) -> torch.Tensor:
        return self._weights[f"{BIT}.embedder.convolution.weight"]

    def evaluating(self) -> AbstractContextManager[None]:
        return nullcontext()

    def outputs(self, pixels: torch.Tensor, names: Sequence[str]) -> dict[str, torch.Tensor]:
        found = dict(zip(feature_names(self.config), self._maps(pixels), strict=False))
        x = self._tokens(pixels, [*found.values()][-1])
        for number in range(1, self.config.num_hidden_layers + 1):
            x, found[f"attention{number}"] = self._layer(x, f"{LAYER}.{number - 1}")
            found[f"layer{number}"] = x
        found[LOGITS] = self.classified(x)
        return {name: found[name] for name in names}

    def logits(self, pixels: torch.Tensor) -> torch.Tensor:
        [last] = deque(self._maps(pixels), maxlen=1)  # each map goes once there is the next
        x = self._tokens(pixels, last)
        for index in range(self.config.num_hidden_layers):
            x, _ = self._layer(x, f"{LAYER}.{index}", weighed=False)
        return self.classified(x)

    def classified(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self._layer_norm(tokens[:, 0], "vit.layernorm")
        if self.config.representation_size is not None:
            x = self._linear(x, PRE_LOGITS).tanh()
        return self._linear(x, CLASSIFIER) if self.config.num_labels else x

    def _maps(self, pixels: torch.Tensor) -> Iterator[torch.Tensor]:
        """The maps of the stem and of the stages up to the one that the encoder reads, (N, channels, h, w) each."""
        check_channels(pixels.shape[1], self.config.num_channels)
        backbone = self.config.backbone_config
        block = self._bottleneck if backbone.layer_type == "bottleneck" else self._preactivation
        last = backbone.stage_names.index(backbone.out_features[-1])
        x = self._stem(pixels)
        yield x
        for stage, (stride, dilation) in enumerate(stage_strides(backbone)[:last]):
            for index in range(backbone.depths[stage]):
                name = f"{BIT}.encoder.stages.{stage}.layers.{index}"
                first_stride = stride if index == 0 else 1
                x = block(x, name, first_stride, block_dilation(backbone.layer_type, dilation, index), index == 0)
            yield x

    def _stem(self, pixels: torch.Tensor) -> torch.Tensor:
        backbone, name = self.config.backbone_config, f"{BIT}.embedder"
        x = self._convolution(pixels, f"{name}.convolution", STEM_STRIDE)
        if backbone.global_padding != "SAME":
            x = functional.pad(x, [STEM_BORDER] * 4)
        if backbone.layer_type == "bottleneck":
            x = self._activated(self._group_norm(x, f"{name}.norm"))
        if backbone.embedding_dynamic_padding:
            x = _padded_same(x, POOL_KERNEL, POOL_STRIDE)
        return functional.max_pool2d(x, POOL_KERNEL, POOL_STRIDE)

    def _bottleneck(self, x: torch.Tensor, name: str, stride: int, dilation: int, is_first: bool) -> torch.Tensor:
        shortcut = x
        if is_first:
            shortcut = self._convolution(x, f"{name}.downsample.conv", stride)
            shortcut = self._group_norm(shortcut, f"{name}.downsample.norm")
        x = self._activated(self._group_norm(self._convolution(x, f"{name}.conv1"), f"{name}.norm1"))
        x = self._convolution(x, f"{name}.conv2", stride, dilation)
        x = self._activated(self._group_norm(x, f"{name}.norm2"))
        x = self._group_norm(self._convolution(x, f"{name}.conv3"), f"{name}.norm3")
        return self._activated(x + shortcut)

    def _preactivation(self, x: torch.Tensor, name: str, stride: int, dilation: int, is_first: bool) -> torch.Tensor:
        normed = self._activated(self._group_norm(x, f"{name}.norm1"))
        shortcut = self._convolution(normed, f"{name}.downsample.conv", stride) if is_first else x
        x = self._activated(self._group_norm(self._convolution(normed, f"{name}.conv1"), f"{name}.norm2"))
        x = self._convolution(x, f"{name}.conv2", stride, dilation)
        x = self._convolution(self._activated(self._group_norm(x, f"{name}.norm3")), f"{name}.conv3")
        return x + shortcut

    def _convolution(self, x: torch.Tensor, name: str, stride: int = 1, dilation: int = 1) -> torch.Tensor:
        weight = self._weights[f"{name}.weight"]
        kernel, padding = weight.shape[-1], self.config.backbone_config.global_padding
        reach = dilation * (kernel - 1)
        if padding == "SAME" and (stride > 1 or reach % 2 == 1):
            return functional.conv2d(_padded_same(x, kernel, stride, dilation), weight, None, stride, 0, dilation)
        border = 0 if padding == "VALID" else (stride - 1 + reach) // 2
        return functional.conv2d(x, weight, None, stride, border, dilation)

    def _standardized(self, weight: torch.Tensor) -> torch.Tensor:
        """At mean 0 and deviation 1 over each output channel, (out, in, k, k)."""
        eps = self.config.weight_standardization_eps
        if self.config.weight_standardization == "std":
            variance, mean = torch.var_mean(weight, dim=(1, 2, 3), correction=0, keepdim=True)
            return (weight - mean) / (variance.sqrt() + eps)
        kernels = weight.flatten(1)
        return functional.layer_norm(kernels, kernels.shape[1:], eps=eps).view_as(weight)

    def _group_norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        weight, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        # `functional.group_norm` refuses groups of one value.
        return torch.group_norm(x, self.config.backbone_config.num_groups, weight, bias, self.config.group_norm_eps)

    def _activated(self, x: torch.Tensor) -> torch.Tensor:
        return ACTIVATIONS[self.config.backbone_config.hidden_act](x)

    def _tokens(self, pixels: torch.Tensor, feature_map: torch.Tensor) -> torch.Tensor:
        """(N, T, D) of the encoder's first layer."""
        patch, own = as_pair(self.config.patch_size), token_grid(self.config)
        check_holds_patch(feature_map.shape[-2:], patch, pixels.shape[-2:])
        weight, bias = self._weights[f"{PROJECTION}.weight"], self._weights[f"{PROJECTION}.bias"]
        x = functional.conv2d(feature_map, weight, bias, patch)  # (N, D, rows, columns)
        positions, (rows, columns) = self.position_embeddings, x.shape[-2:]
        if (rows, columns) != own:
            positions = resize_positions(positions, own, (rows, columns))
        class_tokens = self._weights[f"{EMBEDDINGS}.cls_token"].expand(len(x), -1, -1)
        return torch.cat((class_tokens, x.flatten(2).transpose(1, 2)), dim=1) + positions

    def _layer(self, x: torch.Tensor, name: str, weighed: bool = True) -> tuple[torch.Tensor, Any]:
        """A layer's tokens (N, T, D) and, where they are wanted, its attention weights (N, H, T, T)."""
        normed = self._layer_norm(x, f"{name}.layernorm_before")
        query, key, value = (
            self._linear(normed, f"{name}.attention.attention.{part}")
            .unflatten(-1, (self.config.num_attention_heads, -1))
            .transpose(1, 2)  # (N, H, T, D / H)
            for part in ("query", "key", "value")
        )
        weights = None
        if weighed:
            scores = torch.matmul(query, key.transpose(-1, -2)) * query.shape[-1] ** -0.5
            weights = scores.softmax(dim=-1)
            context = torch.matmul(weights, value)
        else:
            context = functional.scaled_dot_product_attention(query, key, value)
        x = x + self._linear(context.transpose(1, 2).flatten(2), f"{name}.attention.output.dense")
        wide = self._linear(self._layer_norm(x, f"{name}.layernorm_after"), f"{name}.intermediate.dense")
        return x + self._linear(ACTIVATIONS[self.config.hidden_act](wide), f"{name}.output.dense"), weights

    def _layer_norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        weight, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        return functional.layer_norm(x, weight.shape, weight, bias, self.config.layer_norm_eps)

    def _linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return functional.linear(x, self._weights[f"{name}.weight"], self._weights.get(f"{name}.bias"))


def _padded_same(x: torch.Tensor, kernel: int, stride: int, dilation: int = 1) -> torch.Tensor:
    """With TensorFlow's border of zeros, the odd row and column at the end: `model.backbone.pad_same`."""
    height, width = (same_border(side, kernel, stride, dilation) for side in x.shape[-2:])
    return functional.pad(x, (*width, *height))


__all__ = ["PlainHybrid", "from_files", "shapes"]
