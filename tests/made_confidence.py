"""Confidence as `vit-hybrid calibrate` writes it, fitted to numbers made up."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from vit_hybrid.checkpoints import opening
from vit_hybrid.outputs import confidence, strangers
from vit_hybrid.outputs.problems import SINGLE_LABEL, labels_of


def calibrated_copy(model: Path, folder: Path) -> Path:
    """The model of one folder in another, with confidence beside it; where that is."""
    shutil.copytree(model, folder)
    confidence.write(fitted(folder), folder)
    return folder


def fitted(folder: Path, with_strangers: bool = True, labels: tuple[str, ...] | None = None) -> confidence.Confidence:
    """Confidence for the model in `folder`, from numbers made up."""
    source = opening.open(folder)
    labels = labels or labels_of(source.config)
    rng = np.random.default_rng(0)
    targets = np.arange(90) % len(labels)
    features, statistics = rng.normal(size=(90, source.config.hidden_size)), rng.normal(size=(90, strangers.STATISTICS))
    gathering = strangers.Gathering(len(labels), source.config.hidden_size)
    gathering.add(features, targets, statistics)
    about = {"features": features, "statistics": statistics, "trained_on": gathering.trained_on()}
    return confidence.fit(
        rng.normal(size=(90, len(labels))),
        targets,
        labels,
        SINGLE_LABEL,
        weights=source.provenance()["weights_sha256"],
        precision="f32",
        **(about if with_strangers else {}),
    )
