"""What a frozen model makes of pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_hybrid
import torch
from probe_pictures import CLASSES, InMemory, some_pictures

from vit_hybrid import Predictor, ViTHybridForImageClassification, ViTHybridModel
from vit_hybrid.probe import FrozenModel, ProbeError


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
        assert done[-1] == (6, 6)
        with pytest.raises(ProbeError, match="picture 1: is damaged"):
            frozen.features(broken, strict=True)

    def test_nothing_to_read(self, frozen: FrozenModel) -> None:
        with pytest.raises(ProbeError, match="none of the 2 pictures can be read; picture 0: is damaged"):
            frozen.features(InMemory([None, None], [0, 1]))

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
        found = FrozenModel.from_pretrained(str(tmp_path), CLASSES, device="cpu").features(some_pictures(1))
        assert found.values.shape == (3, width)
        if width == 16:
            same = FrozenModel.from_pretrained(str(tiny_folder), CLASSES, device="cpu").features(some_pictures(1))
            np.testing.assert_allclose(found.values, same.values, atol=1e-5)

    def test_a_device_that_is_not_there(self, tiny_folder: Path) -> None:
        with pytest.raises(ProbeError, match="Device 'cuda:99' cannot be used here"):
            FrozenModel.from_pretrained(str(tiny_folder), CLASSES, device="cuda:99")
