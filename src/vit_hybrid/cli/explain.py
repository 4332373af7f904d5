"""`vit-hybrid explain`: what did the model look at?"""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from ..assets import BUILT_IN_MODEL
from ..data.listing import PICTURE
from ..explain.methods import DEFAULT_FUSION, DEFAULT_METHOD, OF_LABELS, Fusion, Method
from .options import AnyModel, AsJson, Device, ImageSize, MaxPixels
from .output import ProgressBar, RecordPrinter, new_table, titled
from .session import CLASSIFIER_WARNINGS, EXIT_FAILED, expecting, loading
from .streams import complain, write_json
from .streams import write as write_text

if TYPE_CHECKING:
    from ..explain import Explainer, Explanation


Pair: TypeAlias = "tuple[str, Any]"
"""A picture's path, and where it is to be read or what is wrong with it."""
# Of how many pictures `--model-only` tells how far heads look, where none are given.
MADE_PICTURES = 16
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
        **{f"--{name}": how[name] for name in how},
    }
    asked["--fusion"] = fusion != DEFAULT_FUSION
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
        failures = _show_model(explainer, model, pairs, output, as_json)
    else:
        if labels and method not in OF_LABELS:
            complain(f"{method} is the same for all labels, and shows what the model looked at, not why it said one")
        page = None if html is None else html or os.path.join(output, PAGE_NAME)
        with _page(page, f"What {model} looked at") as add:
            pictures = _Pictures(explainer, method, labels, how, output, check, add)
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


@dataclass(frozen=True)
class _Pictures:
    """What is done to each picture."""

    explainer: Explainer
    method: str
    labels: list[str] | None
    how: dict[str, Any]
    output: str
    check: bool
    add: Callable[..., None] | None

    def explain(self, pairs: list[Pair], as_json: bool) -> list[Pair]:
        """Explains, writes and prints all pictures; those that cannot be."""
        from ..data.sources import contents
        from ..explain.writing import names_of

        failures: list[Pair] = []
        names = names_of([path for path, _ in pairs])
        with MapPrinter(as_json, self.explainer.labels, len(pairs), "Explaining") as printer:
            for (path, source), name in zip(contents(pairs), names, strict=True):
                record = self._record(path, source, name)
                printer.print(record)
                if "error" in record:
                    failures.append((path, source))
        return failures

    def _record(self, path: str, source: Any, name: str) -> dict[str, Any]:
        """What is printed of a picture, once its files are written."""
        from ..explain.explainer import told
        from ..explain.writing import write
        from ..inference.streaming import error_record

        try:
            if isinstance(source, Exception):
                raise source
            found = self.explainer.explain(source, self.method, self.labels, name=path, **self.how)
            heads = None if self.add is None else self.explainer.heads(found[0].pixels)
        except (ValueError, MemoryError) as error:
            return {**error_record(path, error)}
        files = write(found, self.output, name)
        if self.add is not None:
            self.add(path, found, heads)
        maps = [_said(one, written) for one, written in zip(found, files, strict=True)]
        if self.check:
            from ..explain.checking import check

            for said, one in zip(maps, found, strict=True):
                said["check"] = check(self.explainer.model, one).record()
        record = {"path": path, "method": self.method, "predictions": told(found), "maps": maps}
        return {**record, **_of_twin(self.explainer)}


