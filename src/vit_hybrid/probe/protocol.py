"""How much a frozen model knows of new classes: few-shot least squares and nearest neighbors on its features.

The protocol is that of the ViT paper (Dosovitskiy et al., 2020, section 4.1) as the authors' big_vision carries it out:
regularized least squares from what the classifier takes, standardized feature by feature, to targets of -1 and 1. The
model runs over each picture once; everything after that is linear algebra on the CPU, in float64.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict

import numpy as np
import torch

from .. import engines
from ..assets import BUILT_IN_MODEL
from ..checkpoints.opening import open_classifier
from ..data.pictures import PictureSources
from ..data.sources import DEFAULT_BATCH_SIZE
from ..engines.devices import usable_device
from ..engines.protocol import AUTO
from ..files import made_parents
from ..images.image_processing import ViTHybridImageProcessor
from ..images.preprocessing import Preprocessing
from ..inference.predictor import Predictor
from ..model.modeling import ViTHybridForImageClassification
from ..outputs.problems import SINGLE_LABEL
from ..outputs.ranking import softmax

if TYPE_CHECKING:
    from ..bundles.calibration import CalibrationSource
    from ..data import LabeledPictures

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
Progress: TypeAlias = Callable[[int, int], None]

# big_vision's: shots a class, the strength of the regularization, and what is added to a feature's deviation, so that a
# feature that never changes divides by something.
DEFAULT_SHOTS = (1, 5, 10, 25)
DEFAULT_L2 = 2.0**10
DEVIATION_EPSILON = 1e-5
# Strengths to choose from; they cover the 2^-10 to 2^20 of Kolesnikov et al. (Big Transfer, 2020).
L2_CANDIDATES = tuple(4.0**power for power in range(-5, 11))
# Draws of the pictures of a few-shot row: two more than big_vision's three, since they cost next to nothing.
DEFAULT_TRIALS = 5
# Wu et al., Unsupervised Feature Learning via Non-Parametric Instance Discrimination, 2018: the temperature; and the
# number that the authors of DINO (Caron et al., 2021) found best throughout.
NEIGHBOR_TEMPERATURE = 0.07
DEFAULT_NEIGHBORS = 20
# Pictures whose similarities to all training pictures are held at once.
NEIGHBOR_ROWS = 1024
# Between these the factor lies that makes logits of scores; the bisection halves the logarithm's range so many times.
SMALLEST_SCALE, LARGEST_SCALE = 1e-2, 1e3
SCALE_STEPS = 30

TOP_K = 5
NAMES_IN_A_MESSAGE, CLASSES_IN_A_CARD = 5, 100
ALL: Literal["all"] = "all"

PROCESSOR_FILE, WEIGHTS_FILE, CONFIG_FILE = "preprocessor_config.json", "model.safetensors", "config.json"
METRICS_FILE, CARD_FILE = "metrics.json", "README.md"
WRITTEN_FILES = frozenset((PROCESSOR_FILE, WEIGHTS_FILE, CONFIG_FILE, METRICS_FILE, CARD_FILE))


class ProbeError(ValueError):
    """What cannot be probed or written; the message is one line that says why and what to do."""


class Skipped(TypedDict):
    """A picture that gave no features, and one line that names it and says why."""

    path: str
    error: str


@dataclass(frozen=True)
class Features:
    """What a frozen model makes of labeled pictures.

    Attributes:
        values: (N, D), float32: what the classifier takes.
        targets: (N,), whole numbers: indices of classes.
        skipped: The pictures that are not among them.
    """

    values: Array
    targets: Array
    skipped: tuple[Skipped, ...] = ()

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True)
class LeastSquares:
    """Scores of classes as an affine function of features.

    Attributes:
        mean: (D,), and `deviation` (D,): what features are standardized by.
        coefficients: (D, K), on standardized features.
        intercept: (K,).
        l2: The strength of the regularization.
        held_out: (N, K): each training picture's scores by the solution of all the others.
    """

    mean: Array
    deviation: Array
    coefficients: Array
    intercept: Array
    l2: float
    held_out: Array

    def scores(self, features: Array) -> Array:
        """(N, D) features to (N, K) scores, about -1 for no and 1 for yes."""
        return (features - self.mean) / self.deviation @ self.coefficients + self.intercept

    def linear(self, scale: float = 1.0) -> tuple[Array, Array]:
        """Weight (K, D) and bias (K,) of one linear layer that makes `scale` x scores of features as they are."""
        weight = (self.coefficients / self.deviation[:, None]).T
        return scale * weight, scale * (self.intercept - weight @ self.mean)


class Spread(TypedDict):
    """A figure over the trials."""

    mean: float
    min: float
    max: float


class Row(TypedDict):
    """What `shots` pictures of each class give: top-1 on the validation pictures, 0 to 1; `images` is how many in all.

    `l2` has the strength chosen in each trial.
    """

    shots: int | Literal["all"]
    images: int
    trials: int
    least_squares: Spread
    knn: Spread
    l2: list[float]


class Report(TypedDict):
    """What a probe found. `top1` to `mean_confidence` are of least squares on all training pictures, as in the model
    that `write_model` writes; `scale` is what makes logits of its scores. Shares are 0 to 1, `seconds` wall-clock time.
    """

    classes: list[str]
    train_images: int
    val_images: int
    feature_size: int
    neighbors: int
    seed: int
    rows: list[Row]
    top1: float
    top5: float
    knn_top1: float
    held_out_top1: float | None
    cross_entropy: float
    mean_confidence: float
    l2: float
    scale: float
    seconds: dict[str, float]
    unreadable: list[Skipped]
    notes: list[str]


# --- The frozen model -------------------------------------------------------------------------------------------------


class FrozenModel:
    """A pretrained hybrid with the classifier taken off and one for `labels`, all zero, in its place.

    Args:
        model: Any hybrid; its classifier, if it has one, is of no account.
        processor: Its image processor.
        labels: The names of the new classes, two or more.
        batch_size: How many images go through the model at once.
        engine: What computes the features: see `vit_hybrid.engines.load`.
        precision: What it computes them in.
        calibration: For int8, as `vit_hybrid.engines.load` takes it.

    Attributes:
        predictor: The `Predictor` of the model with its new classifier, on PyTorch.
        processor: As given.
    """

    def __init__(
        self,
        model: ViTHybridForImageClassification,
        processor: ViTHybridImageProcessor,
        labels: Sequence[str],
        batch_size: int = DEFAULT_BATCH_SIZE,
        engine: str = "torch",
        precision: str = AUTO,
        calibration: CalibrationSource = None,
    ) -> None:
        self._extractor = _extractor(model, processor, batch_size, engine, precision, calibration)
        model.reset_classifier(len(labels))
        model.config.id2label = dict(enumerate(labels))
        model.config.label2id = {label: index for index, label in enumerate(labels)}
        model.config.problem_type = SINGLE_LABEL
        self.processor = processor
        self.predictor = Predictor(model, processor, batch_size=batch_size)

    @classmethod
    def from_pretrained(
        cls,
        name: str = BUILT_IN_MODEL,
        labels: Sequence[str] = (),
        device: str | torch.device | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
        engine: str = "torch",
        precision: str = AUTO,
        calibration: CalibrationSource = None,
    ) -> FrozenModel:
        """The model `name`, whatever head it has or lacks, in float32.

        Args:
            name: What `opening.open_classifier` opens: the built-in model's name, a folder, a hub id, or a file of the
                authors' JAX code or of timm's.
            labels: The names of the new classes.
            device: Where to run; by default the accelerator that torch finds, else the CPU.
            batch_size: How many images go through the model at once.
            engine: What computes the features: see `vit_hybrid.engines.load`.
            precision: What it computes them in.
            calibration: For int8, as `vit_hybrid.engines.load` takes it.

        Raises:
            ValueError: If there is no such model, it cannot be used, or neither can the device.
            OSError: If a file cannot be read.
        """
        try:
            place = usable_device(device)
        except ValueError as error:
            raise ProbeError(str(error)) from error
        model, processor = open_classifier(name, num_labels=len(labels))
        model = model.to(place, torch.float32)
        return cls(model, processor, labels, batch_size, engine, precision, calibration)

    def features(self, pictures: LabeledPictures, progress: Progress | None = None, strict: bool = False) -> Features:
        """What the classifier takes, for every picture that can be read.

        Args:
            pictures: Pictures with one label each.
            progress: Called with (pictures done, pictures in all) as they go through.
            strict: Whether a picture that cannot be read is an error.

        Raises:
            ProbeError: If `strict` and a picture cannot be read, or none can, or the features are not finite numbers.
        """
        parts: list[Array] = []
        kept: list[int] = []
        skipped: list[Skipped] = []
        with self._features_into(parts) as records_of:
            for index, record in enumerate(records_of(PictureSources(pictures))):
                if "error" not in record:
                    kept.append(index)
                elif strict:
                    raise ProbeError(record["error"])
                else:
                    skipped.append(Skipped(path=record["path"], error=record["error"]))
                if progress is not None:
                    progress(index + 1, len(pictures))
        values = np.concatenate(parts) if parts else np.empty((0, 0), np.float32)
        if not np.isfinite(values).all():  # which the stream reports of each picture, as of its logits
            raise ProbeError("the model's features are not finite numbers; its weights may be damaged")
        if not kept:
            reason = f"; {skipped[0]['error']}" if skipped else ""
            raise ProbeError(f"none of the {len(pictures)} pictures can be read{reason}")
        return Features(values, np.asarray(pictures.targets)[kept], tuple(skipped))

    @contextmanager
    def _features_into(self, parts: list[Array]) -> Iterator[Callable[[Any], Iterator[Any]]]:
        """What gives a record for each picture, and puts the features of those that can be read into `parts`."""
        if self._extractor is not None:
            extractor = self._extractor

            def records_of(sources: Any) -> Iterator[Any]:
                for record in extractor.stream_logits(sources):
                    if "logits" in record:
                        parts.append(record["logits"][None])
                    yield record

            yield records_of
            return
        hook = self.predictor.model.classifier.register_forward_pre_hook(
            lambda _, inputs: parts.append(inputs[0].float().cpu().numpy())
        )
        try:
            yield lambda sources: self.predictor.stream(sources, top_k=1)
        finally:
            hook.remove()


def _extractor(
    model: ViTHybridForImageClassification,
    processor: ViTHybridImageProcessor,
    batch_size: int,
    engine: str,
    precision: str,
    calibration: CalibrationSource,
) -> Predictor | None:
    """The model without its classifier on another engine, with features for logits; None where PyTorch gives them."""
    if engine == "torch" and precision in (AUTO, "f32"):
        return None
    headless = copy.deepcopy(model)
    headless.reset_classifier(0)
    preprocessing = Preprocessing.from_dict(processor.to_dict())
    loaded = engines.load(
        headless, engine=engine, precision=precision, calibration=calibration, preprocessing=preprocessing
    )
    return Predictor(loaded, preprocessing, batch_size=batch_size)


# --- Least squares ----------------------------------------------------------------------------------------------------


def least_squares(
    features: Array, targets: Array, num_classes: int, l2: Sequence[float] = L2_CANDIDATES
) -> LeastSquares:
    """Regularized least squares from standardized features to -1 and, for a picture's own class, 1, in closed form.

    The intercept is not regularized: on standardized features it is the targets' mean. (big_vision appends a feature of
    constant 100 instead, so that it is hardly regularized; this is the limit for larger constants.) Of several
    strengths, that with the smallest squared error of `held_out` is taken, which one decomposition gives for all of
    them: a prediction without the picture itself is y - (y - prediction) / (1 - leverage). Pictures that are alone in
    their class say nothing there; where all are, the strength is that nearest to big_vision's 2^10.

    Args:
        features: (N, D).
        targets: (N,), indices of classes.
        num_classes: K; a class may have no pictures.
        l2: Strengths to choose from, each above 0.

    Raises:
        ValueError: If a strength is not above 0, or there are none or no pictures.
    """
    if len(l2) == 0 or not all(strength > 0 and np.isfinite(strength) for strength in l2):
        raise ValueError(f"l2 is {list(l2)}; expected one or more numbers above 0.")
    if len(features) == 0:
        raise ValueError("There are no pictures to learn from.")
    inputs = torch.from_numpy(np.asarray(features, np.float64))
    mean = inputs.mean(0)
    deviation = inputs.std(0, correction=0) + DEVIATION_EPSILON
    classes = torch.from_numpy(np.asarray(targets, np.int64))
    wanted = 2.0 * torch.nn.functional.one_hot(classes, num_classes).double() - 1.0  # (N, K)
    intercept = wanted.mean(0)

    left, singular, right = torch.linalg.svd((inputs - mean) / deviation, full_matrices=False)
    projected = left.T @ (wanted - intercept)  # (r, K)
    in_company = torch.bincount(classes, minlength=num_classes)[classes] > 1

    def held_out(strength: float) -> torch.Tensor:
        kept = singular**2 / (singular**2 + strength)
        leverage = 1 / len(inputs) + left**2 @ kept
        residual = wanted - intercept - (left * kept) @ projected
        return wanted - residual / (1 - leverage).clamp(min=torch.finfo(torch.float64).eps)[:, None]

    def error_of(strength: float) -> float:
        return float((held_out(strength) - wanted)[in_company].square().mean())

    if len(l2) > 1 and in_company.any():
        chosen = min(l2, key=error_of)
    else:
        chosen = min(l2, key=lambda strength: abs(np.log(strength / DEFAULT_L2)))
    coefficients = right.T @ ((singular / (singular**2 + chosen))[:, None] * projected)
    return LeastSquares(
        mean=mean.numpy(),
        deviation=deviation.numpy(),
        coefficients=coefficients.numpy(),
        intercept=intercept.numpy(),
        l2=float(chosen),
        held_out=held_out(chosen).numpy(),
    )


def fit_scale(scores: Array, targets: Array) -> float:
    """The factor by which scores become the logits whose softmax fits `targets` best, as cross-entropy goes.

    As in Platt's scaling (1999), a picture counts as its class with the probability (N + 1) / (N + 2) only, so that
    scores without a mistake do not call for an infinite factor.

    Args:
        scores: (N, K) scores of pictures that the solution has not seen.
        targets: (N,), indices of classes.
    """
    number, num_classes = scores.shape
    doubt = 1 / (number + 2)
    wanted = np.full(scores.shape, doubt / (num_classes - 1))
    wanted[np.arange(number), targets] = 1 - doubt
    hoped = float((wanted * scores).sum())
    low, high = np.log(SMALLEST_SCALE), np.log(LARGEST_SCALE)
    for _ in range(SCALE_STEPS):  # cross-entropy is convex in the factor: its slope changes sign once
        middle = (low + high) / 2
        if float((softmax(np.exp(middle) * scores) * scores).sum()) < hoped:
            low = middle
        else:
            high = middle
    return float(np.exp((low + high) / 2))


# --- Nearest neighbors ------------------------------------------------------------------------------------------------


def nearest_neighbors(train: Features, features: Array, num_classes: int, neighbors: int) -> Array:
    """Votes (N, K) for each class by the most similar training pictures, weighted by exp(cosine / 0.07).

    Args:
        train: The training pictures.
        features: (N, D) of the pictures to vote on.
        num_classes: K.
        neighbors: How many pictures vote; all of them where there are fewer.
    """
    known, asked = _unit_rows(train.values), _unit_rows(features)
    number = min(neighbors, len(train))
    votes = np.zeros((len(asked), num_classes))
    for start in range(0, len(asked), NEIGHBOR_ROWS):
        similarity = asked[start : start + NEIGHBOR_ROWS] @ known.T
        nearest = np.argpartition(-similarity, number - 1, axis=1)[:, :number]
        weights = np.exp((np.take_along_axis(similarity, nearest, 1) - 1) / NEIGHBOR_TEMPERATURE)
        rows = np.arange(start, start + len(similarity))[:, None]
        np.add.at(votes, (rows, train.targets[nearest]), weights)
    return votes


def _unit_rows(features: Array) -> Array:
    rows = np.asarray(features, np.float64)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float64).tiny)


# --- The protocol -----------------------------------------------------------------------------------------------------


def draw_shots(targets: Array, num_classes: int, shots: int, generator: np.random.Generator) -> Array:
    """Indices of `shots` pictures of each class, drawn without replacement; all of a class that has fewer.

    With a generator in the same state, the pictures of fewer shots are among those of more.
    """
    drawn = [generator.permutation(np.flatnonzero(targets == index))[:shots] for index in range(num_classes)]
    return np.concatenate(drawn)


def probe(
    train: Features,
    val: Features,
    classes: Sequence[str],
    shots: Sequence[int] | None = None,
    trials: int = DEFAULT_TRIALS,
    neighbors: int = DEFAULT_NEIGHBORS,
    l2: Sequence[float] = L2_CANDIDATES,
    seed: int = 0,
) -> tuple[Report, LeastSquares]:
    """Few-shot least squares and nearest neighbors, and both on all training pictures.

    Nothing is chosen on the validation pictures: the strength of the regularization and the scale of the logits come
    from scores of training pictures by solutions without them.

    Args:
        train: Features of the training pictures.
        val: Features of the validation pictures.
        classes: The classes' names.
        shots: How many pictures a class, in ascending order or not; by default those of 1, 5, 10 and 25 that are fewer
            than the largest class has. All pictures are tried in any case.
        trials: How many draws of these pictures.
        neighbors: How many pictures vote.
        l2: Strengths of the regularization to choose from.
        seed: What the draws depend on.

    Returns:
        What was found, and the solution on all training pictures.

    Raises:
        ProbeError: If the training pictures show fewer than two classes.
        ValueError: If a number is out of range.
    """
    for name, number in (("trials", trials), ("neighbors", neighbors), *(("shots", number) for number in shots or ())):
        if number < 1:
            raise ValueError(f"{name} is {number}; expected 1 or more.")
    if seed < 0:
        raise ValueError(f"seed is {seed}; expected 0 or more.")
    counts = _counts(train, classes)
    shown = np.count_nonzero(counts)
    if shown < 2:
        raise ProbeError(f"the training pictures show {shown} of {len(classes)} classes; a probe needs 2 or more")
    started = time.perf_counter()
    if shots is None:
        shots = [number for number in DEFAULT_SHOTS if number < counts.max()]
    shots = sorted(set(shots))
    notes = _notes(counts, classes, shots, val)
    rows = [_few_shot_row(train, val, len(classes), number, trials, neighbors, l2, seed) for number in shots]

    everything = least_squares(train.values, train.targets, len(classes), l2)
    scores = everything.scores(val.values)
    in_company = counts[train.targets] > 1
    held_out, own = everything.held_out[in_company], train.targets[in_company]
    scale = fit_scale(held_out, own) if len(own) else 1.0
    if not len(own):
        notes.append("with one picture a class none can be held out: l2 is the default, probabilities are uncalibrated")
    knn = _top1(nearest_neighbors(train, val.values, len(classes), neighbors), val.targets)
    top1 = _top1(scores, val.targets)
    rows.append(
        Row(
            shots=ALL,
            images=len(train),
            trials=1,
            least_squares=_spread([top1]),
            knn=_spread([knn]),
            l2=[everything.l2],
        )
    )
    probabilities = softmax(scale * scores)
    report = Report(
        classes=list(classes),
        train_images=len(train),
        val_images=len(val),
        feature_size=train.values.shape[1],
        neighbors=neighbors,
        seed=seed,
        rows=rows,
        top1=top1,
        top5=_top_k(scores, val.targets, TOP_K),
        knn_top1=knn,
        held_out_top1=_top1(held_out, own) if len(own) else None,
        cross_entropy=_cross_entropy(scale * scores, val.targets),
        mean_confidence=float(probabilities.max(1).mean()),
        l2=everything.l2,
        scale=scale,
        seconds={"solving": time.perf_counter() - started},
        unreadable=[*train.skipped, *val.skipped],
        notes=notes,
    )
    return report, everything


def _few_shot_row(
    train: Features,
    val: Features,
    num_classes: int,
    shots: int,
    trials: int,
    neighbors: int,
    l2: Sequence[float],
    seed: int,
) -> Row:
    solved, voted, strengths = [], [], []
    chosen = np.empty(0, np.int64)
    for trial in range(trials):
        chosen = draw_shots(train.targets, num_classes, shots, np.random.default_rng((seed, trial)))
        few = Features(train.values[chosen], train.targets[chosen])
        solution = least_squares(few.values, few.targets, num_classes, l2)
        solved.append(_top1(solution.scores(val.values), val.targets))
        voted.append(_top1(nearest_neighbors(few, val.values, num_classes, neighbors), val.targets))
        strengths.append(solution.l2)
        if len(chosen) == len(train):  # another draw would be the same pictures
            break
    return Row(
        shots=shots,
        images=len(chosen),
        trials=len(solved),
        least_squares=_spread(solved),
        knn=_spread(voted),
        l2=strengths,
    )


def _notes(counts: Array, classes: Sequence[str], shots: Sequence[int], val: Features) -> list[str]:
    """What a reader of the figures should know of the data, a line each."""
    notes = []
    empty = [name for name, count in zip(classes, counts, strict=True) if count == 0]
    if empty:
        notes.append(f"no training pictures of {_listed(empty)}")
    unseen = [name for name, count in zip(classes, _counts(val, classes), strict=True) if count == 0]
    if unseen:
        notes.append(f"no validation pictures of {_listed(unseen)}")
    for number in shots:
        short = [f"{name} ({count})" for name, count in zip(classes, counts, strict=True) if 0 < count < number]
        if short:
            notes.append(f"fewer than {number} training pictures, all of which are used, of {_listed(short)}")
    return notes


def _counts(features: Features, classes: Sequence[str]) -> Array:
    return np.bincount(features.targets, minlength=len(classes))


def _listed(names: Sequence[str], most: int = NAMES_IN_A_MESSAGE) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def _top1(scores: Array, targets: Array) -> float:
    return float((scores.argmax(1) == targets).mean())


def _top_k(scores: Array, targets: Array, k: int) -> float:
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return float((best == targets[:, None]).any(1).mean())


def _cross_entropy(logits: Array, targets: Array) -> float:
    shifted = logits - logits.max(1, keepdims=True)
    log_sums = np.log(np.exp(shifted).sum(1))
    return float((log_sums - shifted[np.arange(len(targets)), targets]).mean())


def _spread(figures: Sequence[float]) -> Spread:
    return Spread(mean=float(np.mean(figures)), min=min(figures), max=max(figures))


# --- The model that is written ----------------------------------------------------------------------------------------


def check_output(out: str | os.PathLike[str], overwrite: bool = False) -> None:
    """Says before any work whether `write_model` could write to `out`.

    Raises:
        ProbeError: If `out` is a file, or a folder with something in it and `overwrite` is false or it is not a model
            that `write_model` wrote, with nothing else beside it.
    """
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise ProbeError(f"{out}: this is a file; give the name of a folder")
    found = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    if found and not overwrite:
        raise ProbeError(f"{out}: not empty (there is {found[0]}); give another name, or --overwrite to replace it")
    foreign = [name for name in found if name not in WRITTEN_FILES]
    if foreign:
        raise ProbeError(
            f"{out}: will not be replaced, since it holds more than a probe writes ({_listed(foreign)}); give another "
            "name"
        )


def write_model(
    out: str | os.PathLike[str],
    frozen: FrozenModel,
    solution: LeastSquares,
    report: Report,
    model: str,
    data: str,
    overwrite: bool = False,
) -> None:
    """Writes the frozen model with the solution as its classifier: a folder for `from_pretrained` and `classify`.

    With it come the image processor, `metrics.json` and a model card. The folder is complete or not there.

    Args:
        out: The folder.
        frozen: The model the features came from; its classifier is set.
        solution: What `probe` returned.
        report: Likewise.
        model: What the card calls the frozen model.
        data: What the card calls the data.
        overwrite: Whether to replace what `write_model` wrote there before.

    Raises:
        ProbeError: See `check_output`.
        OSError: If the files cannot be written.
    """
    check_output(out, overwrite)
    weight, bias = solution.linear(report["scale"])
    classifier: Any = frozen.predictor.model.classifier
    with torch.no_grad():
        classifier.weight.copy_(torch.from_numpy(weight))
        classifier.bias.copy_(torch.from_numpy(bias))
    with _new_folder(Path(out).resolve()) as folder:
        frozen.predictor.model.save_pretrained(folder)
        frozen.processor.save_pretrained(folder)
        metrics = {"model": model, "data": data, **report}
        (folder / METRICS_FILE).write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
        (folder / CARD_FILE).write_text(
            _card(Path(out).resolve().name, report, model, data), encoding="utf-8", errors="backslashreplace"
        )
        for path in folder.iterdir():  # safetensors' are for their owner alone
            shutil.copymode(folder / CONFIG_FILE, path)


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """A hidden empty folder beside `out` that takes its place once the block has ended without an error."""
    temporary, former = (out.with_name(f".{out.name}.{os.getpid()}.{what}") for what in ("partial", "former"))
    with made_parents(out):
        try:
            temporary.mkdir()
            yield temporary
            if out.exists():
                out.rename(former)
            try:
                temporary.rename(out)
            except OSError:
                if former.exists():
                    former.rename(out)
                raise
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    shutil.rmtree(former, ignore_errors=True)


def _card(name: str, report: Report, model: str, data: str) -> str:
    rows = "".join(
        f"| {row['shots']} | {row['images']:,} | {percent(row['least_squares'])} | {percent(row['knn'])} |\n"
        for row in report["rows"]
    )
    if report["held_out_top1"] is None:
        how = f"With one picture a class, l2 is the default, {report['l2']:g}, and probabilities are uncalibrated"
    else:
        how = (
            f"The regularization (l2 {report['l2']:g}) and the logits' scale ({report['scale']:.3g}) fit training "
            f"pictures scored by the solution of all the others (top-1 {report['held_out_top1']:.2%})"
        )
    return f"""---
