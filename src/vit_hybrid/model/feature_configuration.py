"""Configuration of the hybrid as a backbone: which of its outputs are handed on, and how."""

import copy
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig
from transformers.backbone_utils import BackboneConfigMixin

from .configuration import ViTHybridConfig
from .geometry import as_pair, map_strides


def _of_the_hybrid(name: str) -> Any:
    """A field of `hybrid_config`, which code that is given a backbone looks for in the backbone's configuration."""

    def read(self: "ViTHybridBackboneConfig") -> Any:
        return getattr(self.hybrid_config, name)

    def write(self: "ViTHybridBackboneConfig", value: Any) -> None:
        setattr(self.hybrid_config, name, value)

    return property(read, write, doc=f"`hybrid_config.{name}`.")


class ViTHybridBackboneConfig(BackboneConfigMixin, PreTrainedConfig):
    r"""Configuration of a `ViTHybridBackbone`.

    Args:
        hybrid_config (`ViTHybridConfig` or `dict`, *optional*): The hybrid; by default `ViTHybridConfig()`.
        out_features (`list[str]`, *optional*): Which outputs are handed on, of `stage_names` and in their order:
            `stem`, `stage1`, ... of the ResNet and `layer1`, ... of the encoder. By default the last.
        out_indices (`list[int]`, *optional*): The same as indices into `stage_names`.
        reshape_hidden_states (`bool`, *optional*, defaults to `True`): Whether the encoder's outputs are handed on as
            maps (N, D, rows, columns); otherwise as sequences (N, T, D) with the class token first, as DPT reads them.

    Attributes:
        stage_names: All that can be handed on.
        patch_size: Pixels of a side of what a token stands for: the ResNet's stride times the patch on its map. A pair
            (height, width) where the two differ.
        map_strides: The stride of each of `stage_names` in pixels; a pair where height and width differ.

    Raises:
        ValueError: If no model can run with `hybrid_config`, or there is no output of one of these names.

    Example:

    ```python
    >>> from vit_hybrid import ViTHybridBackboneConfig, ViTHybridConfig

    >>> hybrid = ViTHybridConfig.from_preset("R50+B/16")
    >>> config = ViTHybridBackboneConfig.of(hybrid, out_features=["stage1", "stage2", "layer12"])
    >>> config.patch_size, config.map_strides["stage1"]
    (16, 4)
    ```"""

    model_type = "vit-hybrid-backbone"

    hybrid_config: Any = None
    reshape_hidden_states: bool = True
    _out_features: list[str] | None = None
    _out_indices: list[int] | None = None

    hidden_size = _of_the_hybrid("hidden_size")
    num_hidden_layers = _of_the_hybrid("num_hidden_layers")
    num_attention_heads = _of_the_hybrid("num_attention_heads")
    intermediate_size = _of_the_hybrid("intermediate_size")
    initializer_range = _of_the_hybrid("initializer_range")
    image_size = _of_the_hybrid("image_size")
    num_channels = _of_the_hybrid("num_channels")
    # The layers ask the hybrid's. Not by `sub_configs`, as in `ViTHybridConfig`.
    _attn_implementation_internal = _of_the_hybrid("_attn_implementation_internal")

    def __post_init__(self, **kwargs: Any) -> None:
        if not isinstance(self.hybrid_config, PreTrainedConfig):
            fields = {} if self.hybrid_config is None else self.hybrid_config
            if not isinstance(fields, Mapping):
                raise ValueError(
                    f"hybrid_config is a {type(fields).__name__}; give a ViTHybridConfig, a dictionary of its fields, "
                    "or None."
                )
            self.hybrid_config = ViTHybridConfig.from_dict(dict(fields))
        self.set_output_features_output_indices(kwargs.pop("out_features", None), kwargs.pop("out_indices", None))
        kwargs.setdefault("attn_implementation", self.hybrid_config._attn_implementation)
        super().__post_init__(**kwargs)

    @classmethod
    def of(cls, hybrid: ViTHybridConfig, **fields: Any) -> "ViTHybridBackboneConfig":
        """The configuration of this hybrid as a backbone; the hybrid's is copied, and stays as it is.

        Args:
            hybrid: Of a classifier, or of a model without a head.
            **fields: `out_features`, `out_indices`, `reshape_hidden_states`.
        """
        return cls(hybrid_config=copy.deepcopy(hybrid), **fields)

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: Any, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """As in `PreTrainedConfig`; a classifier's fields are given back as those of its backbone."""
        fields, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        if fields.get("model_type") == ViTHybridConfig.model_type:
            fields = {"model_type": cls.model_type, "hybrid_config": fields}
        return fields, kwargs

    @property
    def stage_names(self) -> list[str]:
        return self.hybrid_config.feature_names

    @property
    def patch_size(self) -> int | tuple[int, int]:
        maps = len(self.stage_names) - self.num_hidden_layers
        stride = map_strides(self.hybrid_config.backbone_config)[maps - 1]
        height, width = as_pair(self.hybrid_config.patch_size)
        return stride * height if height == width else (stride * height, stride * width)

    @property
    def map_strides(self) -> dict[str, int | tuple[int, int]]:
        strides: list[int | tuple[int, int]] = [*map_strides(self.hybrid_config.backbone_config)]
        maps = len(self.stage_names) - self.num_hidden_layers
        strides[maps:] = [self.patch_size] * self.num_hidden_layers
        return dict(zip(self.stage_names, strides, strict=True))

    def check_runnable(self) -> None:
        """See `ViTHybridConfig.check_runnable`."""
        self.hybrid_config.check_runnable()


__all__ = ["ViTHybridBackboneConfig"]
