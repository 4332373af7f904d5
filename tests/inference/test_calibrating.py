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
from vit_hybrid.data.listing import PICTURE
from vit_hybrid.data.pictures import Files
from vit_hybrid.inference import calibrating
from vit_hybrid.inference.calibrating import (
    GATHERED_AT_ONCE,
    calibrate,
    calibrate_written,
    in_words,
    run_over,
    trained_on,
)
from vit_hybrid.outputs.confidence import ConfidenceError
from vit_hybrid.outputs.problems import MULTI_LABEL, REGRESSION
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
    model, given = predictor(frozenset((0, 3))), pictures([2, 0, 1, 0, 2])
    ran = run_over(model, given, lambda *what: told.append(what))
    assert ran.logits[:, 0].tolist() == [1, 2, 4]
    assert ran.features.tolist() == [[1, 1], [2, 2], [4, 4]]
    assert ran.statistics[:, 0].tolist() == [1, 2, 4]
    assert ran.targets.tolist() == [0, 1, 2]
    assert [record["path"] for record in ran.skipped] == ["0.png", "3.png"]
    assert told == [("held-out pictures", done, 5) for done in (1, 2, 3, 4, 5)]
    assert given.passed.counts() == {PICTURE: 2}
    assert not vars(model.streaming)  # the model goes on as before, without statistics


def test_none_that_can_be_read_is_said_with_why() -> None:
    for run in (run_over, trained_on):
        with pytest.raises(ConfidenceError, match=r"none of the 2 (training )?pictures can be read: 0\.png: "):
            run(predictor(frozenset((0, 1))), pictures([0, 1]))
        with pytest.raises(ConfidenceError, match=r"none of the 0 (training )?pictures can be read$"):
            run(predictor(frozenset()), pictures([]))


def test_features_count_for_the_classes_of_their_own_pictures() -> None:
    count = 2 * GATHERED_AT_ONCE + 3
    broken = frozenset((0, 5, GATHERED_AT_ONCE))
    targets = [number % 3 for number in range(count)]
    skipped: list[Any] = [{"path": "before"}]
    found = trained_on(predictor(broken), pictures(targets), None, skipped)
    assert [one["path"] for one in skipped] == ["before", "0.png", "5.png", f"{GATHERED_AT_ONCE}.png"]
    read = [number for number in range(count) if number not in broken]
    by_class = [[number for number in read if targets[number] == label] for label in range(3)]
    assert found.counts.tolist() == [len(numbers) for numbers in by_class]
    assert (trained_on(predictor(broken), pictures(targets)).counts == found.counts).all()  # nobody asks which they are
    np.testing.assert_allclose(
        found.means[:, 0].astype(float) * found.scale, [np.mean(numbers) for numbers in by_class], rtol=2e-3
    )


def names_of(found: LabeledPictures) -> list[str]:
    return [found.name(row) for row in range(len(found))]


def test_a_fourth_stands_in_for_training_pictures_and_serves_for_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    measured_from: list[str] = []
    read: list[str] = []
    fitted: dict[str, Any] = {}

    told: list[Any] = []

    def trained_on(predictor: Any, own: LabeledPictures, progress: Any, _: Any) -> str:
        measured_from.extend(names_of(own))
        progress("of its own", len(own), len(own))
        return "of these"

    model = predictor(frozenset())
    answer = model.stream_outputs
    model.stream_outputs = lambda sources: answer([(read.append(name) or name, one) for name, one in sources])
    model.problem_type = SINGLE_LABEL
    model.engine.precision, model.engine.spec.token_merging = "f32", None
    monkeypatch.setattr(calibrating, "trained_on", trained_on)
    monkeypatch.setattr(calibrating.fitting, "fit", lambda logits, targets, *_, **how: fitted.update(how))
    held_out = pictures([number % 3 for number in range(80)])
    calibrate(model, held_out, "0" * 64, progress=lambda *what: told.append(what))
    assert (len(measured_from), len(read)) == (20, 60)
    assert told == [("of its own", 20, 20), *(("held-out pictures", done, 60) for done in range(1, 61))]
    assert read == sorted(read, key=lambda name: int(Path(name).stem))
    assert {*measured_from, *read} == {*names_of(held_out)}
    assert fitted["trained_on"] == "of these"
    assert fitted["about"] == {"distances_from": "20 of the held-out pictures, which serve for nothing else"}


