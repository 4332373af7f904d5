"""The hybrid as a backbone of detection, segmentation and depth models, for transformers' `AutoBackbone`."""

from typing import Any

import torch
from transformers.backbone_utils import BackboneMixin
from transformers.modeling_outputs import BackboneOutput
from transformers.utils.generic import can_return_tuple

from .configuration import ViTHybridConfig
from .feature_configuration import ViTHybridBackboneConfig
from .geometry import stage_widths
from .modeling import (
    ViTHybridEmbeddings,
    ViTHybridEncoder,
    ViTHybridForImageClassification,
    ViTHybridModel,
    ViTHybridPreTrainedModel,
)


class ViTHybridBackbone(BackboneMixin, ViTHybridPreTrainedModel):
    """Feature maps of images of any size: of the ResNet's stem and stages and of the encoder's layers.

    The maps are what the hybrid computes, to the bit, without the norm behind its last layer. A classifier's checkpoint
    is one of a backbone: what belongs to its head is left out.

    Args:
        config: Its configuration, or a classifier's, whose last layer is then handed on.

    Attributes:
        stage_names: All outputs that there are.
        out_features, out_indices: Those that are handed on.
        channels, strides: Their channels, and pixels of the image to a pixel of each.
        out_feature_channels, out_feature_strides: The same of all outputs, by name.
    """

    config: ViTHybridBackboneConfig
    config_class = ViTHybridBackboneConfig
    _keys_to_ignore_on_load_unexpected = [  # noqa: RUF012 - declared so by PreTrainedModel
        r"^(vit\.)?(layernorm|pooler)\.",
        r"^(classifier|pre_logits)\.",
        r"^(vit\.)?embeddings\.mask_token$",
    ]

    def __init__(self, config: ViTHybridBackboneConfig | ViTHybridConfig) -> None:
        if isinstance(config, ViTHybridConfig):  # `AutoBackbone.from_config` hands on what it is given
            config = ViTHybridBackboneConfig.of(config)
        super().__init__(config)
        hybrid = config.hybrid_config
        maps = len(config.stage_names) - hybrid.num_hidden_layers
        self.num_features = [
            *stage_widths(hybrid.backbone_config)[:maps],
            *[hybrid.hidden_size] * hybrid.num_hidden_layers,
        ]
        self.embeddings = ViTHybridEmbeddings(hybrid)
        self.encoder = ViTHybridEncoder(hybrid)
        self.post_init()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *model_args: Any, **kwargs: Any) -> Any:
        """As in `PreTrainedModel`, from a backbone's folder or hub id or a classifier's, with `out_features`,
        `out_indices` and `reshape_hidden_states` of the configuration, and `image_size`, for which the position
        embeddings are resized.

        Raises:
            ValueError: If there is no output of one of these names, or an image of that size is smaller than a patch.
        """
        if isinstance(kwargs.get("config"), ViTHybridConfig):  # as `AutoBackbone` hands on a classifier's
            names = ("out_features", "out_indices", "reshape_hidden_states")
            fields = {name: kwargs.pop(name) for name in names if name in kwargs}
            kwargs["config"] = ViTHybridBackboneConfig.of(kwargs["config"], **fields)
        return super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)

    @classmethod
    def of(cls, model: ViTHybridForImageClassification | ViTHybridModel, **fields: Any) -> "ViTHybridBackbone":
        """A model as a backbone; both share all layers and weights, and the hybrid's configuration.

        Args:
            model: With or without a head; it stays as it is.
            **fields: `out_features`, `out_indices`, `reshape_hidden_states` of the configuration.
        """
        with torch.device("meta"):  # its own weights would be thrown away
            backbone = cls(ViTHybridBackboneConfig(hybrid_config=model.config, **fields))
        backbone.embeddings, backbone.encoder = model.base_model.embeddings, model.base_model.encoder
        backbone.training = model.training
        return backbone

    @property
    def out_feature_strides(self) -> dict[str, int | tuple[int, int]]:
        return self.config.map_strides

    @property
    def strides(self) -> list[int | tuple[int, int]]:
        return [self.out_feature_strides[name] for name in self.out_features]

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **kwargs: Any,
    ) -> BackboneOutput:
        """Feature maps of images.

        Args:
            pixel_values: Preprocessed images, (N, num_channels, height, width), of any size; position embeddings are
                resized bicubically for another than `config.image_size`.
            output_hidden_states: Whether to give all outputs, `stage_names`; the encoder's as sequences (N, T, D).
            output_attentions: Whether to give each layer's attention weights, (N, H, T, T), by the eager function.

        Returns:
            `feature_maps`, one for each of `out_features`: (N, channels, h, w) of the ResNet, (N, D, rows, columns) of
            the encoder, or (N, T, D) there without `reshape_hidden_states`; `hidden_states`, `attentions`. Where no
            more than the ResNet's maps are wanted, the encoder does not run.

        Raises:
            ValueError: If the images have the wrong number of channels or are smaller than a patch.
        """
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        pixel_values = pixel_values.to(self.embeddings.patch_embeddings.projection.weight.dtype)
        tokens, maps = self.embeddings(pixel_values, interpolate_pos_encoding=True, output_feature_maps=True)
        outputs, attentions = maps, None
        # By name: an index may count from the end.
        is_of_encoder = self.out_features[-1] in self.stage_names[len(maps) :]
        if output_hidden_states or output_attentions or is_of_encoder:
            encoded = self.encoder(
                tokens, output_attentions=bool(output_attentions), output_hidden_states=True, **kwargs
            )
            outputs, attentions = (*maps, *encoded.hidden_states[1:]), encoded.attentions

        patch = self.embeddings.patch_embeddings.patch_size
        rows, columns = maps[-1].shape[-2] // patch[0], maps[-1].shape[-1] // patch[1]
        feature_maps = []
        for name, output in zip(self.stage_names, outputs, strict=False):
            if name not in self.out_features:
                continue
            if output.ndim == 3 and self.config.reshape_hidden_states:
                output = output[:, 1:].transpose(1, 2).unflatten(2, (rows, columns)).contiguous()  # (N, D, h, w)
            feature_maps.append(output)
        return BackboneOutput(
            feature_maps=tuple(feature_maps),
            hidden_states=tuple(outputs) if output_hidden_states else None,
            attentions=attentions,
        )


__all__ = ["ViTHybridBackbone"]
