"""The authors' JAX checkpoints: `.npz` files of google-research/vision_transformer, read and written.

Everything a configuration needs is inferred from the arrays' names and shapes, and it carries the numerics of that
code, so that logits are the same.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from transformers.utils import logging

from ..files import replacing
from ..images.image_processing import ViTHybridImageProcessor
from ..model.configuration import ViTHybridConfig
from ..model.geometry import as_pair, stage_strides, stage_widths
from ..model.modeling import ViTHybridForImageClassification, ViTHybridModel, ViTHybridPreTrainedModel
from ..model.presets import resolve
from . import npz
from .adapting import adapt
from .jax_weights import (
    Sizes,
    Weight,
    inferred_sizes,
    map_side,
    released_spelling,
    sizes_of,
    squeezed,
    total_stride,
    widths,
)
from .matching import NAMES_SHOWN, Approximate, CheckpointError, refused, require_match

logger = logging.get_logger(__name__)

# Called with (arrays done, arrays in all) as a file is read or written.
Progress: TypeAlias = Callable[[int, int], None]

# What the JAX code computes with: its own weight standardization (vit_jax/models_resnet.py) and flax' defaults.
NUMERICS: dict[str, Any] = {
    "weight_standardization": "std",
    "weight_standardization_eps": 1e-5,
    "group_norm_eps": 1e-6,
    "layer_norm_eps": 1e-6,
    "hidden_act": "gelu_pytorch_tanh",
}
# Two implementations of one formula.
TANH_GELUS = ("gelu_pytorch_tanh", "gelu_new")

# What its ResNet always is (vit_jax/models_resnet.py; 32 groups are flax' default).
BACKBONE: dict[str, Any] = {
    "layer_type": "bottleneck",
    "global_padding": "SAME",
    "embedding_dynamic_padding": True,
    "hidden_act": "relu",
    "num_groups": 32,
}
# BitConfig's default: from this stride on it would put dilation in place of strides.
DILATION_FROM_STRIDE = 32

# Evaluation there (vit_jax/input_pipeline.py): a bilinear resize straight to the model's size, pixels from -1 to 1.
PROCESSOR: dict[str, Any] = {
    "do_resize": True,
    "resample": 2,  # Pillow's bilinear
    "do_center_crop": True,  # of all there is; other code bases put the same into these words
    "do_rescale": True,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "do_convert_rgb": True,
}

ADVICE = (
    "Expected exactly the weights of a BiT ResNet and a ViT encoder, as google-research/vision_transformer saves them."
)


def load(
    path: str | os.PathLike,
    image_size: int | Sequence[int] | None = None,
    num_labels: int | None = None,
    *,
    name: str | None = None,
    positions: str = "bilinear-jax",
    antialias: bool = False,
    progress: Progress | None = None,
) -> ViTHybridForImageClassification:
    """The model of a JAX checkpoint, in evaluation mode and in single precision, as the JAX code computes.

    Reads the released and the newer Flax spelling of names, backslashes as separators, group-norm arrays of shape
    (1, 1, 1, C), files without a head (then `num_labels` is 0) and with `pre_logits` (then `representation_size` says
    how wide). float16 and bfloat16 arrays are widened, exactly. Nothing in the file is unpickled.

    Args:
        path: The `.npz` file.
        image_size: Side or (height, width) in pixels, if the model is to take other images than the checkpoint's; its
            position embeddings are then resized.
        num_labels: Classes of a new, zero-initialized classifier in place of the file's; 0 for none. Without it, the
            file's own.
        name: A published hybrid, in any spelling, that the file is held against, so that the lack of its last units or
            layers is noticed too. Nothing else needs it.
        positions: How position embeddings are resized: "bilinear-jax" as in the JAX code, "bilinear" or "bicubic".
        antialias: Whether the last two smooth when they make the grid smaller.
        progress: Called with (arrays read, arrays in all) after each array.

    Raises:
        CheckpointError: If the file is no `.npz`, is damaged, or does not hold exactly the weights of a hybrid; it
            lists what is missing, unexpected and misfitting.
        FileNotFoundError: If there is no such file.
        ValueError: If no model can run at `image_size`, or `positions` or `name` is none of the above.
    """
    with _opened(path) as archive:
        sizes = inferred_sizes(archive.shapes, name)
        config = _config(archive, sizes)
        _warn_of_other_name(path, sizes)
        if num_labels is not None:  # the file's classifier is not even read
            sizes, config.num_labels = replace(sizes, has_head=False), 0
        with torch.device("meta"):  # nothing is drawn at random that the file's weights would replace
            model = ViTHybridForImageClassification(config)
        state: dict[str, torch.Tensor] = {}
        weights = list(sizes.weights())
        for done, weight in enumerate(weights, start=1):
            array = weight.layout.to_torch(archive.read(weight.jax))
            state[weight.torch] = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
            if progress is not None:
                progress(done, len(weights))
    model.load_state_dict(state, assign=True)
    return adapt(model.eval(), image_size, num_labels, positions, antialias)


def read_config(path: str | os.PathLike, name: str | None = None) -> ViTHybridConfig:
    """The configuration of a JAX checkpoint's model, from the names and shapes in it alone.

    Args:
        path: The `.npz` file.
        name: See `load`.

    Raises:
        CheckpointError: As `load` does, but for damage inside an array.
        FileNotFoundError: If there is no such file.
    """
    with _opened(path) as archive:
        return _config(archive, inferred_sizes(archive.shapes, name))


def image_processor(
    source: str | os.PathLike | ViTHybridPreTrainedModel | ViTHybridConfig | int | Sequence[int],
    image_size: int | Sequence[int] | None = None,
) -> ViTHybridImageProcessor:
    """The image processor that evaluation of the JAX code amounts to: a resize to exactly the model's size, not
    keeping the aspect ratio, and pixels from -1 to 1.

    TensorFlow's bilinear resize does not smooth where it shrinks, and Pillow's does, so the pixels are close to that
    code's and not equal.

    Args:
        source: A JAX checkpoint, a model or a configuration whose image size to use; or that size in pixels, a side or
            (height, width).
        image_size: Side or (height, width) in pixels, if it is not to be the source's.

    Raises:
        CheckpointError, FileNotFoundError: See `read_config`.
    """
    if isinstance(source, str | os.PathLike):
        source = read_config(source)
    elif isinstance(source, ViTHybridPreTrainedModel):
        source = source.config
    own_size = source.image_size if isinstance(source, ViTHybridConfig) else source
    height, width = as_pair(own_size if image_size is None else image_size)
    size = {"height": height, "width": width}
    return ViTHybridImageProcessor(size=size, crop_size=size, **PROCESSOR)


def save(
    model: ViTHybridForImageClassification | ViTHybridModel,
    path: str | os.PathLike,
    *,
    approximate: Approximate = False,
    progress: Progress | None = None,
) -> None:
    """Writes a model as a JAX checkpoint, in single precision and with the released files' names.

    `load` gives the same weights back, bit for bit, and google-research/vision_transformer the same logits. The file is
    complete or not there. What it has no room for, and what no weight depends on, is named in a warning: labels, an
    image size that is no multiple of the total stride, stochastic depth.

    Args:
        model: A classifier, or a `ViTHybridModel` without a pooler.
        path: The file to write, customarily `*.npz`; one that is there is replaced.
        approximate: Whether to write the weights of a model with other epsilons, another form of weight
            standardization or another GELU as well; logits there are then a little different, and a warning says why.
            "epsilons" writes them where nothing but epsilons differs.
        progress: Called with (arrays written, arrays in all) after each array.

    Raises:
        ValueError: If the JAX code has no such model; the message names every reason.
        OSError: If the file cannot be written.
    """
    if not isinstance(model, ViTHybridForImageClassification | ViTHybridModel):
        raise TypeError(f"model is a {type(model).__name__}; give a ViTHybridForImageClassification or ViTHybridModel.")
    state = model.state_dict(prefix="" if isinstance(model, ViTHybridForImageClassification) else "vit.")
    has_pre_logits, has_head = "pre_logits.dense.weight" in state, "classifier.weight" in state
    sizes = sizes_of(model.config, has_pre_logits, has_head)
    weights = list(sizes.weights())
    reasons = _foreign_structure(model.config)
    # Parts of our models that none there has.
    parts = {"vit.embeddings.mask_token": "a mask token", "vit.pooler.": "a pooler (add_pooling_layer=False has none)"}
    found = [f"there is {part}" for start, part in parts.items() if any(name.startswith(start) for name in state)]
    reasons += found or ([] if reasons else _foreign_weights(state, weights))
    numerics = _foreign_numerics(model.config)
    if reasons or refused(numerics, approximate):
        advice = " With approximate=True other numerics are written nevertheless." if numerics and not reasons else ""
        raise ValueError(
            f"{os.fspath(path)} was not written, since the JAX code has no such model: "
            f"{'; '.join([*reasons, *numerics.values()])}.{advice}"
        )
    for remark in [*numerics.values(), *_without_room(model.config, state)]:
        logger.warning(f"{os.fspath(path)}: {remark}.")

    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for done, weight in enumerate(weights, start=1):
            array = state[weight.torch].detach().to("cpu", torch.float32).numpy()
            shape = tuple(side for side in weight.shape if side is not None)  # none is, for a whole model
            npz.write_array(archive, weight.jax, weight.layout.to_jax(array, shape))
            if progress is not None:
                progress(done, len(weights))


class _Archive:
    """A file's arrays under the names of the released files."""

    def __init__(self, reader: npz.NpzReader) -> None:
        self.path = reader.path
        self._reader = reader
        self._name_in_file: dict[str, str] = {}
        for name in sorted(reader.headers, key=lambda name: name != released_spelling(name)):
            released = released_spelling(name)
            # Where a file has an array in two spellings, the other one stays what it is: unexpected.
            self._name_in_file[name if released in self._name_in_file else released] = name
        self.shapes: dict[str, tuple[int, ...]] = {
            name: squeezed(name, reader.headers[original].shape) for name, original in self._name_in_file.items()
        }

    def read(self, name: str) -> np.ndarray:
        return self._reader.read(self._name_in_file[name])


