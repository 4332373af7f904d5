"""What a model makes of held-out pictures stands beside what is true of them, whichever of them cannot be read."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from vit_hybrid.data import SINGLE_LABEL, LabeledPictures
from vit_hybrid.data.checksums import checksums
from vit_hybrid.data.pictures import Files
from vit_hybrid.inference import calibrating
from vit_hybrid.inference.calibrating import GATHERED_AT_ONCE, calibrate, calibrate_written, run_over, trained_on
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


def names_of(found: LabeledPictures) -> list[str]:
    return [found.name(row) for row in range(len(found))]


def test_a_fourth_stands_in_for_training_pictures_and_serves_for_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    measured_from: list[str] = []
    read: list[str] = []
    fitted: dict[str, Any] = {}

    def trained_on(predictor: Any, own: LabeledPictures, *_: Any) -> str:
        measured_from.extend(names_of(own))
        return "of these"

    model = predictor(frozenset())
    answer = model.stream_outputs
    model.stream_outputs = lambda sources: answer([(read.append(name) or name, one) for name, one in sources])
    model.problem_type = SINGLE_LABEL
    model.engine.precision, model.engine.spec.token_merging = "f32", None
    monkeypatch.setattr(calibrating, "trained_on", trained_on)
    monkeypatch.setattr(calibrating.fitting, "fit", lambda logits, targets, *_, **how: fitted.update(how))
    held_out = pictures([number % 3 for number in range(80)])
    calibrate(model, held_out, "0" * 64)
    assert (len(measured_from), len(read)) == (20, 60)
    assert {*measured_from, *read} == {*names_of(held_out)}
    assert fitted["trained_on"] == "of these"


@dataclass(frozen=True)
class Found:
    """A confidence."""

    temperature: np.ndarray = field(default_factory=lambda: np.array(1.5))
    about: dict[str, Any] = field(default_factory=dict)
    trained_pictures: np.ndarray | None = None


def test_of_many_training_pictures_a_part_is_measured_from_and_all_are_known_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}
    written: list[Any] = []

    def calibrated(model: Any, held_out: LabeledPictures, weights: str, **how: Any) -> tuple[Found, None]:
        given.update(how, held_out=names_of(held_out))
        return Found(about=how["about"]), None

    def labeled(contents: list[str], kind: str) -> LabeledPictures:
        for number, content in enumerate(contents):
            (tmp_path / f"{kind}{number}.png").write_text(content)
        store = Files.of(str(tmp_path), (f"{kind}{number}.png" for number in range(len(contents))))
        return LabeledPictures(store, SINGLE_LABEL, LABELS, np.arange(len(contents)) % 3)

    monkeypatch.setattr(calibrating, "MOST_TRAINING_PICTURES", 5)
    monkeypatch.setattr(calibrating.fitting, "check_enough", lambda *_: 3)
    monkeypatch.setattr(calibrating.fitting, "write", lambda found, folder: written.append(found))
    monkeypatch.setattr(calibrating.Predictor, "from_pretrained", lambda *_, **__: "a model")
    monkeypatch.setattr(
        calibrating, "open_source", lambda name: SimpleNamespace(provenance=lambda: {"weights_sha256": "0" * 64})
    )
    monkeypatch.setattr(calibrating, "calibrate", calibrated)
    training, held_out = labeled([*"abcdefg"], "training"), labeled([*"xcy"], "held out")
    said = calibrate_written(tmp_path, held_out, training)
    assert len(given["training"]) == 4  # one of two parts, which have at most five
    assert {*names_of(given["training"])} < {*names_of(training)}
    assert given["held_out"] == [held_out.name(0), held_out.name(2)]
    assert said == {"temperature": 1.5, "left_out_as_trained_on": 1}
    np.testing.assert_array_equal(written[0].trained_pictures, np.unique(checksums(training), axis=0))
    assert len(written[0].trained_pictures) == 7
