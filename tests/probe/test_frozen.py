"""What a frozen model makes of pictures."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny_hybrid
import torch
from probe_pictures import CLASSES, InMemory, some_pictures

from vit_hybrid import Predictor, ViTHybridForImageClassification, ViTHybridModel
from vit_hybrid.probe import FrozenModel, ProbeError
from vit_hybrid.probe import frozen as module


class TestFeatures:
    def test_are_what_the_classifier_takes(self, frozen: FrozenModel, tiny_folder: Path) -> None:
        pictures = some_pictures(3)
        found = frozen.features(pictures)
        assert found.values.shape == (9, 16)
        assert found.targets.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
        original = Predictor.from_pretrained(tiny_folder, device="cpu")
        classifier = original.model.classifier
        with torch.no_grad():
            logits = classifier(torch.from_numpy(found.values)).numpy()
        np.testing.assert_allclose(logits, original.logits(pictures.pictures), atol=1e-5)

    @pytest.mark.parametrize(("engine", "precision"), [("openvino", "f32"), ("torch", "bf16")])
    def test_of_another_engine_are_close(
        self, engine: str, precision: str, frozen: FrozenModel, tiny_folder: Path
    ) -> None:
        other = FrozenModel.from_pretrained(
            str(tiny_folder), ("a", "b", "c"), "cpu", engine=engine, precision=precision
        )
        pictures = some_pictures(2)
        found, expected = other.features(pictures), frozen.features(pictures)
        assert found.targets.tolist() == expected.targets.tolist()
        tolerance = 1e-4 if precision == "f32" else 0.1
        np.testing.assert_allclose(found.values, expected.values, rtol=0, atol=tolerance)

    def test_unreadable_pictures_are_skipped_and_named(self, frozen: FrozenModel) -> None:
        whole = some_pictures(2)
        broken = InMemory([whole.pictures[0], None, *whole.pictures[2:5], None], whole.targets)
        done: list[tuple[int, int]] = []
        found = frozen.features(broken, progress=lambda *step: done.append(step))
        assert [entry["path"] for entry in found.skipped] == ["picture 1", "picture 5"]
        assert found.skipped[0]["error"] == "picture 1: is damaged"
        assert found.targets.tolist() == [0, 1, 1, 2]
        np.testing.assert_allclose(found.values, frozen.features(whole).values[[0, 2, 3, 4]], atol=1e-5)
        assert done == [(number, 6) for number in range(1, 7)]
        with pytest.raises(ProbeError, match="picture 1: is damaged"):
            frozen.features(broken, strict=True)

    def test_nothing_to_read(self, frozen: FrozenModel) -> None:
        with pytest.raises(ProbeError, match="none of the 2 pictures can be read; picture 0: is damaged"):
            frozen.features(InMemory([None, None], [0, 1]))
        with pytest.raises(ProbeError, match=r"none of the 0 pictures can be read$"):
            frozen.features(InMemory([], []))

    def test_damaged_weights(self, frozen: FrozenModel) -> None:
        with torch.no_grad():
            frozen.predictor.model.vit.layernorm.weight[0] = float("nan")
        with pytest.raises(ProbeError, match="not finite"):
            frozen.features(some_pictures(1))

    @pytest.mark.parametrize("head", ["none", "base model", "pre-logits and regression"])
    def test_any_head_will_do(self, tmp_path: Path, tiny_folder: Path, head: str) -> None:
        model = ViTHybridForImageClassification.from_pretrained(tiny_folder)
        width = 16
        if head == "none":
            model.reset_classifier(0)
        elif head == "base model":
            model = ViTHybridModel.from_pretrained(tiny_folder, add_pooling_layer=False)
        else:
            width = 12
            config = tiny_hybrid.tiny_config(representation_size=width, num_labels=1, problem_type="regression")
            model = ViTHybridForImageClassification(config)
        model.save_pretrained(tmp_path)
        tiny_hybrid.tiny_processor().save_pretrained(tmp_path)
        frozen = FrozenModel.from_pretrained(str(tmp_path), CLASSES, device="cpu")
        assert frozen.predictor.config.problem_type == "single_label_classification"
        assert frozen.predictor.labels == CLASSES
        found = frozen.features(some_pictures(1))
        assert found.values.shape == (3, width)
        if width == 16:
            same = FrozenModel.from_pretrained(str(tiny_folder), CLASSES, device="cpu").features(some_pictures(1))
            np.testing.assert_allclose(found.values, same.values, atol=1e-5)

    def test_a_device_that_is_not_there(self, tiny_folder: Path) -> None:
        with pytest.raises(ProbeError, match="Device 'cuda:99' cannot be used here"):
            FrozenModel.from_pretrained(str(tiny_folder), CLASSES, device="cuda:99")

    @pytest.mark.parametrize("engine", ["torch", "openvino"])
    def test_what_is_asked_for_reaches_what_computes(
        self, engine: str, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls: dict[str, Any] = {}
        loaded = SimpleNamespace(name="the loaded one")

        def load(*given: Any, **options: Any) -> Any:
            calls["load"] = (given, options)
            return loaded

        def extractor(*given: Any, **options: Any) -> None:
            calls["extractor"] = (given, options)

        monkeypatch.setattr(module, "engines", SimpleNamespace(load=load))
        monkeypatch.setattr(module, "Extractor", extractor)
        monkeypatch.setattr(module, "chosen", lambda *given: calls.setdefault("chosen", given)[0])
        name, calibration = str(tiny_folder), ["picture.jpg"]
        made = FrozenModel.from_pretrained(
            name, CLASSES, "cpu", 3, engine, "bf16", calibration=calibration, max_pixels=99
        )
        (runs, _, *rest), options = calls["extractor"]
        if engine == "torch":
            assert "load" not in calls
            assert runs is made.predictor.model
        else:
            expected = ((name, engine, "bf16", None, "cpu", calibration), {"output": "features", "max_pixels": 99})
            assert calls["load"] == expected
            assert runs is loaded
            engine = loaded.name
        assert calls["chosen"][1:] == ("bf16", "cpu")  # which decide, too, what "auto" is
        assert rest == [3, engine, "bf16", calibration, 99]
        assert options == {"fill_batches": True}
        assert made.predictor.streaming.batch_size == 3

    def test_weights_in_half_precision_are_computed_in_single(self, tiny_folder: Path, tmp_path: Path) -> None:
        model = ViTHybridForImageClassification.from_pretrained(tiny_folder)
        model.to(torch.bfloat16).save_pretrained(tmp_path)
        tiny_hybrid.tiny_processor().save_pretrained(tmp_path)
        half = FrozenModel.from_pretrained(str(tmp_path), CLASSES, device="cpu")
        assert {weight.dtype for weight in half.predictor.model.parameters()} == {torch.float32}
        whole = model.float()
        whole.save_pretrained(tmp_path)
        expected = FrozenModel.from_pretrained(str(tmp_path), CLASSES, device="cpu").features(some_pictures(1))
        np.testing.assert_allclose(half.features(some_pictures(1)).values, expected.values, atol=1e-5)