def _show_model(explainer: Explainer, model: str, pairs: list[Pair], output: str, as_json: bool) -> list[Pair]:
    """Figure 7 of the paper; the pictures that could not be looked at for it."""
    from ..data.made import natural_picture
    from ..data.sources import contents
    from ..explain.paper import figure, write
    from ..inference.streaming import error_record

    failures: list[Pair] = []

    def prepared() -> Iterator[Any]:
        total = len(pairs) or MADE_PICTURES
        with closing(ProgressBar(total, "Looking")) as bar:
            if not pairs:
                for number in range(total):
                    yield explainer.prepared(natural_picture(number))
                    bar.advance()
            for path, source in contents(pairs):
                try:
                    if isinstance(source, Exception):
                        raise source
                    yield explainer.prepared(source, path)
                except (ValueError, MemoryError) as error:
                    failures.append((path, source))
                    with bar.out_of_the_way():
                        complain(error_record(path, error)["error"])
                bar.advance()

    if not pairs:
        complain(f"no IMAGE was given, so how far heads look is measured on {MADE_PICTURES} made pictures")
    found = figure(explainer.model, prepared())
    name = Path(os.path.abspath(model)).stem or "model"
    files = write(found, output, name, f"{model}, {found.pictures} pictures")
    if as_json:
        about = {"grid": list(found.similarity.shape[:2]), "distances": found.distances.tolist()}
        write_json({"model": model, "pictures": found.pictures, **about, "files": files, **_of_twin(explainer)})
    else:
        rows = [
            [str(layer), *(f"{value:.1f}" for value in (heads.min(), heads.mean(), heads.max()))]
            for layer, heads in enumerate(found.distances, start=1)
        ]
        heads = [">layer", ">nearest head looks (pixels)", ">mean", ">farthest"]
        write_text(titled(files["figure"], new_table(heads, rows)))
    return failures


def _of_twin(explainer: Explainer) -> dict[str, str]:
    return {} if explainer.twin is None else {"twin": explainer.twin.model, "note": str(explainer.twin)}


def _said(explanation: Explanation, files: dict[str, str]) -> dict[str, Any]:
    return {
        "label": explanation.label,
        "layer": explanation.layer,
        "head": explanation.head,
        "grid": list(explanation.grid),
        "empty": explanation.is_empty,
        "files": files,
    }


@contextmanager
def _page(path: str | None, title: str) -> Iterator[Callable[..., None] | None]:
    """What adds a picture to the page, which is whole or not there, also where no picture could be explained; None
    where no page was asked for."""
    from ..explain.html import Page
    from ..files import made_parents, replacing

    if path is None:
        yield None
        return
    with ExitStack() as stack:
        pages: list[Page] = []

        def add(*given: Any) -> None:
            if not pages:
                stack.enter_context(made_parents(Path(path)))
                file = stack.enter_context(replacing(path)).open("w", encoding="utf-8")
                pages.append(Page(stack.enter_context(file), title))
            pages[0].add(*given)

        yield add
        for page in pages:
            page.close()


class MapPrinter(RecordPrinter):
    """Prints what the model said of each picture and where its maps are, as they come."""

    def shown(self, record: Any) -> str:
        """A picture that was explained as a person sees it."""
        maps = {one["label"]: one for one in record["maps"]}
        rows = []
        for one in record["predictions"]:
            said = f"{one['probability']:.2%}" if "probability" in one else f"{one['value']:.4g}"
            rows.append([one["label"], said, _place_of(maps.pop(one["label"], None))])
        rows += ([label or "all labels", "", _place_of(one)] for label, one in maps.items())
        is_regression = any("value" in one for one in record["predictions"])
        kind = "value" if is_regression else "probability"
        text = titled(record["path"], new_table(["label", f">{kind}", "map"], rows))
        return text + "".join(_curves(one["check"], kind) for one in record["maps"] if "check" in one)


def _place_of(one: dict[str, Any] | None) -> str:
    if one is None:
        return ""
    return f"{one['files']['overlay']}{' (nothing raises it)' if one['empty'] else ''}"


def _curves(check: dict[str, Any], kind: str) -> str:
    """Deletion and insertion as a table."""
    pairs = [(check[name]["map"], check[name]["random"]) for name in ("deletion", "insertion")]
    columns = [column for pair in pairs for column in pair]
    rows = [
        [f"{share:.0%}", *(f"{one:.4f}" for one in row)] for share, *row in zip(check["shares"], *columns, strict=True)
    ]
    areas = [check[name][f"{one}_area"] for name in ("deletion", "insertion") for one in ("map", "random")]
    rows.append(["mean", *(f"{area:.4f}" for area in areas)])
    heads = [">pixels", ">taken away", ">at random", ">brought back", ">at random"]
    return titled(f"{check['label']}: its {kind} in the map's order", new_table(heads, rows, total=True))


__all__ = ["explain"]
