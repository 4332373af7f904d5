"""The BiT ResNet that makes a hybrid's feature map (Kolesnikov et al., arXiv 1912.11370).

Weight-standardized convolutions, group norms, bottleneck or pre-activation blocks, TensorFlow's "SAME" padding or
PyTorch's. Module and parameter names are those of `transformers.models.bit` in 4.49, so that its checkpoints fit.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import BitConfig
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BackboneOutput, BaseModelOutputWithPoolingAndNoAttention

from .configuration import ViTHybridConfig
from .geometry import (
    BOTTLENECK_RATIO,
    POOL_KERNEL,
    POOL_STRIDE,
    STEM_KERNEL,
    STEM_STRIDE,
    block_dilation,
    round_width,
    stage_strides,
    stage_widths,
)


@dataclass(frozen=True)
class BackboneNumerics:
    """What `BitConfig` leaves open: the numbers in which the code bases differ. The one place for each epsilon."""

    weight_standardization: str = "variance"
    weight_standardization_eps: float = 1e-8
    group_norm_eps: float = 1e-5

    @classmethod
    def of(cls, config: ViTHybridConfig) -> "BackboneNumerics":
        return cls(config.weight_standardization, config.weight_standardization_eps, config.group_norm_eps)


def pad_same(pixels: torch.Tensor, kernel: int, stride: int, dilation: int = 1) -> torch.Tensor:
    """Zero-pads (..., H, W) so that a convolution or pooling gives ceil(H / stride) by ceil(W / stride).

    TensorFlow's "SAME" puts the odd row and column at the end. There is no branch on the size, so that `torch.export`
    keeps height and width dynamic, and the sum is written so that every path's size is the same expression,
    ceil(size / stride), which is how the exporter knows that a branch and its shortcut can be added.
    """
    reach = dilation * (kernel - 1) + 1
    height, width = ((-(-size // stride) - 1) * stride + reach - size for size in pixels.shape[-2:])
    if reach < stride:
        # A 1x1 convolution of stride 2 never looks past the border. Only an exporter that keeps sizes dynamic, so that
        # they are no numbers, wants to be told so, by a crop.
        is_dynamic = not all(isinstance(size, int) for size in pixels.shape[-2:])
        return nn.functional.pad(pixels, (0, width, 0, height)) if is_dynamic else pixels
    return nn.functional.pad(pixels, (width // 2, width - width // 2, height // 2, height - height // 2))


def drop_path(hidden_states: torch.Tensor, rate: float, training: bool) -> torch.Tensor:
    """Stochastic depth: leaves a residual branch out, sample by sample (Huang et al., arXiv 1603.09382)."""
    if not training or rate == 0.0:
        return hidden_states
    keep = 1.0 - rate
    shape = (hidden_states.shape[0],) + (1,) * (hidden_states.ndim - 1)
    return hidden_states * hidden_states.new_empty(shape).bernoulli_(keep).div_(keep)


class DropPath(nn.Module):
    """`drop_path` as a module."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return drop_path(hidden_states, self.rate, self.training)

    def extra_repr(self) -> str:
        return f"rate={self.rate}"


