"""What an evaluation has found, as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .output import new_table, rendered
from .streams import printable

if TYPE_CHECKING:
    from rich.table import Table

    from ..evaluate.evaluation import Scored

# What a terminal has room for: larger tables show the worst rows, a larger matrix only its most confused pairs.
MOST_CLASS_ROWS = 40
MOST_MATRIX_LABELS = 12
MOST_PAIRS = 10
UNDEFINED = "-"


def as_tables(found: Scored, model: str, data: str, split: str | None) -> str:
    from rich.text import Text

    where = f"{split} split of {data}" if split is not None else data
    parts: list[Any] = [Text(printable(f"{model} on {where}"), style="bold"), _summary(found)]
    scores: dict[str, Any] = {**found.scores}
    assessed: dict[str, Any] = {**found.assessment}
    parts += _trust(assessed)
    if "per_class" in scores:
        per_class = _with_sets(scores["per_class"], assessed.get("sets"))
        parts += _classes("class", "classes", per_class, worst_by="recall")
        if scores["confusion_matrix"] is not None and len(found.labels) <= MOST_MATRIX_LABELS:
            parts += _matrix(scores["confusion_matrix"], found.labels)
        parts += _confused(scores["most_confused"][:MOST_PAIRS])
    elif "per_label" in scores:
        parts += _classes("label", "labels", scores["per_label"], worst_by="average_precision")
    elif len(scores["per_value"]) > 1:
        rows = ([name, *map(_number, one.values())] for name, one in scores["per_value"].items())
        parts += _titled("Each value", new_table(["value", ">MAE", ">RMSE", ">R2"], rows))
    return rendered(*parts)


# What the summary calls the scores, in its order, and whether they are shares.
SCORE_NAMES = {
    "top1": ("top-1", True),
    "top5": ("top-5", True),
    "balanced_accuracy": ("balanced accuracy", True),
    "mean_average_precision": ("mean average precision", True),
    "micro_f1": ("micro F1", True),
    "macro_f1": ("macro F1", True),
    "exact_match": ("exact match", True),
    "hamming_accuracy": ("Hamming accuracy", True),
    "expected_calibration_error": ("calibration error", True),
    "negative_log_likelihood": ("negative log-likelihood", False),
    "mae": ("MAE", False),
    "rmse": ("RMSE", False),
    "r2": ("R2", False),
}
# Which of them stand beside others of their kind where there is an assessment, and what that calls them.
SAID_WITH_TRUST = {"expected_calibration_error", "negative_log_likelihood"}
TRUST_NAMES = {
    "negative_log_likelihood": ("negative log-likelihood", False),
    "brier_score": ("Brier score", False),
    "calibration_error": ("calibration error, bins of equal width", True),
    "calibration_error_equal_mass": ("calibration error, bins of equal mass", True),
    "calibration_error_by_chance": ("  of which chance alone shows", True),
}


def _summary(found: Scored) -> Table:
    report = found.report()
    rows = [["pictures", f"{report['images']:,}"]]
    if found.skipped:
        rows.append(["skipped", f"{report['skipped']:,}"])
    for key, (name, is_share) in SCORE_NAMES.items():
        if key in report and not (found.assessment and key in SAID_WITH_TRUST):
            rows.append([name, _share(report[key]) if is_share else _number(report[key])])
    rows.append(["pictures a second", _number(report["images_per_second"])])
    return new_table(("", ">"), rows)


def _trust(found: dict[str, Any]) -> list[Any]:
    """How far answers can be trusted."""
    if not found:
        return []
    calibration = found["calibration"]
    heads = [f">{when}" for when in calibration] if len(calibration) > 1 else [">"]
    rows = [
        [name, *((_share if is_share else _number)(one[key]) for one in calibration.values())]
        for key, (name, is_share) in TRUST_NAMES.items()
        if next(iter(calibration.values()))[key] is not None
    ]
    parts = _titled("Calibration", new_table(["", *heads], rows))
    said = [[_in_words(one)] for one in found.get("answers", ())]
    if "sets" in found:
        said.append([_of_sets(found["sets"])])
    if "none_of_these" in found:
        none = found["none_of_these"]
        called = f"{_words(none['share'])} of the pictures are called none of these"
        said.append([f"{called} (--false-alarms {none['false_alarms']:g})"])
    if said:
        parts += _titled("What that comes to", new_table([""], said))
    return parts + (_strangers(found["strangers"]) if "strangers" in found else [])


def _in_words(answers: dict[str, Any]) -> str:
    right = f"to be right {100 * answers['accuracy']:g} % of the time, "
    if answers["share"] is None:
        return f"{right}answer none: even of the surest more are wrong"
    share = f"{100 * answers['share']:.0f}" if answers["share"] >= 0.01 else f"{100 * answers['share']:.2g}"
    return f"{right}answer {share} % of the pictures (from {_words(answers['probability'])} on)"


def _words(share: float) -> str:
    return f"{100 * share:.1f} %"


def _of_sets(sets: dict[str, Any]) -> str:
    promised = ""
    if sets["promised"] is not None:
        low, high = (100 * share for share in sets["promised"])
        promised = f" ({low:.1f} to {high:.1f} % promised)"
    how = f"{sets['method'].upper()} sets of {100 * sets['coverage']:g} %" + (" by class" if sets["by_class"] else "")
    measured = f"{_words(sets['measured_coverage'])}{promised}, with {sets['mean_size']:.1f} labels on average"
    return f"{how} hold the truth of {measured}"


def _with_sets(per_class: dict[str, Any], sets: dict[str, Any] | None) -> dict[str, Any]:
    """Each class's scores, with what its sets are worth before the number of its pictures."""
    if sets is None:
        return per_class
    found = {}
    for name, one in per_class.items():
        own = sets["per_class"][name]
        among = {"in its sets": own["coverage"], "labels a set": own["mean_size"]}
        found[name] = {key: one[key] for key in one if key != "support"} | among | {"support": one["support"]}
    return found


