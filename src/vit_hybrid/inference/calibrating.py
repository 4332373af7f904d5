"""A model over held-out pictures, for `outputs.confidence`: what it says of them, and what it was trained on."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from ..checkpoints.opening import open as open_source
from ..data.checksums import are_among, checksums
from ..data.listing import PICTURE
from ..data.pictures import LabeledPictures, PictureSources
from ..errors import argument, shown
from ..outputs import confidence as fitting
from ..outputs.confidence import Confidence, ConfidenceError
from ..outputs.problems import LAC, SINGLE_LABEL
from ..outputs.ranking import ErrorRecord, OutputRecord
from ..outputs.strangers import Gathering, TrainedOn
from ..runtimes import ALL
from .predictor import Predictor

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with what is run over, how many pictures of it are done, and how many it has."""

# Where neither training features nor training pictures are to be had, one part of so many stands in for them.
PARTS_OF_OWN = 4
# So many of a model's training pictures say where they lie; all of a million would take hours on a CPU and say no more.
MOST_TRAINING_PICTURES = 10_000
# Training pictures whose features are summed up at once.
GATHERED_AT_ONCE = 256


@dataclass(frozen=True)
class HeldOut:
    """What a model makes of held-out pictures.

    Attributes:
        logits: (N, labels).
        features: (N, D), the class token before the last norm.
        statistics: (N, S), `outputs.strangers.pixel_statistics`.
        targets: (N,) classes in the model's order, or (N, labels) of zeros and ones.
        skipped: The pictures that could not be read, those that distances are measured from included.
    """

    logits: Array
    features: Array
    statistics: Array
    targets: Array
    skipped: tuple[ErrorRecord, ...]


def run_over(predictor: Predictor, pictures: LabeledPictures, progress: Progress | None = None) -> HeldOut:
    """What a model makes of labeled pictures, those that cannot be read left out.

    Args:
        predictor: The model, loaded with `output="all"`.
        pictures: With targets in the order of its outputs.
        progress: See `Progress`.

    Raises:
        ConfidenceError: None could be read.
    """
    logits, features, statistics, rows = [], [], [], []
    skipped: list[ErrorRecord] = []
    for row, record in enumerate(_stream(predictor, pictures, "held-out pictures", progress)):
        if "error" in record:
            skipped.append(record)
            continue
        logits.append(record["logits"])
        features.append(record["token"])
        statistics.append(record["statistics"])
        rows.append(row)
    if not rows:
        why = f": {skipped[0]['error']}" if skipped else ""
        raise ConfidenceError(f"none of the {len(pictures)} pictures can be read{why}")
    return HeldOut(np.stack(logits), np.stack(features), np.stack(statistics), pictures.targets[rows], tuple(skipped))


def trained_on(
    predictor: Predictor,
    pictures: LabeledPictures,
    progress: Progress | None = None,
    skipped: list[ErrorRecord] | None = None,
) -> TrainedOn:
    """What distances need of the pictures that a model was trained on; a part of them will do.

    Args:
        predictor: The model, loaded with `output="all"`.
        pictures: With one label each, in the order of its outputs.
        progress: See `Progress`.
        skipped: Gets the pictures that could not be read.

    Raises:
        ConfidenceError: None could be read.
    """
    failed: list[ErrorRecord] = []
    gathering: Gathering | None = None
    waiting: list[tuple[Any, Any, int]] = []

    def gather() -> None:
        nonlocal gathering
        tokens, statistics, targets = zip(*waiting, strict=True)
        gathering = gathering or Gathering(len(predictor.labels), len(tokens[0]))
        gathering.add(np.stack(tokens), np.array(targets), np.stack(statistics))
        waiting.clear()

    for row, record in enumerate(_stream(predictor, pictures, "training pictures", progress)):
        if "error" in record:
            failed.append(record)
        else:
            waiting.append((record["token"], record["statistics"], int(pictures.targets[row])))
        if len(waiting) == GATHERED_AT_ONCE:
            gather()
    if waiting:
        gather()
    if gathering is None:
        why = f": {failed[0]['error']}" if failed else ""
        raise ConfidenceError(f"none of the {len(pictures)} training pictures can be read{why}")
    if skipped is not None:
        skipped += failed
    return gathering.trained_on()


