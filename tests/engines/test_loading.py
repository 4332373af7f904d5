"""What is asked of an engine reaches what converts the model, and what runs it."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vit_hybrid import engines
from vit_hybrid.bundles import building, cache, making
from vit_hybrid.bundles.calibration import DEFAULT_TIME_LIMIT, PictureFolder
from vit_hybrid.bundles.manifest import Bundle
from vit_hybrid.checkpoints.files import ModelLoadError
from vit_hybrid.checkpoints.opening import open as open_source
from vit_hybrid.engines import EngineError, EngineWarning, loading
from vit_hybrid.engines.exported import ExportedEngine
from vit_hybrid.engines.kept import Row
from vit_hybrid.engines.protocol import Specification
from vit_hybrid.engines.ways import Wanted, Way
from vit_hybrid.images.preprocessing import Preprocessing


@pytest.fixture
def converted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was to be converted, none of which is."""
    asked: list[Any] = []

    def make(model: Any, *given: Any, **how: Any) -> Any:
        asked.append((given, how))
        raise EngineError("seen")

    def made_from_files(*given: Any, **how: Any) -> Any:
        asked.append((given, how))

    monkeypatch.setattr(making, "make", make)
    monkeypatch.setattr(building, "made_from_files", made_from_files)
    return asked


def test_what_converts_for_int8_gets_all_that_was_asked(
    tiny_folder: Path, tmp_path: Path, converted: list[Any]
) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "0.png")
    told: list[str] = []
    how: dict[str, Any] = {"token_merging": 2, "output": "both", "time_limit": 7.0, "progress": told.append}
    with pytest.raises(EngineError, match="seen"):
        engines.load(tiny_folder, "onnx", "int8", calibration=tmp_path, max_pixels=99, **how)
    [((engine, kind, provenance), found)] = converted
    source = open_source(tiny_folder)
    assert (engine, kind, provenance) == ("onnx", "int8", source.provenance())
    assert found == {
        **how,
        **{"owned": True, "dynamic": False, "preprocessing": source.preprocessing},
        "calibration": PictureFolder(tmp_path, 99),
    }
    assert told == ["Loading the model to convert it for onnx, once"]


@pytest.mark.parametrize("dynamic", [False, True])
def test_what_is_built_of_files_and_else_traced_gets_it_too(
    dynamic: bool, tiny_folder: Path, converted: list[Any]
) -> None:
    how: dict[str, Any] = {"dynamic": dynamic, "token_merging": None if dynamic else 3, "output": "features"}
    with pytest.raises(EngineError, match="seen"):
        engines.load(tiny_folder, "openvino", "bf16", **how)
    ((fields, weights, provenance), built), ((engine, kind, again), traced) = converted
    assert (fields["num_hidden_layers"], [path.name for path in weights]) == (2, ["model.safetensors"])
    assert built == how
    assert (engine, kind) == ("openvino", "f32")  # which it computes with in bfloat16
    assert provenance == again == open_source(tiny_folder).provenance()
    assert {**traced, **how} == traced
    assert (traced["time_limit"], traced["calibration"]) == (DEFAULT_TIME_LIMIT, None)


