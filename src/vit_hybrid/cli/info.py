"""`vit-hybrid info`: what is this model made of, and what does it cost?"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ..assets import BUILT_IN_MODEL
from ..runtimes import DEFAULT_BATCH_SIZE
from .options import parsed_size
from .output import UNLIMITED_WIDTH, printable, write
from .session import ending_quietly, loading, refuse, without_library_noise

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
            help="A published hybrid by any of its names, such as R50+B/16; a folder that save_pretrained wrote, a hub "
            f"id or {BUILT_IN_MODEL}; a JAX .npz or timm file. Without it, the published hybrids are listed.",
            show_default=False,
        ),
    ] = None,
    image_size: Annotated[
        str | None,
        typer.Option(metavar="N|HxW", help="Count for images of this size.", show_default="the model's own"),
    ] = None,
    num_labels: Annotated[
        int | None, typer.Option(min=0, help="Count for this many labels.", show_default="the model's own")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="How many images memory is told for.")] = DEFAULT_BATCH_SIZE,
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"], typer.Option(help="What memory is told for.")
    ] = "float32",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line, instead of tables.")] = False,
) -> None:
    """Describe a model: architecture, parameters, GFLOPs by part, tokens, and memory for a batch.

    Nothing is run and no weights are loaded. A GFLOP is 10^9 operations, two for each multiply-add. Memory is what the
    tensors of inference in eager PyTorch take at most; 1 MB is 10^6 bytes.
    """
    size = parsed_size(image_size)
    with ending_quietly(), without_library_noise():
        if target is None:
            if size is not None or num_labels is not None:
                refuse("--image-size and --num-labels say something of one model; name it too")
            write(_presets_as_json() if as_json else _presets_as_table())
            return
        try:
            with loading(target):
                from ..checkpoints import opening
                from ..model.complexity import complexity, memory

                config = opening.open(target, random_weights=True).config
            if size is not None:
                config.image_size = size
            if num_labels is not None:
                config.num_labels = num_labels

            costs, held = complexity(config), memory(config, batch_size, dtype)
        except (OSError, ValueError) as error:
            refuse(error)
        describe = _as_json if as_json else _as_tables
        write(describe(target, config, costs, held, batch_size, dtype))


def _presets_as_json() -> str:
    from dataclasses import asdict

    from ..model.presets import PRESETS

    return "".join(json.dumps({**asdict(preset), "stride": preset.stride}) + "\n" for preset in PRESETS)


def _presets_as_table() -> str:
    from ..model.presets import DEFAULT_IMAGE_SIZE, IMAGENET_LABELS, PRESETS

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
    headings = ("preset", "blocks", ">stride", ">layers", ">width", ">heads", ">parameters", ">GFLOP", "JAX", "timm")
    counted = f"{_by((DEFAULT_IMAGE_SIZE, DEFAULT_IMAGE_SIZE))} pixels and {IMAGENET_LABELS} labels"
    return f"Published hybrids, counted for {counted}\n{_table(headings, rows)}"


def _as_json(target: str, config: ViTHybridConfig, costs: Complexity, held: Memory, batch_size: int, dtype: str) -> str:
    from dataclasses import asdict

    from ..model.geometry import as_pair

    backbone = config.backbone_config
    assert config.backbone_featmap_shape is not None  # derived where it was not given
    record = {
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
    return json.dumps(record, default=str) + "\n"


def _as_tables(
    target: str, config: ViTHybridConfig, costs: Complexity, held: Memory, batch_size: int, dtype: str
) -> str:
    from ..model.complexity import PARTS

    parts = [(_heading(part), costs.parameters[part], costs.flops[part]) for part in PARTS]
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
            _table(("", ""), _architecture(config, costs.tokens), with_head=False),
            _table(
                ("part", ">parameters", ">GFLOP an image"),
                [(part, f"{count:,}", _number(flops, GIGA, costs.total_flops, 3)) for part, count, flops in parts],
                total=True,
            ),
            _table(
                (f"memory for {images} in {dtype}", ">MB"),
                [(what, _number(size, MEGA, held.weights, 1)) for what, size in memory],
                total=True,
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


def _heading(part: str) -> str:
    return "MLP" if part == "mlp" else part.replace("_", " ")


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], with_head: bool = True, total: bool = False) -> str:
    """A table; columns whose heading starts with ">" are set to the right, and `total` sets the last row apart."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE, show_edge=False, pad_edge=True, show_header=with_head)
    for heading in headings:
        table.add_column(heading.removeprefix(">"), justify="right" if heading.startswith(">") else "left")
    for number, row in enumerate(rows, start=1):
        table.add_row(*map(Text, row), end_section=total and number == len(rows) - 1)
    width = None if sys.stdout.isatty() else UNLIMITED_WIDTH
    console = Console(file=sys.stdout, width=width, highlight=False, markup=False, emoji=False)
    with console.capture() as captured:
        console.print(table)
    return "".join(f"{line.rstrip()}\n" for line in captured.get().splitlines())


__all__ = ["info"]
