"""What a model's outputs mean, in transformers' words: the values of a configuration's `problem_type`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

SINGLE_LABEL = "single_label_classification"
MULTI_LABEL = "multi_label_classification"
REGRESSION = "regression"
PROBLEM_TYPES = (SINGLE_LABEL, MULTI_LABEL, REGRESSION)

# How a label is scored for a set of labels (`sets`). Sadinle, Lei and Wasserman, Least Ambiguous Set-Valued
# Classifiers, 2019: the smallest sets on average. Angelopoulos et al., Uncertainty Sets for Image Classifiers using
# Conformal Prediction, 2021: sets that are larger where a picture is harder.
LAC, RAPS = "lac", "raps"
SET_METHODS = (LAC, RAPS)

if TYPE_CHECKING:
    ProblemType: TypeAlias = str
    SetMethod: TypeAlias = str
else:
    # For options, which are checked against them when a program runs; made of the lists, not written again.
    ProblemType = Literal[PROBLEM_TYPES]
    SetMethod = Literal[SET_METHODS]

# Labels that are said of a picture where nobody asks for a number of them.
DEFAULT_TOP_K = 5
# How often a set of labels holds the truth, and which share of pictures of what a model knows is called none of these.
DEFAULT_COVERAGE, DEFAULT_FALSE_ALARMS = 0.9, 0.05


def labels_of(config: Any) -> tuple[str, ...]:
    """The labels in the order of the logits."""
    names = config.id2label or {}
    return tuple(str(names.get(index, f"LABEL_{index}")) for index in range(config.num_labels))


def problem_type_of(config: Any) -> str:
    """What the logits mean: as the configuration says, or else, as in the model's loss, by the number of labels."""
    return config.problem_type or (REGRESSION if config.num_labels == 1 else SINGLE_LABEL)


__all__ = [
    "DEFAULT_COVERAGE",
    "DEFAULT_FALSE_ALARMS",
    "DEFAULT_TOP_K",
    "LAC",
    "MULTI_LABEL",
    "PROBLEM_TYPES",
    "RAPS",
    "REGRESSION",
    "SET_METHODS",
    "SINGLE_LABEL",
    "ProblemType",
    "SetMethod",
    "labels_of",
    "problem_type_of",
]
