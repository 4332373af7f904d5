"""timm's hybrids: their weights read and written, in timm's names.

Nearly everything is inferred from the names and shapes of the weights. What these cannot tell (the number of heads, a
grid that is no square, labels) comes from timm's `config.json`, from a name, or from what all published hybrids have in
common. The configuration carries timm's numerics, so that logits are the same. timm itself is not needed.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import BitConfig
from transformers.utils import logging

from ..images.image_processing import ViTHybridImageProcessor
from ..model.configuration import ViTHybridConfig
from ..model.geometry import POOL_STRIDE, STEM_STRIDE, as_pair, feature_map_size, stage_strides
from ..model.modeling import ViTHybridForImageClassification, ViTHybridModel
from ..model.presets import PRESETS, resolve
from .adapting import adapt
from .matching import Approximate, CheckpointError, Shape, refused, require_match
from .published import named_release
from .timm_config import (
    FIRST_STAGE_WIDTH,
    STEM_WIDTH,
    Description,
    fields_of,
    processor_from,
    published_data,
    untold,
)
from .timm_files import Checkpoint, Source, is_file_name, open_checkpoint, read_fields, write

logger = logging.get_logger(__name__)

# What timm's code computes with (layers/norm.py, layers/norm_act.py, models/vision_transformer_hybrid.py).
NUMERICS: dict[str, Any] = {
    "weight_standardization": "variance",
    "weight_standardization_eps": 1e-8,
    "group_norm_eps": 1e-5,
    "layer_norm_eps": 1e-6,
    "hidden_act": "gelu",
}
EXACT_GELUS = ("gelu", "gelu_python")  # two implementations of one formula
# What the ResNet under its hybrids always is (models/vision_transformer_hybrid.py, models/resnetv2.py).
BACKBONE: dict[str, Any] = {
    "layer_type": "bottleneck",
    "global_padding": "SAME",
    "embedding_dynamic_padding": True,
    "hidden_act": "relu",
}
# Heads of all published hybrids are this wide.
HEAD_WIDTH = 64

# The one table of names, ours and timm's. {n} is a number, {unit} a layer of a bottleneck, {w} "weight" or "bias", and
# {stem} timm's "stem." or, where no stage follows, nothing. Rows of one timm name are stacked there, in this order.
_BIT = "vit.embeddings.patch_embeddings.backbone.bit"
_STAGE = f"{_BIT}.encoder.stages.{{n}}"
RENAMES = (
    ("vit.embeddings.cls_token", "cls_token"),
    ("vit.embeddings.position_embeddings", "pos_embed"),
    (f"{_BIT}.embedder.convolution.{{w}}", "patch_embed.backbone.{stem}conv.{w}"),
    (f"{_BIT}.embedder.norm.{{w}}", "patch_embed.backbone.{stem}norm.{w}"),
    (f"{_STAGE}.layers.{{n}}.{{unit}}.{{w}}", "patch_embed.backbone.stages.{n}.blocks.{n}.{unit}.{w}"),
    ("vit.embeddings.patch_embeddings.projection.{w}", "patch_embed.proj.{w}"),
    ("vit.encoder.layer.{n}.layernorm_before.{w}", "blocks.{n}.norm1.{w}"),
    ("vit.encoder.layer.{n}.attention.attention.query.{w}", "blocks.{n}.attn.qkv.{w}"),
    ("vit.encoder.layer.{n}.attention.attention.key.{w}", "blocks.{n}.attn.qkv.{w}"),
    ("vit.encoder.layer.{n}.attention.attention.value.{w}", "blocks.{n}.attn.qkv.{w}"),
    ("vit.encoder.layer.{n}.attention.output.dense.{w}", "blocks.{n}.attn.proj.{w}"),
    ("vit.encoder.layer.{n}.layernorm_after.{w}", "blocks.{n}.norm2.{w}"),
    ("vit.encoder.layer.{n}.intermediate.dense.{w}", "blocks.{n}.mlp.fc1.{w}"),
    ("vit.encoder.layer.{n}.output.dense.{w}", "blocks.{n}.mlp.fc2.{w}"),
    ("vit.layernorm.{w}", "norm.{w}"),
    ("pre_logits.dense.{w}", "pre_logits.fc.{w}"),  # in releases of timm up to 0.5 only
    ("classifier.{w}", "head.{w}"),
)
_PLACES = {"{n}": r"(\d+)", "{unit}": r"((?:conv|norm)[123]|downsample\.(?:conv|norm))", "{w}": r"(weight|bias)"}
_PLACE = re.compile("|".join(map(re.escape, _PLACES)))
_PATTERNS = tuple(
    (re.compile(_PLACE.sub(lambda place: _PLACES[place[0]], ours.replace(".", r"\."))), _PLACE.sub("{}", timm))
    for ours, timm in RENAMES
)
# Weights that timm of today has no place for, and what they are.
WITHOUT_PLACE = {
    "pooler.": "a pooler",
    "mask_token": "a mask token",
    "pre_logits.": "a pre_logits layer (representation_size), which timm of today leaves out without a word",
}

# Weights of other models: beginnings of names that give them away, what these are, and what to do.
FOREIGN = (
    (
        ("patch_embed.backbone.conv1.", "patch_embed.backbone.layer1."),
        "this is a hybrid on timm's ResNet-D (vit_*_resnet26d, vit_*_resnet50d), which is no BiT ResNet",
        "",
    ),
    (
        ("patch_embed.backbone.0.", "image_encoder.model.patch_emb."),
        "this is MobileCLIP's image encoder (vit_base_mci), whose convolutions are no BiT ResNet",
        "",
    ),
    (
        ("vit.embeddings.", "embeddings.patch_embeddings."),
        "the weights have the names of transformers, not timm's",
        "Load them with ViTHybridForImageClassification.from_pretrained.",
    ),
)

# What a name promises of the weights, as `Preset` calls it.
DIMENSIONS = ("depths", "patch_size", "hidden_size", "num_hidden_layers", "intermediate_size")


def load(
    source: Source,
    name: str | None = None,
    image_size: int | Sequence[int] | None = None,
    num_labels: int | None = None,
    *,
    num_heads: int | None = None,
    positions: str = "bicubic",
    antialias: bool = True,
) -> ViTHybridForImageClassification:
    """The model of timm's weights, in evaluation mode and in their precision, computing what timm computes.

    Checkpoints of timm's training script are read too (averaged weights before the others), and prefixes that wrappers
    put before names are taken off. Pickled files are read with `weights_only`, so that no code in them runs. A
    `pre_logits` layer, as timm had it up to release 0.5, is kept and used.

    Args:
        source: A state dict; a `.safetensors`, `.bin`, `.pth` or `.pth.tar` file; a folder with such a file and timm's
            `config.json`; or a hub id: `timm/vit_base_r50_s16_384.orig_in21k_ft_in1k`, also without `timm/`, with
            `hf-hub:` before or `@revision` behind it.
        name: A published hybrid, as timm or the papers call it, that the weights are held against, so that the lack of
            its last layers is noticed. Nothing else needs it.
        image_size: Side or (height, width) in pixels, if the model is to take other images than the weights were made
            for; its position embeddings are then resized.
        num_labels: Classes of a new, zero-initialized classifier in place of the source's; 0 for none.
        num_heads: Attention heads of a layer, whatever the source and `name` tell; needed where neither does and heads
            are not 64 wide.
        positions: How position embeddings are resized: "bicubic" as in timm, "bilinear" or "bilinear-jax".
        antialias: Whether the first two smooth where they make the grid smaller, as timm does.

    Raises:
        CheckpointError: If the source is damaged, cannot be reached, or does not hold exactly the weights of a hybrid;
            it lists what is missing, unexpected and misfitting.
        FileNotFoundError: If there is no such file.
        ValueError: If `name` is no BiT hybrid, or no model can run at `image_size`.
    """
    checkpoint = _open(source, name)
    model, plan = _empty_model(checkpoint, name, image_size, num_heads)
    model = model.to(_common_dtype(checkpoint)).to_empty(device="cpu")
    places = model.state_dict()
    with torch.no_grad():
        for timm_name, names in plan.items():
            for place, part in zip(names, checkpoint.weights[timm_name].chunk(len(names)), strict=True):
                places[place].copy_(part)
    if image_size is not None and as_pair(image_size) == as_pair(model.config.image_size):
        image_size = None  # as in timm, embeddings of the right size are not interpolated
    return adapt(model.eval(), image_size, num_labels, positions, antialias)


def read_config(
    source: Source,
    name: str | None = None,
    *,
    num_heads: int | None = None,
) -> ViTHybridConfig:
    """The configuration of the model that `load` would return, from names, shapes and `config.json` alone.

    Raises:
        CheckpointError, FileNotFoundError, ValueError: See `load`.
    """
    model, _ = _empty_model(_open(source, name, headers_only=True), name, None, num_heads)
    return model.config


def image_processor(
    source: str | os.PathLike[str] | Mapping[str, Any], image_size: int | Sequence[int] | None = None
) -> ViTHybridImageProcessor:
    """The image processor of timm's preprocessing: resize, center crop, mean and deviation.

    timm resizes the shortest edge to floor(size / crop_pct): 248 pixels for a crop of 224. It crops with torchvision,
    which rounds halves to even numbers: where the border to cut off is odd, its crop may lie one pixel further.

    Args:
        source: A published hybrid as timm or the papers call it (nothing is downloaded then); a folder, file or hub id
            as for `load`; or the content of timm's `config.json`.
        image_size: Side or (height, width) in pixels of the crop, if it is not the source's own.

    Raises:
        CheckpointError: If the source cannot be read or says nothing of preprocessing.
        FileNotFoundError: If there is no such file.
        ValueError: If the name is no BiT hybrid, or if no `ViTHybridImageProcessor` prepares images that way.
    """
    if isinstance(source, Mapping):
        origin, data = "the configuration", Description.of(source, "the configuration").data
    else:
        origin = os.fspath(source)
        named = named_release(origin)
        if named is None:
            data = Description.of(read_fields(source), origin).data
        else:
            data = published_data(as_pair(named.image_size))
    return processor_from(data, image_size, origin)


def save(
    model: ViTHybridForImageClassification | ViTHybridModel,
    path: str | os.PathLike[str],
    *,
    image_processor: ViTHybridImageProcessor | None = None,
    approximate: Approximate = False,
) -> None:
    """Writes a model with timm's names, so that timm loads it strictly and `load` gives the same weights back.

    What a folder's `config.json` says (heads, image size, labels, preprocessing) a single file carries along for `load`
    and `image_processor`; timm does not read it there. Of dropout rates only those of attention and of paths are kept.

    Args:
        model: A classifier, or a `ViTHybridModel` without a pooler.
        path: A `.safetensors`, `.bin`, `.pt` or `.pth` file; or a folder (a name without an ending), which gets
            `model.safetensors` and timm's `config.json`, and which timm opens as `local-dir:<folder>`.
        image_processor: What to say of preprocessing; how the published hybrids are evaluated, by default.
        approximate: Whether to write the weights of a model with other epsilons, another form of weight
            standardization or another activation as well; timm's logits are then a little different, and a warning
            says why. "epsilons" writes them where nothing but epsilons differs.

    Raises:
        ValueError: If timm has no such model, for a mask token, a pooler, `pre_logits` or another reason; the message
            names all of them.
        TypeError: If `model` is no hybrid.
        OSError: If the file cannot be written.
    """
    if not isinstance(model, ViTHybridForImageClassification | ViTHybridModel):
        raise TypeError(f"model is a {type(model).__name__}; give a ViTHybridForImageClassification or ViTHybridModel.")
    target = Path(path)
    config = model.config
    weights = model.state_dict(prefix="vit." if isinstance(model, ViTHybridModel) else "")
    plan, unnamed = _plan(weights, has_stages=bool(config.backbone_config.depths))
    reasons = [*_without_place(unnamed, plan), *_other_structure(config)]
    if any(tensor.is_meta for tensor in weights.values()):
        reasons.append("its weights are not in memory")
    fields = fields_of(config, len(weights.get("classifier.weight", ())), image_processor)
    if "architecture" not in fields and not is_file_name(target):
        reasons.append("config.json has to name an architecture, and none of timm's has this ResNet (write a file)")
    differing = _other_numerics(config)
    unlike = refused(differing, approximate)
    if reasons or unlike:
        advice = " (Weights of other numerics can be written with approximate=True.)" if unlike and not reasons else ""
        listed = "; ".join([*reasons, *(differing[name] for name in unlike)])
        raise ValueError(f"timm has no such model, so {target} was not written: {listed}.{advice}")

    for loss in [*differing.values(), *(untold(fields) if is_file_name(target) else [])]:
        logger.warning(f"{target}: {loss}.")
    write({name: _stacked([weights[part] for part in parts]) for name, parts in plan.items()}, fields, target)


def _plan(names: Iterable[str], has_stages: bool) -> tuple[dict[str, list[str]], list[str]]:
    """For each name of timm's those of our weights that are stacked under it; and the names that timm has not."""
    rows: dict[str, list[tuple[int, str]]] = {}
    unnamed = []
    for name in names:
        for index, (pattern, timm) in enumerate(_PATTERNS):
            if match := pattern.fullmatch(name):
                timm_name = timm.replace("{stem}", "stem." if has_stages else "").format(*match.groups())
                rows.setdefault(timm_name, []).append((index, name))
                break
        else:
            unnamed.append(name)
    return {timm: [name for _, name in sorted(parts)] for timm, parts in rows.items()}, unnamed


