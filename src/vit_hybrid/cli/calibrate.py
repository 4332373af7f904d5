"""`vit-hybrid calibrate`: how sure can one be of what this model says?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..outputs.problems import LAC, SetMethod
from .options import MODELS, AsJson, DataOptions, EngineOptions
from .output import ProgressBar, new_table, rendered
from .running import opened_predictor
from .session import EXIT_FAILED
from .streams import complain, printable, write, write_json

if TYPE_CHECKING:
    from ..outputs.confidence import Confidence

# Pictures that no model is chosen by, the first of these that is there.
HELD_OUT_SPLITS = ("val", "test")


def calibrate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=f"{MODELS}.", show_default=False)],
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="Labeled pictures that the model was not trained on: as evaluate takes them.",
            show_default=False,
        ),
    ],
    output: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Write a copy of the model with its confidence there.",
            show_default="beside the weights, where MODEL is a folder",
        ),
    ] = None,
    training: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="Pictures that the model was trained on, to tell strangers from.",
            show_default="what train or probe kept, else a fourth of DATA",
        ),
    ] = None,
    sets: Annotated[
        SetMethod,
        typer.Option(
            help="Which sets of labels are shown: the smallest, or those that are larger where a picture is harder.",
        ),
    ] = LAC,
    by_class: Annotated[
        bool, typer.Option("--by-class", help="Sets hold what they promise for each class of 50 pictures or more.")
    ] = False,
    split: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The split of DATA.", show_default="val, else test, else all there is"),
    ] = None,
    as_json: AsJson = False,
    pictures: DataOptions = DataOptions(),  # noqa: B008 - it is frozen
    engine: EngineOptions = EngineOptions(),  # noqa: B008
) -> None:
    """Make a model's probabilities mean what they say, from labeled pictures that it was not trained on.

    Three disjoint parts of them fit a temperature, sets of labels that hold the truth as often as promised, and how
    familiar a picture is; classify then prints these. Two small files come to lie beside the weights, which stay as
    they are. Of multi-label models each label gets a temperature; regression models have no probabilities.

    A picture that cannot be read is skipped and named, and the exit status is then 1.
    """
    from ..checkpoints.calibrated import fitted_before, place_of, write_calibrated
    from ..checkpoints.opening import open as open_source
    from ..data import Unreadable, read_labeled
    from ..evaluate import default_split
    from ..inference.calibrating import calibrate as run

    source = open_source(model)
    place_of(source, output)
    read: dict[str, Any] = {**pictures.columns, "max_pixels": engine.max_pixels}
    labeled, split = default_split(data, split, HELD_OUT_SPLITS, **read)
    seen = None if training is None else read_labeled(training, **read)
    earlier = fitted_before(source)
    predictor = opened_predictor(model, engine, output="all", confidence=False)
    bars: dict[str, ProgressBar] = {}

    def progress(what: str, done: int, total: int) -> None:
        if what not in bars:
            for bar in bars.values():
                bar.close()
            bars[what] = ProgressBar(total, doing=f"Running over {what}")
        bars[what].advance()

    try:
        found, held_out = run(
            predictor,
            labeled,
            source.provenance()["weights_sha256"],
            training=seen,
            known=None if earlier is None or training is not None else earlier.trained_on,
            trained=None if earlier is None else earlier.trained_pictures,
            method=sets,
            by_class=by_class,
            about={"data": data, "split": split},
            progress=progress,
        )
    finally:
        for bar in bars.values():
            bar.close()
    place = write_calibrated(source, found, output)
    unreadable = Unreadable(len(labeled))
    for record in held_out.skipped:
        told = unreadable.add(record["error"])
        if told is not None and not as_json:
            complain(told)
    if as_json:
        said = {"temperature": found.temperature.tolist(), "method": found.method, **found.about}
        write_json({"model": model, "written": str(place), **said, "unreadable": [*held_out.skipped]})
    else:
        if (rest := unreadable.rest()) is not None:
            complain(rest)
        write(_as_table(found, f"{model}, on {split or 'all'} of {data}; written to {place}"))
    if seen is not None:
        labeled.passed.update(seen.passed)
    if labeled.passed:
        complain(labeled.passed.line())
    if held_out.skipped:
        raise typer.Exit(EXIT_FAILED)


def _as_table(confidence: Confidence, title: str) -> str:
    from rich.text import Text

    about = confidence.about
    rows = [["pictures", f"{about['pictures']:,}"]]
    rows += [[f"  for {name}", f"{count:,}"] for name, count in about.get("parts", {}).items()]
    temperatures = confidence.temperature.reshape(-1)
    if len(temperatures) == 1:
        rows.append(["temperature", f"{temperatures[0]:.4g}"])
    else:
        rows.append(["temperatures", f"{temperatures.min():.4g} to {temperatures.max():.4g}"])
    measured = about.get("measured", {})
    if measured:
        before, after = measured["before"], measured["after"]
        likelihoods = [f"{one['negative_log_likelihood']:.4g}" for one in (before, after)]
        rows.append(["negative log-likelihood", f"{likelihoods[0]} before, {likelihoods[1]} after"])
        errors = [f"{100 * one['calibration_error']:.2f} %" for one in (before, after)]
        chance = f"{100 * after['calibration_error_by_chance']:.2f} %"
        rows.append(["calibration error", f"{errors[0]} before, {errors[1]} after, {chance} by chance alone"])
    if "sets" in measured:
        sets = measured["sets"]
        low, high = sets["promised"]
        alone = sets["classes_by_themselves"]
        whose = f" of each of {alone:,} classes" if alone else ""
        rows.append(
            [
                f"{confidence.method.upper()} sets of {100 * sets['coverage']:g} %",
                f"{sets['mean_size']:.1f} labels on average; hold the truth{whose} {100 * low:.1f} to "
                f"{100 * high:.1f} % of the time",
            ]
        )
        if confidence.sets[confidence.method].by_class:
            rows.append(["  by class", _by_class(alone, len(confidence.labels))])
    if "distances_from" in about:
        rows.append(["strangers are told by", about["distances_from"]])
    if about.get("labels_without_pictures"):
        rows.append(["labels without pictures", ", ".join(about["labels_without_pictures"])])
    return rendered(Text(printable(title), style="bold"), new_table(("", ""), rows))


def _by_class(alone: int, labels: int) -> str:
    from ..outputs.sets import PICTURES_A_CLASS

    those = f"have {PICTURES_A_CLASS} pictures or more of those for sets"
    rest = (
        "" if alone == labels else "; the others share what all pictures say" if alone else ": all share one quantile"
    )
    return f"{alone:,} of {labels:,} classes {those}{rest}"


__all__ = ["calibrate"]
