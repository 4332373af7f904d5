"""What is asked of a bundle reaches what makes it, and what stands in where something is not known."""

from __future__ import annotations

import importlib
import sys
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny_hybrid
import torch

from vit_hybrid import runtimes
from vit_hybrid.bundles import conversion, making
from vit_hybrid.bundles.program import Converted, described
from vit_hybrid.checkpoints import published
from vit_hybrid.errors import EngineError
from vit_hybrid.images.preprocessing import Preprocessing

GRAY = tiny_hybrid.HYBRIDS["no layers, one channel"]


@pytest.mark.parametrize("is_known", [True, False])
def test_pictures_for_int8_are_prepared_as_the_model_says_or_as_for_the_published_hybrids(
    is_known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(making, "quantize", lambda *given: asked.append(given) or (None, None))
    model = tiny_hybrid.random_model(**GRAY, image_size=[32, 48])
    known = Preprocessing(size=(32, 48), crop_size=(32, 48), image_mean=0.1, image_std=0.2, do_convert_rgb=False)
    pixels, steps = np.ones((1, 1, 32, 48), np.float32), list[str]()
    how: dict[str, Any] = {"calibration": pixels, "progress": steps.append, **({"time_limit": 7.0} if is_known else {})}
    made = making.make(model, "openvino", "int8", {}, preprocessing=known if is_known else None, **how)
    [(converted, ready, source, steps_of, limit, progress)] = asked
    assert (converted, ready.config) == (made.converted, made.reference.config)
    assert limit == (7.0 if is_known else 600.0)
    assert source is pixels
    assert steps_of == (known if is_known else published.preprocessing((32, 48), 1))
    progress("told")
    assert steps == ["Converting for openvino", "told"]


def test_what_is_to_be_quantized_is_built_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(making, "quantize", lambda *given: (None, None))
    kinds = {}
    for precision in ("f32", "int8"):
        made = making.make(tiny_hybrid.random_model(), "openvino", precision, {}, owned=True)
        kinds[precision] = [node.get_type_name() for node in made.converted.program.get_ops()].count("MVN")
        assert made.bundle.precision == precision
    assert kinds["int8"] > kinds["f32"] > 0  # the layer norms, and the group norms too


@pytest.mark.parametrize("representation_size", [None, 12])
def test_a_bundle_says_when_it_was_made_and_how_many_numbers_its_features_have(
    representation_size: int | None,
) -> None:
    before = datetime.now(UTC)
    problem = "single_label_classification" if representation_size is None else "multi_label_classification"
    changes = {"representation_size": representation_size, "problem_type": problem}
    config = tiny_hybrid.tiny_config(image_size=[32, 48], **changes)
    how: dict[str, Any] = {"dynamic": True, "token_merging": 3, "output": "both", "quantization": {"pictures": 1}}
    found = described(config, Converted("openvino", None, lambda *_: None), "bf16", {"model": "mine"}, **how)
    assert (found.feature_size, found.problem_type) == (representation_size or 16, problem)
    assert (found.engine, found.precision, found.program) == ("openvino", "bf16", "openvino_model.xml")
    assert (found.image_size, found.num_channels, found.labels[1]) == ((32, 48), 3, "LABEL_1")
    assert {name: getattr(found, name) for name in how} == how
    created = datetime.fromisoformat(found.provenance["created"])
    assert abs(created - before) < timedelta(seconds=10)
    assert found.provenance["model"] == "mine"


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_traced_is_of_more_than_one_picture_of_the_models_size(
    dtype: torch.dtype, dynamic: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    class Exporter:
        def export(self, model: Any, sample: dict[str, Any], settings: Any) -> None:
            assert not torch.is_grad_enabled()
            asked.append((model, sample, settings.dynamic_shapes))
            raise RuntimeError("seen")

    monkeypatch.setattr("transformers.exporters.exporter_dynamo.DynamoExporter", Exporter)
    model = conversion.prepared(tiny_hybrid.random_model(image_size=[32, 48]), owned=True)
    with pytest.raises(EngineError, match="cannot convert this model for torch: seen"):
        conversion.convert(model, "torch", dynamic, dtype)
    [(traced, sample, shapes)] = asked
    assert (traced.dtype, model.dtype) == (dtype, torch.float32)  # whose owner goes on with it
    pixels = sample.pop("pixel_values")
    assert (pixels.shape, pixels.dtype) == ((2, 3, 32, 48), dtype)
    assert sample == ({"interpolate_pos_encoding": True} if dynamic else {})
    open_sides = shapes.pop("pixel_values")
    assert {*open_sides} == ({0, 2, 3} if dynamic else {0})
    assert (open_sides[0].min, open_sides[0].max) == (1, 4096)
    assert shapes == ({"interpolate_pos_encoding": None} if dynamic else {})


def test_what_plans_its_memory_is_traced_with_one_picture_of_a_known_size(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    class Exporter:
        def export(self, model: Any, sample: dict[str, Any], settings: Any) -> None:
            asked.append(({name: value.shape for name, value in sample.items()}, settings))
            raise RuntimeError("seen")

    module, find = SimpleNamespace(ExecutorchExporter=Exporter, ExecutorchConfig=dict), importlib.import_module

    def found(name: str, *package: str) -> Any:
        return module if name.startswith("transformers.exporters") else find(name, *package)

    monkeypatch.setattr(importlib, "import_module", found)
    monkeypatch.setattr(conversion, "check_installed", lambda *_: None)
    model = conversion.prepared(tiny_hybrid.random_model(image_size=[32, 48]), owned=True)
    with pytest.raises(EngineError, match="cannot convert this model for executorch: seen"):
        conversion.convert(model, "executorch")
    assert asked == [({"pixel_values": (1, 3, 32, 48)}, {})]
    with pytest.raises(EngineError, match="executorch plans its memory beforehand, and has no dynamic height"):
        conversion.convert(model, "executorch", dynamic=True)


def test_a_traced_program_is_written_where_there_is_room_for_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = {"state_dict": {"a": torch.zeros(10)}, "constants": {"b": torch.zeros(3, dtype=torch.bfloat16), "c": 1}}
    program, part = SimpleNamespace(**tensors), SimpleNamespace(program=None)
    told: list[Any] = []
    exported = SimpleNamespace(
        program=program,
        components={"model": part},
        save_pretrained=lambda folder: told.append((folder, part.program)),
    )
    monkeypatch.setattr(
        "transformers.exporters.exporter_dynamo.DynamoExporter", lambda: SimpleNamespace(export=lambda *_: exported)
    )
    monkeypatch.setattr(conversion, "require_room", lambda *given: told.append(given))
    conversion.convert(conversion.prepared(tiny_hybrid.random_model(), owned=True), "torch").write(tmp_path)
    assert told == [(tmp_path, 46 + conversion.ROOM_BESIDE), (tmp_path, program)]


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_traced_program_for_openvino_is_of_one_size_unless_it_is_dynamic(
    dynamic: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    told: list[Any] = []
    exported = SimpleNamespace(program=SimpleNamespace(reshape=told.append))
    monkeypatch.setattr(
        "transformers.exporters.exporter_openvino.OpenVINOExporter", lambda: SimpleNamespace(export=lambda *_: exported)
    )
    model = conversion.prepared(tiny_hybrid.random_model(image_size=[32, 48]), owned=True)
    found = conversion.convert(model, "openvino", dynamic)
    assert (found.engine, found.program) == ("openvino", exported.program)
    assert told == ([] if dynamic else [{0: [-1, 3, 32, 48]}])


def test_what_converting_needs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    model = conversion.prepared(tiny_hybrid.random_model(), owned=True)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "transformers.exporters", None)
        said = f"needs transformers.exporters, which transformers {metadata.version('transformers')} lacks"
        with pytest.raises(EngineError, match=f"^converting a model for torch {said} .* brings it"):
            conversion.convert(model, "torch")
    find = runtimes.util.find_spec
    monkeypatch.setattr(runtimes.util, "find_spec", lambda name: None if name == "openvino" else find(name))
    for convert in (conversion.convert, lambda model, engine: making.make(model, engine, "f32", {}, owned=True)):
        with pytest.raises(EngineError, match=r"^converting a model for openvino needs openvino, .*\[openvino\]"):
            convert(model, "openvino")


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("it broke:", "it broke:"),
        ("it broke:\n\n  here", "it broke: here"),
        ("it broke\nhere", "it broke"),
        ("", "RuntimeError"),
    ],
)
def test_of_what_a_converter_says_the_first_line_is_told(said: str, line: str) -> None:
    assert conversion._first_line(RuntimeError(said)) == line


def test_the_graph_of_onnx_is_handed_on_as_bytes() -> None:
    onnx_ir = pytest.importorskip("onnx_ir")
    program = onnx_ir.Model(onnx_ir.Graph([], [], nodes=[], opset_imports={"": 20}), ir_version=10)
    assert Converted("onnx", program, lambda *_: None).in_memory() == onnx_ir.to_proto(program).SerializeToString()
    other = SimpleNamespace()
    assert Converted("openvino", other, lambda *_: None).in_memory() is other