def _open(source: Source, name: str | None, headers_only: bool = False) -> Checkpoint:
    """The checkpoint, once it is sure that the names given are not those of other models."""
    if name is not None:
        resolve(name)
    if isinstance(source, str):
        named_release(source)
    return open_checkpoint(source, headers_only)


def _empty_model(
    checkpoint: Checkpoint, name: str | None, image_size: int | Sequence[int] | None, num_heads: int | None
) -> tuple[ViTHybridForImageClassification, dict[str, list[str]]]:
    """The model of the weights, without memory for them, and which of its weights each of theirs is.

    Raises:
        CheckpointError: If the weights are not exactly those of a hybrid, or do not tell everything about it.
    """
    said = Description.of(checkpoint.fields, checkpoint.origin)
    promise = _promise(name, said, checkpoint.origin)
    described = _described(checkpoint.shapes)
    if promise is None:
        _warn_of_missing_layers(described, checkpoint.origin)
    else:
        described |= _held_to(promise, described, checkpoint.origin)

    hidden_size = described["hidden_size"]
    heads = num_heads or said.arguments.get("num_heads")
    if heads is None and promise is not None and hidden_size % promise["num_attention_heads"] == 0:
        heads = promise["num_attention_heads"]
    if heads is None and hidden_size % HEAD_WIDTH == 0:
        heads = hidden_size // HEAD_WIDTH

    depths, widths = described.pop("depths"), described.pop("hidden_sizes")
    backbone = BitConfig(
        **BACKBONE,
        depths=list(depths),
        out_features=[f"stage{len(depths)}" if depths else "stem"],
        hidden_sizes=[*widths, *(FIRST_STAGE_WIDTH * 2**stage for stage in range(len(widths), len(depths)))],
        embedding_size=described.pop("embedding_size"),
        num_channels=described["num_channels"],
        num_groups=said.num_groups,
    )
    num_patches = described.pop("num_patches")
    stride = STEM_STRIDE * POOL_STRIDE * 2 ** max(0, len(depths) - 1)
    row, column = (patch * stride for patch in as_pair(described["patch_size"]))  # pixels
    side = math.isqrt(num_patches)
    size = _first_size(
        # What is said of the weights, then a square, then the only size in sight.
        [
            *said.image_sizes,
            None if promise is None else promise["image_size"],
            (side * row, side * column) if side else None,
            image_size,
        ],
        num_patches,
        backbone,
        described["patch_size"],
    )
    try:
        config = ViTHybridConfig(
            **{**NUMERICS, "hidden_act": said.hidden_act},
            **{**described, **_labels(said, described["num_labels"], checkpoint.origin)},
            backbone_config=backbone,
            # What nothing tells does not keep us from saying what is wrong with the weights.
            num_attention_heads=heads or 1,
            image_size=size or [row, column * num_patches],
            drop_path_rate=said.arguments.get("drop_path_rate", 0.0),
            attention_probs_dropout_prob=said.arguments.get("attn_drop_rate", 0.0),
        )
    except ValueError as error:
        reason = str(error).rstrip(".")
        raise CheckpointError(checkpoint.origin, f"no hybrid has weights of these shapes ({reason})") from error

    with torch.device("meta"):
        model = ViTHybridForImageClassification(config)
    plan = _required_plan(model, checkpoint)
    if heads is None:
        reason = f"nothing tells how many attention heads share the width of {hidden_size}"
        raise CheckpointError(checkpoint.origin, reason, advice="Give num_heads.")
    if size is None:
        reason = f"its {num_patches} patches are no square, and nothing tells their rows and columns"
        advice = "Give image_size=(height, width), or timm's config.json beside the weights."
        raise CheckpointError(checkpoint.origin, reason, advice=advice)
    return model, plan


