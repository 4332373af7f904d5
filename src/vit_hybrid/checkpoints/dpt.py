"""DPT-hybrid (Ranftl et al., "Vision Transformers for Dense Prediction", arXiv 2103.13413), whose encoder is a hybrid:
read out of a model of transformers' `DPT` with `is_hybrid=True`, such as `Intel/dpt-hybrid-midas`, and put back.
"""

from __future__ import annotations

import copy
import os
from typing import Any

import torch
from transformers import DPTConfig, DPTForDepthEstimation, DPTForSemanticSegmentation, DPTModel

from ..errors import one_line
from ..model.configuration import ViTHybridConfig
from ..model.modeling import ViTHybridForImageClassification, ViTHybridModel
from .files import CONFIG_FILE, ModelLoadError, needing_code, read_json
from .matching import CheckpointError, require_match

# What DPT's ResNet computes with, which its configuration does not say (transformers, models/bit/modeling_bit.py).
NUMERICS: dict[str, Any] = {
    "weight_standardization": "variance",
    "weight_standardization_eps": 1e-8,
    "group_norm_eps": 1e-5,
}
# Fields that both configurations have, under one name and meaning.
SHARED_FIELDS = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act"),
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "initializer_range", "layer_norm_eps"),
    *("image_size", "num_channels", "qkv_bias"),
)
# Of these hang the numbers that an encoder gives.
COMPUTED_WITH = (*NUMERICS, "layer_norm_eps", "hidden_act", "num_attention_heads")
# The one table of names, ours and DPT's, of those that differ.
RENAMES = (
    ("embeddings.patch_embeddings.backbone.", "embeddings.backbone."),
    ("embeddings.patch_embeddings.projection.", "embeddings.projection."),
)
# How positions are made for another grid (models/dpt/modeling_dpt.py), as `resize_position_embeddings` calls it.
POSITIONS: dict[str, Any] = {"mode": "bilinear", "antialias": False}
# The pooler that a hybrid has: as wide as its tokens, and with this activation.
POOLER_ACT = "tanh"


class _Encoder(DPTModel):
    """A checkpoint's DPT without what stands behind its encoder, of which transformers then says nothing."""

    _keys_to_ignore_on_load_unexpected = [r"^(neck|head|auxiliary_head)\.", r"^(dpt\.)?pooler\."]  # noqa: RUF012


def hybrid_config(config: DPTConfig) -> ViTHybridConfig:
    """The configuration of a DPT-hybrid's encoder, with its numerics.

    Raises:
        ValueError: If it is not of a DPT-hybrid, or its encoder is none that a hybrid can be.
    """
    if not getattr(config, "is_hybrid", False):
        raise ValueError("this DPT is no hybrid (is_hybrid is not set): its encoder reads patches of pixels")
    fields = {name: getattr(config, name) for name in SHARED_FIELDS}
    return ViTHybridConfig(backbone_config=copy.deepcopy(config.backbone_config), patch_size=1, **fields, **NUMERICS)


def from_dpt(model: DPTModel | DPTForDepthEstimation | DPTForSemanticSegmentation) -> ViTHybridModel:
    """The encoder of a DPT-hybrid: the same numbers, from a copy of its weights.

    Its `last_hidden_state` is DPT's, its ResNet's maps and layers are what DPT's neck reads (`forward_features`).

    Args:
        model: With or without a head. Its pooler comes along if it is one that a hybrid can have.

    Raises:
        ValueError: If it is no DPT-hybrid; `CheckpointError`: if its weights do not fit.
    """
    dpt = _encoder_of(model)
    config = hybrid_config(dpt.config)
    pooler = dpt.pooler is not None
    if pooler and (dpt.config.pooler_act, dpt.config.pooler_output_size) != (POOLER_ACT, config.hidden_size):
        pooler = False
    with torch.device("meta"):  # its own weights would be thrown away
        hybrid = ViTHybridModel(config, add_pooling_layer=pooler)
    weights = {_renamed(name, to_dpt=False): weight.detach().clone() for name, weight in dpt.state_dict().items()}
    weights = {name: weight for name, weight in weights.items() if pooler or not name.startswith("pooler.")}
    _require_fit(hybrid, weights, "this DPT-hybrid")
    hybrid.load_state_dict(weights, assign=True)
    return hybrid.train(model.training)