class WeightStandardizedConv2d(nn.Conv2d):
    """A convolution whose kernels are brought to mean 0 and deviation 1 at each forward (arXiv 1903.10520).

    `fold` keeps the standardized weight, so that inference does not compute it anew each time. The original weight
    stays where it was: it is what `state_dict` gives and what `unfold` goes back to.
    """

    folded_weight: torch.Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        config: BitConfig,
        numerics: BackboneNumerics,
        stride: int = 1,
        dilation: int = 1,
    ) -> None:
        self.pads_same = config.global_padding == "SAME" and (stride > 1 or dilation * (kernel_size - 1) % 2 == 1)
        centered = (stride - 1 + dilation * (kernel_size - 1)) // 2
        padding = 0 if self.pads_same or config.global_padding == "VALID" else centered
        super().__init__(
            in_channels, out_channels, kernel_size, stride=stride, padding=padding, dilation=dilation, bias=False
        )
        self.form = numerics.weight_standardization
        self.eps = numerics.weight_standardization_eps
        self._trainable_before_fold: bool = True
        self.register_buffer("folded_weight", None, persistent=False)

    @property
    def is_folded(self) -> bool:
        return self.folded_weight is not None

    def standardized_weight(self) -> torch.Tensor:
        """The weight at mean 0 and deviation 1 over each output channel, (out, in, k, k)."""
        weight = self.weight
        if weight.dtype in (torch.float16, torch.bfloat16):
            weight = weight.float()  # an epsilon of 1e-8 is nothing in half precision
        if self.form == "std":
            variance, mean = torch.var_mean(weight, dim=(1, 2, 3), correction=0, keepdim=True)
            standardized = (weight - mean) / (variance.sqrt() + self.eps)
        else:  # a layer norm over each output channel: one fused kernel, and one that exporters know
            kernels = weight.flatten(1)
            standardized = nn.functional.layer_norm(kernels, kernels.shape[1:], eps=self.eps).view_as(weight)
        return standardized.to(self.weight.dtype)

    def fold(self) -> None:
        """Keeps the standardized weight, and freezes the one it comes from.

        Raises:
            RuntimeError: If the weight is on the meta device, so that there is nothing to standardize.
        """
        if self.is_folded:
            return
        if self.weight.is_meta:
            raise RuntimeError(
                "The weights are not in memory (they are offloaded, or were never loaded), so there is nothing to "
                "fold. Load the model onto one device first."
            )
        self._trainable_before_fold = self.weight.requires_grad
        self.weight.requires_grad_(False)
        self._refold()

    def unfold(self) -> None:
        """Goes back to standardizing at each forward."""
        if self.is_folded:
            self.folded_weight = None
            self.weight.requires_grad_(self._trainable_before_fold)

    def _refold(self) -> None:
        with torch.no_grad():
            self.folded_weight = self.standardized_weight()

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if self.pads_same:
            hidden_states = pad_same(hidden_states, self.kernel_size[0], self.stride[0], self.dilation[0])
        weight = self.standardized_weight() if self.folded_weight is None else self.folded_weight
        return nn.functional.conv2d(hidden_states, weight, None, self.stride, self.padding, self.dilation, self.groups)

    def train(self, mode: bool = True) -> "WeightStandardizedConv2d":
        if mode:
            self._refuse_while_folded("train")
        return super().train(mode)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._refuse_while_folded("load weights into")
        super()._load_from_state_dict(*args, **kwargs)

    def _refuse_while_folded(self, action: str) -> None:
        if self.is_folded:
            raise RuntimeError(
                f"Cannot {action} a model whose weight standardization is folded: the folded weights would no longer "
                "follow the original ones. Call model.unfold_weight_standardization() first."
            )

    def _apply(self, fn: Any, recurse: bool = True) -> "WeightStandardizedConv2d":
        dtype = self.weight.dtype
        super()._apply(fn, recurse)
        if self.is_folded and self.weight.dtype != dtype:
            self._refold()  # what the plain model computes at this dtype, not a rounding of the other one
        return self


def activation_module(config: BitConfig) -> nn.Module:
    """The backbone's activation.

    It always follows a tensor that nobody else reads, nor autograd keeps, so ReLU works in place, which saves the
    memory and the page faults of many of the backbone's maps.
    """
    return nn.ReLU(inplace=True) if config.hidden_act == "relu" else ACT2FN[config.hidden_act]


