"""Exported models, and those that run in int8, are explained by their PyTorch twins; others are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_hybrid import save_tiny_model
from typer.testing import CliRunner

from vit_hybrid import Predictor
from vit_hybrid.assets import BUILT_IN_MODEL
from vit_hybrid.checkpoints.files import ModelLoadError
from vit_hybrid.cli.main import app
from vit_hybrid.explain import Explainer, explainer, twins
from vit_hybrid.explain.twins import classifier_of


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model/, and bundle/ that was exported from it."""
    from vit_hybrid.export import export

    folder = tmp_path_factory.mktemp("place")
    save_tiny_model(folder / "model")
    export(folder / "model", folder / "bundle", "torch")
    return folder


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))


def test_a_bundle_is_explained_by_the_model_beside_it(place: Path, picture: Image.Image) -> None:
    explainer = Explainer.from_pretrained(place / "bundle", "cpu")
    assert explainer.twin is not None
    assert explainer.twin.model == str(place / "model")
    assert (explainer.twin.precision, explainer.twin.engine) == ("f32", "torch")
    [found] = explainer.explain(picture, "grad-cam", 1)
    assert found.twin == explainer.twin
    [expected] = Explainer.from_pretrained(place / "model", "cpu").explain(picture, "grad-cam", 1)
    assert expected.twin is None
    assert (found.map == expected.map).all()