def test_what_was_measured_is_asked_for_with_all_that_was_given(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def measured(source: Any, *what: Any) -> Any:
        asked.append((source.name, *what))
        raise ZeroDivisionError

    monkeypatch.setattr(loading, "measured", measured)
    how: dict[str, Any] = {"attention": "eager", "compile": False, "channels_last": True, "pictures": 7}
    with pytest.raises(ZeroDivisionError):
        engines.load(tiny_folder, "torch", "bf16", 3, "cuda:1", batch_size=5, **how)
    with pytest.raises(ZeroDivisionError):
        engines.load(tiny_folder)
    assert asked == [
        (str(tiny_folder), Wanted("torch", "bf16", "eager", False, True, 3, 7), "cuda:1", 5),
        (str(tiny_folder), Wanted(None, "f32"), None, 1),
    ]


def test_what_was_measured_runs_as_it_was(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    way = Way("torch", "f32", "eager", compiled=True, channels_last=True, threads=torch.get_num_threads())
    monkeypatch.setattr(loading, "measured", lambda *_: Row(way, 1, 0.001, 3))
    monkeypatch.setattr(torch, "compile", lambda model, **_: model)
    assert engines.load(tiny_folder).way == way


def test_an_object_runs_where_it_is_unless_a_device_is_given(tiny_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(loading, "chosen", lambda *what: asked.append(what) or "torch")
    loaded = engines.load(tiny_model, output="auto")
    assert (loaded.spec.output, loaded.device) == ("logits", "cpu")
    monkeypatch.setattr("vit_hybrid.engines.torch.usable_device", lambda place: torch.device("cpu"))
    engines.load(tiny_model, "auto", "bf16", device="cuda:1", attention="eager")
    nothing = {"compile": False, "attention": None, "channels_last": None}
    assert asked == [
        ("auto", "auto", torch.device("cpu"), nothing),
        ("auto", "bf16", "cuda:1", {**nothing, "attention": "eager"}),
    ]


@pytest.mark.parametrize("steps", [None, Preprocessing(size=32, crop_size=(32, 32))])
def test_a_classifier_that_is_an_object_is_its_owners_and_so_is_its_preprocessing(
    steps: Preprocessing | None, tiny_model: Any, converted: list[Any]
) -> None:
    with pytest.raises(EngineError, match="seen"):
        engines.load(tiny_model, "openvino", token_merging=3, preprocessing=steps)
    [(_, found)] = converted
    assert (found["owned"], found["preprocessing"]) == (False, steps)
    assert engines.load(tiny_model, "torch", preprocessing=steps).spec.preprocessing is steps


@pytest.mark.parametrize("is_kept", [True, False])
def test_what_was_converted_runs_as_asked_kept_or_not(
    is_kept: bool, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(cache.CACHE_VARIABLE, str(tmp_path / ("cache" if is_kept else "file")))
    told: list[Any] = []

    def started(program: Any, bundle: Any, precision: str, preprocessing: Any, runs: Any) -> Any:
        told.append((isinstance(program, Path), bundle.engine, precision, preprocessing, runs))
        return SimpleNamespace(name="openvino", precision=precision, spec=SimpleNamespace(token_merging=2))

    monkeypatch.setattr(loading, "_started", started)
    how: dict[str, Any] = {"threads": 3, "device": "cpu", "output": "both", "batch_size": 5}
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", EngineWarning)
        loaded: Any = engines.load(tiny_folder, "openvino", "bf16", token_merging=2, **how)
    assert told == [(is_kept, "openvino", "bf16", open_source(tiny_folder).preprocessing, how)]
    assert loaded.way == Way("openvino", "bf16", threads=3, token_merging=2)
    assert hasattr(loaded, "keeps") is not is_kept  # the memory that the program shares
    assert len(warned) == (not is_kept)


@pytest.mark.parametrize(
    ("engine", "made_in", "asked", "runs_in"),
    [
        ("openvino", "f32", "auto", "f32"),
        ("openvino", "f32", "bf16", "bf16"),
        ("openvino", "bf16", "f16", "f16"),
        ("openvino", "f32", "int8", None),
        ("openvino", "int8", "f32", None),
        ("openvino", "int8", "int8", "int8"),
        ("torch", "f32", "bf16", None),
        ("torch", "bf16", "auto", "bf16"),
        ("onnx", "f32", "bf16", None),
    ],
)
def test_a_bundle_runs_in_what_its_program_can_be_run_in(
    engine: str, made_in: str, asked: str, runs_in: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Bundle(engine, made_in, "program", ("a",), "single_label_classification", 3, (32, 32))
    monkeypatch.setattr(loading, "read_bundle", lambda folder: bundle)
    monkeypatch.setattr(loading, "_run", lambda folder, bundle, precision, *_: precision)
    source: Any = SimpleNamespace(location=str(tmp_path), preprocessing=None)
    runs = {"threads": 1, "device": None, "output": "logits"}
    if runs_in is not None:
        assert loading._load_bundle(source, "auto", asked, runs, {}) == runs_in
    else:
        said = f"^{tmp_path}: this bundle is in {made_in}, and {asked} was asked for; export the model in {asked}"
        with pytest.raises(EngineError, match=said):
            loading._load_bundle(source, "auto", asked, runs, {})
    other = "onnx" if engine == "torch" else "torch"
    said = f"^{tmp_path}: this bundle is for {engine}, and {other} was asked for; export the model for {other}"
    with pytest.raises(EngineError, match=said):
        loading._load_bundle(source, other, "auto", runs, {})


def test_a_bundle_of_an_engine_that_is_not_known_or_runs_elsewhere_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source: Any = SimpleNamespace(location=str(tmp_path), preprocessing=None)
    for engine, said in (
        ("abacus", f"{tmp_path}: this bundle is for abacus, which this version lacks; export it again"),
        ("executorch", f"{tmp_path}: this bundle is for executorch; ExecuTorch's own runtime runs it"),
    ):
        bundle = Bundle(engine, "f32", "program", ("a",), "single_label_classification", 3, (32, 32))
        monkeypatch.setattr(loading, "read_bundle", lambda folder, bundle=bundle: bundle)
        with pytest.raises(EngineError, match=said):
            loading._load_bundle(source, "auto", "auto", {"output": "logits"}, {})


def test_a_bundle_has_no_model_to_put_into_a_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    def classifier() -> None:
        raise ModelLoadError("it is a bundle")

    source = SimpleNamespace(kind="bundle", classifier=classifier, confidence=lambda: None)
    monkeypatch.setattr(loading, "open_source", lambda name: source)
    with pytest.raises(ModelLoadError, match="it is a bundle"):
        engines.load("bundle", dtype="float16")


@pytest.mark.parametrize("engine", ["openvino", "onnx"])
def test_a_bundle_is_started_with_what_its_manifest_says(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    what = (("a", "b"), "multi_label_classification", 1, (32, 48))
    bundle = Bundle(engine, "f32", "program", *what, dynamic=True, token_merging=3, output="both", feature_size=7)
    asked: list[Any] = []
    runner = {"openvino": "openvino.OpenVINOEngine", "onnx": "onnx.OnnxEngine"}[engine]
    monkeypatch.setattr(f"vit_hybrid.engines.{runner}", lambda *given, **how: asked.append((given, how)))
    steps = Preprocessing()
    runs = {"threads": 3, "device": torch.device("cpu"), "output": "features", "batch_size": 5}
    loading._started("a program", bundle, "bf16", steps, runs)
    loading._started("a program", bundle, "bf16", None, {**runs, "device": None})
    spec = Specification(*what, dynamic=True, preprocessing=steps, output="features", feature_size=7, token_merging=3)
    more = {"batch_size": 5} if engine == "openvino" else {}
    [first, (_, second)] = asked
    assert first == (("a program", spec), {"precision": "bf16", "threads": 3, "device": "cpu", **more})
    assert second["device"] is None


@pytest.mark.parametrize("has_pictures", [False, True])
def test_int8_without_pictures_or_without_a_word_on_preprocessing_is_told(
    has_pictures: bool, tiny_folder: Path, tmp_path: Path, converted: list[Any]
) -> None:
    shutil.copytree(tiny_folder, tmp_path / "model")
    if has_pictures:
        (tmp_path / "model" / "preprocessor_config.json").unlink()
    pictures = np.zeros((8, 3, 32, 32), np.float32)
    said = "does not say how images are prepared" if has_pictures else "no calibration pictures were given"
    with pytest.warns(EngineWarning, match=said) as warned, pytest.raises(EngineError, match="seen"):
        engines.load(tmp_path / "model", "openvino", "int8", calibration=pictures if has_pictures else None)
    assert len(warned) == 1


@pytest.mark.parametrize(
    ("given", "needs", "asked", "expected"),
    [
        ("all", True, "auto", "all"),
        ("both", True, "auto", "logits"),  # which has no class token for what it needs
        ("all", False, "auto", "logits"),
        ("all", None, "auto", "logits"),
        ("both", True, "features", "features"),
    ],
)
def test_a_bundle_gives_what_its_confidence_needs_if_it_can(
    given: str, needs: bool | None, asked: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = None if needs is None else SimpleNamespace(needs_features=needs)
    bundle = Bundle("torch", "f32", "program", ("a",), "single_label_classification", 3, (32, 32), output=given)
    source = SimpleNamespace(kind="bundle", location="bundle", confidence=lambda: fitted)
    monkeypatch.setattr(loading, "open_source", lambda name: source)
    monkeypatch.setattr(loading, "read_bundle", lambda folder: bundle)
    monkeypatch.setattr(loading, "_load_bundle", lambda source, engine, precision, runs, others: runs["output"])
    monkeypatch.setattr(loading, "_with", lambda confidence, loaded, threads: (confidence, loaded))
    assert engines.load("bundle", output=asked) == (fitted, expected)
    assert engines.load("bundle", output=asked, confidence=False) == (None, "logits" if asked == "auto" else asked)


class TestExported:
    SPEC = ("a", "b"), "single_label_classification", 3, (4, 6)

    @pytest.mark.parametrize(("precision", "dynamic"), [("f32", False), ("bf16", True)])
    def test_a_program_gets_pictures_in_its_precision_and_is_told_of_other_sizes(
        self, precision: str, dynamic: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[precision]
        given: list[dict[str, Any]] = []

        def module(**how: Any) -> dict[str, torch.Tensor]:
            given.append(how)
            assert not torch.is_grad_enabled()
            count = len(how["pixel_values"])
            return {"features": torch.ones(count, 5, dtype=dtype), "logits": torch.full((count, 2), 2.0, dtype=dtype)}

        monkeypatch.setattr(torch.export, "load", lambda path: SimpleNamespace(module=lambda: module))
        engine = ExportedEngine("program.pt2", Specification(*self.SPEC, dynamic, output="both"), precision)
        found = engine.run(np.zeros((3, 3, 4, 6), np.float32))
        assert found.logits is not None
        assert found.features is not None
        assert (found.logits.tolist(), found.features.shape) == ([[2.0, 2.0]] * 3, (3, 5))
        assert {found.logits.dtype, found.features.dtype} == {np.dtype(np.float32)}
        [how] = given
        assert how.pop("pixel_values").dtype == dtype
        assert how == ({"interpolate_pos_encoding": True} if dynamic else {})

    @pytest.mark.parametrize("threads", [None, 3])
    def test_it_takes_the_threads_that_it_may(self, threads: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
        told: list[int | None] = []
        monkeypatch.setattr("vit_hybrid.engines.exported.take_threads", told.append)
        monkeypatch.setattr(torch.export, "load", lambda path: SimpleNamespace(module=lambda: None))
        ExportedEngine("program.pt2", Specification(*self.SPEC), threads=threads)
        assert told == [threads]

    def test_what_it_cannot_do_is_one_line(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "program.pt2").write_bytes(b"no program")
        with pytest.raises(EngineError, match=r"^PyTorch cannot load this program: ") as caught:
            ExportedEngine(tmp_path / "program.pt2", Specification(*self.SPEC))
        assert "\n" not in str(caught.value)

        def refuse(path: str) -> None:
            raise RuntimeError("x" * 300)

        monkeypatch.setattr(torch.export, "load", refuse)
        with pytest.raises(EngineError, match=r"^PyTorch cannot load this program: x{200}$"):
            ExportedEngine(tmp_path / "program.pt2", Specification(*self.SPEC))
        with pytest.raises(EngineError, match="a torch bundle runs on device 'cpu', not 'cuda'; load the model itself"):
            ExportedEngine(tmp_path / "program.pt2", Specification(*self.SPEC), device="cuda")
