"""The Hybrid Vision Transformer: BiT's feature map as the tokens of a pre-norm ViT encoder (arXiv 2010.11929).

Module and parameter names are those of `transformers.models.deprecated.vit_hybrid` in 4.49, so that its checkpoints,
adapters and the code written for it fit. Shapes: N images, T = 1 + patches tokens, D = hidden_size, H heads.
"""

import inspect
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPooling, ImageClassifierOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.utils import logging
from transformers.utils.generic import can_return_tuple

from .backbone import BackboneNumerics, BitBackbone, WeightStandardizedConv2d, drop_path
from .configuration import ViTHybridConfig
from .geometry import as_pair, check_channels, check_holds_patch
from .packing import GELU, PLAIN, Packed, is_available, is_exact_gelu, is_plain, takes
from .positions import resize_positions

logger = logging.get_logger(__name__)

# Attention functions that take a bias on the scores; sdpa stands in for others.
BIASED_ATTENTION = ("eager", "sdpa")


def activation_function(hidden_act: str | Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., torch.Tensor]:
    """The activation of that name, or the one given.

    Raises:
        ValueError: If no activation has that name.
    """
    if not isinstance(hidden_act, str):
        return hidden_act
    if hidden_act not in ACT2FN:
        raise ValueError(f"hidden_act is {hidden_act!r}; give one of {', '.join(sorted(ACT2FN))}.")
    return ACT2FN[hidden_act]