@contextmanager
def _opened(path: str | os.PathLike) -> Iterator[_Archive]:
    with npz.opened(path) as reader:
        yield _Archive(reader)


def _warn_of_other_name(path: str | os.PathLike, sizes: Sizes) -> None:
    """Whole units or layers that a damaged file lacks at the end show in nothing else than its name."""
    try:
        preset = resolve(Path(path).name).preset
    except ValueError:  # as with most names
        return
    if (preset.depths, preset.num_hidden_layers) != (sizes.depths, sizes.layers):
        logger.warning(
            f"{os.fspath(path)} is called like {preset.name}, which has {list(preset.depths)} blocks and "
            f"{preset.num_hidden_layers} layers, but holds {list(sizes.depths)} blocks and {sizes.layers} layers."
        )


def _config(archive: _Archive, sizes: Sizes) -> ViTHybridConfig:
    """The configuration of the model that the file holds, once it is sure that it holds exactly that."""
    weights = list(sizes.weights())
    is_other_model = not any(name.startswith("conv_root/") for name in archive.shapes)
    require_match(
        {weight.jax: weight.shape for weight in weights},
        archive.shapes,
        archive.path,
        reason="this is no hybrid: it has no ResNet stem (conv_root)" if is_other_model else "the weights do not fit",
        advice=ADVICE,
    )
    by_name, stages = sizes.by_name, len(sizes.depths)
    patch = by_name["patch_height"], by_name["patch_width"]
    stride = total_stride(stages)
    backbone = {
        **BACKBONE,
        "num_channels": by_name["channels"],
        "embedding_size": by_name["width"],
        "depths": list(sizes.depths),
        "hidden_sizes": widths(by_name["width"], stages)[1:],
        "out_features": [f"stage{stages}" if stages else "stem"],
    }
    if stride > DILATION_FROM_STRIDE:
        backbone["output_stride"] = stride
    try:
        return ViTHybridConfig(
            backbone_config=backbone,
            num_channels=by_name["channels"],
            image_size=by_name["map_side"] * stride,
            patch_size=patch[0] if patch[0] == patch[1] else list(patch),
            hidden_size=by_name["hidden"],
            num_hidden_layers=sizes.layers,
            num_attention_heads=by_name["heads"],
            intermediate_size=by_name["mlp"],
            representation_size=by_name["representation"] if sizes.has_pre_logits else None,
            num_labels=by_name["classes"] if sizes.has_head else 0,
            **NUMERICS,
        )
    except ValueError as error:
        raise CheckpointError(archive.path, f"its model cannot run: {str(error).removesuffix('.')}") from error


