"""`vit-hybrid export`: a model as a folder that an engine starts from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..runtimes import EXPORTED, ExportedName, Precision, precisions_said
from .options import MODELS, AsJson, CalibrationFolder, MaxPixels, Overwrite, TokenMerging
from .session import loading
from .streams import printable, write, write_json

if TYPE_CHECKING:
    from ..bundles.manifest import Bundle

MEGABYTE = 10**6
DEFAULT_MINUTES = 10.0
LAYERS_NAMED = 12


def export(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help=f"{MODELS}.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="The folder to write, for --model OUT.", show_default=False)
    ],
    engine: Annotated[ExportedName, typer.Option(help="What is to run it.")] = "openvino",
    precision: Annotated[
        Precision,
        typer.Option(help=f"What to compute in: {', '.join(f'{name} {precisions_said(name)}' for name in EXPORTED)}."),
    ] = "f32",
    calibration: CalibrationFolder = None,
    dynamic: Annotated[
        bool, typer.Option("--dynamic", help="Take pictures of other sizes too; position embeddings are resized.")
    ] = False,
    token_merging: TokenMerging = None,
    features: Annotated[
        bool, typer.Option("--features", help="Give what the classifier takes too, as embed and search need it.")
    ] = False,
    max_pixels: MaxPixels = None,
    minutes: Annotated[
        float, typer.Option(min=0.1, help="What calibration for int8 may take; less time, fewer pictures.")
    ] = DEFAULT_MINUTES,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Export a model for an engine, and check what was written against PyTorch in float32.

    OUT holds the program, the labels, the preprocessing and where the weights are from; it starts without torch and
    transformers (with --engine torch without transformers' models). How far its logits are from PyTorch's, on the
    calibration pictures or on made ones, is printed and kept in OUT/bundle.json. OUT is complete or not there.
    """
    from dataclasses import asdict

    with loading(model) as tell:
        from ..export import export as run

        bundle = run(
            model,
            out,
            engine,
            precision,
            calibration=calibration,
            max_pixels=max_pixels,
            dynamic=dynamic,
            token_merging=token_merging,
            features=features,
            overwrite=overwrite,
            time_limit=minutes * 60,
            progress=tell,
        )
    if as_json:
        write_json(asdict(bundle))
    else:
        write(_as_text(bundle, out))


def _as_text(bundle: Bundle, out: Path) -> str:
    size = sum(about["bytes"] for about in bundle.files.values())
    height, width = bundle.image_size
    sizes = "any size" if bundle.dynamic else f"{height} x {width} pixels"
    lines = [f"{out}: {bundle.engine}, {bundle.precision}, {sizes}, {size / MEGABYTE:.1f} MB"]
    if bundle.token_merging is not None:
        lines.append(f"{bundle.token_merging} tokens are merged per layer")
    if bundle.quantization is not None:
        lines += _quantized(dict(bundle.quantization))
    check = dict(bundle.check or {})
    lines.append(
        f"largest logit difference to PyTorch in float32: {check['largest_logit_difference']:.2g} "
        f"(largest logit {check['largest_logit']:.3g}), top-1 agreement {check['top1_agreement']:.2%}, "
        f"on {check['of'] if check['pictures'] != 1 else 'one picture'}"
    )
    return "".join(printable(line) + "\n" for line in lines)


def _quantized(report: dict[str, Any]) -> list[str]:
    kept = report["kept"]
    lines = [f"calibrated with {report['calibration']} in {report['seconds']:.0f} s"]
    if kept:
        more = f" and {len(kept) - LAYERS_NAMED} more" if len(kept) > LAYERS_NAMED else ""
        lines.append(
            f"in floating point stay {report['kept_share']:.1%} of the arithmetic, with {report['error_share']:.0%} of "
            f"the error: {', '.join(kept[:LAYERS_NAMED])}{more}"
        )
    return lines


__all__ = ["export"]
