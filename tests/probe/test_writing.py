"""The model that a probe writes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from probe_pictures import CLASSES, some_pictures

from vit_hybrid import Predictor, ViTHybridForImageClassification
from vit_hybrid.files import is_marked
from vit_hybrid.probe import FrozenModel, ProbeError, check_output, probe, write_model


class TestWrittenModel:
    def test_its_logits_are_the_solutions(self, frozen: FrozenModel, tmp_path: Path) -> None:
        train, val = frozen.features(some_pictures(8)), some_pictures(3, seed=5000)
        features = frozen.features(val)
        report, solution = probe(train, features, CLASSES, [2])
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
        assert f"Top-1 on 9 validation pictures is {report['top1']:.2%}" in card
        assert "| 2 | 6 |" in card
        modes = {path.stat().st_mode for path in out.iterdir()}
        assert len(modes) == 1

    def test_can_be_trained_on_and_probed_again(self, frozen: FrozenModel, tmp_path: Path) -> None:
        features = frozen.features(some_pictures(4))
        report, solution = probe(features, features, CLASSES, [])
        write_model(tmp_path / "out", frozen, solution, report, "tiny", "colors")
        model = ViTHybridForImageClassification.from_pretrained(tmp_path / "out").train()
        assert not model.is_folded
        again = FrozenModel.from_pretrained(str(tmp_path / "out"), CLASSES, device="cpu")
        np.testing.assert_allclose(again.features(some_pictures(4)).values, features.values, atol=1e-6)

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
        check_output(old, overwrite=True)
        (old / "thesis.tex").write_text("")
        with pytest.raises(ProbeError, match=r"more than a probe writes \(thesis.tex\)"):
            check_output(old, overwrite=True)