library_name: vit-hybrid
pipeline_tag: image-classification
---

# {name}

`{model}` with its weights frozen and a new linear classifier, computed in closed form by `vit-hybrid probe` from
{report["train_images"]:,} pictures of `{data}`. It tells {len(report["classes"])} classes apart:
{_listed(report["classes"], CLASSES_IN_A_CARD)}.

Top-1 on {report["val_images"]:,} validation pictures is {report["top1"]:.2%}, top-5 {report["top5"]:.2%}.

| pictures a class | pictures | least squares, top-1 | {report["neighbors"]} nearest neighbors, top-1 |
|---|---|---|---|
{rows}
Means of draws with seed {report["seed"]}, and their ranges. {how}; nothing was chosen on the validation pictures.
`{METRICS_FILE}` has all figures.

```sh
vit-hybrid classify PICTURE --model {name}
```
"""


def percent(spread: Spread) -> str:
    """A mean and, where there is one, its range: `43.12% (41.00 to 45.20)`."""
    if spread["min"] == spread["max"]:
        return f"{spread['mean']:.2%}"
    return f"{spread['mean']:.2%} ({100 * spread['min']:.2f} to {100 * spread['max']:.2f})"


__all__ = [
    "Features",
    "FrozenModel",
    "LeastSquares",
    "ProbeError",
    "Report",
    "check_output",
    "draw_shots",
    "fit_scale",
    "least_squares",
    "nearest_neighbors",
    "probe",
    "write_model",
]