class BitGroupNormActivation(nn.GroupNorm):
    """Group norm and the activation behind it."""

    def __init__(
        self, config: BitConfig, num_channels: int, numerics: BackboneNumerics, apply_activation: bool = True
    ) -> None:
        super().__init__(config.num_groups, num_channels, eps=numerics.group_norm_eps)
        self.activation = activation_module(config) if apply_activation else nn.Identity()

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        # Not through `nn.functional`, which refuses a group of one value, though its normalized value is simply 0: an
        # image of one patch makes such groups where there are as many groups as channels.
        normed = torch.group_norm(hidden_states, self.num_groups, self.weight, self.bias, self.eps)
        return self.activation(normed)


class BitMaxPool2d(nn.MaxPool2d):
    """The stem's pooling. Its border is of zeros, also where activations may be negative: the legacy way."""

    def __init__(self, config: BitConfig) -> None:
        super().__init__(POOL_KERNEL, POOL_STRIDE)
        self.pads_same = config.embedding_dynamic_padding
        self.follows_relu = config.layer_type == "bottleneck" and config.hidden_act == "relu"

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if not self.pads_same:
            return super().forward(hidden_states)
        # While a graph is traced, its sizes may be symbols, and a comparison would fix them.
        trains = torch.is_grad_enabled() and not (torch.compiler.is_compiling() or torch.jit.is_tracing())
        if trains and self.follows_relu and all(size % POOL_STRIDE == 0 for size in hidden_states.shape[-2:]):
            # "SAME" is here one row and column at the end, and beside ReLU's output their zeros change no maximum:
            # windows cut off at the border give the same. It saves a padded copy of the network's largest map, which
            # the backward pass would keep: 52 MB for 16 images of 224 pixels in float32.
            return nn.functional.max_pool2d(hidden_states, POOL_KERNEL, POOL_STRIDE, ceil_mode=True)
        return super().forward(pad_same(hidden_states, POOL_KERNEL, POOL_STRIDE))


class BitEmbeddings(nn.Module):
    """The stem: (N, C, H, W) pixels to (N, embedding_size, H/4, W/4)."""

    def __init__(self, config: BitConfig, numerics: BackboneNumerics) -> None:
        super().__init__()
        self.num_channels = config.num_channels
        self.convolution = WeightStandardizedConv2d(
            config.num_channels,
            config.embedding_size,
            STEM_KERNEL,
            stride=STEM_STRIDE,
            config=config,
            numerics=numerics,
        )
        self.pooler = BitMaxPool2d(config)
        # The border goes on before the norm, so that its zeros count in the group's statistics: the legacy order.
        self.pad = nn.Identity() if config.global_padding == "SAME" else nn.ConstantPad2d(1, 0.0)
        self.norm = (
            nn.Identity()
            if config.layer_type == "preactivation"
            else BitGroupNormActivation(config, config.embedding_size, numerics)
        )

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        if pixel_values.shape[1] != self.num_channels:
            raise ValueError(
                f"The images have {pixel_values.shape[1]} channels, but the backbone was made for "
                f"{self.num_channels} (num_channels). Convert the images, or make a model with that many channels."
            )
        return self.pooler(self.norm(self.pad(self.convolution(pixel_values))))


class BitDownsampleConv(nn.Module):
    """The shortcut of a stage's first block: a 1x1 convolution to the stage's width and size."""

    def __init__(
        self, config: BitConfig, in_channels: int, out_channels: int, stride: int, numerics: BackboneNumerics
    ) -> None:
        super().__init__()
        self.conv = WeightStandardizedConv2d(
            in_channels, out_channels, 1, stride=stride, config=config, numerics=numerics
        )
        self.norm = (
            nn.Identity()
            if config.layer_type == "preactivation"
            else BitGroupNormActivation(config, out_channels, numerics, apply_activation=False)
        )

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(hidden_states))


