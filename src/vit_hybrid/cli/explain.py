"""`vit-hybrid explain`: what did the model look at?"""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from ..assets import BUILT_IN_MODEL
from ..data.listing import PICTURE
from ..explain.methods import DEFAULT_FUSION, DEFAULT_METHOD, OF_LABELS, Fusion, Method
from .maps import Pictures, page_of, show_model
from .options import AnyModel, AsJson, Device, ImageSize, MaxPixels
from .session import CLASSIFIER_WARNINGS, EXIT_FAILED, expecting, loading
from .streams import complain, files_first

# What `--html` stands for alone, and what is a file behind it.
IN_OUTPUT = ""
PAGE = re.compile(r".+\.html?", re.IGNORECASE | re.DOTALL)
PAGE_NAME = "explained.html"


def _place(text: str | tuple[int, int]) -> tuple[int, int]:
    if isinstance(text, tuple):
        return text
    match = re.fullmatch(r"(\d+),(\d+)", text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is no token such as 3,5 (row and column, from 0).")
    return int(match[1]), int(match[2])


@contextmanager
def _uncollected() -> Iterator[None]:
    """Keeps Python from looking for garbage while libraries load, which leave none and fill its lists: a seventh of the
    time that they take. Till `_thawed` ends, what is loaded then is not looked through again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if enabled:
            gc.enable()


@contextmanager
def _thawed() -> Iterator[None]:
    try:
        yield
    finally:
        gc.unfreeze()


@_thawed()
def explain(
    output: Annotated[
        str,
        typer.Option(metavar="DIR", help="The folder to write maps to; files of their names are replaced."),
    ],
    images: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="IMAGE",
            help="Image files; folders, searched through all levels for pictures; globs; - for standard input.",
            show_default=False,
        ),
    ] = None,
    model: AnyModel = BUILT_IN_MODEL,
    method: Annotated[
        Method,
        typer.Option(
            help="rollout: attention of all layers and heads, multiplied; attention: of a single layer. Of a label: "
            "grad-cam: which parts of a map of the ResNet's or the encoder's raise it; relevance: gradients times "
            "attention, accumulated over the layers; legrad: gradients by attention, summed up."
        ),
    ] = DEFAULT_METHOD,
    labels: Annotated[
        list[str] | None,
        typer.Option(
            "--label",
            metavar="LABEL",
            help="The label to explain, by its name or number; several times for several maps.",
            show_default="the first that the model gives",
        ),
    ] = None,
    layer: Annotated[
        str | None,
        typer.Option(
            help="--method attention: a layer, from 1; grad-cam: a map such as stage2, or a layer of the encoder.",
            show_default="the last; for grad-cam the ResNet's last map",
        ),
    ] = None,
    head: Annotated[
        int | None, typer.Option(help="--method attention: a single head, from 1.", show_default="all heads")
    ] = None,
    fusion: Annotated[
        Fusion,
        typer.Option(help="--method rollout, attention: what makes one of all heads."),
    ] = DEFAULT_FUSION,
    discard: Annotated[
        float,
        typer.Option(
            metavar="SHARE", help="--method rollout: of each layer's weights, the smallest that count as zero."
        ),
    ] = 0.0,
    token: Annotated[
        Any,  # what the parser makes of it: (row, column), or None
        typer.Option(
            parser=_place,
            metavar="ROW,COLUMN",
            help="--method rollout, attention: the token that looks, from 0,0.",
            show_default="the class token",
        ),
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Print how fast the label's probability falls as pixels are taken away in the map's order, and how "
            "fast it rises as they are brought back, beside random maps.",
        ),
    ] = False,
    html: Annotated[
        str | None,
        typer.Option(
            metavar="[FILE]",
            help=f"Also write a page with the pictures under their maps, their labels, and sliders over all layers and "
            f"heads; to DIR/{PAGE_NAME} without FILE.",
            show_default=False,
        ),
    ] = None,
    model_only: Annotated[
        bool,
        typer.Option(
            "--model-only",
            help="Show the model itself, as figure 7 of its paper does: filters of the stem, similarity of position "
            "embeddings, how far each head looks, on the IMAGEs or, without any, on made pictures.",
        ),
    ] = False,
    image_size: ImageSize = None,
    max_pixels: MaxPixels = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Show what a model looked at in images: maps in colors, over the picture, and in numbers.

    DIR gets NAME-METHOD.png, NAME-METHOD-overlay.png and NAME-METHOD.npz for each image, and with several labels
    NAME-METHOD-LABEL. An image that cannot be read gets one line that says why, and the others are still explained; the
    exit status is then 1. An exported model is explained by its PyTorch twin, the model that it was exported from. With
    --model-only DIR gets MODEL-model.png and MODEL-model.npz.
    """
    from ..data import Passed
    from ..data.sources import expand

    if not images and not model_only:
        raise ValueError("no IMAGE to explain; name some, or look at the model itself with --model-only")
    how = {"layer": layer, "head": head, "fusion": fusion, "discard": discard, "token": token}
    asked = {
        "--label": labels,
        "--check": check,
        "--html": html is not None,
        **{f"--{name}": how[name] is not None for name in ("layer", "head", "token")},
        "--fusion": fusion != DEFAULT_FUSION,
        "--discard": discard != 0,
    }
    if model_only and (given := [name for name, value in asked.items() if value]):
        raise ValueError(f"{given[0]} is of a picture's maps, and --model-only shows the model itself; leave it out")
    passed = Passed()
    pairs = expand(images or [], passed)
    with loading(model), expecting(CLASSIFIER_WARNINGS), _uncollected():
        from ..explain.explainer import Explainer

        explainer = Explainer.from_pretrained(model, device, image_size=image_size, max_pixels=max_pixels)
    if not model_only:
        explainer.check(method, labels, **how)
        if check and not explainer.labels:
            raise ValueError(
                "--check goes by the probability of a label, and this model has no classifier; leave it out"
            )
    if explainer.twin is not None:
        complain(f"{model}: {explainer.twin}")
    if model_only:
        failures = show_model(explainer, model, pairs, output, as_json)
    else:
        if labels and method not in OF_LABELS:
            complain(f"{method} is the same for all labels, and shows what the model looked at, not why it said one")
        page = None if html is None else html or os.path.join(output, PAGE_NAME)
        with files_first(), page_of(page, f"What {model} looked at") as add:
            pictures = Pictures(explainer, method, labels, how, output, check, add)
            failures = pictures.explain(pairs, as_json)
    named = set(images or [])
    for path, source in failures:
        # What was named itself was not passed over, and a folder that cannot be read is counted already.
        if isinstance(source, str) and path not in named and not as_json:
            passed.add(PICTURE, path)
    if passed:
        complain(passed.line())
    if failures:
        raise typer.Exit(EXIT_FAILED)


__all__ = ["explain"]
