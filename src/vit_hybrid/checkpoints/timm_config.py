"""timm's `config.json`: what it says of a model and of the preparation of its images, read and written."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from PIL.Image import Resampling

from ..images.image_processing import ViTHybridImageProcessor
from ..model.configuration import ViTHybridConfig
from ..model.geometry import as_pair, stage_widths
from ..model.presets import PRESETS, Preset
from .files import CONFIG_FILE
from .matching import CheckpointError
from .published import CROP_SHARE, INTERPOLATION, LARGE_CROP_SHARE, MEAN, STD, crop_share
from .timm_files import RELEASES

# The ResNet under timm's hybrids (models/vision_transformer_hybrid.py, models/resnetv2.py).
NUM_GROUPS = 32
STEM_WIDTH = 64
FIRST_STAGE_WIDTH = 256  # and twice as wide from stage to stage
# timm's names of activations that transformers has too, and transformers' names.
ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "quick_gelu": "quick_gelu", "relu": "relu"}
DEFAULT_ACTIVATION = "gelu"

# Arguments of timm's classes that the weights tell of; that are read; and that change nothing in inference.
ARGUMENTS_TOLD = {"depth", "embed_dim", "in_chans", "mlp_ratio", "num_classes", "patch_size", "qkv_bias"}
ARGUMENTS_READ = {"act_layer", "attn_drop_rate", "drop_path_rate", "img_size", "num_heads"}
ARGUMENTS_IDLE = {
    *("drop_rate", "pos_drop_rate", "proj_drop_rate", "patch_drop_rate", "weight_init", "fix_init"),
    *("dynamic_img_size", "strict_img_size", "out_indices"),
}
# Any other argument must be as if it had not been given.
ARGUMENT_DEFAULTS: dict[str, Any] = {
    "global_pool": "token",
    "pos_embed": "learn",
    "class_token": True,
    "final_norm": True,
    "proj_bias": True,
}

# What timm takes where a configuration says nothing (data/constants.py).
DATA_DEFAULTS: dict[str, Any] = {
    "interpolation": "bicubic",
    "crop_pct": 0.875,
    "crop_mode": "center",
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
}
CROP_MODES = ("center", "squash")  # "border" as well, but no image processor here does that


class _Kind(NamedTuple):
    words: str
    holds: Callable[[Any], bool]


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _are(count: int, value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == count and all(map(_is_count, value))


_COUNT = _Kind("a whole number above 0", _is_count)
_SIDES = _Kind("a whole number above 0, or two", lambda value: _is_count(value) or _are(2, value))
_RATE = _Kind("a number from 0 to below 1", lambda value: _is_number(value) and 0 <= value < 1)
_ABOVE_0 = _Kind("a number above 0", lambda value: _is_number(value) and value > 0)
_TEXT = _Kind("a name", lambda value: isinstance(value, str))
_OBJECT = _Kind("an object", lambda value: isinstance(value, Mapping))
_NUMBERS = _Kind("a list of numbers", lambda value: isinstance(value, list | tuple) and all(map(_is_number, value)))
_TEXTS = _Kind(
    "names by their index",
    lambda value: (
        all(isinstance(each, str) for each in (value.values() if isinstance(value, Mapping) else value))
        and all(str(key).isdecimal() for key in (value if isinstance(value, Mapping) else ()))
        if isinstance(value, Mapping | list | tuple)
        else False
    ),
)
_SYNONYMS = _Kind(
    "an object of names", lambda value: _OBJECT.holds(value) and all(isinstance(each, str) for each in value.values())
)

# What fields must be to be of use, where they are there.
MODEL_FIELDS = {"architecture": _TEXT, "model_args": _OBJECT, "pretrained_cfg": _OBJECT, "num_groups": _COUNT}
ARGUMENT_FIELDS = {
    "embed_dim": _COUNT,
    "depth": _COUNT,
    "num_heads": _COUNT,
    "mlp_ratio": _ABOVE_0,
    "patch_size": _SIDES,
    "img_size": _SIDES,
    "act_layer": _TEXT,
    "drop_path_rate": _RATE,
    "attn_drop_rate": _RATE,
}
DATA_FIELDS = {
    "input_size": _Kind("channels, height and width", lambda value: _are(3, value)),
    "interpolation": _TEXT,
    "crop_pct": _ABOVE_0,
    "crop_mode": _TEXT,
    "mean": _NUMBERS,
    "std": _NUMBERS,
    "label_names": _TEXTS,
    "label_descriptions": _SYNONYMS,
}


@dataclass(frozen=True)
class Description:
    """What a `config.json` says, checked.

    Attributes:
        architecture: timm's name, without a tag.
        arguments: What timm's classes are given beyond what the architecture says.
        data: How images are prepared.
        labels: A name for each class, or none.
        num_groups: Of the group norms; only files written here say so.
    """

    architecture: str | None
    arguments: Mapping[str, Any]
    data: Mapping[str, Any]
    labels: tuple[str, ...]
    num_groups: int

    @classmethod
    def of(cls, fields: Mapping[str, Any], origin: str) -> Description:
        """Reads a `config.json`, in today's form or in the older one that is not divided into parts.

        Raises:
            CheckpointError: If a field is of no use, or makes the model one that cannot run here.
        """
        fields = _checked(fields, MODEL_FIELDS, origin)
        arguments = _checked(fields.get("model_args", {}), ARGUMENT_FIELDS, origin)
        data = _checked({**fields, **fields.get("pretrained_cfg", {})}, DATA_FIELDS, origin)
        for argument, value in {"global_pool": fields.get("global_pool", "token"), **arguments}.items():
            if argument in ARGUMENTS_TOLD | ARGUMENTS_READ | ARGUMENTS_IDLE:
                continue
            if value != ARGUMENT_DEFAULTS.get(argument, False):
                reason = f"its {CONFIG_FILE} says {argument}={value!r}, which no hybrid here can do"
                raise CheckpointError(origin, reason)
        activation = arguments.get("act_layer", DEFAULT_ACTIVATION)
        if activation not in ACTIVATIONS:
            reason = f"its {CONFIG_FILE} says act_layer={activation!r}; expected one of {', '.join(ACTIVATIONS)}"
            raise CheckpointError(origin, reason)
        names = data.get("label_names", ())
        if isinstance(names, Mapping):
            names = [name for _, name in sorted(names.items(), key=lambda item: int(item[0]))]
        synonyms = data.get("label_descriptions", {})
        return cls(
            architecture=fields.get("architecture"),
            arguments=arguments,
            data=data,
            labels=tuple(synonyms.get(name, name) for name in names),
            num_groups=fields.get("num_groups", NUM_GROUPS),
        )

    @property
    def hidden_act(self) -> str:
        return ACTIVATIONS[self.arguments.get("act_layer", DEFAULT_ACTIVATION)]

    @property
    def image_sizes(self) -> list[int | Sequence[int]]:
        """The sizes of images that it speaks of, height and width, the surest first."""
        said = [self.arguments.get("img_size"), self.data.get("input_size", ())[1:]]
        return [size for size in said if size]


def _checked(fields: Mapping[str, Any], kinds: Mapping[str, _Kind], origin: str) -> dict[str, Any]:
    """`fields` without those that are null."""
    given = {name: value for name, value in fields.items() if value is not None}
    for name, kind in kinds.items():
        if name in given and not kind.holds(given[name]):
            raise CheckpointError(origin, f"its {CONFIG_FILE} says {name}={given[name]!r}; expected {kind.words}")
    return given


def published_data(image_size: tuple[int, int], num_channels: int = 3) -> dict[str, Any]:
    """How images of (height, width) are prepared for the published hybrids."""
    return {
        "input_size": [num_channels, *image_size],
        "interpolation": INTERPOLATION,
        "crop_pct": crop_share(image_size),
        "crop_mode": "center",
        "mean": list(MEAN),
        "std": list(STD),
    }


def processor_from(
    data: Mapping[str, Any], image_size: int | Sequence[int] | None, origin: str
) -> ViTHybridImageProcessor:
    """The image processor that does what `data` says, or as much for another size.

    Raises:
        CheckpointError: If there is no size.
        ValueError: If no image processor does that.
    """
    if image_size is not None:
        height, width = as_pair(image_size)
    elif "input_size" in data:
        _, height, width = data["input_size"]
    else:
        advice = "Give the name of a published hybrid, or a folder with timm's config.json."
        raise CheckpointError(origin, "nothing there says how images are prepared", advice=advice)
    data = {**DATA_DEFAULTS, **data}
    filters = {resampling.name.lower(): resampling for resampling in Resampling}
    if data["interpolation"] not in filters:
        raise ValueError(f"{origin}: interpolation is {data['interpolation']!r}; expected one of {', '.join(filters)}.")
    keeps_ratio = data["crop_mode"] == "center"
    if data["crop_mode"] not in CROP_MODES or (keeps_ratio and height != width):
        raise ValueError(
            f"{origin}: crop_mode is {data['crop_mode']!r} at {height}x{width} pixels, which a ViTHybridImageProcessor "
            "does not do the way timm does. Make one with a size and a crop_size of your choice."
        )
    resized = _resized((height, width), data["crop_pct"])
    return ViTHybridImageProcessor(
        size={"shortest_edge": resized[0]} if keeps_ratio else {"height": resized[0], "width": resized[1]},
        crop_size={"height": height, "width": width},
        resample=int(filters[data["interpolation"]]),
        image_mean=data["mean"],
        image_std=data["std"],
    )


def data_from(processor: ViTHybridImageProcessor, image_size: tuple[int, int]) -> dict[str, Any]:
    """timm's words for what an image processor does, for a model of (height, width).

    Raises:
        ValueError: If timm has none for it.
    """
    size, crop = processor.size, processor.crop_size
    keeps_ratio = "shortest_edge" in size
    resized = (size["shortest_edge"],) * 2 if keeps_ratio else (size.get("height"), size.get("width"))
    steps = (processor.do_resize, processor.do_center_crop, processor.do_rescale, processor.do_normalize)
    # The last share is in the middle of those that give this height.
    shares = (CROP_SHARE, LARGE_CROP_SHARE, image_size[0] / ((resized[0] or 0) + 0.5))
    share = next((share for share in shares if _resized(image_size, share) == resized), None)
    is_cropped_to_size = (crop["height"], crop["width"]) == image_size and (not keeps_ratio or len({*image_size}) == 1)
    if share is None or not all(steps) or not is_cropped_to_size:
        raise ValueError(
            "timm has no words for what the image processor does: it resizes, then crops to the model's size "
            f"({image_size[0]}x{image_size[1]}), by one share for height and width."
        )
    mean, std = processor.image_mean, processor.image_std
    return {
        "interpolation": Resampling(processor.resample).name.lower(),
        "crop_pct": share,
        "crop_mode": "center" if keeps_ratio else "squash",
        "mean": mean if isinstance(mean, list) else [mean] * len(MEAN),
        "std": std if isinstance(std, list) else [std] * len(STD),
    }


def _resized(image_size: tuple[int, int], share: float) -> tuple[int, int]:
    """What timm resizes to before it crops to (height, width)."""
    height, width = (math.floor(side / share) for side in image_size)
    return height, width


def fields_of(
    config: ViTHybridConfig, num_labels: int, image_processor: ViTHybridImageProcessor | None
) -> dict[str, Any]:
    """The `config.json` of a model. Where timm has no architecture with its ResNet, `architecture` is missing, and
    `num_groups` is there for `Description` alone.

    Raises:
        ValueError: If timm has no words for what the image processor does.
    """
    fields: dict[str, Any] = {}
    arguments: dict[str, Any] = {"num_heads": config.num_attention_heads}
    preset = _preset_of(config)
    if preset is None:
        fields["num_groups"] = config.backbone_config.num_groups
    else:
        # At this size, or at any.
        names = [release.partition(".")[0] for release in RELEASES if release.startswith(f"{preset.timm}_")]
        size = f"_{as_pair(config.image_size)[0]}"
        fields["architecture"] = next((name for name in names if name.endswith(size)), names[0])
        arguments = _arguments_of(config, preset)
    activation = next((timm for timm, ours in ACTIVATIONS.items() if ours == config.hidden_act), DEFAULT_ACTIVATION)
    for name, value, default in (
        ("drop_path_rate", config.drop_path_rate, 0),
        ("attn_drop_rate", config.attention_probs_dropout_prob, 0),
        ("act_layer", activation, DEFAULT_ACTIVATION),
    ):
        if value != default:
            arguments[name] = value

    fields |= {"num_classes": num_labels, "num_features": config.hidden_size, "global_pool": "token"}
    unnamed = [f"LABEL_{index}" for index in range(num_labels)]
    labels = [config.id2label.get(index, unnamed[index]) for index in range(num_labels)]
    if labels != unnamed and num_labels == config.num_labels:
        fields["label_names"] = labels
    data = published_data(as_pair(config.image_size), config.num_channels)
    if image_processor is not None:
        data |= data_from(image_processor, as_pair(config.image_size))
    stem = "stem." if config.backbone_config.depths else ""
    fields["model_args"] = arguments
    fields["pretrained_cfg"] = {
        **data,
        "fixed_input_size": True,
        "custom_load": False,
        "num_classes": num_labels,
        "pool_size": None,
        "first_conv": f"patch_embed.backbone.{stem}conv",
        "classifier": "head",
    }
    return fields


def _preset_of(config: ViTHybridConfig) -> Preset | None:
    """Of timm's hybrids on the same ResNet the one of the nearest width."""
    backbone = config.backbone_config
    depths = tuple(backbone.depths)
    widths = [STEM_WIDTH, *(FIRST_STAGE_WIDTH * 2**stage for stage in range(len(depths)))]
    if stage_widths(backbone) != widths or backbone.num_groups != NUM_GROUPS:
        return None
    presets = [preset for preset in PRESETS if preset.timm and preset.depths == depths]
    return min(presets, key=lambda preset: abs(preset.hidden_size - config.hidden_size), default=None)