class TestWhatIsSaid:
    """Of what a calibration goes by, with what is fitted left out."""

    @pytest.fixture
    def fitted(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
        fitted: dict[str, Any] = {}
        monkeypatch.setattr(calibrating, "trained_on", lambda model, own, *_: f"{len(own)} of these")
        monkeypatch.setattr(calibrating.fitting, "fit", lambda logits, targets, *_, **how: fitted.update(how))
        return fitted

    @staticmethod
    def model(broken: frozenset[int] = frozenset(), problem_type: str = SINGLE_LABEL) -> Any:
        model = predictor(broken)
        model.problem_type = problem_type
        model.engine.precision, model.engine.spec.token_merging = "f32", 2
        return model

    def test_of_training_pictures(self, fitted: dict[str, Any]) -> None:
        known: Any = "kept"
        calibrate(self.model(), pictures([0, 1, 2] * 20), "0" * 64, known=known, about={"data": "ours"})
        assert fitted["trained_on"] == "kept"
        assert fitted["features"].tolist() == [[number] * 2 for number in range(60)]
        assert fitted["statistics"].tolist() == [[number] * STATISTICS for number in range(60)]
        assert (fitted["precision"], fitted["token_merging"], fitted["weights"]) == ("f32", 2, "0" * 64)
        said = "the training pictures' features that were kept with the model"
        assert fitted["about"] == {"data": "ours", "distances_from": said}
        calibrate(self.model(), pictures([0, 1, 2] * 20), "0" * 64, known=known, training=pictures([0, 1, 2]))
        assert (fitted["trained_on"], fitted["about"]) == ("kept", {"distances_from": said})
        assert (fitted["method"], fitted["by_class"]) == ("lac", False)
        how: dict[str, Any] = {"method": "raps", "by_class": True, "training": pictures([0, 1] * 600)}
        calibrate(self.model(), pictures([0, 1, 2] * 20), "0" * 64, **how)
        assert (fitted["method"], fitted["by_class"]) == ("raps", True)
        assert fitted["trained_on"] == "1200 of these"
        assert fitted["about"] == {"distances_from": "1,200 training pictures"}

    def test_targets_are_in_the_order_of_the_models_labels(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: dict[str, Any] = {}
        monkeypatch.setattr(
            calibrating.fitting,
            "fit",
            lambda logits, targets, *what, **__: seen.update({"held out": targets}, what=what),
        )
        monkeypatch.setattr(calibrating, "trained_on", lambda model, own, *_: seen.update(training=own.targets))
        model = self.model()
        model.labels = ("c", "a", "b")
        calibrate(model, pictures([0, 1, 2] * 20), "0" * 64, training=pictures([2, 0, 1, 1]))
        assert seen.pop("what") == (("c", "a", "b"), SINGLE_LABEL)
        assert {name: found.tolist() for name, found in seen.items()} == {
            "held out": [1, 2, 0] * 20,
            "training": [0, 1, 2, 2],
        }

    def test_of_several_labels_all_pictures_are_fitted_on_and_distances_are_from_none(
        self, fitted: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        labels = np.arange(240).reshape(80, 3) % 2
        held_out = LabeledPictures(Files.of("", map("{}.png".format, range(80))), MULTI_LABEL, LABELS, labels)
        known: Any = "kept"
        for kept in (None, known):
            _, ran = calibrate(self.model(problem_type=MULTI_LABEL), held_out, "0" * 64, known=kept)
            assert (len(ran.targets), fitted["trained_on"], fitted["about"]) == (80, None, {})
        with pytest.raises(ConfidenceError, match="regression"):
            calibrate(self.model(problem_type=REGRESSION), held_out, "0" * 64)

    def test_too_few_are_refused_before_any_is_read(
        self, fitted: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        checked: list[Any] = []
        monkeypatch.setattr(calibrating.fitting, "check_enough", lambda *what: checked.append(what))
        held_out = pictures([0, 1, 2] * 20)
        known: Any = "kept"
        for how in ({}, {"known": known}, {"training": pictures([0, 1, 2])}):
            calibrate(self.model(), held_out, "0" * 64, **how)
        once, with_distances = (60, SINGLE_LABEL, False), (60, SINGLE_LABEL, True)
        assert checked == [once, once, with_distances, once, with_distances]

        def refuse(*_: Any) -> None:
            raise ConfidenceError("too few")

        monkeypatch.setattr(calibrating.fitting, "check_enough", refuse)
        model = self.model()
        model.stream_outputs = lambda sources: 1 / 0
        with pytest.raises(ConfidenceError, match="too few"):
            calibrate(model, held_out, "0" * 64)

    def test_of_labels_without_pictures_and_of_what_cannot_be_read(self, fitted: dict[str, Any]) -> None:
        _, ran = calibrate(self.model(frozenset((1, 4))), pictures([0, 2] * 25), "0" * 64)
        assert fitted["about"] == {"labels_without_pictures": ["b"], "unreadable": 2}
        assert fitted["trained_on"] is None  # too few to spare any
        assert (len(ran.targets), [one["path"] for one in ran.skipped]) == (48, ["1.png", "4.png"])

    def test_training_pictures_that_cannot_be_read_are_told_too(
        self, fitted: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def trained_on(model: Any, own: Any, progress: Any, skipped: list[Any]) -> Any:
            skipped.append({"path": "old.png", "error": "old.png: is empty"})
            return "the others"

        monkeypatch.setattr(calibrating, "trained_on", trained_on)
        _, ran = calibrate(self.model(frozenset((1,))), pictures([0, 1, 2] * 25), "0" * 64, training=pictures([0, 1]))
        assert [one["path"] for one in ran.skipped] == ["old.png", "1.png"]
        assert fitted["about"]["unreadable"] == 2

    def test_of_pictures_that_were_trained_on(self, fitted: dict[str, Any], tmp_path: Path) -> None:
        for number in range(60):
            (tmp_path / f"{number}.png").write_text(f"picture {number}")
        store = Files.of(str(tmp_path), (f"{number}.png" for number in range(60)))
        held_out = LabeledPictures(store, SINGLE_LABEL, LABELS, np.arange(60) % 3)
        trained = checksums(held_out)
        with pytest.raises(ConfidenceError, match=r"2 of the 60 pictures were trained on, such as .*/7\.png; give pic"):
            calibrate(self.model(), held_out, "0" * 64, trained=trained[[7, 31]])
        trained[:, 0] ^= 1
        calibrate(self.model(), held_out, "0" * 64, trained=trained)
        assert fitted["trained_pictures"] is trained

    @pytest.mark.parametrize(
        ("how", "said"),
        [
            ({"training": "some"}, "training is for models of one label a picture"),
            (
                {"method": "raps"},
                "sets is for models of one label a picture, and this one's problem_type is 'multi_label",
            ),
            ({"by_class": True}, "by_class is for models of one label a picture"),
            ({}, "problem_type is 'multi_label_classification', but the data's labels are those of 'single_label"),
        ],
    )
    def test_what_does_not_go_with_several_labels(self, how: dict[str, Any], said: str) -> None:
        with pytest.raises(ConfidenceError, match=said):
            calibrate(self.model(problem_type="multi_label_classification"), pictures([0, 1] * 30), "0" * 64, **how)


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

    def labeled(contents: list[str], kind: str, problem_type: str = SINGLE_LABEL) -> LabeledPictures:
        for number, content in enumerate(contents):
            (tmp_path / f"{kind}{number}.png").write_text(content)
        store = Files.of(str(tmp_path), (f"{kind}{number}.png" for number in range(len(contents))))
        targets = np.arange(len(contents)) % 3
        return LabeledPictures(
            store, problem_type, LABELS, targets if problem_type == SINGLE_LABEL else np.eye(3)[targets]
        )

    monkeypatch.setattr(calibrating, "MOST_TRAINING_PICTURES", 5)
    checked: list[Any] = []
    monkeypatch.setattr(calibrating.fitting, "check_enough", lambda *what: checked.append(what))
    monkeypatch.setattr(calibrating.fitting, "write", lambda found, folder: written.append((found, folder)))
    loaded: dict[str, Any] = {}
    monkeypatch.setattr(calibrating.Predictor, "from_pretrained", lambda *at, **how: loaded.update(how, at=at))
    monkeypatch.setattr(
        calibrating, "open_source", lambda name: SimpleNamespace(provenance=lambda: {"weights_sha256": "0" * 64})
    )
    monkeypatch.setattr(calibrating, "calibrate", calibrated)
    training, held_out = labeled([*"abcdefg"], "training"), labeled([*"xcy"], "held out")
    held_out.max_pixels = 77
    told: Any = "somebody who is told"
    said = calibrate_written(tmp_path, held_out, training, device="cpu", progress=told)
    assert loaded.pop("at") == (tmp_path, "cpu")
    assert loaded == {"engine": "torch", "precision": "f32", "output": "all", "max_pixels": 77, "confidence": False}
    assert given["progress"] is told
    assert checked == [(3, SINGLE_LABEL, True), (2, SINGLE_LABEL, True)]  # one of three is left out
    assert len(given["training"]) == 4  # one of two parts, which have at most five
    assert {*names_of(given["training"])} < {*names_of(training)}
    assert given["held_out"] == [held_out.name(0), held_out.name(2)]
    assert said == {"temperature": 1.5, "left_out_as_trained_on": 1}
    [(found, place)] = written
    assert place == tmp_path
    np.testing.assert_array_equal(found.trained_pictures, np.unique(checksums(training), axis=0))
    assert len(found.trained_pictures) == 7
    assert calibrate_written(tmp_path, held_out, training, leave_out=False, about={"data": "ours"}) == {
        "temperature": 1.5,
        "data": "ours",
    }
    assert given["held_out"] == names_of(held_out)
    five = labeled([*"abdef"], "five")
    assert calibrate_written(tmp_path, held_out, five) == {"temperature": 1.5}  # none of them was trained on
    assert given["training"] is five
    checked.clear()
    calibrate_written(tmp_path, held_out, labeled([*"abcdefg"], "several", MULTI_LABEL))
    assert given["training"] is None  # distances are for one label a picture
    assert checked == [(3, MULTI_LABEL, False), (2, MULTI_LABEL, False)]


def test_how_sure_answers_are_in_words() -> None:
    found: dict[str, Any] = {
        "temperature": 1.23456,
        "pictures": 1200,
        "parts": {"probabilities": 401, "sets": 402, "strangers": 403},
        "measured": {
            "before": {"calibration_error": 0.0512},
            "after": {"calibration_error": 0.0123, "calibration_error_by_chance": 0.0098},
            "sets": {"coverage": 0.9, "promised": (0.881, 0.923), "mean_size": 1.54, "classes_by_themselves": 0},
        },
        "distances_from": "1,000 training pictures",
    }
    said = " ".join(in_words(found).split())
    for part in (
        "by a temperature, 1.235, from 1,200 held-out pictures",
        "that it was not fitted on: 5.12% before, 1.23% after; chance alone shows 0.98%.",
        "by a temperature, 1.235",
        "15 bins of equal mass, of 402 of them",
        "Sets of 90% hold the truth 88.1% to 92.3% of the time, with 1.5 labels on average.",
        "less familiar than 95 % of 403 others is called none of these; distances are from 1,000 training pictures.",
    ):
        assert part in said
    found["measured"]["sets"]["classes_by_themselves"] = 7
    assert "hold the truth of each of 7 classes 88.1%" in in_words(found)
    several = in_words({"temperature": [1.0, 2.0], "pictures": 90})
    assert "a temperature, one for each label, from 90 held-out" in several
    assert not any(word in several for word in ("Sets of", "bins", "none of these"))
    assert in_words({"why_not": "too few pictures"}) == "Not calibrated: too few pictures"
