"""`vit-hybrid info`: what is this model made of, and what does it cost?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from ..runtimes import DEFAULT_BATCH_SIZE, DtypeName
from .options import MODELS, AsJson, BatchSize, ImageSize, NumLabels
from .output import new_table, rendered
from .session import loading
from .streams import printable, write, write_json

if TYPE_CHECKING:
    from ..model.complexity import Complexity, Memory
    from ..model.configuration import ViTHybridConfig

GIGA, MEGA = 1e9, 1e6
# What is less than this is shown with three more decimals, so that the parts of a tiny model are not all 0.000.
TINY = 0.1
# No figure of a configuration could hold these: they differ between processors, and between releases of a library.
MEMORY_HOLDS_FOR = " (the model's tensors; what kernels take while they run, and the process itself, come on top)"

NUMERICS = ("weight_standardization", "weight_standardization_eps", "group_norm_eps", "layer_norm_eps", "hidden_act")


def info(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="PRESET|FOLDER|FILE",
            help=f"A published hybrid by any of its names, such as R50+B/16; or {MODELS}; or a bundle. Without it, the "
            "published hybrids are listed.",
            show_default=False,
        ),
    ] = None,
    image_size: ImageSize = None,
    num_labels: NumLabels = None,
    batch_size: BatchSize = DEFAULT_BATCH_SIZE,
    dtype: Annotated[DtypeName, typer.Option(help="What memory is told for.")] = "float32",
    as_json: AsJson = False,
) -> None:
    """Describe a model: architecture, parameters, GFLOPs by part, tokens, and memory for a batch.

    Nothing is run and no weights are loaded. A GFLOP is 10^9 operations, two for each multiply-add. Memory is what the
    tensors of inference in eager PyTorch take at most; 1 MB is 10^6 bytes.
    """
    if target is None:
        if image_size is not None or num_labels is not None:
            raise ValueError("--image-size and --num-labels say something of one model; name it too")
        _write_presets(as_json)
        return
    with loading(target):
        from ..checkpoints import opening
        from ..model.complexity import complexity, memory

        config = opening.open(target, random_weights=True).config
    if image_size is not None:
        config.image_size = image_size
    if num_labels is not None:
        config.num_labels = num_labels
    costs, held = complexity(config), memory(config, batch_size, dtype)
    if as_json:
        write_json(_record(target, config, costs, held, batch_size, dtype))
    else:
        write(_as_tables(target, config, costs, held, batch_size, dtype))


def _write_presets(as_json: bool) -> None:
    from dataclasses import asdict

    from ..model.presets import DEFAULT_IMAGE_SIZE, IMAGENET_LABELS, PRESETS

    if as_json:
        for preset in PRESETS:
            write_json({**asdict(preset), "stride": preset.stride})
        return
    rows = [
        (
            preset.name,
            ", ".join(map(str, preset.depths)) or "stem only",
            str(preset.stride),
            str(preset.num_hidden_layers),
            str(preset.hidden_size),
            str(preset.num_attention_heads),
            f"{preset.parameters:,}",
            f"{preset.gflops:.1f}",
            preset.jax or "-",
            preset.timm or "-",
        )
        for preset in PRESETS
    ]
    heads = ("preset", "blocks", ">stride", ">layers", ">width", ">heads", ">parameters", ">GFLOP", "JAX", "timm")
    counted = f"{_by((DEFAULT_IMAGE_SIZE, DEFAULT_IMAGE_SIZE))} pixels and {IMAGENET_LABELS} labels"
    write(f"Published hybrids, counted for {counted}\n{rendered(new_table(heads, rows))}")


def _record(
    target: str, config: ViTHybridConfig, costs: Complexity, held: Memory, batch_size: int, dtype: str
) -> dict[str, object]:
    from dataclasses import asdict

    from ..model.geometry import as_pair

    backbone = config.backbone_config
    assert config.backbone_featmap_shape is not None  # derived where it was not given
    return {
        "name": target,
        "image_size": as_pair(config.image_size),
        "num_channels": config.num_channels,
        "num_labels": config.num_labels,
        "backbone": {
            "depths": backbone.depths,
            "layer_type": backbone.layer_type,
            "padding": backbone.global_padding,
            "feature_map": config.backbone_featmap_shape[1:],
        },
        "patch_size": as_pair(config.patch_size),
        "grid": config.grid_size,
        "tokens": costs.tokens,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "intermediate_size": config.intermediate_size,
        "representation_size": config.representation_size,
        "numerics": {name: getattr(config, name) for name in NUMERICS},
        "parameters": {**costs.parameters, "total": costs.total_parameters},
        "flops": {**costs.flops, "total": costs.total_flops},
        "memory": {"batch_size": batch_size, "dtype": dtype, **asdict(held), "total": held.total},
    }


def _as_tables(
    target: str, config: ViTHybridConfig, costs: Complexity, held: Memory, batch_size: int, dtype: str
) -> str:
    from ..model.complexity import PARTS

    headings = {part: "MLP" if part == "mlp" else part.replace("_", " ") for part in PARTS}
    parts = [(heading, costs.parameters[part], costs.flops[part]) for part, heading in headings.items()]
    parts.append(("total", costs.total_parameters, costs.total_flops))
    memory = [
        ("weights", held.weights),
        ("folded weights", held.folded_weights),
        ("activations", held.activations),
        ("total", held.total),
    ]
    images = f"{batch_size} image{'s' if batch_size > 1 else ''}"
    return "\n".join(
        (
            printable(target),
            rendered(new_table(("", ""), _architecture(config, costs.tokens))),
            rendered(
                new_table(
                    ("part", ">parameters", ">GFLOP an image"),
                    [(part, f"{count:,}", _number(flops, GIGA, costs.total_flops, 3)) for part, count, flops in parts],
                    total=True,
                )
            ),
            rendered(
                new_table(
                    (f"memory for {images} in {dtype}", ">MB"),
                    [(what, _number(size, MEGA, held.weights, 1)) for what, size in memory],
                    total=True,
                )
            ),
            f"{MEMORY_HOLDS_FOR}\n",
        )
    )


def _architecture(config: ViTHybridConfig, tokens: int) -> list[tuple[str, str]]:
    from ..model.geometry import as_pair

    backbone = config.backbone_config
    assert config.backbone_featmap_shape is not None  # derived where it was not given
    _, channels, *feature_map = config.backbone_featmap_shape
    blocks = "only its stem"
    if backbone.depths:
        blocks = f"{' + '.join(map(str, backbone.depths))} {backbone.layer_type} blocks"
    head = f"{config.num_labels} labels" if config.num_labels else "none"
    if config.representation_size:
        head = f"a layer {config.representation_size} wide and tanh, then {head}"
    normalized = f"{config.weight_standardization} + {config.weight_standardization_eps:g}"
    return [
        ("images", f"{_by(as_pair(config.image_size))}, {config.num_channels} channels"),
        ("backbone", f"BiT: {blocks}, {backbone.global_padding or 'default'} padding"),
        ("feature map", f"{channels} channels of {_by(feature_map)}"),
        (
            "tokens",
            f"{tokens}: {_by(config.grid_size)} patches of {_by(as_pair(config.patch_size))}, and the class token",
        ),
        (
            "encoder",
            f"{config.num_hidden_layers} layers, {config.hidden_size} wide, {config.num_attention_heads} heads, MLP "
            f"{config.intermediate_size} wide{'' if config.qkv_bias else ', no bias in queries, keys and values'}",
        ),
        ("head", head),
        (
            "numerics",
            f"weight standardization by {normalized}, group norm {config.group_norm_eps:g}, layer norm "
            f"{config.layer_norm_eps:g}, {config.hidden_act}",
        ),
    ]


def _by(size: Sequence[int]) -> str:
    return f"{size[0]} x {size[1]}"


def _number(value: int, unit: float, total: int, decimals: int) -> str:
    return f"{value / unit:,.{decimals + 3 if total / unit < TINY else decimals}f}"


__all__ = ["info"]