def _arguments_of(config: ViTHybridConfig, preset: Preset) -> dict[str, Any]:
    """In what the model differs from timm's architecture, in the words of timm's classes."""
    mlp_ratio = config.intermediate_size / config.hidden_size
    if int(config.hidden_size * mlp_ratio) != config.intermediate_size:  # which is how timm goes back
        mlp_ratio = (config.intermediate_size + 0.5) / config.hidden_size
    patch_height, patch_width = as_pair(config.patch_size)
    own = {
        "embed_dim": (config.hidden_size, preset.hidden_size),
        "depth": (config.num_hidden_layers, preset.num_hidden_layers),
        "num_heads": (config.num_attention_heads, preset.num_attention_heads),
        "mlp_ratio": (mlp_ratio, preset.intermediate_size / preset.hidden_size),
        "patch_size": (patch_height if patch_height == patch_width else [patch_height, patch_width], preset.patch_size),
        "qkv_bias": (config.qkv_bias, True),
    }
    return {name: value for name, (value, default) in own.items() if value != default}


def untold(fields: Mapping[str, Any]) -> list[str]:
    """What timm needs to know of a single file and cannot read there."""
    if "architecture" not in fields:
        return ["no architecture of timm's has this ResNet: build the model from timm's classes to load the file there"]
    arguments = fields["model_args"]
    told = [f"{name}={arguments[name]}" for name in ("num_heads", "act_layer") if name in arguments]
    return [f"timm does not see in the file that the model is made with {', '.join(told)}"] if told else []


__all__ = [
    "FIRST_STAGE_WIDTH",
    "STEM_WIDTH",
    "Description",
    "data_from",
    "fields_of",
    "processor_from",
    "published_data",
    "untold",
]