def _strangers(found: dict[str, Any]) -> list[Any]:
    from rich.text import Text

    rows = [
        [name, *(_share(one[key]) for key in ("auroc", "aupr", "false_positive_rate_at_95"))]
        for name, one in found["scores"].items()
    ]
    heads = ["told by", ">AUROC", ">AUPR", ">false positives at 95 %"]
    parts = _titled(f"{found['images']:,} strangers", new_table(heads, rows))
    if found["share_none_of_these"] is not None:
        parts.append(Text(f" {_words(found['share_none_of_these'])} of them are called none of these"))
    return parts


def _classes(what: str, plural: str, scores: dict[str, Any], worst_by: str) -> list[Any]:
    """A row for each class; of many classes, those of the lowest score."""
    chosen = list(scores.items())
    title = f"Each {what}"
    if len(chosen) > MOST_CLASS_ROWS:
        defined = [item for item in chosen if item[1][worst_by] is not None]
        chosen = sorted(defined, key=lambda item: item[1][worst_by])[:MOST_CLASS_ROWS]
        title = f"The {len(chosen)} of {len(scores)} {plural} of lowest {worst_by.replace('_', ' ')}"
    keys = [key for key in next(iter(scores.values())) if key != "support"]
    said = {"labels a set": _number}
    rows = ([name, *(said.get(key, _share)(one[key]) for key in keys), f"{one['support']:,}"] for name, one in chosen)
    return _titled(title, new_table([what, *(f">{key.replace('_', ' ')}" for key in keys), ">pictures"], rows))


def _matrix(matrix: Sequence[Sequence[int]], labels: Sequence[str]) -> list[Any]:
    rows = ([label, *map(str, counts)] for label, counts in zip(labels, matrix, strict=True))
    return _titled(
        "Confusion matrix: a row for each true class", new_table(["", *(f">{label}" for label in labels)], rows)
    )


def _confused(pairs: Sequence[dict[str, Any]]) -> list[Any]:
    if not pairs:
        return []
    rows = ([one["truth"], one["predicted"], str(one["count"]), _share(one["share"])] for one in pairs)
    return _titled("Most confused", new_table(["truth", "predicted", ">pictures", ">share of truth"], rows))


def _titled(title: str, table: Table) -> list[Any]:
    from rich.text import Text

    return [Text(""), Text(printable(title), style="bold"), table]


def _share(value: float | None) -> str:
    return UNDEFINED if value is None else f"{value:.2%}"


def _number(value: float | None) -> str:
    return UNDEFINED if value is None else f"{value:.4g}"


__all__ = ["MOST_CLASS_ROWS", "as_tables"]
