"""A configuration's fields and names of a classifier's weights, without transformers, for what is built without it."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

# The defaults of `ViTHybridConfig` and of `BitConfig`, as far as they say what is computed: files leave out what is as
# by default. tests/bundles/test_plain_config.py holds them to the classes.
DEFAULTS: dict[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "image_size": 224,
    "patch_size": 1,
    "num_channels": 3,
    "qkv_bias": True,
    "weight_standardization": "variance",
    "weight_standardization_eps": 1e-8,
    "group_norm_eps": 1e-5,
}
BIT_DEFAULTS: dict[str, Any] = {
    "embedding_size": 64,
    "hidden_sizes": [256, 512, 1024, 2048],
    "depths": [3, 4, 6, 3],
    "layer_type": "preactivation",
    "hidden_act": "relu",
    "num_groups": 32,
    "embedding_dynamic_padding": False,
    "output_stride": 32,
    "width_factor": 1,
}
# Fields that name the backbone otherwise.
OTHER_WAYS = ("backbone", "backbone_kwargs", "use_pretrained_backbone", "use_timm_backbone")
DEFAULT_LABELS = 2

# What names of weights in a state dict begin with.
EMBEDDINGS = "vit.embeddings"
BIT = f"{EMBEDDINGS}.patch_embeddings.backbone.bit"
CLASSIFIER = "classifier"


def plain_config(fields: Mapping[str, Any]) -> Any:
    """An object with the configuration's attributes that a program depends on, by the names that `ViTHybridConfig` and
    `BitConfig` have for them; None where the fields are not plainly a hybrid's, and the classes have to say what they
    mean or what is wrong with them.

    Args:
        fields: The content of a `config.json`.
    """
    if any(fields.get(name) for name in OTHER_WAYS):
        return None
    found = _filled(fields, DEFAULTS, pairs=("image_size", "patch_size"))
    given = fields.get("backbone_config")
    if found is None or not isinstance(given, Mapping) or given.get("model_type") not in (None, "bit"):
        return None
    backbone = _filled(given, BIT_DEFAULTS)
    if backbone is None:
        return None
    padding = given.get("global_padding")
    stages = ["stem", *(f"stage{number}" for number in range(1, len(backbone["depths"]) + 1))]
    wanted = given.get("out_features")
    labels = fields.get("id2label")
    count = fields.get("num_labels", DEFAULT_LABELS if labels is None else len(labels))
    size, problem = fields.get("representation_size"), fields.get("problem_type")
    is_plain = (
        (padding is None or str(padding).upper() in ("SAME", "VALID"))
        and isinstance(wanted, list)
        and bool(wanted)
        and set(wanted) <= set(stages)
        and given.get("num_channels", found["num_channels"]) == found["num_channels"]
        and found["hidden_size"] % found["num_attention_heads"] == 0
        and len(backbone["hidden_sizes"]) >= len(backbone["depths"])
        and backbone["layer_type"] in ("bottleneck", "preactivation")
        and found["weight_standardization"] in ("variance", "std")
        and (size is None or type(size) is int)
        and (problem is None or isinstance(problem, str))
        and (labels is None or (isinstance(labels, Mapping) and {*labels} == {str(n) for n in range(len(labels))}))
        and type(count) is int
        and (labels is None or count == len(labels))
    )
    if not is_plain:
        return None
    names = {n: f"LABEL_{n}" for n in range(count)} if labels is None else {int(n): labels[n] for n in labels}
    return SimpleNamespace(
        **found,
        representation_size=size,
        problem_type=problem,
        num_labels=count,
        id2label=names,
        backbone_config=SimpleNamespace(
            **backbone,
            num_channels=found["num_channels"],
            global_padding=None if padding is None else str(padding).upper(),
            stage_names=stages,
            out_features=wanted,
        ),
    )


def _filled(
    fields: Mapping[str, Any], defaults: Mapping[str, Any], pairs: tuple[str, ...] = ()
) -> dict[str, Any] | None:
    """The fields that have defaults, these where nothing is said; None where one is of another kind."""
    found = {name: fields.get(name, default) for name, default in defaults.items()}
    for name, value in found.items():
        kind = type(defaults[name])
        if name in pairs and isinstance(value, list):
            if len(value) != 2 or any(type(side) is not int for side in value):
                return None
        elif kind is list:
            if not isinstance(value, list) or any(type(one) is not int for one in value):
                return None
        elif type(value) is not kind and not (kind is float and type(value) is int):
            return None
        least = 0 if name == "num_hidden_layers" else 1
        if kind is int and min(value if isinstance(value, list) else [value]) < least:
            return None
    return found


__all__ = ["BIT", "CLASSIFIER", "EMBEDDINGS", "plain_config"]