def _foreign_structure(config: ViTHybridConfig) -> list[str]:
    """What the JAX code has no model for, whatever the weights."""
    backbone = config.backbone_config
    found = [
        f"backbone_config.{name} is {getattr(backbone, name)!r} (there {value!r})"
        for name, value in BACKBONE.items()
        if getattr(backbone, name) != value
    ]
    stages, own_widths = len(backbone.depths), stage_widths(backbone)
    if not all(backbone.depths):
        found.append(f"backbone_config.depths {list(backbone.depths)} has a stage without blocks")
    elif own_widths != (there := widths(own_widths[0], stages)):
        found.append(f"the stem and the stages are {own_widths} wide (there {there})")
    if [stride for stride, _ in stage_strides(backbone)] != [1, *[2] * (stages - 1)][:stages]:
        found.append(f"backbone_config.output_stride {backbone.output_stride} puts dilation in place of strides")
    if backbone.out_features[-1] != backbone.stage_names[-1]:
        found.append(f"the tokens come from {backbone.out_features[-1]}, not from the last of {stages} stages")
    if not config.num_hidden_layers:
        found.append("there are no encoder layers")
    if not config.qkv_bias:
        found.append("queries, keys and values have no bias (qkv_bias)")
    height, width = as_pair(config.image_size)
    if height != width:
        found.append(f"image_size is {height}x{width}, and a file without a size is read as one of square images")
    return found