def _required_plan(model: ViTHybridForImageClassification, checkpoint: Checkpoint) -> dict[str, list[str]]:
    """The `_plan` of `model`, once it is sure that the checkpoint has these weights and no others."""
    places = model.state_dict()
    plan, _ = _plan(places, has_stages=bool(model.config.backbone_config.depths))
    expected: dict[str, Shape] = {}
    for timm_name, names in plan.items():
        first, *rest = places[names[0]].shape
        expected[timm_name] = (first * len(names), *rest)
    reason, advice = "the weights are not those of a timm hybrid", ""
    for beginnings, known_reason, known_advice in FOREIGN:
        if any(name.startswith(beginnings) for name in checkpoint.weights):
            reason, advice = known_reason, known_advice
    require_match(expected, checkpoint.shapes, checkpoint.origin, reason=reason, advice=advice)
    return plan


def _promise(name: str | None, said: Description, origin: str) -> dict[str, Any] | None:
    """What the name of the architecture promises: `DIMENSIONS`, `num_attention_heads` and `image_size`; None without
    a name."""
    if name is None and said.architecture is None:
        return None
    try:
        preset, image_size, _ = resolve(name or str(said.architecture))
    except ValueError as error:
        raise CheckpointError(origin, f"its config.json names {said.architecture!r}; {error}") from error
    arguments = said.arguments
    hidden_size = arguments.get("embed_dim", preset.hidden_size)
    mlp_ratio = arguments.get("mlp_ratio", preset.intermediate_size / preset.hidden_size)
    return {
        "depths": preset.depths,
        "patch_size": _one_or_pair(arguments.get("patch_size", preset.patch_size)),
        "hidden_size": hidden_size,
        "num_hidden_layers": arguments.get("depth", preset.num_hidden_layers),
        "intermediate_size": int(hidden_size * mlp_ratio),
        "num_attention_heads": arguments.get("num_heads", preset.num_attention_heads),
        "image_size": image_size,
    }