def takes_legacy_arguments(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Lets arguments of `forward` be given by position, as 4.49 allowed, and takes `None` for "not given".

    transformers 5 looks for `return_dict` among the keyword arguments alone.
    """
    names = [name for name in inspect.signature(forward).parameters if name not in ("self", "kwargs")]

    @wraps(forward)
    def wrapper(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if len(args) > len(names):
            raise TypeError(f"forward takes at most {len(names)} arguments ({', '.join(names)}), got {len(args)}.")
        for name, value in zip(names, args, strict=False):
            if name in kwargs:
                raise TypeError(f"forward got two values for {name}: one by position, one by name.")
            kwargs[name] = value
        return forward(self, **{name: value for name, value in kwargs.items() if value is not None})

    return wrapper


class ViTHybridPatchEmbeddings(nn.Module):
    """Pixels (N, C, height, width) to patch embeddings (N, T - 1, D), by way of the BiT backbone."""

    def __init__(self, config: ViTHybridConfig) -> None:
        super().__init__()
        self.image_size = as_pair(config.image_size)
        self.patch_size = as_pair(config.patch_size)
        self.num_channels = config.num_channels
        assert config.backbone_featmap_shape is not None  # derived where it was not given
        channels = config.backbone_featmap_shape[1]
        self.grid_size = config.grid_size
        self.num_patches = self.grid_size[0] * self.grid_size[1]
        self.backbone = BitBackbone(config.backbone_config, BackboneNumerics.of(config))
        self.projection = nn.Conv2d(channels, config.hidden_size, kernel_size=self.patch_size, stride=self.patch_size)

    def forward(
        self,
        pixel_values: torch.Tensor,
        interpolate_pos_encoding: bool = False,
        flatten: bool = True,
        output_feature_maps: bool = False,
    ) -> Any:
        """Patch embeddings (N, T - 1, D), or with `flatten=False` their map (N, D, rows, columns).

        With `output_feature_maps` the backbone's maps come second, those of the stem and of each stage that runs.

        Raises:
            ValueError: If it is no batch of images, or they have the wrong number of channels, the wrong size without
                `interpolate_pos_encoding`, or are too small to hold a patch.
        """
        if pixel_values.ndim != 4:
            raise ValueError(
                f"pixel_values has shape {tuple(pixel_values.shape)}; give images of shape (N, channels, height, "
                "width), one image as (1, channels, height, width)."
            )
        _, num_channels, height, width = pixel_values.shape
        check_channels(num_channels, self.num_channels)
        if not interpolate_pos_encoding and (height, width) != self.image_size:
            raise ValueError(
                f"Input image size ({height}*{width}) doesn't match model ({self.image_size[0]}*{self.image_size[1]}). "
                "Resize the images, or pass interpolate_pos_encoding=True."
            )
        outputs = self.backbone(pixel_values)
        feature_map = outputs.feature_maps[-1]  # (N, channels, h, w)
        maps = outputs.hidden_states if output_feature_maps else ()
        del outputs  # and with it, where nobody asked for them, the maps of the stages before
        if not torch.compiler.is_compiling():
            check_holds_patch(feature_map.shape[-2:], self.patch_size, (height, width))
        patches = self.projection(feature_map)  # (N, D, rows, columns)
        patches = patches.flatten(2).transpose(1, 2) if flatten else patches
        return (patches, maps) if output_feature_maps else patches


class ViTHybridEmbeddings(nn.Module):
    """Class token, patch embeddings, position embeddings, and a mask token where wanted."""

    def __init__(self, config: ViTHybridConfig, use_mask_token: bool = False) -> None:
        super().__init__()
        self.config = config
        self.cls_token = nn.Parameter(torch.randn(1, 1, config.hidden_size))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size)) if use_mask_token else None
        self.patch_embeddings = ViTHybridPatchEmbeddings(config)
        self.position_embeddings = nn.Parameter(
            torch.randn(1, 1 + self.patch_embeddings.num_patches, config.hidden_size)
        )
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def position_embeddings_for(self, grid_size: tuple[int, int]) -> torch.Tensor:
        """Position embeddings (1, 1 + rows * columns, D) of a grid of patches, bicubically resized.

        The class token's stays as it is. At the model's own grid these are the learned ones, to the bit.
        """
        own = self.patch_embeddings.grid_size
        # While a graph is traced, its sizes may be symbols, and a comparison would fix them.
        if not torch.compiler.is_compiling() and tuple(grid_size) == own:
            return self.position_embeddings
        return resize_positions(self.position_embeddings, own, grid_size)

    def forward(
        self,
        pixel_values: torch.Tensor,
        bool_masked_pos: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        output_feature_maps: bool = False,
    ) -> Any:
        """Tokens (N, T, D); with `output_feature_maps` the backbone's maps come second.

        They are handed back, not put into something that is handed down, which libraries that wrap modules may copy.
        """
        patches = self.patch_embeddings(
            pixel_values, interpolate_pos_encoding, flatten=False, output_feature_maps=output_feature_maps
        )
        patches, maps = patches if output_feature_maps else (patches, ())
        grid_size = patches.shape[-2:]
        embeddings = patches.flatten(2).transpose(1, 2)  # (N, T - 1, D)
        if bool_masked_pos is not None:
            embeddings = self._masked(embeddings, bool_masked_pos)
        class_tokens = self.cls_token.expand(embeddings.shape[0], -1, -1)
        embeddings = torch.cat((class_tokens, embeddings), dim=1)  # (N, T, D)
        positions = self.position_embeddings_for(grid_size) if interpolate_pos_encoding else self.position_embeddings
        tokens = self.dropout(embeddings + positions)
        return (tokens, maps) if output_feature_maps else tokens

    def _masked(self, embeddings: torch.Tensor, bool_masked_pos: torch.Tensor) -> torch.Tensor:
        if self.mask_token is None:
            raise ValueError(
                "bool_masked_pos was given, but this model has no mask token to put in the masked places. Make it "
                "with ViTHybridModel(config, use_mask_token=True)."
            )
        if bool_masked_pos.ndim != 2 or any(
            given not in (1, found) for given, found in zip(bool_masked_pos.shape, embeddings.shape, strict=False)
        ):
            raise ValueError(
                f"bool_masked_pos has shape {tuple(bool_masked_pos.shape)}; expected one entry an image and patch, "
                f"{tuple(embeddings.shape[:2])}."
            )
        mask = bool_masked_pos.unsqueeze(-1).type_as(embeddings)  # (N, T - 1, 1)
        return embeddings * (1.0 - mask) + self.mask_token * mask


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention by its definition. From (N, H, T, D / H) each, the context (N, T, H, D / H) and the weights
    (N, H, T, T)."""
    scores = torch.matmul(query, key.transpose(-1, -2)) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = nn.functional.dropout(scores.softmax(dim=-1), p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


class ViTHybridSelfAttention(nn.Module):
    """Multi-head self-attention, through whichever attention function the configuration names.

    `fuse` makes one matrix product of the three before attention, for inference. The three layers stay where they were,
    as views of the one: they are what `state_dict` gives, and what is used wherever gradients are kept.
    """

    fused_weight: torch.Tensor | None
    fused_bias: torch.Tensor | None

    def __init__(self, config: ViTHybridConfig) -> None:
        super().__init__()
        self.config = config
        self.num_attention_heads = config.num_attention_heads
        self.attention_head_size = config.hidden_size // config.num_attention_heads
        self.all_head_size = config.hidden_size
        self.dropout_prob = config.attention_probs_dropout_prob
        self.scaling = self.attention_head_size**-0.5
        self.is_causal = False
        self.query = nn.Linear(config.hidden_size, self.all_head_size, bias=config.qkv_bias)
        self.key = nn.Linear(config.hidden_size, self.all_head_size, bias=config.qkv_bias)
        self.value = nn.Linear(config.hidden_size, self.all_head_size, bias=config.qkv_bias)
        self.register_buffer("fused_weight", None, persistent=False)
        self.register_buffer("fused_bias", None, persistent=False)
        self.packed: Packed | None = None

    def fuse(self) -> None:
        """Makes one matrix of the three layers' weights, which become views of it.

        Left as it is where one of them is no plain linear layer, as with an adapter, or is watched by a hook.
        """
        layers = (self.query, self.key, self.value)
        if not all(map(is_plain, layers)):
            return
        with torch.no_grad():
            self.fused_weight = torch.cat([layer.weight for layer in layers])
            for layer, weight in zip(layers, self.fused_weight.chunk(len(layers)), strict=True):
                layer.weight.data = weight
            if self.query.bias is not None:
                self.fused_bias = torch.cat([layer.bias for layer in layers])

    def unfuse(self) -> None:
        """Goes back to three layers."""
        if self.fused_weight is not None:
            for layer in (self.query, self.key, self.value):
                layer.weight.data = layer.weight.data.clone()
        self.fused_weight = self.fused_bias = self.packed = None

    def _projections(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Queries, keys and values, (N, T, D) each."""
        if self.fused_weight is None or torch.is_grad_enabled():
            return self.query(hidden_states), self.key(hidden_states), self.value(hidden_states)
        if self.packed is not None and takes(hidden_states):
            parts = [layer.weight for layer in (self.query, self.key, self.value)]
            return self.packed(hidden_states, self.fused_weight, self.fused_bias, parts).chunk(3, dim=-1)
        return nn.functional.linear(hidden_states, self.fused_weight, self.fused_bias).chunk(3, dim=-1)

    def forward(
        self,
        hidden_states: torch.Tensor,
        head_mask: torch.Tensor | None = None,
        output_attentions: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The context (N, T, D), and the weights (N, H, T, T) where `output_attentions` asks for them."""
        heads = (*hidden_states.shape[:-1], self.num_attention_heads, self.attention_head_size)
        query, key, value = (
            projected.view(heads).transpose(1, 2)  # (N, H, T, D / H)
            for projected in self._projections(hidden_states)
        )

        context, weights = self.attend(query, key, value, None, head_mask, output_attentions, **kwargs)
        return context.reshape(hidden_states.shape).contiguous(), weights

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        bias: torch.Tensor | None,
        head_mask: torch.Tensor | None,
        output_attentions: bool,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What is behind the projections: from (N, H, T, D / H) each, the context (N, T, H, D / H) and the weights.

        `bias`, which may be broadcast to (N, H, T, T), is added to the scores.
        """
        attend = eager_attention_forward
        if not output_attentions:  # only the eager function has the weights to give
            name = self.config._attn_implementation
            if bias is not None and name not in BIASED_ATTENTION:
                name = "sdpa"
            attend = ALL_ATTENTION_FUNCTIONS.get_interface(name, eager_attention_forward)
        context, weights = attend(
            self,
            query,
            key,
            value,
            bias,
            scaling=self.scaling,
            dropout=self.dropout_prob if self.training else 0.0,
            **kwargs,
        )  # (N, T, H, D / H)
        if head_mask is not None:
            context = context * head_mask[:, None]
            weights = None if weights is None else weights * head_mask[:, None, None]
        return context, weights


class ViTHybridSelfOutput(nn.Module):
    """The projection behind the heads. The residual is added in `ViTHybridLayer`."""

    def __init__(self, config: ViTHybridConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.dense(hidden_states))


class ViTHybridAttention(nn.Module):
    """Self-attention and its output projection."""

    def __init__(self, config: ViTHybridConfig) -> None:
        super().__init__()
        self.attention = ViTHybridSelfAttention(config)
        self.output = ViTHybridSelfOutput(config)

    def forward(
        self, hidden_states: torch.Tensor, head_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        context, weights = self.attention(hidden_states, head_mask, **kwargs)
        return self.output(context), weights


class ViTHybridIntermediate(nn.Module):
    """The feed-forward part's widening layer and its activation."""

    def __init__(self, config: ViTHybridConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.intermediate_act_fn = activation_function(config.hidden_act)
        self.packed: Packed | None = None

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if self.packed is not None and takes(hidden_states) and is_plain(self.dense):
            widened = self.packed(hidden_states, self.dense.weight, self.dense.bias)
            return widened if self.packed.activation == GELU else self.intermediate_act_fn(widened)
        return self.intermediate_act_fn(self.dense(hidden_states))


class ViTHybridOutput(nn.Module):
    """The feed-forward part's narrowing layer."""

    def __init__(self, config: ViTHybridConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.intermediate_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.dense(hidden_states))


class ViTHybridLayer(GradientCheckpointingLayer):
    """A pre-norm encoder layer: x + attention(norm(x)), then x + mlp(norm(x)).

    From (N, T, D) to (N, T, D), with the attention weights beside it where `output_attentions` asks for them.
    """

    def __init__(self, config: ViTHybridConfig, drop_path_rate: float = 0.0) -> None:
        super().__init__()
        self.attention = ViTHybridAttention(config)
        self.intermediate = ViTHybridIntermediate(config)
        self.output = ViTHybridOutput(config)
        self.layernorm_before = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.layernorm_after = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.drop_path_rate = drop_path_rate

    def forward(
        self, hidden_states: torch.Tensor, head_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        attended, weights = self.attention(self.layernorm_before(hidden_states), head_mask, **kwargs)
        hidden_states = hidden_states + drop_path(attended, self.drop_path_rate, self.training)
        fed_forward = self.output(self.intermediate(self.layernorm_after(hidden_states)))
        return hidden_states + drop_path(fed_forward, self.drop_path_rate, self.training), weights


class ViTHybridEncoder(nn.Module):
    """The encoder's layers, one after the other."""

    def __init__(self, config: ViTHybridConfig) -> None:
        super().__init__()
        self.config = config
        # On the CPU also where the layers are made on another device, "meta" included: these are plain numbers.
        rates = torch.linspace(0, config.drop_path_rate, config.num_hidden_layers, device="cpu").tolist()
        self.layer = nn.ModuleList(ViTHybridLayer(config, rate) for rate in rates)

    def forward(
        self,
        hidden_states: torch.Tensor,
        head_mask: torch.Tensor | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        **kwargs: Any,
    ) -> BaseModelOutput:
        """The last layer's output, and what every layer gave where that is asked for.

        Recorded here rather than by transformers' hooks, which take a lock that `torch.compile` cannot trace, and
        which keep a model that has recorded once from being pickled.
        """
        all_hidden_states, all_attentions = [hidden_states], []
        for index, layer in enumerate(self.layer):
            layer_head_mask = None if head_mask is None else head_mask[index]
            hidden_states, weights = layer(
                hidden_states, layer_head_mask, output_attentions=output_attentions, **kwargs
            )
            if output_hidden_states:  # what is kept stays in memory till the last layer is through
                all_hidden_states.append(hidden_states)
            all_attentions.append(weights)
        return BaseModelOutput(
            last_hidden_state=hidden_states,
            hidden_states=tuple(all_hidden_states) if output_hidden_states else None,
            attentions=tuple(all_attentions) if output_attentions else None,
        )


class ViTHybridPooler(nn.Module):
    """A dense layer and tanh over the class token: (N, T, D) to (N, D)."""

    def __init__(self, config: ViTHybridConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = nn.Tanh()

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.activation(self.dense(hidden_states[:, 0]))


class ViTHybridPreTrainedModel(PreTrainedModel):
    """What the hybrid's models share: new weights, loading and saving, and folding for inference."""

    config: ViTHybridConfig
    config_class = ViTHybridConfig
    base_model_prefix = "vit"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["ViTHybridEmbeddings", "ViTHybridLayer"]  # noqa: RUF012 - declared so by PreTrainedModel
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _input_embed_layer = "patch_embeddings"

    def __init__(self, config: ViTHybridConfig, *args: Any, **kwargs: Any) -> None:
        config.check_runnable()
        super().__init__(config, *args, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *model_args: Any, **kwargs: Any) -> Any:
        """As in `PreTrainedModel`, with `image_size`: height and width in pixels, or one number for both, of the images
        the model is to take instead of those it was saved for. Its position embeddings are then resized bicubically
        (`resize_position_embeddings` has the other ways).

        Raises:
            ValueError: If an image of that size is smaller than a patch.
        """
        image_size = kwargs.pop("image_size", None)
        loaded = super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
        if image_size is not None:
            model = loaded[0] if isinstance(loaded, tuple) else loaded  # a tuple with `output_loading_info`
            model.resize_position_embeddings(image_size)
        return loaded

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """New weights as in 4.49: truncated normal in the encoder, He's normal over the fan-out in the backbone."""
        if isinstance(module, WeightStandardizedConv2d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear | nn.Conv2d):
            init.trunc_normal_(module.weight, mean=0.0, std=self.config.initializer_range)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm | nn.GroupNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, ViTHybridEmbeddings):
            init.trunc_normal_(module.position_embeddings, mean=0.0, std=self.config.initializer_range)
            init.trunc_normal_(module.cls_token, mean=0.0, std=self.config.initializer_range)
            if module.mask_token is not None:
                init.zeros_(module.mask_token)

    @property
    def is_folded(self) -> bool:
        """Whether `fold_weight_standardization` is in force."""
        return any(convolution.is_folded for convolution in self._standardized_convolutions())

    def fold_weight_standardization(self) -> "ViTHybridPreTrainedModel":
        """Standardizes the backbone's weights once, for inference, instead of at each forward.

        Puts the model in evaluation mode and freezes the folded weights. Outputs stay identical. While folded, the
        model follows `.to(...)` and saves its original weights; it refuses `train()` and `load_state_dict`.
        `unfold_weight_standardization` undoes it.

        Returns:
            The model itself.

        Raises:
            RuntimeError: If weights are not in memory, as with an offloaded model.
        """
        self.eval()
        for convolution in self._standardized_convolutions():
            convolution.fold()
        return self

    def unfold_weight_standardization(self) -> "ViTHybridPreTrainedModel":
        """Undoes `fold_weight_standardization`, `fuse_projections` and `pack_wide_layers`: the model can be trained and
        loaded into again.

        Returns:
            The model itself, still in evaluation mode.
        """
        for convolution in self._standardized_convolutions():
            convolution.unfold()
        for attention in self._self_attentions():
            attention.unfuse()
        for layer in self._widening_layers():
            layer.packed = None
        return self

    def fuse_projections(self) -> "ViTHybridPreTrainedModel":
        """Computes queries, keys and values by one matrix product a layer, for inference on a folded model.

        Names and values in `state_dict` stay what they are. `unfold_weight_standardization` undoes it.

        Returns:
            The model itself.

        Raises:
            RuntimeError: If weight standardization is not folded, so that nothing keeps the weights from changing.
        """
        if not self.is_folded:
            raise RuntimeError("Fold the model first (fold_weight_standardization), which keeps its weights fixed.")
        for attention in self._self_attentions():
            attention.fuse()
        return self

    def pack_wide_layers(self) -> "ViTHybridPreTrainedModel":
        """Lets layers that widen, the fused projections and the feed-forward part's first, compute with weights that
        oneDNN has laid out, in bfloat16 on a CPU (`packing`); they take as much memory once more.

        A weight that changes is laid out anew. `unfold_weight_standardization` undoes it.

        Returns:
            The model itself.
        """
        if is_available():
            for attention in self._self_attentions():
                attention.packed = Packed()
            for layer in self._widening_layers():
                layer.packed = Packed(GELU if is_exact_gelu(layer.intermediate_act_fn) else PLAIN)
        return self

    def train(self, mode: bool = True) -> "ViTHybridPreTrainedModel":
        """As in `torch.nn.Module`.

        Raises:
            RuntimeError: If `mode` is true while weight standardization is folded.
        """
        if mode:
            for convolution in self._standardized_convolutions():
                convolution.train(mode)
        return super().train(mode)

    def resize_position_embeddings(
        self, image_size: int | tuple[int, int], mode: str = "bicubic", antialias: bool = True
    ) -> "ViTHybridPreTrainedModel":
        """Makes this a model for images of another size, by resizing its position embeddings; for fine-tuning at
        another resolution, say. The class token's embedding stays as it is.

        Args:
            image_size: Height and width in pixels, or one number for both.
            mode: "bicubic", "bilinear", or "bilinear-jax" as in the authors' code; see `resize_positions`.
            antialias: Whether shrinking averages; without it and at "bicubic", outputs equal those of
                `interpolate_pos_encoding=True`.

        Returns:
            The model itself.

        Raises:
            ValueError: If an image of that size is smaller than a patch, or `mode` is unknown.
        """
        size = image_size if isinstance(image_size, int) else list(image_size)
        embeddings = self.base_model.embeddings
        own = embeddings.config  # shared by every part of the model
        config = type(own)(**{**own.to_dict(), "image_size": size, "backbone_featmap_shape": None})
        patch_embeddings = embeddings.patch_embeddings
        grid_size = config.grid_size
        with torch.no_grad():
            positions = resize_positions(
                embeddings.position_embeddings, patch_embeddings.grid_size, grid_size, mode, antialias
            )
        embeddings.position_embeddings = nn.Parameter(positions, embeddings.position_embeddings.requires_grad)
        patch_embeddings.image_size, patch_embeddings.grid_size = as_pair(size), grid_size
        patch_embeddings.num_patches = grid_size[0] * grid_size[1]
        own.image_size = size
        return self

    def _standardized_convolutions(self) -> list[WeightStandardizedConv2d]:
        return [module for module in self.modules() if isinstance(module, WeightStandardizedConv2d)]

    def _self_attentions(self) -> list[ViTHybridSelfAttention]:
        return [module for module in self.modules() if isinstance(module, ViTHybridSelfAttention)]

    def _widening_layers(self) -> list[ViTHybridIntermediate]:
        return [module for module in self.modules() if isinstance(module, ViTHybridIntermediate)]


class ViTHybridModel(ViTHybridPreTrainedModel):
    """The hybrid without a head: pixels to token features.

    Args:
        config: Its configuration.
        add_pooling_layer: Whether a dense layer and tanh over the class token give `pooler_output`.
        use_mask_token: Whether there is a mask token, for `bool_masked_pos`.
    """

    def __init__(self, config: ViTHybridConfig, add_pooling_layer: bool = True, use_mask_token: bool = False) -> None:
        super().__init__(config)
        self.config = config
        self.embeddings = ViTHybridEmbeddings(config, use_mask_token=use_mask_token)
        self.encoder = ViTHybridEncoder(config)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.pooler = ViTHybridPooler(config) if add_pooling_layer else None
        self.post_init()

    def get_input_embeddings(self) -> ViTHybridPatchEmbeddings:
        return self.embeddings.patch_embeddings

    @takes_legacy_arguments
    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        bool_masked_pos: torch.Tensor | None = None,
        head_mask: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        interpolate_pos_encoding: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """Token features of images.

        Args:
            pixel_values: Preprocessed images, (N, num_channels, height, width).
            bool_masked_pos: Which patches the mask token replaces, (N, T - 1), 1 or true for masked.
            head_mask: Factor on each attention head, (H) or (layers, H): 1 keeps a head, 0 leaves it out.
            output_attentions: Whether to give each layer's attention weights, (N, H, T, T). They are computed by the
                eager function, whatever the model uses otherwise.
            output_hidden_states: Whether to give the embeddings' and each layer's output, (N, T, D).
            interpolate_pos_encoding: Whether images may have another size than `config.image_size`; the position
                embeddings are then resized bicubically.
            return_dict: Whether to give an output object (as by default) or a tuple.

        Returns:
            `last_hidden_state` (N, T, D) behind the last norm, `pooler_output` (N, D), `hidden_states`, `attentions`.

        Raises:
            ValueError: If pixel_values is missing, has the wrong number of channels or size, or a mask does not fit.
        """
        if pixel_values is None:
            raise ValueError("No pixel_values were given; give images of shape (N, channels, height, width).")
        output_attentions = bool(self.config.output_attentions if output_attentions is None else output_attentions)
        # A logger would break a compiled graph; who compiles a model has seen it run.
        if output_attentions and self.config._attn_implementation != "eager" and not torch.compiler.is_compiling():
            logger.warning_once(
                f"{self.config._attn_implementation!r} attention keeps no weights: with output_attentions=True they "
                "are computed by eager attention. Load with attn_implementation='eager' to silence this."
            )
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        pixel_values = pixel_values.to(self.embeddings.patch_embeddings.projection.weight.dtype)
        hidden_states = self.embeddings(
            pixel_values,
            bool_masked_pos=bool_masked_pos,
            interpolate_pos_encoding=bool(interpolate_pos_encoding),
        )  # (N, T, D)
        encoded = self.encoder(
            hidden_states,
            head_mask=self._head_mask_by_layer(head_mask, hidden_states),
            output_attentions=output_attentions,
            output_hidden_states=bool(output_hidden_states),
            **kwargs,
        )
        hidden_states = self.layernorm(encoded.last_hidden_state)
        return BaseModelOutputWithPooling(
            last_hidden_state=hidden_states,
            pooler_output=None if self.pooler is None else self.pooler(hidden_states),
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )

    def forward_features(
        self,
        pixel_values: torch.Tensor,
        layers: str | Sequence[str] | None = None,
        *,
        head_mask: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
    ) -> dict[str, torch.Tensor]:
        """What the model computes on its way, by name, without hooks: all in one graph, so that gradients of any of
        them by any that come before can be asked for.

        Args:
            pixel_values: Preprocessed images, (N, num_channels, height, width).
            layers: Which of these; by default the maps and the layers, `config.feature_names`:
                "stem", "stage1", ...: the ResNet's maps, (N, channels, h, w) each;
                "layer1", ...: the encoder layers' outputs before the last norm, (N, T, D) each;
                "attention1", ...: their attention weights, (N, H, T, T) each, by the eager function, whatever the model
                uses otherwise;
                "last_hidden_state": the tokens behind the last norm, (N, T, D).
            head_mask: See `forward`.
            interpolate_pos_encoding: Whether images may have another size than `config.image_size`.

        Returns:
            Those asked for, in the order in which the model computes them. Where no more than maps are wanted, the
            encoder does not run.

        Raises:
            ValueError: If there is no output of one of these names, or as in `forward`.
        """
        return self._features(pixel_values, layers, (), head_mask, interpolate_pos_encoding)

    def _features(
        self,
        pixel_values: torch.Tensor,
        layers: str | Sequence[str] | None,
        more_names: tuple[str, ...],
        head_mask: torch.Tensor | None,
        interpolate_pos_encoding: bool,
    ) -> dict[str, torch.Tensor]:
        """As `forward_features`; with one of `more_names`, those of a head's outputs, `last_hidden_state` comes too."""
        names = self.config.feature_names
        encoded_names = [name for name in names if name.startswith("layer")]
        attention_names = [name.replace("layer", "attention") for name in encoded_names]
        known = [*names, *attention_names, "last_hidden_state", *more_names]
        wanted = {*names} if layers is None else {layers} if isinstance(layers, str) else {*layers}
        if unknown := sorted(wanted.difference(known)):
            raise ValueError(f"There is no output {unknown[0]!r} in this model; give some of {', '.join(known)}.")

        pixel_values = pixel_values.to(self.embeddings.patch_embeddings.projection.weight.dtype)
        tokens, maps = self.embeddings(
            pixel_values, interpolate_pos_encoding=interpolate_pos_encoding, output_feature_maps=True
        )
        found = dict(zip(names, maps, strict=False))
        if not wanted <= found.keys():
            encoded = self.encoder(
                tokens,
                head_mask=self._head_mask_by_layer(head_mask, tokens),
                output_attentions=not wanted.isdisjoint(attention_names),
                output_hidden_states=True,
            )
            found.update(zip(encoded_names, encoded.hidden_states[1:], strict=True))
            found.update(zip(attention_names, encoded.attentions or (), strict=False))
            found["last_hidden_state"] = self.layernorm(encoded.last_hidden_state)
            if not wanted.isdisjoint(more_names):
                wanted.add("last_hidden_state")
        return {name: output for name, output in found.items() if name in wanted}

    def _head_mask_by_layer(self, head_mask: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor | None:
        """`head_mask` as (layers, H)."""
        if head_mask is None:
            return None
        layers, heads = self.config.num_hidden_layers, self.config.num_attention_heads
        if head_mask.shape not in ((heads,), (layers, heads)):
            raise ValueError(
                f"head_mask has shape {tuple(head_mask.shape)}; expected ({heads},), a factor a head, or "
                f"({layers}, {heads}), a factor a layer and head."
            )
        return head_mask.to(like).expand(layers, heads)


class ViTHybridPreLogits(nn.Module):
    """The dense layer and tanh before the classifier of the paper's ImageNet-21k models: (N, D) to (N, R)."""

    def __init__(self, hidden_size: int, representation_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, representation_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.dense(hidden_states).tanh()


class ViTHybridForImageClassification(ViTHybridPreTrainedModel):
    """The hybrid with a linear classifier on the class token.

    Args:
        config: Its configuration; `num_labels` 0 gives the classifier's inputs as logits.
    """

    def __init__(self, config: ViTHybridConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.vit = ViTHybridModel(config, add_pooling_layer=False)
        self.pre_logits = (
            nn.Identity()
            if config.representation_size is None
            else ViTHybridPreLogits(config.hidden_size, config.representation_size)
        )
        self.classifier = self._new_classifier(config.num_labels)
        self.post_init()

    def _new_classifier(self, num_labels: int) -> nn.Module:
        features = self.config.representation_size or self.config.hidden_size
        return nn.Linear(features, num_labels) if num_labels > 0 else nn.Identity()

    def reset_classifier(self, num_labels: int) -> None:
        """Replaces the classifier by a new one with all weights zero, as the paper starts its fine-tuning.

        Args:
            num_labels: Number of classes; 0 takes the classifier away, so that features come out as logits.

        Raises:
            ValueError: If `num_labels` is negative.
        """
        if num_labels < 0:
            raise ValueError(f"num_labels is {num_labels}; give the number of classes, or 0 for no classifier.")
        like = self.vit.layernorm.weight
        self.classifier = self._new_classifier(num_labels).to(like.device, like.dtype)
        for weight in self.classifier.parameters():
            nn.init.zeros_(weight)
        self.num_labels = num_labels
        self.config.id2label = {index: f"LABEL_{index}" for index in range(num_labels)}
        self.config.label2id = {label: index for index, label in self.config.id2label.items()}
        logger.warning(
            f"The classifier is new: {num_labels} classes, all weights zero. Train it before use."
            if num_labels
            else "The classifier was taken away: the logits are its inputs."
        )

    @takes_legacy_arguments
    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        head_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        interpolate_pos_encoding: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> ImageClassifierOutput:
        """Logits of images, and the loss where labels are given.

        Args:
            pixel_values: Preprocessed images, (N, num_channels, height, width).
            head_mask: See `ViTHybridModel.forward`.
            labels: What the loss compares with. By `config.problem_type`, or where that is unset by the labels:
                "regression" (one label a model; mean squared error; (N) or (N, num_labels)),
                "single_label_classification" (whole numbers; cross-entropy; (N)),
                "multi_label_classification" (floats; binary cross-entropy; (N, num_labels)).
            output_attentions: See `ViTHybridModel.forward`.
            output_hidden_states: See `ViTHybridModel.forward`.
            interpolate_pos_encoding: See `ViTHybridModel.forward`.
            return_dict: Whether to give an output object (as by default) or a tuple.

        Returns:
            `loss` (where labels were given), `logits` (N, num_labels), `hidden_states`, `attentions`.

        Raises:
            ValueError: See `ViTHybridModel.forward`.
        """
        outputs = self.vit(
            pixel_values,
            head_mask=head_mask,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            interpolate_pos_encoding=interpolate_pos_encoding,
            return_dict=True,
            **kwargs,
        )
        logits = self.classifier(self.pre_logits(outputs.last_hidden_state[:, 0]))
        loss = None if labels is None else self.loss_function(labels, logits, self.config, **kwargs)
        return ImageClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )

    def forward_features(
        self,
        pixel_values: torch.Tensor,
        layers: str | Sequence[str] | None = None,
        *,
        head_mask: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
    ) -> dict[str, torch.Tensor]:
        """As `ViTHybridModel.forward_features`; "logits" names the classifier's output, (N, num_labels)."""
        found = self.vit._features(pixel_values, layers, ("logits",), head_mask, interpolate_pos_encoding)
        wanted = () if layers is None else (layers,) if isinstance(layers, str) else layers
        if "logits" in wanted:
            found["logits"] = self.classifier(self.pre_logits(found["last_hidden_state"][:, 0]))
            if "last_hidden_state" not in wanted:
                del found["last_hidden_state"]
        return found


__all__ = ["ViTHybridForImageClassification", "ViTHybridModel", "ViTHybridPreTrainedModel"]
