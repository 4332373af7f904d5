"""What a process of this package does with its task: which engine it loads how, and what it times."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vit_hybrid import engines
from vit_hybrid.benchmark import worker
from vit_hybrid.engines import EngineWarning
from vit_hybrid.images import reading


class Loaded:
    """An engine that takes down what it is asked for."""

    name, device = "openvino", "cpu"

    def __init__(self) -> None:
        self.told: list[Any] = []

    def expect(self, count: int) -> None:
        self.told.append(("expect", count))

    def logits(self, pixels: Any) -> Any:
        self.told.append(("logits", len(pixels)))
        return pixels.reshape(len(pixels), -1)


def test_an_engine_is_loaded_as_asked_and_knows_its_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, given = Loaded(), dict[str, Any]()

    def load(model: str, **options: Any) -> Loaded:
        given.update(options, model=model)
        for text in ("computes in float32", "made-up pictures calibrate"):
            warnings.warn(EngineWarning(text), stacklevel=1)
        warnings.warn(DeprecationWarning("of a library"), stacklevel=1)
        return loaded

    monkeypatch.setattr(engines, "load", load)
    np.save(tmp_path / "pixels.npy", np.arange(8, dtype=np.float32).reshape(4, 2))
    np.save(tmp_path / "others.npy", np.ones((3, 2), np.float32))
    options = {"engine": "openvino", "precision": "int8", "calibration": str(tmp_path / "others.npy")}
    task = {"model": "a model", "options": options, "pixels": str(tmp_path / "pixels.npy")}
    about, answer = worker.engine(task)
    assert about == {"device": "cpu", "fallback": "computes in float32; made-up pictures calibrate"}
    np.testing.assert_array_equal(given.pop("calibration"), np.ones((3, 2)))
    assert given == {"model": "a model", "engine": "openvino", "precision": "int8"}
    assert options["calibration"] == str(tmp_path / "others.npy")
    assert loaded.told == [("expect", 1), ("logits", 1)]
    loaded.told.clear()
    answer({"batch": 3, "least_seconds": 0.0, "logits": str(tmp_path / "logits.npy")})
    assert loaded.told == [("expect", 3), ("logits", 3)] * 2  # one pass to warm up
    np.testing.assert_array_equal(np.load(tmp_path / "logits.npy"), [[0, 1], [2, 3], [4, 5]])


@pytest.mark.parametrize(("decode_only", "prepared"), [(True, 0), (False, 2)])
def test_decoding_is_timed_alone_or_with_all_that_follows(
    decode_only: bool, prepared: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": 8, "crop_size": 8, "do_normalize": False}))
    task = {"preprocessing": str(tmp_path / "preprocessor_config.json"), "pictures": 2, "mode": "L"}
    opened: list[Any] = []
    open_image = reading.open_image
    monkeypatch.setattr(reading, "open_image", lambda file: (opened.append(file), open_image(file))[1])
    runs: list[Any] = []
    monkeypatch.setattr(worker, "timed", lambda run, least: (runs.append((run(), least)), ([0.25], None))[1])
    about, answer = worker.preprocessing(task)
    assert (about, len(opened), len(set(opened))) == ({}, 2, 2)
    assert answer({"decode_only": decode_only, "least_seconds": 0.5}) == {"seconds": [0.25], "pictures": 2}
    [(made, least)] = runs
    assert (len(opened), len(made), least) == (4, 2, 0.5)
    assert sum(isinstance(one, np.ndarray) and one.shape == (3, 8, 8) for one in made) == prepared


@pytest.mark.parametrize(("name", "is_there"), [("torch", True), ("onnx", False)])
def test_beside_a_cpu_torch_is_timed_over_what_is_on_its_device_already(
    name: str, is_there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []

    class OnDevice(Loaded):
        device = "meta"

        def logits(self, pixels: Any) -> Any:
            given.append(pixels)
            return np.zeros((len(pixels), 2))

    loaded = OnDevice()
    loaded.name = name  # type: ignore[misc]
    monkeypatch.setattr(engines, "load", lambda model, **options: loaded)
    np.save(tmp_path / "pixels.npy", np.ones((4, 2), np.float32))
    about, answer = worker.engine({"model": "a model", "options": {}, "pixels": str(tmp_path / "pixels.npy")})
    assert about == {"device": "meta", "fallback": ""}
    given.clear()
    found = answer({"batch": 3, "least_seconds": 0.0})
    assert ("copied_seconds" in found) is is_there
    assert [(str(getattr(one, "device", "none")) == "meta", len(one)) for one in given] == [
        *[(is_there, 3)] * 2,
        *[(False, 3)] * (2 * is_there),
    ]


def test_products_have_the_threads_of_the_task(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    about, _ = worker.matrix_product({"device": "cpu", "threads": 5, "hidden": 2, "inner": 3, "maps": (1, 2, 2)})
    assert (about, threads) == ({"device": "cpu", "device_name": None}, [5])