def into_dpt(
    model: ViTHybridModel | ViTHybridForImageClassification,
    dpt: DPTModel | DPTForDepthEstimation | DPTForSemanticSegmentation,
) -> None:
    """Puts a hybrid in the place of a DPT-hybrid's encoder: its weights become copies of the hybrid's.

    The neck and the head stay as they are, and a pooler where the hybrid has none.

    Raises:
        ValueError: If `dpt` is no DPT-hybrid, or computes with other numbers than the hybrid; `CheckpointError`: if its
            weights have other shapes.
    """
    encoder = _encoder_of(dpt)
    hybrid: ViTHybridModel = model.base_model
    theirs = hybrid_config(encoder.config)
    for name in COMPUTED_WITH:
        ours, wanted = getattr(hybrid.config, name), getattr(theirs, name)
        if ours != wanted:
            raise ValueError(
                f"the hybrid has {name} {ours!r} and this DPT-hybrid computes with {wanted!r}, so that it would give "
                "other numbers; make the two alike first"
            )
    weights = {_renamed(name, to_dpt=True): weight for name, weight in hybrid.state_dict().items()}
    if hybrid.pooler is None or encoder.pooler is None:
        weights = {name: weight for name, weight in weights.items() if not name.startswith("pooler.")}
        weights |= {name: weight for name, weight in encoder.state_dict().items() if name.startswith("pooler.")}
    _require_fit(encoder, weights, "the hybrid")
    encoder.load_state_dict(weights)


def read_config(source: str | os.PathLike[str]) -> ViTHybridConfig:
    """The configuration of the encoder of the DPT-hybrid in a folder or on the hub.

    Raises:
        ModelLoadError: If there is none that could be used.
    """
    name = os.fspath(source)
    try:
        return hybrid_config(DPTConfig.from_dict(read_json(name, name, CONFIG_FILE)))
    except ModelLoadError:
        raise
    except Exception as error:  # foreign files fail in as many ways as they have readers
        raise ModelLoadError(f"{name}: cannot use its {CONFIG_FILE}: {one_line(error)}") from error


def load(source: str | os.PathLike[str], dtype: torch.dtype | str = "auto") -> ViTHybridModel:
    """The encoder of the DPT-hybrid in a folder or on the hub, in evaluation mode and without a pooler.

    Args:
        source: What `DPTForDepthEstimation.from_pretrained` (or `DPTForSemanticSegmentation`'s) reads.
        dtype: What the weights are to be in; "auto" is as they were saved.

    Raises:
        ModelLoadError: If there is none that could be used, or a weight of its encoder is missing.
    """
    name = os.fspath(source)
    read_config(name)
    try:
        dpt, report = _Encoder.from_pretrained(name, add_pooling_layer=False, dtype=dtype, output_loading_info=True)
    except Exception as error:  # foreign files fail in as many ways as they have readers
        if (reason := needing_code(error)) is not None:
            raise ModelLoadError(f"{name}: its file of weights {reason}.") from error
        raise ModelLoadError(f"{name}: cannot load the model: {one_line(error)}") from error
    if report["missing_keys"]:
        expected = {key: tuple(weight.shape) for key, weight in dpt.state_dict().items()}
        missing = {key: expected[key] for key in sorted(report["missing_keys"])}
        raise CheckpointError(name, "the encoder's weights are not all there", missing=missing)
    return from_dpt(dpt)


def _encoder_of(model: DPTModel | DPTForDepthEstimation | DPTForSemanticSegmentation) -> DPTModel:
    dpt = getattr(model, "dpt", model)
    if not isinstance(dpt, DPTModel):
        raise ValueError(f"this is a {type(model).__name__}; give a DPT model with is_hybrid=True")
    return dpt


def _renamed(name: str, to_dpt: bool) -> str:
    for ours, theirs in RENAMES:
        before, after = (ours, theirs) if to_dpt else (theirs, ours)
        if name.startswith(before):
            return after + name.removeprefix(before)
    return name


def _require_fit(model: torch.nn.Module, weights: dict[str, torch.Tensor], source: str) -> None:
    expected = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    require_match(expected, {name: tuple(weight.shape) for name, weight in weights.items()}, source)


__all__ = ["NUMERICS", "POSITIONS", "from_dpt", "hybrid_config", "into_dpt", "load", "read_config"]
