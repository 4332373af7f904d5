"""What `vit-hybrid explain` does to pictures and prints of them, and of a model alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from .output import ProgressBar, RecordPrinter, new_table, titled
from .streams import complain, write_json
from .streams import write as write_text

if TYPE_CHECKING:
    from ..explain import Explainer, Explanation

Pair: TypeAlias = "tuple[str, Any]"
"""A picture's path, and where it is to be read or what is wrong with it."""
# Of how many pictures `--model-only` tells how far heads look, where none are given.
MADE_PICTURES = 16


@dataclass(frozen=True)
class Pictures:
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
        from ..explain.explanation import told
        from ..explain.writing import write
        from ..inference.streaming import attempted

        def looked_at(picture: Any) -> tuple[list[Explanation], Any]:
            found = self.explainer.explain(picture, self.method, self.labels, name=path, **self.how)
            return found, None if self.add is None else self.explainer.heads(found[0].pixels)

        done, failure = attempted(path, source, looked_at)
        if done is None:
            return {**(failure or {})}
        found, heads = done
        files = write(found, self.output, name)
        if self.add is not None:
            self.add(path, found, heads)
        maps = [_said(one, written) for one, written in zip(found, files, strict=True)]
        if self.check:
            from ..explain.checking import check

            for said, one in zip(maps, found, strict=True):
                said["check"] = check(self.explainer.hybrid, one).record()
        record = {"path": path, "method": self.method, "predictions": told(found), "maps": maps}
        return {**record, **_of_twin(self.explainer)}


def show_model(explainer: Explainer, model: str, pairs: list[Pair], output: str, as_json: bool) -> list[Pair]:
    """Figure 7 of the paper; the pictures that could not be looked at for it."""
    from ..data.made import natural_picture
    from ..data.sources import contents
    from ..explain.paper import figure, write
    from ..inference.streaming import attempted

    failures: list[Pair] = []

    def prepared() -> Iterator[Any]:
        total = len(pairs) or MADE_PICTURES
        with closing(ProgressBar(total, "Looking")) as bar:
            if not pairs:
                for number in range(total):
                    yield explainer.prepared(natural_picture(number))
                    bar.advance()
            for path, source in contents(pairs):
                pixels, failure = attempted(path, source, partial(explainer.prepared, name=path))
                if failure is None:
                    yield pixels
                else:
                    failures.append((path, source))
                    with bar.out_of_the_way():
                        complain(failure["error"])
                bar.advance()

    if not pairs:
        complain(f"no IMAGE was given, so how far heads look is measured on {MADE_PICTURES} made pictures")
    found = figure(explainer.hybrid, prepared())
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
def page_of(path: str | None, title: str) -> Iterator[Callable[..., None] | None]:
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


__all__ = ["Pictures", "page_of", "show_model"]