class BitBottleneckLayer(GradientCheckpointingLayer):
    """ResNet v1.5's bottleneck: the activation behind the sum, the stride on the 3x3 convolution."""

    def __init__(
        self,
        config: BitConfig,
        in_channels: int,
        out_channels: int,
        numerics: BackboneNumerics,
        *,
        stride: int,
        dilation: int,
        drop_path_rate: float,
        is_first: bool,
    ) -> None:
        super().__init__()
        mid_channels = round_width(out_channels * BOTTLENECK_RATIO)
        common: dict[str, Any] = {"config": config, "numerics": numerics}
        self.downsample = BitDownsampleConv(config, in_channels, out_channels, stride, numerics) if is_first else None
        self.conv1 = WeightStandardizedConv2d(in_channels, mid_channels, 1, **common)
        self.norm1 = BitGroupNormActivation(config, mid_channels, numerics)
        self.conv2 = WeightStandardizedConv2d(mid_channels, mid_channels, 3, stride=stride, dilation=dilation, **common)
        self.norm2 = BitGroupNormActivation(config, mid_channels, numerics)
        self.conv3 = WeightStandardizedConv2d(mid_channels, out_channels, 1, **common)
        self.norm3 = BitGroupNormActivation(config, out_channels, numerics, apply_activation=False)
        self.drop_path = DropPath(drop_path_rate) if drop_path_rate > 0 else nn.Identity()
        self.activation = activation_module(config)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        shortcut = hidden_states if self.downsample is None else self.downsample(hidden_states)
        hidden_states = self.norm1(self.conv1(hidden_states))
        hidden_states = self.norm2(self.conv2(hidden_states))
        hidden_states = self.norm3(self.conv3(hidden_states))
        return self.activation(self.drop_path(hidden_states) + shortcut)


class BitPreActivationBottleneckLayer(GradientCheckpointingLayer):
    """ResNet v2's bottleneck: norm and activation before each convolution (He et al., arXiv 1603.05027)."""

    def __init__(
        self,
        config: BitConfig,
        in_channels: int,
        out_channels: int,
        numerics: BackboneNumerics,
        *,
        stride: int,
        dilation: int,
        drop_path_rate: float,
        is_first: bool,
    ) -> None:
        super().__init__()
        mid_channels = round_width(out_channels * BOTTLENECK_RATIO)
        common: dict[str, Any] = {"config": config, "numerics": numerics}
        self.downsample = BitDownsampleConv(config, in_channels, out_channels, stride, numerics) if is_first else None
        self.norm1 = BitGroupNormActivation(config, in_channels, numerics)
        self.conv1 = WeightStandardizedConv2d(in_channels, mid_channels, 1, **common)
        self.norm2 = BitGroupNormActivation(config, mid_channels, numerics)
        self.conv2 = WeightStandardizedConv2d(mid_channels, mid_channels, 3, stride=stride, dilation=dilation, **common)
        self.norm3 = BitGroupNormActivation(config, mid_channels, numerics)
        self.conv3 = WeightStandardizedConv2d(mid_channels, out_channels, 1, **common)
        self.drop_path = DropPath(drop_path_rate) if drop_path_rate > 0 else nn.Identity()

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        normed = self.norm1(hidden_states)
        shortcut = hidden_states if self.downsample is None else self.downsample(normed)
        hidden_states = self.conv1(normed)
        hidden_states = self.conv2(self.norm2(hidden_states))
        hidden_states = self.conv3(self.norm3(hidden_states))
        return self.drop_path(hidden_states) + shortcut


BLOCKS: dict[str, type[BitBottleneckLayer] | type[BitPreActivationBottleneckLayer]] = {
    "bottleneck": BitBottleneckLayer,
    "preactivation": BitPreActivationBottleneckLayer,
}


