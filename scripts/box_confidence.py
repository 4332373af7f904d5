"""How far what the model in the package says of its answers can be trusted: fits its confidence, and measures it.

Fitted on the 3,600 training pictures that the recipe holds back; measured on the 9,000 validation pictures of its
classes and on strangers: pictures of ten classes that it was not trained on, CIFAR-10's of classes that it has nothing
like, and made ones. Nothing is chosen on any of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vit_hybrid import Predictor
from vit_hybrid.data import LabeledPictures, Split, read_labeled
from vit_hybrid.data.pictures import PictureSources
from vit_hybrid.evaluate import known_only
from vit_hybrid.inference.calibrating import calibrate_written, over
from vit_hybrid.outputs import reliability, sets, strangers
from vit_hybrid.outputs.confidence import Confidence, read
from vit_hybrid.outputs.problems import DEFAULT_COVERAGE, DEFAULT_FALSE_ALARMS, LAC, SET_METHODS
from vit_hybrid.outputs.ranking import softmax

Figures = dict[str, Any]
Array = np.ndarray[Any, np.dtype[Any]]

CIFAR, CIFAR_STRANGERS = "cifar10/test.parquet", ("airplane", "deer", "horse", "ship")
DRAWN = 200  # made pictures of each kind
SPLITS = 100
RESAMPLED = 300


def fit(assets: Path, split: Split) -> Figures:
    """Writes the confidence of the model in the package beside its weights."""
    about = {"data": "the 3,600 training pictures of Tiny ImageNet that the recipe holds back"}
    # One of the 3,600 is among the training pictures under another name; the list says which are held back.
    return calibrate_written(assets, split.val, split.train, device="cpu", leave_out=False, about=about)


def measure(assets: Path, tiny_imagenet: Path, data: Path, new_classes: str) -> Figures:
    """Probabilities and sets on the validation pictures, and who is called a stranger."""
    confidence = read(assets)
    predictor = Predictor.from_pretrained(device="cpu", engine="torch", output="all")
    pictures = known_only(read_labeled(tiny_imagenet, "val"), predictor.labels)
    known, targets = _outputs(predictor, pictures), np.asarray(pictures.targets)
    logits = known["logits"].astype(np.float64)
    cifar = read_labeled(data / CIFAR)
    elsewhere = np.isin(np.array(cifar.labels)[cifar.targets], CIFAR_STRANGERS)
    others: dict[str, Any] = {
        new_classes: read_labeled(data / new_classes),
        "CIFAR-10": cifar.select(elsewhere),
        **drawn(),
    }
    return {
        "images": len(targets),
        "before": _probabilities(softmax(logits), targets),
        "after": _probabilities(confidence.probabilities(logits), targets),
        "sets": {method: _sets(confidence, method, logits, targets) for method in SET_METHODS},
        "splits": _splits(softmax(logits), targets),
        "answers": reliability.answers(*reliability.sure_and_right(confidence.probabilities(logits), targets)),
        **_strangers(confidence, known, {name: _outputs(predictor, found) for name, found in others.items()}),
    }


def drawn() -> dict[str, list[Image.Image]]:
    """Made pictures of 64 x 64 pixels: noise, colored waves, one gray."""
    rng = np.random.default_rng(7)
    noise = [Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)) for _ in range(DRAWN)]
    gray = [Image.new("RGB", (64, 64), (int(level),) * 3) for level in rng.integers(0, 256, DRAWN)]
    rows, columns = np.mgrid[0:64, 0:64] / 64
    waves = []
    for _ in range(DRAWN):
        cycles, phase = rng.uniform(1, 12, (2, 3)), rng.uniform(0, 2 * np.pi, 3)
        height, level = rng.uniform(40, 120, 3), rng.uniform(60, 190, 3)
        turns = 2 * np.pi * (cycles[0] * columns[..., None] + cycles[1] * rows[..., None]) + phase
        waves.append(Image.fromarray((level + height * np.sin(turns)).clip(0, 255).astype(np.uint8)))
    return {"noise": noise, "waves": waves, "gray": gray}


def _outputs(predictor: Predictor, pictures: LabeledPictures | list[Image.Image]) -> dict[str, Array]:
    sources = pictures if isinstance(pictures, list) else PictureSources(pictures)
    found: list[Any] = list(over(predictor, sources))
    return {name: np.stack([one[name] for one in found]) for name in ("logits", "token", "statistics")}


def _probabilities(probabilities: Array, targets: Array) -> Figures:
    sure, right = reliability.sure_and_right(probabilities, targets)
    by_mass = reliability.bins(sure, right, equal_mass=True)
    return {
        "negative_log_likelihood": reliability.negative_log_likelihood(probabilities, targets),
        "brier_score": reliability.brier_score(probabilities, targets),
        "calibration_error": reliability.calibration_error(reliability.bins(sure, right)),
        "calibration_error_equal_mass": reliability.calibration_error(by_mass),
        "by_chance": reliability.calibration_error_by_chance(sure, equal_mass=True),
        "top1": float(right.mean()),
    }


def _sets(confidence: Confidence, method: str, logits: Array, targets: Array) -> Figures:
    inside = confidence.sets[method].contain(softmax(logits), DEFAULT_COVERAGE)
    by_class = sets.sizes_by_class(inside, targets, len(confidence.labels))
    return {
        "coverage": float(inside[np.arange(len(targets)), targets].mean()),
        "size": float(inside.sum(axis=1).mean()),
        "lowest_class": float(by_class["coverage"].min()),
        "highest_class": float(by_class["coverage"].max()),
    }


def _splits(probabilities: Array, targets: Array) -> Figures:
    """Coverage where half of the pictures, drawn at random, fit the sets and the other half measures them."""
    rng, half = np.random.default_rng(0), len(targets) // 2
    low, high = sets.promised(half, DEFAULT_COVERAGE, measured_on=len(targets) - half)
    coverages = []
    for _ in range(SPLITS):
        order = rng.permutation(len(targets))
        fitted = sets.fit(LAC, probabilities[order[:half]], targets[order[:half]])
        inside = fitted.contain(probabilities[order[half:]], DEFAULT_COVERAGE)
        coverages.append(inside[np.arange(len(inside)), targets[order[half:]]].mean())
    within = int(np.sum([low <= one <= high for one in coverages]))
    return {"splits": SPLITS, "mean": float(np.mean(coverages)), "within": within, "interval": [low, high]}


def _strangers(
    confidence: Confidence, known: Mapping[str, Array], others: Mapping[str, Mapping[str, Array]]
) -> Figures:
    assert confidence.familiarity is not None

    def scores(one: Mapping[str, Array]) -> tuple[Array, Array, Array]:
        given = (one["token"], one["logits"], one["statistics"])
        combined = confidence.familiarity.strangeness(confidence.distances(*given))  # type: ignore[union-attr]
        return combined, strangers.unsure(one["logits"]), confidence.familiar(*given)

    ours, softmaxes, familiar = scores(known)
    found: dict[str, Figures] = {}
    for name, one in others.items():
        combined, plain, share = scores(one)
        rng, gains = np.random.default_rng(0), []
        for _ in range(RESAMPLED):
            here, there = rng.integers(len(ours), size=len(ours)), rng.integers(len(plain), size=len(plain))
            pair = ((ours[here], combined[there]), (softmaxes[here], plain[there]))
            gains.append(float(np.subtract(*(reliability.detection(*each)["auroc"] for each in pair))))
        found[name] = {
            "images": len(plain),
            "combined": reliability.detection(ours, combined),
            "softmax": reliability.detection(softmaxes, plain),
            "gain_between": np.percentile(gains, [2.5, 97.5]).tolist(),
            "called": float((share < DEFAULT_FALSE_ALARMS).mean()),
        }
    return {"strangers": found, "false_alarms": float((familiar < DEFAULT_FALSE_ALARMS).mean())}


# --- What the card says -----------------------------------------------------------------------------------------------


def table(found: Mapping[str, Any]) -> str:
    """Strangers, a row each."""
    lines = [
        "| strangers | pictures | AUROC | that of the softmax | gain, 95 % interval | called none of these |",
        "|---|---|---|---|---|---|",
    ]
    for name, one in found["strangers"].items():
        low, high = one["gain_between"]
        cells = (
            *(name, f"{one['images']:,}", _percent(one["combined"]["auroc"]), _percent(one["softmax"]["auroc"])),
            *(f"{100 * low:.1f} to {100 * high:.1f} points", _percent(one["called"])),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def words(found: Mapping[str, Any], fitted: Mapping[str, Any]) -> dict[str, Any]:
    """The figures that the card has in its sentences, by their names there."""
    before, after, splits = found["before"], found["after"], found["splits"]
    answered = [
        f"{100 * one['accuracy']:.0f} % of the time, "
        + (f"answer {_percent(one['share'], 0)} of the pictures" if one["share"] else "answer none")
        for one in found["answers"]
    ]
    return {
        "calibrated_on": fitted["pictures"],
        "temperature": f"{fitted['temperature']:.3f}",
        "nll": f"{after['negative_log_likelihood']:.4f} ({before['negative_log_likelihood']:.4f} before)",
        "brier": f"{after['brier_score']:.4f} ({before['brier_score']:.4f})",
        "error_width": f"{_percent(after['calibration_error'], 2)} ({_percent(before['calibration_error'], 2)})",
        "error_mass": f"{_percent(after['calibration_error_equal_mass'], 2)} "
        f"({_percent(before['calibration_error_equal_mass'], 2)})",
        "by_chance": _percent(after["by_chance"], 2),
        "excess": f"{100 * (after['calibration_error_equal_mass'] - after['by_chance']):.2f}",
        "set_coverage": _percent(found["sets"]["lac"]["coverage"]),
        "set_size": f"{found['sets']['lac']['size']:.1f}",
        "set_lowest": _percent(found["sets"]["lac"]["lowest_class"], 0),
        "set_highest": _percent(found["sets"]["lac"]["highest_class"], 0),
        "raps_coverage": _percent(found["sets"]["raps"]["coverage"]),
        "raps_size": f"{found['sets']['raps']['size']:.1f}",
        "splits": f"{_percent(splits['mean'], 2)} on average over {splits['splits']} random halves, {splits['within']} "
        f"of them between {_percent(splits['interval'][0])} and {_percent(splits['interval'][1])}",
        "answers": "; ".join(answered),
        "false_alarms": _percent(found["false_alarms"]),
        "strangers": table(found),
    }


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"
