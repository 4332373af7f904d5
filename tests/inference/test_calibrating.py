"""What a model makes of held-out pictures stands beside what is true of them, whichever of them cannot be read."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from vit_hybrid.data import SINGLE_LABEL, LabeledPictures
from vit_hybrid.data.pictures import Files
from vit_hybrid.inference.calibrating import GATHERED_AT_ONCE, run_over, trained_on
from vit_hybrid.outputs.confidence import ConfidenceError
from vit_hybrid.outputs.strangers import STATISTICS

LABELS = ("a", "b", "c")


def pictures(targets: list[int]) -> LabeledPictures:
    """Pictures that are called by their numbers."""
    store = Files.of("", (f"{number}.png" for number in range(len(targets))))
    return LabeledPictures(store, SINGLE_LABEL, LABELS, np.array(targets))


def predictor(broken: frozenset[int]) -> Any:
    """A predictor whose outputs of picture N are N, but for those that cannot be read."""

    def stream_outputs(sources: Any) -> Any:
        for number, (name, _) in enumerate(sources):
            if number in broken:
                yield {"path": name, "error": f"{name}: is empty"}
            else:
                ones = np.full(2, float(number), np.float32)
                statistics = np.full(STATISTICS, float(number))
                yield {"path": name, "logits": ones[:1], "token": ones, "statistics": statistics}

    engine = SimpleNamespace(spec=SimpleNamespace(feature_size=2))
    return SimpleNamespace(streaming=SimpleNamespace(), stream_outputs=stream_outputs, labels=LABELS, engine=engine)


def test_targets_are_those_of_the_pictures_that_were_read() -> None:
    told: list[tuple[str, int, int]] = []
    ran = run_over(predictor(frozenset((0, 3))), pictures([2, 0, 1, 0, 2]), lambda *what: told.append(what))
    assert ran.logits[:, 0].tolist() == [1, 2, 4]
    assert ran.features.tolist() == [[1, 1], [2, 2], [4, 4]]
    assert ran.statistics[:, 0].tolist() == [1, 2, 4]
    assert ran.targets.tolist() == [0, 1, 2]
    assert [record["path"] for record in ran.skipped] == ["0.png", "3.png"]
    assert told == [("held-out pictures", done, 5) for done in (1, 2, 3, 4, 5)]


def test_none_that_can_be_read_is_said_with_why() -> None:
    for run in (run_over, trained_on):
        with pytest.raises(ConfidenceError, match=r"none of the 2 (training )?pictures can be read: 0\.png: "):
            run(predictor(frozenset((0, 1))), pictures([0, 1]))


def test_features_count_for_the_classes_of_their_own_pictures() -> None:
    count = 2 * GATHERED_AT_ONCE + 3
    broken = frozenset((0, 5, GATHERED_AT_ONCE))
    targets = [number % 3 for number in range(count)]
    found = trained_on(predictor(broken), pictures(targets))
    read = [number for number in range(count) if number not in broken]
    by_class = [[number for number in read if targets[number] == label] for label in range(3)]
    assert found.counts.tolist() == [len(numbers) for numbers in by_class]
    np.testing.assert_allclose(
        found.means[:, 0].astype(float) * found.scale, [np.mean(numbers) for numbers in by_class], rtol=2e-3
    )