def test_or_by_the_one_of_its_name_here(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(place / "bundle", tmp_path / "elsewhere" / "bundle")
    shutil.copytree(place / "model", tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    explainer = Explainer.from_pretrained("elsewhere/bundle", "cpu")
    assert explainer.twin is not None
    assert explainer.twin.model == "model"


@pytest.mark.parametrize("other", ["none", "other weights", "a bundle", "damaged"])
def test_where_there_is_none_it_is_said_what_to_do(place: Path, tmp_path: Path, other: str) -> None:
    shutil.copytree(place / "bundle", tmp_path / "bundle")
    if other == "other weights":
        shutil.copytree(place / "model", tmp_path / "model")
        weights = tmp_path / "model" / "model.safetensors"
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
    elif other == "a bundle":
        shutil.copytree(place / "bundle", tmp_path / "model")
    elif other == "damaged":
        (tmp_path / "model").mkdir()
    with pytest.raises(ModelLoadError, match=r"^.{1,500}$") as caught:
        Explainer.from_pretrained(tmp_path / "bundle", "cpu")
    assert "the model that it was exported from (model, weights " in str(caught.value)
    assert "give that model, which is explained in its place" in str(caught.value)


def test_the_command_says_so(place: Path, tmp_path: Path, picture: Image.Image) -> None:
    picture.save(tmp_path / "x.png")
    words = [
        "explain",
        tmp_path / "x.png",
        "--model",
        place / "bundle",
        "--output",
        tmp_path / "out",
        "--device",
        "cpu",
    ]
    result = CliRunner().invoke(app, [*map(str, words)])
    assert result.exit_code == 0
    [line] = result.stderr.splitlines()
    assert f"{place / 'bundle'}: explained by its PyTorch twin {place / 'model'} in float32" in line
    assert "what runs is f32 on torch" in line
    for more in ((), ("--model-only",)):
        record = json.loads(CliRunner().invoke(app, [*map(str, words), *more, "--json"]).stdout)
        assert record["twin"] == str(place / "model")
        assert record["note"].startswith("explained by its PyTorch twin")


def test_a_predictor_on_another_engine_is_explained_by_what_it_was_made_from(
    place: Path, picture: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = Predictor.from_pretrained(place / "model", engine="torch", device="cpu")
    assert Explainer(predictor).twin is None
    monkeypatch.setattr(predictor.engine, "precision", "bf16")
    assert Explainer(predictor).twin is None
    monkeypatch.setattr(predictor.engine, "name", "openvino")
    for precision in ("f32", "int8"):
        monkeypatch.setattr(predictor.engine, "precision", precision)
        explainer = Explainer(predictor)
        assert explainer.twin is not None
        assert (explainer.twin.precision, explainer.twin.engine) == (precision, "openvino")
    [found] = explainer.explain(picture, "relevance")
    assert found.twin == explainer.twin
    assert found.predictions[0]["label"] == predictor(picture)[0]["label"]


def test_places_are_looked_in_one_after_the_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In the package, here, and beside the bundle; of what is there one of the same weights is taken."""
    monkeypatch.chdir(tmp_path)
    for name in ("place/bundle", "place/model", "model"):
        (tmp_path / name).mkdir(parents=True)
    opened: list[str] = []
    weights: dict[str, str] = {}

    def open_source(name: str) -> Any:
        opened.append(name)
        if weights.get(name) == "unreadable":
            raise PermissionError(13, "Permission denied", name)
        said = {"model": "model", "weights_sha256": weights.get(name, "other")}
        kind = "bundle" if name == "place/bundle" else "own"
        return SimpleNamespace(kind=kind, location=Path(name), name=name, provenance=lambda: said)

    monkeypatch.setattr(twins, "open_source", open_source)
    monkeypatch.setattr(
        "vit_hybrid.bundles.manifest.read_bundle", lambda *_, **__: SimpleNamespace(precision="int8", engine="onnx")
    )
    beside = str(tmp_path / "place" / "model")
    for at, name in enumerate((BUILT_IN_MODEL, "model", beside), start=1):
        opened.clear()
        weights = {BUILT_IN_MODEL: "unreadable", "model": "unreadable", "place/bundle": "same", name: "same"}
        source, twin = twins.explainable("place/bundle")
        assert (source.name, twin) == (name, twins.Twin(name, "int8", "onnx"))
        assert opened == ["place/bundle", BUILT_IN_MODEL, "model", beside][: at + 1]
    weights = {"place/bundle": "5" * 64}
    with pytest.raises(
        ModelLoadError, match=r"^place/bundle: .*\(model, weights 5{12}\) is neither here nor beside it"
    ):
        twins.explainable("place/bundle")
    assert twins.explainable("model")[1] is None


def test_of_a_model_that_cannot_be_had_at_all_the_first_reason_is_told() -> None:
    def classifier(image_size: Any, num_labels: int | None = None, dtype: str = "auto") -> Any:
        raise ModelLoadError("damaged" if num_labels is None else "damaged, and without a classifier too")

    with pytest.raises(ModelLoadError, match=r"^damaged$"):
        classifier_of(SimpleNamespace(classifier=classifier), None)  # type: ignore[arg-type]


def test_a_predictor_that_runs_a_bundle_is_refused(place: Path) -> None:
    with pytest.raises(ModelLoadError, match="a bundle has no PyTorch model"):
        Explainer(Predictor.from_pretrained(place / "bundle", device="cpu"))


def test_the_classifier_is_read_to_where_maps_were_computed_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    read = SimpleNamespace(to=lambda device: ("a classifier", device))
    monkeypatch.setattr(explainer, "classifier_of", lambda *given: asked.append(given) or (read, None))
    made: Any = Explainer.__new__(Explainer)
    made.hybrid, made._source = SimpleNamespace(device="there"), "a source"
    for _ in range(2):
        assert made.model == ("a classifier", "there")
    assert asked == [("a source", None)]


@pytest.mark.parametrize("has_backbone", [True, False])
def test_what_is_wrong_with_the_classifier_is_told_where_there_is_no_model_without_it(has_backbone: bool) -> None:
    asked: list[Any] = []
    wrong = ModelLoadError("its classifier is damaged")
    model = SimpleNamespace(fold_weight_standardization=lambda: "folded")

    def classifier(image_size: Any, **how: Any) -> Any:
        asked.append((image_size, how))
        if len(asked) == 1 or not has_backbone:
            raise wrong if len(asked) == 1 else ModelLoadError("there is no model at all")
        return model

    source: Any = SimpleNamespace(classifier=classifier)
    if has_backbone:
        assert classifier_of(source, (32, 48)) == ("folded", wrong)
    else:
        with pytest.raises(ModelLoadError, match=r"^its classifier is damaged$"):
            classifier_of(source, (32, 48))
    assert asked == [((32, 48), {"dtype": "float32"}), ((32, 48), {"dtype": "float32", "num_labels": 0})]
