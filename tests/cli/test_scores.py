"""What an evaluation has found, as a terminal shows it: each score under its name, shares as shares."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from vit_hybrid.cli.scores import as_tables

CALIBRATION = {
    "negative_log_likelihood": 1.25,
    "brier_score": 0.5,
    "calibration_error": 0.125,
    "calibration_error_equal_mass": 0.25,
    "calibration_error_by_chance": 0.0625,
}


def shown(
    scores: dict[str, Any], assessment: dict[str, Any], labels: str, split: str | None = None, **report: Any
) -> list[str]:
    """The lines, without what only separates them, their columns two spaces apart."""
    report = {"images": 4, "skipped": 0, "images_per_second": None, **scores, **report}
    skipped = [None] * report["skipped"]
    found: Any = SimpleNamespace(
        scores=scores, assessment=assessment, labels=labels.split(), skipped=skipped, report=lambda: report
    )
    lines = as_tables(found, "a model", "pictures", split).splitlines()
    return [" ".join(line.split()) for line in lines if line.strip(" ─")]


def test_of_one_label_a_picture_that_was_calibrated() -> None:
    cat = {"precision": 0.5, "recall": 0.25, "f1": 1 / 3, "support": 1200}
    scores = {
        "top1": 0.75,
        "top5": 1.0,
        "balanced_accuracy": 0.625,
        "macro_f1": 1 / 3,
        "negative_log_likelihood": 1.25,
        "expected_calibration_error": 0.125,
        "per_class": {"cat": cat, "dog": {"precision": None, "recall": 1.0, "f1": None, "support": 3}},
        "most_confused": [{"truth": "cat", "predicted": "dog", "count": 900, "share": 0.75}],
        "confusion_matrix": [[300, 900], [0, 3]],
    }
    own = {"cat": {"coverage": 0.5, "mean_size": 1.5}, "dog": {"coverage": None, "mean_size": None}}
    assessment = {
        "calibration": {"before": CALIBRATION, "after": {**CALIBRATION, "negative_log_likelihood": 1.0}},
        "answers": [
            {"accuracy": 0.8, "share": 0.504, "probability": 0.625},
            {"accuracy": 0.95, "share": 0.0025, "probability": 0.9},
            {"accuracy": 0.99, "share": None, "probability": None},
        ],
        "sets": {"method": "raps", "by_class": True, "coverage": 0.9, "promised": None, "measured_coverage": 0.875}
        | {"mean_size": 1.3, "per_class": own},
        "none_of_these": {"false_alarms": 0.05, "share": 0.063},
        "strangers": {
            "images": 1500,
            "share_none_of_these": 0.5,
            "scores": {"softmax": {"auroc": 0.75, "aupr": 0.5, "false_positive_rate_at_95": 0.25}},
        },
    }
    assert shown(scores, assessment, "cat dog", "test", images=1203, skipped=2, images_per_second=12.3456) == [
        "a model on test split of pictures",
        "pictures 1,203",
        "skipped 2",
        "top-1 75.00%",
        "top-5 100.00%",
        "balanced accuracy 62.50%",
        "macro F1 33.33%",
        "pictures a second 12.35",
        "Calibration",
        "before after",
        "negative log-likelihood 1.25 1",
        "Brier score 0.5 0.5",
        "calibration error, bins of equal width 12.50% 12.50%",
        "calibration error, bins of equal mass 25.00% 25.00%",
        "of which chance alone shows 6.25% 6.25%",
        "What that comes to",
        "to be right 80 % of the time, answer 50 % of the pictures (from 62.5 % on)",
        "to be right 95 % of the time, answer 0.25 % of the pictures (from 90.0 % on)",
        "to be right 99 % of the time, answer none: even of the surest more are wrong",
        "RAPS sets of 90 % by class hold the truth of 87.5 %, with 1.3 labels on average",
        "6.3 % of the pictures are called none of these (--false-alarms 0.05)",
        "1,500 strangers",
        "told by AUROC AUPR false positives at 95 %",
        "softmax 75.00% 50.00% 25.00%",
        "50.0 % of them are called none of these",
        "Each class",
        "class precision recall f1 in its sets labels a set pictures",
        "cat 50.00% 25.00% 33.33% 50.00% 1.5 1,200",
        "dog - 100.00% - - - 3",
        "Confusion matrix: a row for each true class",
        "cat dog",
        "cat 300 900",
        "dog 0 3",
        "Most confused",
        "truth predicted pictures share of truth",
        "cat dog 900 75.00%",
    ]


def test_of_confused_pairs_the_first_ten_are_shown() -> None:
    pairs = [{"truth": name, "predicted": "x", "count": 3, "share": 0.5} for name in "abcdefghijk"]
    one = {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 3}
    scores = {"top1": 0.5, "per_class": {"a": one}, "most_confused": pairs, "confusion_matrix": None}
    lines = shown(scores, {}, "a b c x")
    assert lines[lines.index("Most confused") + 2 :] == [f"{name} x 3 50.00%" for name in "abcdefghij"]
    for count, is_shown in ((12, True), (13, False)):
        scores["confusion_matrix"] = [[0] * count] * count
        lines = shown(scores, {}, " ".join(f"label{number}" for number in range(count)))
        assert ("Confusion matrix: a row for each true class" in lines) is is_shown


def test_of_several_labels_a_picture() -> None:
    label = {"average_precision": 0.5, "precision": 0.25, "recall": 0.75, "f1": 0.375, "support": 4}
    scores = {
        "mean_average_precision": 0.5,
        "micro_f1": 0.25,
        "macro_f1": None,
        "exact_match": 0.125,
        "hamming_accuracy": 0.875,
        "per_label": {"a": label},
    }
    other = {"calibration_error": 0.0, "calibration_error_by_chance": None}
    assessment = {"calibration": {"before": {**CALIBRATION, **other}}}
    assert shown(scores, assessment, "a", images_per_second=0.5) == [
        "a model on pictures",
        "pictures 4",
        "mean average precision 50.00%",
        "micro F1 25.00%",
        "macro F1 -",
        "exact match 12.50%",
        "Hamming accuracy 87.50%",
        "pictures a second 0.5",
        "Calibration",
        "negative log-likelihood 1.25",
        "Brier score 0.5",
        "calibration error, bins of equal width 0.00%",
        "calibration error, bins of equal mass 25.00%",
        "Each label",
        "label average precision precision recall f1 pictures",
        "a 50.00% 25.00% 75.00% 37.50% 4",
    ]


def test_of_values() -> None:
    values = {"x": {"mae": 0.25, "rmse": 0.5, "r2": 0.125}, "y": {"mae": 0.75, "rmse": 1.0, "r2": None}}
    scores: dict[str, Any] = {"mae": 0.5, "rmse": 0.75, "r2": None, "per_value": values}
    head = ["a model on pictures", "pictures 4", "MAE 0.5", "RMSE 0.75", "R2 -", "pictures a second -"]
    assert shown(scores, {}, "x y") == [
        *head,
        *("Each value", "value MAE RMSE R2", "x 0.25 0.5 0.125", "y 0.75 1 -"),
    ]
    assert shown({**scores, "per_value": {"x": values["x"]}}, {}, "x") == head  # which says it all
