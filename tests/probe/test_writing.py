"""The model that a probe writes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from probe_pictures import CLASSES, some_pictures

from vit_hybrid import Predictor, ViTHybridForImageClassification
from vit_hybrid.files import is_marked
from vit_hybrid.outputs.confidence import CONFIDENCE_FILES
from vit_hybrid.probe import FrozenModel, ProbeError, check_output, probe, write_model, writing
from vit_hybrid.probe.protocol import Spread
from vit_hybrid.probe.writing import percent


@pytest.mark.parametrize(
    ("spread", "text"),
    [((0.5, 0.25, 0.75), "50.00% (25.00 to 75.00)"), ((1 / 3, 1 / 3, 1 / 3), "33.33%"), ((0.0, 0.0, 0.0), "0.00%")],
)
def test_a_mean_and_its_range(spread: tuple[float, float, float], text: str) -> None:
    mean, least, most = spread
    assert percent(Spread(mean=mean, min=least, max=most)) == text


class TestWrittenModel:
    def test_its_logits_are_the_solutions(self, frozen: FrozenModel, tmp_path: Path) -> None:
        train, val = frozen.features(some_pictures(8)), some_pictures(3, seed=5000)
        features = frozen.features(val)
        report, solution = probe(train, features, CLASSES, [2])
        report["rows"][0]["knn"] = Spread(mean=0.25, min=0.125, max=0.5)  # as the other column's may be, too, by chance
        out = tmp_path / "new" / "model"
        write_model(out, frozen, solution, report, "tiny", "colors")
        assert [path.name for path in out.parent.iterdir()] == ["model"]
        assert is_marked(out)

        predictor = Predictor.from_pretrained(out, device="cpu")
        assert predictor.labels == CLASSES
        assert predictor.config.label2id == {name: index for index, name in enumerate(CLASSES)}
        assert predictor.problem_type == "single_label_classification"
        logits = predictor.logits(val.pictures)
        np.testing.assert_allclose(logits, report["scale"] * solution.scores(features.values), atol=1e-4)
        assert (logits.argmax(1) == val.targets).mean() == report["top1"] > 0.5
        assert json.loads((out / "metrics.json").read_text()) == {"model": "tiny", "data": "colors", **report}
        card = (out / "README.md").read_text()
        assert f"Top-1 on 9 validation pictures is {report['top1']:.2%}, top-5 {report['top5']:.2%}.\n" in card
        assert "\n`tiny` with its weights frozen and a new linear classifier, " in card
        assert f"from\n24 pictures of `colors`. It tells 3 classes apart:\n{', '.join(CLASSES)}.\n" in card
        assert "| pictures a class | pictures | least squares, top-1 | 20 nearest neighbors, top-1 |\n" in card
        assert "\nMeans of draws with seed 0, and their ranges. " in card
        few, everything = report["rows"]
        for row, start in ((few, "| 2 | 6 |"), (everything, "| all | 24 |")):
            assert f"{start} {percent(row['least_squares'])} | {percent(row['knn'])} |\n" in card
        assert f"The regularization (l2 {report['l2']:g}) and the logits' scale ({report['scale']:.3g}) fit" in card
        other = writing._card("model", {**report, "held_out_top1": 0.1234}, "tiny", "colors", None)
        assert "scored by the solution of all the others (top-1 12.34%); nothing was chosen" in other
        alone = writing._card("model", {**report, "held_out_top1": None}, "tiny", "colors", None)
        assert f"With one picture a class, l2 is the default, {report['l2']:g}, and probabilities are" in alone
        for count, last in ((100, "c99"), (101, "c99 and 1 more")):
            many = writing._card(
                "model", {**report, "classes": [f"c{n}" for n in range(count)]}, "tiny", "colors", None
            )
            assert f"It tells {count} classes apart:\nc0, c1, " in many
            assert f", {last}.\n" in many
        modes = {path.stat().st_mode for path in out.iterdir()}
        assert len(modes) == 1

    def test_is_called_as_its_folder_also_where_that_is_the_current_one(
        self, frozen: FrozenModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "model").mkdir()
        monkeypatch.chdir(tmp_path / "model")
        features = frozen.features(some_pictures(2))
        report, solution = probe(features, features, CLASSES, [])
        write_model(".", frozen, solution, report, "tiny", "colors")
        card = (tmp_path / "model" / "README.md").read_text()
        assert "\n# model\n" in card
        assert "vit-hybrid classify PICTURE --model model\n" in card

    def test_can_be_trained_on_and_probed_again(self, frozen: FrozenModel, tmp_path: Path) -> None:
        features = frozen.features(some_pictures(4))
        report, solution = probe(features, features, CLASSES, [])
        write_model(tmp_path / "out", frozen, solution, report, "tiny", "colors")
        model = ViTHybridForImageClassification.from_pretrained(tmp_path / "out").train()
        assert not model.is_folded
        again = FrozenModel.from_pretrained(str(tmp_path / "out"), CLASSES, device="cpu")
        np.testing.assert_allclose(again.features(some_pictures(4)).values, features.values, atol=1e-6)
        with pytest.raises(ProbeError, match=r"not empty \(there is .*--overwrite to replace it"):
            write_model(tmp_path / "out", again, solution, report, "tiny", "others")
        (tmp_path / "out" / "confidence.json").write_text("{}")  # of the weights before
        write_model(tmp_path / "out", again, solution, report, "tiny", "others", overwrite=True)
        assert json.loads((tmp_path / "out" / "metrics.json").read_text())["data"] == "others"
        assert not (tmp_path / "out" / "confidence.json").exists()

    def test_a_failure_leaves_nothing_behind(
        self, frozen: FrozenModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        features = frozen.features(some_pictures(4))
        report, solution = probe(features, features, CLASSES, [])
        write_model(tmp_path / "old", frozen, solution, report, "tiny", "colors")
        before = {path.name: path.read_bytes() for path in (tmp_path / "old").iterdir()}

        def full(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(frozen.processor, "save_pretrained", full)
        for out in (tmp_path / "deep" / "new", tmp_path / "old"):
            with pytest.raises(OSError, match="No space left"):
                write_model(out, frozen, solution, report, "tiny", "colors", overwrite=True)
        assert [path.name for path in tmp_path.iterdir()] == ["old"]
        assert {path.name: path.read_bytes() for path in (tmp_path / "old").iterdir()} == before

    def test_is_calibrated_on_the_validation_pictures(
        self, frozen: FrozenModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls: list[Any] = []

        def calibrate(folder: Path, pictures: Any, trained_on: Any, **options: Any) -> dict[str, Any]:
            calls.append((folder.is_dir(), pictures, trained_on, options))
            return {"why_not": "nobody asked"}

        monkeypatch.setattr(writing, "calibrate_written", calibrate)
        features = frozen.features(some_pictures(2))
        report, solution = probe(features, features, CLASSES, [])
        split: Any = SimpleNamespace(train=object(), val=object())
        sure = write_model(tmp_path / "out", frozen, solution, report, "tiny", "colors", split=split)
        about = {"data": "the validation pictures of the probe"}
        assert calls == [(True, split.val, split.train, {"device": "cpu", "about": about})]
        assert sure == json.loads((tmp_path / "out" / "metrics.json").read_text())["confidence"]
        assert "nobody asked" in (tmp_path / "out" / "README.md").read_text()
        engine = SimpleNamespace(device="cuda:1")
        writing._calibrated(tmp_path, split, engine)
        assert calls[1][-1] == {"device": "cuda:1", "about": about}

    def test_does_not_replace_what_came_since_it_was_looked(
        self, frozen: FrozenModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        features = frozen.features(some_pictures(2))
        report, solution = probe(features, features, CLASSES, [])
        out = tmp_path / "out"
        out.mkdir()
        (out / "thesis.tex").touch()
        with pytest.raises(ProbeError, match="more than a probe writes"):
            write_model(out, frozen, solution, report, "tiny", "colors", overwrite=True)
        monkeypatch.setattr(writing, "check_output", lambda *_: None)
        with pytest.raises(OSError, match="out"):
            write_model(out, frozen, solution, report, "tiny", "colors")
        assert [path.name for path in out.iterdir()] == ["thesis.tex"]

    def test_what_is_there_is_not_lost(self, tmp_path: Path) -> None:
        check_output(tmp_path / "new")
        (tmp_path / "empty").mkdir()
        check_output(tmp_path / "empty")
        with pytest.raises(ProbeError, match=r"sort\\xe9e: this name is no UTF-8"):
            check_output(tmp_path / os.fsdecode(b"sort\xe9e"))
        (tmp_path / "file").write_text("")
        with pytest.raises(ProbeError, match="this is a file"):
            check_output(tmp_path / "file", overwrite=True)
        old = tmp_path / "old"
        old.mkdir()
        (old / "config.json").write_text("{}")
        with pytest.raises(ProbeError, match=r"not empty \(there is config.json\).*--overwrite"):
            check_output(old)
        for name in ("metrics.json", "README.md", "preprocessor_config.json", "model.safetensors", *CONFIDENCE_FILES):
            (old / name).touch()
        check_output(old, overwrite=True)
        (old / "pictures").mkdir()
        with pytest.raises(ProbeError, match=r"more than a probe writes \(pictures\)"):
            check_output(old, overwrite=True)
        (old / "pictures").rmdir()
        for name in ("thesis.tex", ".mine"):
            (old / name).touch()
            with pytest.raises(ProbeError, match=rf"more than a probe writes \({name}\)"):
                check_output(old, overwrite=True)
            (old / name).unlink()