class BitStage(nn.Module):
    """A stage: blocks of one width, the first of which changes width and size."""

    def __init__(
        self,
        config: BitConfig,
        in_channels: int,
        out_channels: int,
        numerics: BackboneNumerics,
        *,
        stride: int,
        dilation: int,
        drop_path_rates: list[float],
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential()
        for index, rate in enumerate(drop_path_rates):
            self.layers.append(
                BLOCKS[config.layer_type](
                    config,
                    in_channels if index == 0 else out_channels,
                    out_channels,
                    numerics,
                    stride=stride if index == 0 else 1,
                    dilation=block_dilation(config.layer_type, dilation, index),
                    drop_path_rate=rate,
                    is_first=index == 0,
                )
            )

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.layers(hidden_states)


class BitEncoder(nn.Module):
    """The stages, one after the other."""

    def __init__(self, config: BitConfig, numerics: BackboneNumerics) -> None:
        super().__init__()
        widths = stage_widths(config)
        # On the CPU also where the layers are made on another device, "meta" included: these are plain numbers.
        rates = torch.linspace(0, config.drop_path_rate, sum(config.depths), device="cpu").split(list(config.depths))
        self.stages = nn.ModuleList(
            BitStage(
                config,
                widths[index],
                widths[index + 1],
                numerics,
                stride=stride,
                dilation=dilation,
                drop_path_rates=rates[index].tolist(),
            )
            for index, (stride, dilation) in enumerate(stage_strides(config))
        )

    def forward(self, hidden_states: torch.Tensor, num_stages: int | None = None) -> tuple[torch.Tensor, ...]:
        """The stem's output and those of the first `num_stages` stages (all by default)."""
        maps = [hidden_states]
        for stage in self.stages[:num_stages]:
            maps.append(stage(maps[-1]))
        return tuple(maps)


class BitModel(nn.Module):
    """The whole BiT ResNet without a head."""

    def __init__(self, config: BitConfig, numerics: BackboneNumerics) -> None:
        super().__init__()
        self.config = config
        self.embedder = BitEmbeddings(config, numerics)
        self.encoder = BitEncoder(config, numerics)
        self.norm = (
            BitGroupNormActivation(config, stage_widths(config)[-1], numerics)
            if config.layer_type == "preactivation"
            else nn.Identity()
        )
        self.pooler = nn.AdaptiveAvgPool2d((1, 1))

    def forward(self, pixel_values: torch.Tensor) -> BaseModelOutputWithPoolingAndNoAttention:
        """Features of (N, C, H, W) pixels behind the last norm, their mean over the map, and every stage's output."""
        maps = self.encoder(self.embedder(pixel_values))
        last = self.norm(maps[-1])
        return BaseModelOutputWithPoolingAndNoAttention(
            last_hidden_state=last, pooler_output=self.pooler(last), hidden_states=maps
        )


class BitBackbone(nn.Module):
    """BiT as a feature extractor: the maps named by `config.out_features`, of which a hybrid reads the last.

    Args:
        config: Configuration of the backbone.
        numerics: The epsilons and the form of weight standardization; transformers 4.49's by default.
    """

    def __init__(self, config: BitConfig, numerics: BackboneNumerics | None = None) -> None:
        super().__init__()
        self.config = config
        self.bit = BitModel(config, numerics or BackboneNumerics())
        self.num_features = stage_widths(config)

    @property
    def stage_names(self) -> list[str]:
        return list(self.config.stage_names)

    @property
    def out_features(self) -> list[str]:
        return list(self.config.out_features)

    @property
    def channels(self) -> list[int]:
        return [self.num_features[self.stage_names.index(name)] for name in self.out_features]

    def forward(self, pixel_values: torch.Tensor) -> BackboneOutput:
        """Feature maps of (N, C, H, W) pixels, (N, channels, h, w) each; stages behind the last one wanted do not run.

        `hidden_states` are the maps of the stem and of all stages that ran.

        Raises:
            ValueError: If the images have another number of channels than the configuration.
        """
        indices = [self.stage_names.index(name) for name in self.out_features]
        maps = self.bit.encoder(self.bit.embedder(pixel_values), num_stages=indices[-1])
        return BackboneOutput(feature_maps=tuple(maps[index] for index in indices), hidden_states=maps)