def _held_to(promise: Mapping[str, Any], described: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """The dimensions that the weights should have, which are not those that they have if they are another model's."""
    promised = {dimension: promise[dimension] for dimension in DIMENSIONS}
    if all(described[dimension] == value for dimension, value in promised.items()):
        return promised
    is_published = any(all(described[each] == getattr(preset, each) for each in DIMENSIONS) for preset in PRESETS)
    if described["hidden_size"] == promise["hidden_size"] or is_published:
        return promised
    # timm makes an architecture of any width and depth, but always on the same ResNet.
    logger.warning(f"{origin}: the width is {described['hidden_size']}, not the {promise['hidden_size']} of that name.")
    return {dimension: promised[dimension] for dimension in ("depths", "patch_size")}


def _warn_of_missing_layers(described: Mapping[str, Any], origin: str) -> None:
    for preset in PRESETS:
        same = all(described[each] == getattr(preset, each) for each in ("depths", "patch_size", "hidden_size"))
        if same and described["num_hidden_layers"] < preset.num_hidden_layers:
            logger.warning(
                f"{origin}: {described['num_hidden_layers']} layers are here, and {preset.name} has "
                f"{preset.num_hidden_layers}. If it should be that model, the weights are not complete."
            )


def _common_dtype(checkpoint: Checkpoint) -> torch.dtype:
    """The one precision that holds all weights exactly."""
    dtype: torch.dtype | None = None
    for name, tensor in checkpoint.weights.items():
        if not tensor.is_floating_point():
            raise CheckpointError(checkpoint.origin, f"{name} is of {tensor.dtype}; expected floating-point numbers")
        dtype = tensor.dtype if dtype is None else torch.promote_types(dtype, tensor.dtype)
    assert dtype is not None  # no weights do not match any model
    return dtype


def _described(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """The fields of a configuration that names and shapes tell, and `num_patches`, `depths`, `hidden_sizes` and
    `embedding_size`. Where weights are missing, others stand in for them, or the sizes of the published hybrids do."""

    def side(pattern: str, axis: int, default: int) -> int:
        """That side of the weights of such names, as most of them have it."""
        wanted = re.compile(pattern)
        found = [shape for name, shape in shapes.items() if wanted.fullmatch(name)]
        sides = Counter(shape[axis] or default for shape in found if -len(shape) <= axis < len(shape))
        return sides.most_common(1)[0][0] if sides else default

    def extent(pattern: str) -> int:
        """One more than the highest number in the pattern's group that has at least half of those below it beside it:
        one that is far away is a stray."""
        wanted = re.compile(pattern)
        numbers = sorted({int(match[1]) for match in map(wanted.match, shapes) if match})
        return max((number + 1 for rank, number in enumerate(numbers, start=1) if 2 * rank > number), default=0)

    stem, stage = r"patch_embed\.backbone\.(?:stem\.)?", r"patch_embed\.backbone\.stages\."
    depths = tuple(extent(rf"{stage}{index}\.blocks\.(\d+)\.") for index in range(extent(rf"{stage}(\d+)\.")))
    projected = side(r"patch_embed\.proj\.\w+", 0, PRESETS[0].hidden_size)
    hidden = side(r"cls_token|pos_embed|norm\.\w+|blocks\.\d+\.norm[12]\.\w+", -1, projected)
    patch = [side(r"patch_embed\.proj\.weight", axis, 1) for axis in (2, 3)]
    return {
        "depths": depths,
        "hidden_sizes": [
            side(rf"{stage}{index}\.blocks\.\d+\.(?:conv3|norm3|downsample\.\w+)\.\w+", 0, FIRST_STAGE_WIDTH * 2**index)
            for index in range(len(depths))
        ],
        "embedding_size": side(rf"{stem}(?:conv|norm)\.\w+", 0, STEM_WIDTH),
        "num_channels": side(rf"{stem}conv\.weight", 1, 3),
        "patch_size": patch[0] if patch[0] == patch[1] else patch,
        "num_patches": side("pos_embed", 1, 2) - 1,
        "hidden_size": hidden,
        "num_hidden_layers": extent(r"blocks\.(\d+)\."),
        "intermediate_size": side(r"blocks\.\d+\.mlp\.fc1\.\w+", 0, 4 * hidden),
        "qkv_bias": any(name.endswith("attn.qkv.bias") for name in shapes)
        or not any(name.endswith("attn.qkv.weight") for name in shapes),
        "representation_size": side(r"pre_logits\.fc\.\w+", 0, 0) or None,
        "num_labels": side(r"head\.\w+", 0, 0),
    }


def _one_or_pair(value: int | Sequence[int]) -> int | list[int]:
    first, second = as_pair(value)
    return first if first == second else [first, second]


def _first_size(
    sizes: Iterable[int | Sequence[int] | None], num_patches: int, backbone: BitConfig, patch_size: int | Sequence[int]
) -> int | list[int] | None:
    """The first of the image sizes that has so many patches; None if none of them has."""
    for size in sizes:
        if size:
            patch = as_pair(patch_size)
            rows, columns = (n // each for n, each in zip(feature_map_size(backbone, size), patch, strict=True))
            if rows * columns == num_patches:
                return _one_or_pair(size)
    return None


def _labels(said: Description, num_labels: int, origin: str) -> dict[str, Any]:
    """`id2label` and `label2id`, where as many labels are said as there are classes."""
    if len(said.labels) != num_labels:
        if said.labels:
            logger.warning(f"{origin}: {len(said.labels)} labels for {num_labels} classes; they are left out.")
        return {}
    return {
        "id2label": dict(enumerate(said.labels)),
        "label2id": {label: index for index, label in enumerate(said.labels)},
    }


def _stacked(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    tensors = [part.detach().cpu() for part in parts]
    return tensors[0].contiguous() if len(tensors) == 1 else torch.cat(tensors)


def _without_place(unnamed: Sequence[str], named: Iterable[str]) -> list[str]:
    """The weights that timm has no place for, in words: those without a name of timm's, and those it dropped."""
    reasons: dict[str, None] = {}
    for name in (*unnamed, *named):
        what = next((what for part, what in WITHOUT_PLACE.items() if part in name), None)
        if what is not None:
            reasons[what] = None
        elif name in unnamed:
            reasons[f"a weight called {name}"] = None
    return list(reasons)


def _other_numerics(config: ViTHybridConfig) -> dict[str, str]:
    """The fields in which the model's arithmetic is not timm's, and what to say of each."""
    return {
        name: f"{name} is {getattr(config, name)!r}, in timm {value!r}"
        for name, value in NUMERICS.items()
        if getattr(config, name) != value and not (name == "hidden_act" and config.hidden_act in EXACT_GELUS)
    }


def _other_structure(config: ViTHybridConfig) -> list[str]:
    """In what the model's layers are not timm's, other than in weights."""
    backbone = config.backbone_config
    found = [
        f"backbone_config.{name} is {getattr(backbone, name)!r}, in timm {value!r}"
        for name, value in BACKBONE.items()
        if getattr(backbone, name) != value
    ]
    if 0 in backbone.depths:
        found.append(f"backbone_config.depths {list(backbone.depths)} has a stage without blocks")
    if backbone.out_features[-1] != backbone.stage_names[-1]:
        found.append(f"the tokens are of {backbone.out_features[-1]}, in timm of the last stage")
    if any(dilation > 1 for _, dilation in stage_strides(backbone)):
        found.append(f"backbone_config.output_stride {backbone.output_stride} turns strides into dilation")
    patch = as_pair(config.patch_size)
    if any(side % each for side, each in zip(feature_map_size(backbone, config.image_size), patch, strict=True)):
        found.append(
            f"patches of {patch[0]}x{patch[1]} do not divide the feature map of image_size {config.image_size}"
        )
    return found


__all__ = ["CheckpointError", "image_processor", "load", "read_config", "save"]
