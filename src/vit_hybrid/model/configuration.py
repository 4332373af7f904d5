"""Configuration of the Hybrid Vision Transformer.

`ViTHybridConfig` keeps every field that transformers 4.49 documented, derives what can be derived (the shape of the
backbone's feature map) and refuses, in one sentence, what no model can run.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from huggingface_hub.errors import StrictDataclassError
from transformers import BitConfig, PreTrainedConfig
from transformers.utils import logging

from .geometry import (
    BOTTLENECK_RATIO,
    as_pair,
    feature_map_size,
    feature_names,
    round_width,
    stage_widths,
    token_grid,
)

logger = logging.get_logger(__name__)

# The backbone of google/vit-hybrid-base-bit-384, which 4.49 took where a configuration named none.
DEFAULT_BACKBONE: dict[str, Any] = {
    "global_padding": "same",
    "layer_type": "bottleneck",
    "depths": [3, 4, 9],
    "out_features": ["stage3"],
    "embedding_dynamic_padding": True,
}

# Fields that transformers 4.49 does not know; at these values it computes the same numbers without them.
FIELDS_NEW_SINCE_LEGACY: dict[str, Any] = {
    "weight_standardization": "variance",
    "weight_standardization_eps": 1e-8,
    "group_norm_eps": 1e-5,
    "drop_path_rate": 0.0,
    "representation_size": None,
}


class ViTHybridConfig(PreTrainedConfig):
    r"""Configuration of a Hybrid Vision Transformer: a BiT ResNet whose feature map a ViT encoder reads as tokens
    (Dosovitskiy et al., arXiv 2010.11929, section 3.1).

    The fields and their meanings are those of transformers 4.49; the ones after `qkv_bias` are new and default to what
    4.49 computed. `ViTHybridConfig()` is R50+B/16 at 224 pixels.

    Args:
        backbone_config (`BitConfig` or `dict`, *optional*):
            The BiT backbone. Without it the backbone of `google/vit-hybrid-base-bit-384` (stages of 3, 4 and 9
            bottleneck blocks, SAME padding). A dictionary may lack `model_type`.
        backbone (`str`, *optional*):
            Folder or hub id of a BiT model whose configuration describes the backbone, instead of `backbone_config`.
            It is read once and kept as `backbone_config`.
        use_pretrained_backbone (`bool`, *optional*, defaults to `False`): Must stay `False`, as in 4.49.
        use_timm_backbone (`bool`, *optional*, defaults to `False`): Must stay `False`: timm's backbones are no BiT.
        backbone_kwargs (`dict`, *optional*):
            Fields that override those read through `backbone`, e.g. `{"out_indices": [2]}`.
        hidden_size (`int`, *optional*, defaults to 768): Width of the encoder's tokens.
        num_hidden_layers (`int`, *optional*, defaults to 12): Number of encoder layers.
        num_attention_heads (`int`, *optional*, defaults to 12): Attention heads of a layer; divides `hidden_size`.
        intermediate_size (`int`, *optional*, defaults to 3072): Width of a layer's feed-forward part.
        hidden_act (`str` or `Callable`, *optional*, defaults to `"gelu"`): Activation of the feed-forward part.
        hidden_dropout_prob (`float`, *optional*, defaults to 0.0): Dropout after embeddings and dense layers.
        attention_probs_dropout_prob (`float`, *optional*, defaults to 0.0): Dropout of the attention weights.
        initializer_range (`float`, *optional*, defaults to 0.02): Standard deviation of the truncated normal that
            new weights of the encoder are drawn from.
        layer_norm_eps (`float`, *optional*, defaults to 1e-12): Epsilon of the layer norms.
        image_size (`int` or `(int, int)`, *optional*, defaults to 224): Height and width of the images in pixels.
            Assigning it, also at load, derives `backbone_featmap_shape` anew.
        patch_size (`int` or `(int, int)`, *optional*, defaults to 1): Size of a patch on the feature map.
        num_channels (`int`, *optional*, defaults to 3): Channels of the images.
        qkv_bias (`bool`, *optional*, defaults to `True`): Whether queries, keys and values have a bias.
        weight_standardization (`"variance"` or `"std"`, *optional*, defaults to `"variance"`):
            Form of the backbone's weight standardization: `(w - mean) / sqrt(var + eps)` as timm and transformers
            compute it, or `(w - mean) / (std + eps)` as the authors' JAX code does.
        weight_standardization_eps (`float`, *optional*, defaults to 1e-8): Its epsilon.
        group_norm_eps (`float`, *optional*, defaults to 1e-5): Epsilon of the backbone's group norms.
        drop_path_rate (`float`, *optional*, defaults to 0.0): Stochastic depth of the encoder's last layer; the
            layers before it rise linearly from 0 (Huang et al., arXiv 1603.09382). The backbone has its own rate,
            `backbone_config.drop_path_rate`.
        representation_size (`int`, *optional*): Width of a dense layer and tanh between the class token and the
            classifier, as the paper's ImageNet-21k models have it ("pre-logits"). Without it there is none.
        backbone_featmap_shape (`list[int]`, *optional*):
            (1, channels, height, width) of the backbone's feature map. Derived where it is not given.

    Raises:
        ValueError: If no model can run with these values; the message says what to change.

    Example:

    ```python
    >>> from vit_hybrid import ViTHybridConfig, ViTHybridModel

    >>> config = ViTHybridConfig(image_size=384)
    >>> config.backbone_featmap_shape
    [1, 1024, 24, 24]
    >>> model = ViTHybridModel(config)
    ```
    """

    model_type = "vit-hybrid"
    base_model_fsdp_plan = {"encoder.layer.*": "free_full_weight", "layernorm": "keep_full_weight"}  # noqa: RUF012

    backbone_config: Any = None
    backbone: str | None = None
    use_pretrained_backbone: bool | None = False
    use_timm_backbone: bool | None = False
    backbone_kwargs: dict[str, Any] | None = None
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: Any = "gelu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    image_size: int | list[int] | tuple[int, int] = 224
    patch_size: int | list[int] | tuple[int, int] = 1
    num_channels: int = 3
    qkv_bias: bool = True
    weight_standardization: Literal["variance", "std"] = "variance"
    weight_standardization_eps: float = 1e-8
    group_norm_eps: float = 1e-5
    drop_path_rate: float = 0.0
    representation_size: int | None = None
    # Last, so that the fields it is derived from are there before it when a configuration is made.
    backbone_featmap_shape: list[int] | tuple[int, ...] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        # Past our own `__setattr__`, which would derive the feature map anew and so hide a shape that contradicts.
        super().__setattr__("backbone_config", self._resolve_backbone())
        self.check_runnable()
        super().__post_init__(**kwargs)

    def __setattr__(self, key: str, value: Any) -> None:
        is_change = "backbone_featmap_shape" in self.__dict__  # the last field: before it, the object is being made
        if is_change and key == "backbone_config":
            value = self._as_bit_config(value)
        super().__setattr__(key, value)
        if not is_change:
            return
        if key == "num_channels":
            self.backbone_config.num_channels = value
        if key in ("image_size", "backbone_config") or (key == "backbone_featmap_shape" and value is None):
            super().__setattr__("backbone_featmap_shape", self._derived_featmap_shape())

    @property
    def _attn_implementation(self) -> str | None:
        return self._attn_implementation_internal

    @_attn_implementation.setter
    def _attn_implementation(self, value: str | dict[str, Any] | None) -> None:
        # The backbone has no attention, but code that walks nested configurations expects one answer of them all.
        # Declared as `sub_configs`, it would make `set_attn_implementation` warn of a model it cannot find.
        PreTrainedConfig._attn_implementation.fset(self, value)
        self.backbone_config._attn_implementation = self._attn_implementation_internal

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in `PreTrainedConfig`; a stored feature-map shape gives way where what it follows from is overridden."""
        derived_from = {"image_size", "backbone_config"}
        if derived_from & kwargs.keys() and "backbone_featmap_shape" not in kwargs:
            config_dict = {**config_dict, "backbone_featmap_shape": None}
        return super().from_dict(config_dict, **kwargs)

    @property
    def grid_size(self) -> tuple[int, int]:
        """(rows, columns) of the patches of an image of `image_size`."""
        return token_grid(self)

    @property
    def feature_names(self) -> list[str]:
        """What the model computes on its way, in order: `stem, stage1, ...` of the ResNet's maps, as far as it runs,
        and `layer1, ...` of the encoder's."""
        return feature_names(self)

    @classmethod
    def from_preset(
        cls,
        name: str,
        image_size: int | Sequence[int] | None = None,
        num_labels: int | None = None,
        **changes: Any,
    ) -> "ViTHybridConfig":
        """The configuration of a published hybrid: R+Ti/16, R26+S/32, R26+B/32, R50+B/16, R50+B/32, R50+L/16, R50+L/32.

        It carries the architecture. Its numerics (epsilons, form of weight standardization, GELU) are this class's
        defaults, those of transformers 4.49, however the name is spelled; checkpoints of JAX and timm were trained with
        others, and their loaders in `vit_hybrid.checkpoints` set them.

        Args:
            name: As the papers, the authors' `.npz` files or timm spell it: `"R50+B/16"`, `"R50+ViT-B_16"`,
                `"R26_S_32-i21k-...-res_384"`, `"vit_base_r50_s16_384.orig_in21k_ft_in1k"`. Case does not matter.
            image_size: Height and width of the images in pixels; by default what the name says, or else 224.
            num_labels: Number of labels; by default what the name says, or else 1000.
            **changes: Any other fields, in place of the preset's or the defaults.

        Raises:
            ValueError: If no published hybrid has that name (the message gives the nearest ones), or if no model can
                run with the changes.
        """
        from .presets import resolve

        preset, named_size, named_labels = resolve(name)
        fields: dict[str, Any] = {
            "backbone_config": {
                **DEFAULT_BACKBONE,
                "depths": list(preset.depths),
                "out_features": [preset.last_stage],
            },
            "patch_size": preset.patch_size,
            "hidden_size": preset.hidden_size,
            "num_hidden_layers": preset.num_hidden_layers,
            "num_attention_heads": preset.num_attention_heads,
            "intermediate_size": preset.intermediate_size,
            "image_size": named_size if image_size is None else image_size,
        }
        if num_labels is not None:
            fields["num_labels"] = num_labels
        elif "id2label" not in changes:  # which says how many there are
            fields["num_labels"] = named_labels
        return cls(**{**fields, **changes})

    def check_runnable(self) -> None:
        """Holds the fields against each other, as they stand now.

        Raises:
            ValueError: If no model can run with them; the message says what to change.
        """
        self._check_fields()
        super().__setattr__("backbone_featmap_shape", self._checked_featmap_shape(self.backbone_featmap_shape))

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> None:
        """As in `PreTrainedConfig`; refuses what cannot run and names the fields that transformers 4.49 ignores.

        Raises:
            ValueError: If no model can run with this configuration.
        """
        self.check_runnable()
        ignored = [name for name, default in FIELDS_NEW_SINCE_LEGACY.items() if getattr(self, name) != default]
        if ignored:
            logger.warning(
                f"transformers 4.49 would ignore {', '.join(ignored)} of this configuration and compute other numbers."
            )
        super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    def to_diff_dict(self) -> dict[str, Any]:
        """The fields that differ from their defaults, and always those whose defaults 4.49 set differently."""
        fields: dict[str, Any] = super().to_diff_dict()
        for name, default in FIELDS_NEW_SINCE_LEGACY.items():
            if fields.get(name) == default:
                del fields[name]
        fields["backbone_featmap_shape"] = list(self.backbone_featmap_shape)  # type: ignore[arg-type]
        return fields

    def _resolve_backbone(self) -> BitConfig:
        """The backbone's configuration from whichever of the four backbone fields describes it."""
        if self.use_pretrained_backbone:
            raise ValueError(
                "use_pretrained_backbone=True is not supported (nor was it in transformers 4.49). Leave it out and "
                "load the weights with `from_pretrained`."
            )
        if self.use_timm_backbone:
            raise ValueError(
                "use_timm_backbone=True names a backbone of timm, but only BiT backbones are supported. Leave it out "
                "and describe the BiT backbone in `backbone_config`."
            )
        if self.backbone is not None and self.backbone_config is not None:
            raise ValueError(
                f"Both backbone={self.backbone!r} and backbone_config were given; they say the same thing twice. "
                "Give one of them."
            )
        if self.backbone_kwargs and self.backbone_config is not None:
            raise ValueError(
                "Both backbone_kwargs and backbone_config were given. Write the fields of backbone_kwargs into "
                "backbone_config."
            )
        if self.backbone is None:
            if self.backbone_kwargs:
                logger.warning(
                    f"backbone_kwargs={self.backbone_kwargs!r} changes nothing without `backbone`, as in transformers "
                    "4.49, and is left out. Write its fields into `backbone_config`."
                )
                self.backbone_kwargs = None  # beside the `backbone_config` that is saved they would be refused
            return self._as_bit_config(self.backbone_config)
        fields, _ = PreTrainedConfig.get_config_dict(self.backbone)
        resolved = self._as_bit_config(fields)
        for name, value in (self.backbone_kwargs or {}).items():
            setattr(resolved, name, value)  # one at a time: assigning `out_indices` realigns `out_features`
        self.backbone, self.backbone_kwargs = None, None  # kept as `backbone_config` from here on
        return resolved

    def _as_bit_config(self, value: Any) -> BitConfig:
        if value is None:
            value = {**DEFAULT_BACKBONE, "num_channels": self.num_channels}
        if isinstance(value, PreTrainedConfig):
            model_type = value.model_type
        elif isinstance(value, Mapping):
            model_type = value.get("model_type") or BitConfig.model_type
        else:
            raise ValueError(
                f"backbone_config is a {type(value).__name__}; give a BitConfig, a dictionary of its fields, or None."
            )
        if model_type != BitConfig.model_type:
            raise ValueError(
                f"The backbone's model type is {model_type!r}, but a hybrid needs a BiT backbone. Give a BitConfig, or "
                "a dictionary with model_type 'bit'."
            )
        if isinstance(value, BitConfig):
            return value
        fields = {key: field for key, field in value.items() if key not in ("model_type", "stage_names")}
        fields.setdefault("num_channels", self.num_channels)
        padding = fields.get("global_padding")
        if padding is not None and str(padding).upper() not in BitConfig.supported_padding:
            raise ValueError(f"backbone_config.global_padding is {padding!r}; give 'SAME', 'VALID' or None.")
        try:
            return BitConfig(**fields)
        except (StrictDataclassError, TypeError, KeyError, IndexError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"backbone_config was refused by BitConfig: {reason}. Correct that field.") from error

    def _check_fields(self) -> None:
        for name in ("hidden_size", "num_attention_heads", "intermediate_size", "num_channels"):
            _require_positive(name, getattr(self, name))
        if not _is_int(self.num_hidden_layers) or self.num_hidden_layers < 0:
            raise ValueError(f"num_hidden_layers is {self.num_hidden_layers!r}; give a whole number, 0 or more.")
        for name in ("image_size", "patch_size"):
            _require_side_or_pair(name, getattr(self, name))
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size ({self.hidden_size}) is not a multiple of num_attention_heads "
                f"({self.num_attention_heads}). Choose a number of heads that divides the hidden size."
            )
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "drop_path_rate"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 <= value <= 1:
                raise ValueError(f"{name} is {value!r}; give a probability between 0 and 1.")
        if self.representation_size is not None:
            _require_positive("representation_size", self.representation_size)
        if self.drop_path_rate == 1:
            raise ValueError("drop_path_rate is 1, which would drop every path; give a rate below 1.")
        if self.weight_standardization not in ("variance", "std"):
            raise ValueError(
                f"weight_standardization is {self.weight_standardization!r}; give 'variance' for "
                "(w - mean) / sqrt(var + eps) or 'std' for (w - mean) / (std + eps)."
            )
        for name in ("weight_standardization_eps", "group_norm_eps", "layer_norm_eps"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not value >= 0:
                raise ValueError(f"{name} is {value!r}; give a number of 0 or more, such as 1e-6.")
        self._check_backbone()

    def _check_backbone(self) -> None:
        backbone = self.backbone_config
        if backbone.num_channels != self.num_channels:
            raise ValueError(
                f"num_channels is {self.num_channels}, but backbone_config.num_channels is {backbone.num_channels}. "
                "Set both to the number of channels of the images."
            )
        if backbone.layer_type not in BitConfig.layer_types:
            raise ValueError(
                f"backbone_config.layer_type is {backbone.layer_type!r}; give 'bottleneck' or 'preactivation'."
            )
        if len(backbone.hidden_sizes) < len(backbone.depths):
            raise ValueError(
                f"backbone_config has {len(backbone.depths)} stages in depths ({backbone.depths}), but only "
                f"{len(backbone.hidden_sizes)} widths in hidden_sizes ({backbone.hidden_sizes}). Give a width a stage."
            )
        stem, *stages = stage_widths(backbone)
        built = [width for width, depth in zip(stages, backbone.depths, strict=True) if depth]
        widths = {stem, *built, *(round_width(width * BOTTLENECK_RATIO) for width in built)}
        unfit = sorted(width for width in widths if width % backbone.num_groups)
        if unfit:
            raise ValueError(
                f"backbone_config.num_groups ({backbone.num_groups}) does not divide the backbone's widths "
                f"{', '.join(map(str, unfit))}. Choose a number of groups that divides all of them."
            )

    def _derived_featmap_shape(self) -> list[int]:
        height, width = feature_map_size(self.backbone_config, self.image_size)
        last = self.backbone_config.stage_names.index(self.backbone_config.out_features[-1])
        return [1, stage_widths(self.backbone_config)[last], height, width]

    def _checked_featmap_shape(self, stored: Sequence[int] | None) -> list[int]:
        """The derived shape, once it is sure that it holds a patch and that a stored one agrees with it.

        4.49 used a stored shape for two numbers, the channels and the count of patches; any shape that gives the right
        two ran there (a transposed one, say), and is put right here.
        """
        derived = self._derived_featmap_shape()
        patch = as_pair(self.patch_size)
        if derived[2] < patch[0] or derived[3] < patch[1]:
            raise ValueError(
                f"The feature map of a {_by(as_pair(self.image_size))} image is {_by(derived[2:])}, smaller than a "
                f"patch of {_by(patch)}. Give a larger `image_size` or a smaller `patch_size`."
            )
        if stored is None or list(stored) == derived:
            return derived
        if (
            len(stored) == len(derived)
            and stored[1] == derived[1]
            and _patches(stored, patch) == _patches(derived, patch)
        ):
            if list(stored[2:]) != derived[2:]:
                logger.warning(
                    f"backbone_featmap_shape {list(stored)} was stored for a feature map that really is {derived}; "
                    "both give the same number of patches. The real shape is used."
                )
            return derived
        raise ValueError(
            f"backbone_featmap_shape is {list(stored)}, but a {_by(as_pair(self.image_size))} image gives a feature "
            f"map of {derived} with this backbone. Leave the field out to have it derived, or correct image_size."
        )


def _patches(shape: Sequence[int], patch: tuple[int, int]) -> int:
    return (shape[-2] // patch[0]) * (shape[-1] // patch[1])


def _by(size: Sequence[int]) -> str:
    return f"{size[0]}x{size[1]}"


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _require_positive(name: str, value: Any) -> None:
    if not _is_int(value) or value < 1:
        raise ValueError(f"{name} is {value!r}; give a whole number of 1 or more.")


def _require_side_or_pair(name: str, value: Any) -> None:
    if _is_int(value):
        sides: Sequence[Any] = (value,)
    elif isinstance(value, list | tuple) and len(value) == 2:
        sides = value
    else:
        raise ValueError(f"{name} is {value!r}; give a whole number, or a pair of them (height, width).")
    for side in sides:
        _require_positive(name, side)