def _foreign_weights(state: Mapping[str, torch.Tensor], weights: Sequence[Weight]) -> list[str]:
    """Weights that have no place there, and places without a weight that could be written."""
    wanted = {weight.torch for weight in weights}
    found = {
        "there is no place for": state.keys() - wanted,
        "the model lacks": wanted - state.keys(),
        "these are not in memory, or no float32, float16 or bfloat16:": {
            name
            for name in wanted & state.keys()
            if state[name].is_meta or state[name].dtype not in (torch.float32, torch.float16, torch.bfloat16)
        },
    }
    return [
        f"{kind} {', '.join(sorted(names)[:NAMES_SHOWN])} ({len(names)} in all)"
        for kind, names in found.items()
        if names
    ]


def _foreign_numerics(config: ViTHybridConfig) -> dict[str, str]:
    """Fields at which the JAX code computes other numbers from the same weights, and what to say of each."""
    return {
        name: f"{name} is {getattr(config, name)!r} (there {value!r})"
        for name, value in NUMERICS.items()
        if getattr(config, name) not in (TANH_GELUS if name == "hidden_act" else (value,))
    }


def _without_room(config: ViTHybridConfig, state: Mapping[str, torch.Tensor]) -> list[str]:
    """What such a file does not keep though the JAX code computes the same logits without it."""
    found = []
    if any(name != f"LABEL_{index}" for index, name in config.id2label.items()):
        found.append(f"the names of the {config.num_labels} labels are not kept")
    side = as_pair(config.image_size)[0]
    stride = total_stride(len(config.backbone_config.depths))
    patch = as_pair(config.patch_size)
    rows, columns = config.grid_size
    read_back = map_side(rows * columns, patch) * stride
    if read_back != side:
        found.append(f"image_size {side} will be read back as {read_back}, which gives as many patches")
    if config.drop_path_rate or config.backbone_config.drop_path_rate:
        found.append("drop_path_rate (stochastic depth, in training) is not kept, nor does the JAX code have it")
    dtypes = {str(tensor.dtype).removeprefix("torch.") for tensor in state.values()} - {"float32"}
    if dtypes:
        found.append(f"{', '.join(sorted(dtypes))} weights are written, exactly, as float32")
    return found


__all__ = ["image_processor", "load", "read_config", "save"]