def calibrate(
    predictor: Predictor,
    pictures: LabeledPictures,
    weights: str,
    *,
    training: LabeledPictures | None = None,
    known: TrainedOn | None = None,
    trained: Array | None = None,
    method: str = LAC,
    by_class: bool = False,
    about: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> tuple[Confidence, HeldOut]:
    """Confidence in what a model says, from held-out pictures.

    Args:
        predictor: The model, loaded with `output="all"`.
        pictures: Labeled ones that it was not trained on.
        weights: SHA-256 of its weights.
        training: Pictures that it was trained on, to measure distances from.
        known: What is known of these already; with neither, a fourth of `pictures` stands in.
        trained: `data.checksums` of all that it was trained on, where somebody knows; none of `pictures` may be there.
        method: Which sets are shown: see `outputs.problems.SET_METHODS`.
        by_class: Whether sets have quantiles of each class.
        about: More to keep for people to read.
        progress: See `Progress`.

    Returns:
        The confidence, and what it was fitted on.

    Raises:
        ConfidenceError: Nothing applies to such a model, there are too few pictures, or some of them were trained on.
        DataError: The pictures have labels that the model does not know.
    """
    labels = predictor.labels
    single = predictor.problem_type == SINGLE_LABEL
    fitting.check_applies(predictor.problem_type)
    for name, value in (("training", training), ("sets", None if method == LAC else method), ("by_class", by_class)):
        if value and not single:
            raise ConfidenceError(
                f"{argument(name)} is for models of one label a picture, and this one's problem_type is "
                f"{predictor.problem_type!r}; leave it out"
            )
    if pictures.problem_type != predictor.problem_type:
        raise ConfidenceError(
            f"the model's problem_type is {predictor.problem_type!r}, but the data's labels are those of "
            f"{pictures.problem_type!r}; calibrate it on data of its own kind"
        )
    pictures = pictures.with_labels(labels)
    if trained is not None:
        _refuse_trained(pictures, trained)
    fitting.check_enough(len(pictures), predictor.problem_type, False)
    said: dict[str, Any] = {**(about or {})}
    skipped: list[ErrorRecord] = []
    lacking = [label for label, count in zip(labels, pictures.class_counts(), strict=True) if not count]
    if lacking:
        said["labels_without_pictures"] = lacking
    if known is not None or training is not None:
        fitting.check_enough(len(pictures), predictor.problem_type, single)
    if single and known is not None:
        said["distances_from"] = "the training pictures' features that were kept with the model"
    elif single and training is not None:
        training = training.with_labels(labels)
        said["distances_from"] = f"{len(training):,} training pictures"
        known = trained_on(predictor, training, progress, skipped)
    elif single and len(pictures) >= PARTS_OF_OWN * fitting.SMALLEST_PART:
        first, *rest = fitting.disjoint_parts(pictures.targets, PARTS_OF_OWN)
        own, pictures = pictures.select(first), pictures.select(np.sort(np.concatenate(rest)))
        said["distances_from"] = f"{len(own):,} of the held-out pictures, which serve for nothing else"
        known = trained_on(predictor, own, progress, skipped)
    ran = run_over(predictor, pictures, progress)
    ran = replace(ran, skipped=(*skipped, *ran.skipped))
    if ran.skipped:
        said["unreadable"] = len(ran.skipped)
    found = fitting.fit(
        ran.logits,
        ran.targets,
        labels,
        predictor.problem_type,
        weights=weights,
        precision=predictor.engine.precision,
        token_merging=predictor.engine.spec.token_merging,
        features=ran.features,
        statistics=ran.statistics,
        trained_on=known if single else None,
        trained_pictures=trained,
        method=method,
        by_class=by_class,
        about=said,
    )
    return found, ran


def calibrate_written(
    folder: str | os.PathLike[str],
    pictures: LabeledPictures,
    training: LabeledPictures,
    *,
    device: Any = None,
    leave_out: bool = True,
    about: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Writes the confidence of a model that was just trained beside its weights, in float32.

    Distances are measured from at most 10,000 training
    pictures, each class spread over all of them; the checksums of all are kept, for `calibrate` to know them again.

    Args:
        folder: Where the model was written.
        pictures: Those that it was not trained on.
        training: Those that it was.
        device: Where to run; by default the accelerator that torch finds, else the CPU.
        leave_out: Whether held-out pictures that were trained on, too, are left out.
        about: More to keep for people to read.
        progress: See `Progress`.

    Returns:
        What `in_words` takes: the temperature, how many pictures, and what came of it.

    Raises:
        ConfidenceError: Nothing applies to such a model, or there are too few held-out pictures.
        OSError: It cannot be written.
    """
    single = training.problem_type == SINGLE_LABEL
    fitting.check_enough(len(pictures), training.problem_type, single)  # before anything is loaded
    trained = checksums(training)
    seen = are_among(checksums(pictures), trained)
    about = dict(about or {})
    if leave_out and seen.any():
        about["left_out_as_trained_on"] = int(seen.sum())
        pictures = pictures.select(~seen)
        fitting.check_enough(len(pictures), training.problem_type, single)
    parts = -(-len(training) // MOST_TRAINING_PICTURES)
    few = training.select(fitting.disjoint_parts(training.targets, parts)[0]) if single and parts > 1 else training
    predictor = Predictor.from_pretrained(
        folder, device, engine="torch", precision="f32", output=ALL, max_pixels=pictures.max_pixels, confidence=False
    )
    weights = open_source(os.fspath(folder)).provenance()["weights_sha256"]
    # Distances are for models of one label a picture.
    known = few if single else None
    found, _ = calibrate(predictor, pictures, weights, training=known, about=about, progress=progress)
    found = replace(found, trained_pictures=np.unique(trained, axis=0))
    fitting.write(found, folder)
    return {"temperature": found.temperature.tolist(), **found.about}


def in_words(found: Mapping[str, Any]) -> str:
    """How sure a model's answers are, for its card.

    Args:
        found: What `calibrate_written` returned, or `why_not`.
    """
    if "why_not" in found:
        return f"Not calibrated: {found['why_not']}"
    what = "one for each label" if isinstance(found["temperature"], list) else f"{found['temperature']:.4g}"
    lines = [
        f"Probabilities are calibrated by a temperature, {what}, from {found['pictures']:,} held-out pictures",
        "(`confidence.json`; `vit-hybrid classify --uncalibrated` gives those of the model alone).",
    ]
    measured, parts = found.get("measured", {}), found.get("parts", {})
    if measured:
        before, after = measured["before"], measured["after"]
        lines += [
            f"Calibration error over 15 bins of equal mass, of {parts['sets']:,} of them that it was not fitted on:",
            f"{before['calibration_error']:.2%} before, {after['calibration_error']:.2%} after; chance alone shows "
            f"{after['calibration_error_by_chance']:.2%}.",
        ]
    if "sets" in measured:
        sets = measured["sets"]
        low, high = sets["promised"]
        alone = sets["classes_by_themselves"]
        whose = f" of each of {alone:,} classes" if alone else ""
        lines.append(
            f"Sets of {sets['coverage']:.0%} hold the truth{whose} {low:.1%} to {high:.1%} of the time, with "
            f"{sets['mean_size']:.1f} labels on average."
        )
    if "strangers" in parts:
        lines.append(
            f"A picture that is less familiar than 95 % of {parts['strangers']:,} others is called none of these; "
            f"distances are from {found['distances_from']}."
        )
    lines.append("`vit-hybrid evaluate MODEL DATA` measures what comes of it on other pictures.")
    return "\n".join(lines)


def _refuse_trained(pictures: LabeledPictures, trained: Array) -> None:
    seen = np.flatnonzero(are_among(checksums(pictures), trained))
    if len(seen):
        raise ConfidenceError(
            f"{len(seen):,} of the {len(pictures):,} pictures were trained on, such as "
            f"{shown(pictures.name(int(seen[0])))}; give pictures that this model has never seen."
        )


def over(predictor: Predictor, sources: Sequence[Any]) -> Iterator[OutputRecord | ErrorRecord]:
    """What `predictor.stream_outputs` gives, and statistics of the pictures' pixels, whatever confidence there is."""
    measuring = copy.copy(predictor)
    measuring.streaming = copy.copy(predictor.streaming)
    measuring.streaming.statistics = True
    return measuring.stream_outputs(sources)


def _stream(
    predictor: Predictor, pictures: LabeledPictures, what: str, progress: Progress | None
) -> Iterator[OutputRecord | ErrorRecord]:
    sources: Sequence[Any] = PictureSources(pictures)
    for done, record in enumerate(over(predictor, sources), start=1):
        if "error" in record:
            pictures.passed.add(PICTURE, record["path"])
        yield record
        if progress is not None:
            progress(what, done, len(sources))
