"""Pictures in, vectors out, and the nearest of these."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_hybrid
import torch
from fake_engine import STEPS, Colors

from vit_hybrid import Predictor, ViTHybridModel, engines
from vit_hybrid.checkpoints.files import ModelLoadError
from vit_hybrid.engines import ENGINES
from vit_hybrid.images.preparing import Exactly, Fast, preparing
from vit_hybrid.images.preprocessing import Preprocessing
from vit_hybrid.inference import features, predictor
from vit_hybrid.inference.features import Extractor, Features, nearest_neighbors


class TestNearestNeighbors:
    def test_weighted_votes_by_hand(self) -> None:
        angles = np.radians([0, 30, 60, 180])
        train = Features(np.stack([3 * np.cos(angles), 3 * np.sin(angles)], 1), np.array([0, 1, 1, 2]))
        votes = nearest_neighbors(train, np.array([[5.0, 0.0], [0.0, 0.1]]), 3, neighbors=3)
        weights = np.exp((np.cos(np.radians([0, 30, 60])) - 1) / 0.07)
        np.testing.assert_allclose(votes[0], [weights[0], weights[1] + weights[2], 0], atol=1e-12)
        assert votes[1].argmax() == 1
        [two] = nearest_neighbors(train, np.array([[5.0, 0.0]]), 3, neighbors=2)
        np.testing.assert_allclose(two, [weights[0], weights[1], 0], rtol=1e-12)

    def test_so_many_rows_at_once_make_no_difference(self, monkeypatch: pytest.MonkeyPatch) -> None:
        random = np.random.default_rng(0)
        train, asked = Features(random.normal(size=(9, 4)), np.arange(9) % 3), random.normal(size=(7, 4))
        expected = nearest_neighbors(train, asked, 3, neighbors=4)
        monkeypatch.setattr(features, "NEIGHBOR_ROWS", 3)
        np.testing.assert_allclose(nearest_neighbors(train, asked, 3, neighbors=4), expected, rtol=1e-12)

    def test_more_neighbors_than_pictures_and_zero_features(self) -> None:
        train = Features(np.zeros((2, 4)), np.array([0, 1]))
        votes = nearest_neighbors(train, np.zeros((1, 4)), 2, neighbors=50)
        assert np.isfinite(votes).all()
        assert votes[0, 0] == votes[0, 1] > 0


@pytest.mark.parametrize("kind", [Predictor, Extractor])
def test_how_pictures_are_prepared_and_batches_filled_is_as_asked(
    kind: Any, tiny_model: Any, tiny_folder: Path
) -> None:
    steps = Preprocessing.from_dict(tiny_hybrid.tiny_processor().to_dict())
    asked = {"batch_size": 3, "fast_decode": True, "max_pixels": 99, "fill_batches": True}
    for given, prepares, expected in ((asked, Fast, (3, True, 99)), ({}, Exactly, (16, False, None))):
        for one in (
            kind(tiny_model, steps, **given),
            kind.from_pretrained(tiny_folder, "cpu", engine="torch", **given),
        ):
            found = one.streaming
            assert type(found.preparing) is prepares
            assert (found.batch_size, found.fill_batches, found.preparing.max_pixels) == expected
    engine = engines.load(tiny_folder, engine="torch", device="cpu", output="both")
    other = replace(steps, image_mean=0.25)
    assert kind(engine).streaming.preparing.preprocessing == steps
    assert kind(engine, other).streaming.preparing.preprocessing is other


@pytest.mark.parametrize(
    ("kind", "place", "output"), [(Predictor, predictor, "auto"), (Extractor, features, "features")]
)
class TestHandingOn:
    def test_an_engine_is_loaded_with_all_that_was_asked(
        self, kind: Any, place: Any, output: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[Any] = []

        def load(*given: Any, **options: Any) -> Any:
            asked.append(dict(zip(("name", "engine", "precision"), given, strict=False)) | options)
            raise ZeroDivisionError

        monkeypatch.setattr(place.engines, "load", load)
        monkeypatch.setenv("HOME", "/home/somebody")
        how: dict[str, Any] = {"engine": "onnx", "precision": "int8", "max_pixels": 99, "threads": 3}
        with pytest.raises(ZeroDivisionError):
            kind.from_pretrained("~/model", "cpu", batch_size=5, **how)
        [given] = asked
        expected = {"name": "/home/somebody/model", "device": "cpu", "batch_size": 5, "output": output, **how}
        assert {name: given[name] for name in expected} == expected

    @pytest.mark.parametrize(("name", "device"), [("torch", "cuda:1"), ("openvino", "cpu")])
    def test_pictures_are_prepared_where_torch_computes(
        self, kind: Any, place: Any, output: str, name: str, device: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        engine = Colors(output="features" if kind is Extractor else "logits")
        engine.name, engine.device = name, "cuda:1"  # type: ignore[misc]
        asked: list[Any] = []
        monkeypatch.setattr(place, "preparing", lambda *how: asked.append(how) or preparing(STEPS))
        kind(engine, fast_decode=True, max_pixels=7)
        assert asked == [(STEPS, True, device, 7)]


def test_a_model_object_is_loaded_for_features_with_all_that_was_asked(
    tiny_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def load(model: Any, **how: Any) -> Any:
        asked.append((model is tiny_model, how))
        return Colors(output="features")

    monkeypatch.setattr(features.engines, "load", load)
    how: dict[str, Any] = {"engine": "onnx", "precision": "int8", "calibration": "pictures", "max_pixels": 7}
    Extractor(tiny_model, STEPS, **how)
    halves = ("bf16", "f16")
    for precision in halves:  # into which torch puts what it is given
        Extractor(tiny_model, STEPS, precision=precision)
    more = {"output": "features", "preprocessing": STEPS}
    assert asked == [
        (True, {**how, **more}),
        *(
            (False, {"engine": "torch", "precision": one, "calibration": None, "max_pixels": None, **more})
            for one in halves
        ),
    ]


class TestExtractor:
    @pytest.mark.parametrize("precision", ["auto", "bf16"])
    def test_gives_what_the_classifier_takes_and_leaves_the_model_as_it_was(
        self, precision: str, tiny_model: Any
    ) -> None:
        steps = Preprocessing.from_dict(tiny_hybrid.tiny_processor().to_dict())
        picture = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        before = (tiny_model.classifier, tiny_model.config.num_labels, tiny_model.dtype)
        extractor = Extractor(tiny_model, steps, batch_size=2, precision=precision)
        first, error, second = extractor.stream([picture, ("b", b""), picture])
        assert (tiny_model.classifier, tiny_model.config.num_labels, tiny_model.dtype) == before
        assert error == {"path": "b", "error": "b: is empty"}
        np.testing.assert_array_equal(first["features"], second["features"])
        with torch.no_grad():
            expected = tiny_model(torch.from_numpy(steps([picture]))).logits[0]
            found = tiny_model.classifier(torch.from_numpy(first["features"]))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 if precision == "auto" else 0.05)

    @pytest.mark.parametrize("engine", ENGINES)
    def test_by_a_models_name_and_of_a_loaded_engine(self, engine: str, tiny_folder: Path) -> None:
        pictures = list(np.random.default_rng(0).integers(0, 256, (3, 40, 50, 3), dtype=np.uint8))
        extractor = Extractor.from_pretrained(tiny_folder, "cpu", batch_size=2, engine=engine, fill_batches=True)
        found = extractor(pictures)
        assert (extractor.engine.name, found.shape, found.dtype) == (engine, (3, 16), np.float32)
        predictor = Predictor.from_pretrained(tiny_folder, "cpu", engine="torch")
        with torch.no_grad():
            made = predictor.model.classifier(torch.from_numpy(found)).numpy()
        np.testing.assert_allclose(made, predictor.logits(pictures), rtol=0, atol=1e-5)
        np.testing.assert_array_equal(extractor(pictures[2]), found[2:])
        assert extractor([]).shape == (0, 16)
        assert Extractor(Colors(output="features"))([]).shape == (0, 0)  # where nobody said how many they are
        both = engines.load(tiny_folder, engine=engine, device="cpu", output="both", batch_size=2)
        [*records] = Extractor(both, batch_size=2, fill_batches=True).stream(pictures)
        np.testing.assert_array_equal([record["features"] for record in records], found)
        with pytest.raises(engines.EngineError, match="output='logits' and gives no features; load the model with"):
            Extractor(predictor.engine)

    def test_of_a_model_without_a_classifier(self, tiny_folder: Path, tmp_path: Path) -> None:
        ViTHybridModel.from_pretrained(tiny_folder, add_pooling_layer=False).save_pretrained(tmp_path)
        tiny_hybrid.tiny_processor().save_pretrained(tmp_path)
        picture = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        found = [Extractor.from_pretrained(place, "cpu", engine="torch")(picture) for place in (tmp_path, tiny_folder)]
        np.testing.assert_allclose(*found, rtol=0, atol=1e-5)
        half = Extractor.from_pretrained(tmp_path, "cpu", engine="torch", dtype="bfloat16").engine
        assert half.precision == "bf16"
        with pytest.raises(ModelLoadError, match="classifier"):
            Predictor.from_pretrained(tmp_path, engine="torch")

    def test_of_a_model_object_without_preprocessing(self, tiny_model: Any) -> None:
        with pytest.raises(ValueError, match="There is no preprocessing"):
            Extractor(tiny_model)
