"""Engines: one model, the same logits from each runtime, and what each says of what it cannot do."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fresh_process
import numpy as np
import pytest
import tiny_hybrid
import torch

from vit_hybrid import ViTHybridForImageClassification, engines, runtimes
from vit_hybrid.bundles import building, cache
from vit_hybrid.bundles.manifest import Bundle
from vit_hybrid.checkpoints.files import ModelLoadError, weights_paths
from vit_hybrid.checkpoints.opening import open as open_source
from vit_hybrid.engines import EngineError, EngineWarning, loading
from vit_hybrid.engines.torch import TorchEngine, bucket
from vit_hybrid.export import export
from vit_hybrid.images.preprocessing import Preprocessing
from vit_hybrid.runtimes import BUNDLE_FILE

SIDE = tiny_hybrid.IMAGE_SIZE
# The bar for float32; tiny models come far below it.
TOLERANCE = 1e-4
BF16_TOLERANCE = 0.02
CONVERTING = ("openvino", "onnx")
# How many threads a loaded engine computes with.
THREADS: dict[str, Callable[[Any], int]] = {
    "torch": lambda _: torch.get_num_threads(),
    "openvino": lambda one: one._fixed[1].get_compiled_model().get_property("INFERENCE_NUM_THREADS"),
    "onnx": lambda one: one._session.get_session_options().intra_op_num_threads,
}


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 1, (5, 3, SIDE, SIDE)).astype(np.float32)


@pytest.fixture(scope="module")
def expected(tiny_folder: Path, pixels: np.ndarray) -> np.ndarray:
    model = ViTHybridForImageClassification.from_pretrained(tiny_folder).eval()
    with torch.inference_mode():
        return model(torch.from_numpy(pixels)).logits.numpy()


class TestLogits:
    @pytest.mark.parametrize("engine", engines.ENGINES)
    def test_are_the_models(self, engine: str, tiny_folder: Path, pixels: np.ndarray, expected: np.ndarray) -> None:
        loaded = engines.load(tiny_folder, engine=engine, device="cpu", threads=1)
        assert isinstance(loaded, engines.Engine)
        assert (loaded.name, loaded.precision, loaded.device) == (engine, "f32", "cpu")
        for count in (5, 1, 3, 2):  # any number at once, in any order
            found = loaded.logits(pixels[:count])
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, expected[:count], rtol=0, atol=TOLERANCE)
        assert loaded.logits(pixels[:0]).shape == (0, 3)
        first = loaded.logits(pixels[:1])
        kept = first.copy()
        loaded.logits(pixels[1:2])
        np.testing.assert_array_equal(first, kept)  # an answer is not overwritten by the next one

    @pytest.mark.parametrize("engine", engines.ENGINES)
    def test_of_a_gray_model_with_unlike_sides(self, engine: str) -> None:
        """Where height, width and channels are three numbers, none of them stands for another."""
        backbone = {**tiny_hybrid.tiny_config().backbone_config.to_dict(), "num_channels": 1}
        config = tiny_hybrid.tiny_config(image_size=(32, 48), num_channels=1, backbone_config=backbone)
        torch.manual_seed(2)
        model = ViTHybridForImageClassification(config).eval()
        values = torch.randn((2, 1, 32, 48), generator=torch.Generator().manual_seed(3))
        with torch.inference_mode():
            expected = model(values).logits.numpy()
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        loaded = engines.load(model, engine=engine, device="cpu")
        assert (loaded.spec.image_size, loaded.spec.num_channels) == ((32, 48), 1)
        np.testing.assert_allclose(loaded.logits(values.numpy()), expected, rtol=0, atol=TOLERANCE)
        with pytest.raises(EngineError, match=r"expected \(N, 1, 32, 48\)"):
            loaded.logits(values.numpy().transpose(0, 1, 3, 2))
        assert model.state_dict().keys() == before.keys()
        assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())
        if engine != "torch":  # which takes the model over
            assert not model.is_folded

    @pytest.mark.parametrize("engine", engines.ENGINES)
    def test_compute_with_the_number_of_threads_that_is_asked_for(self, engine: str, tiny_folder: Path) -> None:
        before = torch.get_num_threads()
        try:
            for threads in (2, 1):
                loaded = engines.load(tiny_folder, engine=engine, device="cpu", threads=threads)
                assert THREADS[engine](loaded) == threads
        finally:
            torch.set_num_threads(before)

    @pytest.mark.parametrize("engine", engines.ENGINES)
    def test_start_no_more_threads_than_a_container_has_cores(
        self, engine: str, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for module in ("devices", "openvino", "onnx"):
            monkeypatch.setattr(import_module(f"vit_hybrid.engines.{module}"), "fewer_cores", lambda: 1)
        before = torch.get_num_threads()
        torch.set_num_threads(2)
        try:
            assert THREADS[engine](engines.load(tiny_folder, engine=engine, device="cpu")) == 1
        finally:
            torch.set_num_threads(before)

    @pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores")
    def test_threads_of_a_share_of_the_cores_go_where_there_is_room(self, tiny_folder: Path) -> None:
        """Tied to the first core they would be there with those of all other processes that have a share."""
        for threads, is_tied in ((1, False), (os.cpu_count(), True)):
            loaded = engines.load(tiny_folder, engine="openvino", threads=threads)
            assert loaded._fixed[1].get_compiled_model().get_property("ENABLE_CPU_PINNING") == is_tied  # type: ignore[attr-defined]

    @pytest.mark.parametrize("engine", engines.ENGINES)
    def test_specification(self, engine: str, tiny_folder: Path) -> None:
        spec = engines.load(tiny_folder, engine=engine, device="cpu").spec
        assert spec.labels == ("LABEL_0", "LABEL_1", "LABEL_2")
        assert (spec.problem_type, spec.num_channels) == ("single_label_classification", 3)
        assert (spec.image_size, spec.dynamic) == ((SIDE, SIDE), False)
        assert spec.preprocessing is not None
        assert spec.preprocessing.crop_size == (SIDE, SIDE)

    @pytest.mark.parametrize(("engine", "precision"), [("torch", "bf16"), ("torch", "f16"), ("openvino", "bf16")])
    def test_in_half_precision(
        self, engine: str, precision: str, tiny_folder: Path, pixels: np.ndarray, expected: np.ndarray
    ) -> None:
        loaded = engines.load(tiny_folder, engine=engine, precision=precision, device="cpu")
        if loaded.precision != precision:
            pytest.skip(f"this processor has no {precision}")
        found = loaded.logits(pixels)
        np.testing.assert_allclose(found, expected, rtol=0, atol=BF16_TOLERANCE)
        assert not np.array_equal(found, expected)

    @pytest.mark.parametrize("dtype", [np.float64, np.float16, ">f4"])
    @pytest.mark.parametrize("engine", engines.ENGINES)
    def test_of_other_floating_point_numbers(
        self, engine: str, dtype: Any, tiny_folder: Path, pixels: np.ndarray, expected: np.ndarray
    ) -> None:
        loaded = engines.load(tiny_folder, engine=engine, device="cpu")
        found = loaded.logits(np.asfortranarray(pixels.astype(dtype)))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)

    def test_a_model_object(self, tiny_model: Any, pixels: np.ndarray) -> None:
        with torch.inference_mode():
            expected = tiny_model(torch.from_numpy(pixels)).logits.numpy()
        tiny_model.train()
        loaded = engines.load(tiny_model, engine="openvino")
        np.testing.assert_allclose(loaded.logits(pixels), expected, rtol=0, atol=TOLERANCE)
        assert tiny_model.training  # a copy was converted
        assert not tiny_model.is_folded
        with torch.no_grad():
            tiny_model.classifier.bias += 1
        again = engines.load(tiny_model, engine="openvino")  # and other weights are another model
        np.testing.assert_allclose(again.logits(pixels), expected + 1, rtol=0, atol=TOLERANCE)

    def test_attention_of_the_torch_engine(self, tiny_folder: Path, pixels: np.ndarray, expected: np.ndarray) -> None:
        for attention in ("eager", "sdpa"):
            loaded = engines.load(tiny_folder, engine="torch", device="cpu", attention=attention)
            assert loaded.model.config._attn_implementation == attention  # type: ignore[attr-defined]
            np.testing.assert_allclose(loaded.logits(pixels), expected, rtol=0, atol=TOLERANCE)

    def test_attention_is_eager_where_that_is_faster(self, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for sets, precision, attention in (
            (["avx512_bf16"], "bf16", "eager"),
            (["avx512_bf16"], "f16", "eager"),
            (["avx512_bf16"], "f32", "sdpa"),
            (["avx512_bf16", "amx_bf16"], "bf16", "sdpa"),
        ):
            monkeypatch.setattr("vit_hybrid.engines.torch.instruction_sets", lambda sets=sets: sets)
            loaded = engines.load(tiny_folder, engine="torch", device="cpu", precision=precision)
            assert loaded.model.config._attn_implementation == attention  # type: ignore[attr-defined]

    @pytest.mark.parametrize("engine", ["torch", "openvino"])
    def test_with_merged_tokens(self, engine: str, tiny_folder: Path, pixels: np.ndarray, expected: np.ndarray) -> None:
        loaded = engines.load(tiny_folder, engine=engine, device="cpu", token_merging=4)
        assert loaded.spec.token_merging == 4
        found = loaded.logits(pixels)
        assert 1e-6 < np.abs(found - expected).max() < 0.2
        again = engines.load(tiny_folder, engine="torch", device="cpu", token_merging=4).logits(pixels)
        np.testing.assert_allclose(found, again, rtol=0, atol=TOLERANCE)

    def test_what_is_traced_merges_tokens(
        self, tiny_folder: Path, pixels: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        traced: list[Any] = []

        def convert(model: Any, *_: Any) -> Any:
            traced.append(model)
            raise EngineError("that is all")

        monkeypatch.setattr("vit_hybrid.bundles.making.convert", convert)
        with pytest.raises(EngineError, match="that is all"):
            export(tiny_folder, tmp_path / "merging", engine="torch", token_merging=4)
        with torch.inference_mode():
            found = traced[0](torch.from_numpy(pixels)).logits.numpy()
        again = engines.load(tiny_folder, engine="torch", device="cpu", token_merging=4).logits(pixels)
        np.testing.assert_allclose(found, again, rtol=0, atol=TOLERANCE)

    @pytest.mark.parametrize("engine", engines.ENGINES)
    def test_of_other_sizes(self, engine: str, tiny_folder: Path) -> None:
        loaded = engines.load(tiny_folder, engine=engine, device="cpu", dynamic=True)
        model = ViTHybridForImageClassification.from_pretrained(tiny_folder).eval()
        for shape in ((2, 3, SIDE, SIDE), (1, 3, 48, 72), (3, 3, 33, 64)):
            pixels = torch.randn(shape, generator=torch.Generator().manual_seed(1))
            with torch.inference_mode():
                expected = model(pixels, interpolate_pos_encoding=True).logits.numpy()
            np.testing.assert_allclose(loaded.logits(pixels.numpy()), expected, rtol=0, atol=TOLERANCE)


class TestFeatures:
    @pytest.mark.parametrize("engine", engines.ENGINES)
    def test_are_what_the_classifier_takes(
        self, engine: str, tiny_folder: Path, pixels: np.ndarray, expected: np.ndarray
    ) -> None:
        logits = engines.load(tiny_folder, engine=engine, device="cpu", threads=1)
        alone = engines.load(tiny_folder, engine=engine, device="cpu", threads=1, output="features")
        both = engines.load(tiny_folder, engine=engine, device="cpu", threads=1, output="both")
        classifier = ViTHybridForImageClassification.from_pretrained(tiny_folder).classifier
        assert (alone.spec.output, alone.spec.feature_size) == ("features", 16)
        for count in (5, 1, 3):
            found = alone.run(pixels[:count])
            assert found.logits is None
            assert found.features is not None
            assert found.features.dtype == np.float32
            with torch.inference_mode():
                made = classifier(torch.from_numpy(found.features)).numpy()
            np.testing.assert_allclose(made, expected[:count], rtol=0, atol=TOLERANCE)
            together = both.run(pixels[:count])
            np.testing.assert_array_equal(together.features, found.features)
            np.testing.assert_array_equal(together.logits, logits.logits(pixels[:count]))
            np.testing.assert_array_equal(together.logits, both.logits(pixels[:count]))
        assert logits.run(pixels).features is None
        everything = engines.load(tiny_folder, engine=engine, device="cpu", threads=1, output="all").run(pixels[:3])
        for name in ("logits", "features"):
            np.testing.assert_allclose(getattr(everything, name), getattr(together, name), rtol=0, atol=1e-6)
        norm = ViTHybridForImageClassification.from_pretrained(tiny_folder).vit.layernorm
        with torch.inference_mode():
            made = norm(torch.from_numpy(everything.token)).numpy()  # its dense layer is an identity
        np.testing.assert_allclose(made, everything.features, rtol=0, atol=TOLERANCE)
        nothing = both.run(pixels[:0])
        assert (nothing.logits.shape, nothing.features.shape) == ((0, 3), (0, 16))
        kept = found.features.copy()
        alone.run(pixels[3:])
        np.testing.assert_array_equal(found.features, kept)
        with pytest.raises(EngineError, match="output='features' and computes no logits; load the model with output='"):
            alone.logits(pixels)

    @pytest.mark.parametrize(
        ("engine", "options"),
        [
            ("torch", {"precision": "bf16"}),
            ("openvino", {"precision": "bf16"}),
            ("torch", {"token_merging": 4}),
            ("openvino", {"token_merging": 4}),
            ("torch", {"dynamic": True}),
            ("onnx", {"dynamic": True}),
        ],
    )
    def test_are_those_of_the_logits_whatever_else_is_asked_for(
        self, engine: str, options: dict[str, Any], tiny_folder: Path, pixels: np.ndarray
    ) -> None:
        values = pixels[:, :, :, 4:28] if "dynamic" in options else pixels
        logits = engines.load(tiny_folder, engine=engine, device="cpu", threads=1, **options).logits(values)
        found = engines.load(tiny_folder, engine=engine, device="cpu", threads=1, output="both", **options).run(values)
        if options == {"precision": "bf16"} and engine == "openvino":
            # It leaves in float32 what is between the last product before an output and that output.
            np.testing.assert_allclose(found.logits, logits, rtol=0, atol=BF16_TOLERANCE)
        else:
            np.testing.assert_array_equal(found.logits, logits)
        classifier = ViTHybridForImageClassification.from_pretrained(tiny_folder).classifier
        with torch.inference_mode():
            made = classifier(torch.from_numpy(found.features)).numpy()
        np.testing.assert_allclose(made, logits, rtol=0, atol=BF16_TOLERANCE if "precision" in options else 1e-5)

    @pytest.mark.parametrize("engine", ["torch", "onnx"])
    def test_of_a_model_with_a_dense_layer_before_its_classifier_or_with_no_classifier(
        self, engine: str, pixels: np.ndarray
    ) -> None:
        torch.manual_seed(1)
        model = ViTHybridForImageClassification(tiny_hybrid.tiny_config(representation_size=24)).eval()
        with torch.no_grad():
            model.pre_logits.dense.bias += 0.5
        loaded = engines.load(model, engine=engine, device="cpu", output="both")
        found = loaded.run(pixels)
        assert (found.features.shape, loaded.spec.feature_size) == ((5, 24), 24)
        with torch.inference_mode():
            made = model.classifier(torch.from_numpy(found.features)).numpy()
            np.testing.assert_allclose(made, model(torch.from_numpy(pixels)).logits.numpy(), rtol=0, atol=1e-5)
        model.reset_classifier(0)
        again = engines.load(model, engine=engine, device="cpu", output="both").run(pixels)
        np.testing.assert_allclose(again.features, found.features, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(again.logits, again.features)

    def test_bundles_give_what_they_were_made_for(self, tiny_folder: Path, pixels: np.ndarray, tmp_path: Path) -> None:
        export(tiny_folder, tmp_path / "logits", engine="torch")
        for output in ("features", "both"):
            with pytest.raises(EngineError, match=f"gives logits alone, and output='{output}' was asked for; give the"):
                engines.load(tmp_path / "logits", output=output)
        manifest = json.loads((tmp_path / "logits" / BUNDLE_FILE).read_text())
        assert (manifest.pop("output"), manifest.pop("feature_size")) == ("logits", 16)
        (tmp_path / "logits" / BUNDLE_FILE).write_text(json.dumps(manifest))  # as earlier releases wrote it
        expected = engines.load(tmp_path / "logits").logits(pixels)
        bundle = export(tiny_folder, tmp_path / "both", engine="torch", features=True)
        assert bundle.output == "both"
        # Earlier releases would take its features for logits.
        assert json.loads((tmp_path / "both" / BUNDLE_FILE).read_text())["format_version"] == 2
        both = engines.load(tmp_path / "both", output="both").run(pixels)
        np.testing.assert_array_equal(both.logits, expected)
        np.testing.assert_array_equal(engines.load(tmp_path / "both").logits(pixels), expected)
        alone = engines.load(tmp_path / "both", output="features").run(pixels)
        assert alone.logits is None
        np.testing.assert_array_equal(alone.features, both.features)
        steady = engines.load(tmp_path / "both", output="both").run_steadily(pixels)
        np.testing.assert_allclose(steady.logits, expected, rtol=0, atol=1e-5)

    @pytest.mark.parametrize("engine", engines.ENGINES)
    def test_depend_on_their_picture_alone_where_that_is_asked_for(
        self, engine: str, tiny_folder: Path, pixels: np.ndarray
    ) -> None:
        threads = torch.get_num_threads()
        try:
            loaded = engines.load(tiny_folder, engine=engine, device="cpu", threads=2, output="both")
            outputs = [loaded.run_steadily(np.roll(pixels, place, 0)) for place in range(5)]
            others = pixels[::-1].copy()
            others[3] = pixels[0]
            outputs.append(loaded.run_steadily(others))
        finally:
            torch.set_num_threads(threads)
        rows = [0, 1, 2, 3, 4, 3]
        for part in ("logits", "features"):
            found = np.stack([getattr(one, part)[row] for one, row in zip(outputs, rows, strict=True)])
            assert (found == found[0]).all()
            np.testing.assert_allclose(getattr(outputs[0], part), getattr(loaded.run(pixels), part), rtol=0, atol=1e-5)
        assert loaded.run_steadily(pixels[:0]).features.shape == (0, 16)


def test_a_processor_without_bfloat16_is_said(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import openvino

    found = openvino.Core.get_property
    monkeypatch.setattr(
        openvino.Core,
        "get_property",
        lambda self, device, name: ["FP32"] if name == "OPTIMIZATION_CAPABILITIES" else found(self, device, name),
    )
    with pytest.warns(EngineWarning, match="has no bfloat16, so openvino computes in float32"):
        assert engines.load(tiny_folder, engine="openvino", precision="bf16").precision == "f32"
    with pytest.raises(EngineError, match="does not compute in float16; take bf16 or f32"):
        engines.load(tiny_folder, engine="openvino", precision="f16")


class TestInputs:
    @pytest.mark.parametrize("engine", engines.ENGINES)
    def test_that_no_engine_takes(self, engine: str, tiny_folder: Path, pixels: np.ndarray) -> None:
        loaded = engines.load(tiny_folder, engine=engine, device="cpu")
        broken = pixels.copy()
        broken[2, 1, 3, 4] = np.nan
        infinite = pixels.copy()
        infinite[0, 0, 0, 0] = np.inf
        for given, reason in (
            (pixels[0], r"shape \(3, 32, 32\); expected \(N, 3, 32, 32\)"),
            (pixels[:, :1], r"shape \(5, 1, 32, 32\); expected"),
            (pixels[:, :, :30], r"shape \(5, 3, 30, 32\); expected .*Resize the pictures"),
            ((pixels * 10).astype(np.uint8), "dtype uint8; expected floating-point"),
            (pixels.astype(complex), "dtype complex128; expected floating-point"),
            (broken, "NaN or infinite values, in picture 3 of 5"),
            (infinite, "NaN or infinite values, in picture 1 of 5"),
            (np.where(np.isinf(infinite), 1e39, infinite.astype(np.float64)), "infinite values, in picture 1 of 5"),
            (pixels.tolist(), "is a list; expected a NumPy array"),
        ):
            with pytest.raises(EngineError, match=reason) as caught:
                loaded.logits(given)
            assert "\n" not in str(caught.value)


class TestArguments:
    @pytest.mark.parametrize("settled", [{"dynamic": True}, {"token_merging": 2}, {}])
    def test_of_a_bundle_are_those_that_it_was_exported_with(
        self, settled: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bundle = Bundle("onnx", "f32", "model.onnx", ("a",), "single_label_classification", 3, (32, 32), **settled)
        monkeypatch.setattr(loading, "read_bundle", lambda folder: bundle)
        monkeypatch.setattr(loading, "_run", lambda *arguments: arguments)
        source = SimpleNamespace(location=str(tmp_path), preprocessing=None)
        runs = {"threads": 1, "device": None, "output": "logits"}
        nothing = {"dynamic": False, "token_merging": None, "compile": False, "attention": None}
        for asked in ({}, settled):
            found = loading._load_bundle(source, "auto", "auto", runs, {**nothing, **asked})
            assert found == (tmp_path, bundle, "f32", None, runs)
        for name, value in (("dynamic", True), ("token_merging", 2), ("compile", True), ("attention", "eager")):
            if name not in settled:
                with pytest.raises(
                    EngineError, match=f"^{tmp_path}: {name} of a bundle is settled when it is exported"
                ):
                    loading._load_bundle(source, "auto", "auto", runs, {**nothing, **settled, name: value})
        if "token_merging" in settled:
            with pytest.raises(EngineError, match=r"token_merging of a bundle is settled when it is exported \(2\)"):
                loading._load_bundle(source, "auto", "auto", runs, {**nothing, "token_merging": 3})

    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            ({"engine": "tensorrt"}, "engine is 'tensorrt'; expected 'torch', 'openvino', 'onnx' or 'auto'"),
            ({"engine": "executorch"}, "executorch is for export only; ExecuTorch's own runtime runs it"),
            ({"precision": "float32"}, "precision is 'float32'; expected 'f32', 'bf16', 'f16', 'int8' or 'auto'"),
            ({"engine": "torch", "precision": "int8"}, "the torch engine computes in f32, bf16 or f16, not 'int8'"),
            ({"engine": "onnx", "precision": "bf16"}, "the onnx engine computes in f32 or int8, not 'bf16'"),
            ({"threads": 0}, "threads is 0; expected a number of 1 or more"),
            ({"threads": True}, "threads is True"),
            ({"token_merging": 0}, "token_merging is 0; expected the tokens to merge per layer, 1 or more"),
            ({"token_merging": 2, "dynamic": True}, "does not go with dynamic sizes"),
            ({"engine": "openvino", "device": "cuda:0"}, "runs on device 'cpu', not 'cuda:0'"),
            (
                {"engine": "onnx", "device": "xpu:0"},
                "ONNX Runtime here cannot run on device 'xpu:0'; it has .*CPUExec.*'cpu'",
            ),
            ({"engine": "openvino", "compile": True}, "compile is for the torch engine, and openvino was asked for"),
            ({"engine": "onnx", "attention": "eager"}, "attention is for the torch engine, and onnx was asked for"),
            ({"engine": "onnx", "channels_last": True}, "channels_last is for the torch engine, and onnx was asked"),
            ({"dtype": "float16", "precision": "f16"}, "dtype is for the torch engine; give precision instead"),
            ({"threads": 2.0}, "threads is 2.0; expected a number of 1 or more"),
            ({"output": "tokens"}, "output is 'tokens'; expected 'logits', 'features', 'both' or 'all'"),
            ({"engine": "torch", "device": "nonsense"}, "Device 'nonsense' cannot be used here"),
            ({"device": "cuda:99"}, "Device 'cuda:99' cannot be used here"),
        ],
    )
    def test_that_cannot_be_used(
        self,
        arguments: dict[str, Any],
        reason: str,
        tiny_folder: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("VIT_HYBRID_CACHE", str(tmp_path))
        told: list[str] = []
        with pytest.raises(ValueError, match=reason) as caught:
            engines.load(tiny_folder, progress=told.append, **arguments)
        assert "\n" not in str(caught.value)
        assert told == []  # nothing was converted for it

    @pytest.mark.parametrize("name", ["/no/such/folder", "no such model"])
    def test_a_model_that_is_not_there(self, name: str) -> None:
        with pytest.raises(ModelLoadError, match="there is no"):
            engines.load(name)

    @pytest.mark.parametrize(("engine", "package"), [("openvino", "openvino"), ("onnx", "onnxruntime")])
    def test_an_engine_that_is_not_installed(
        self, engine: str, package: str, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hide(package, monkeypatch)
        with pytest.raises(EngineError, match=rf"needs {package}, .* 'vit-hybrid\[{engine}\]' brings it"):
            engines.load(tiny_folder, engine=engine)

    def test_without_openvino_torch_runs(self, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert engines.load(tiny_folder, device="cpu").name == "openvino"
        hide("openvino", monkeypatch)
        assert engines.load(tiny_folder, device="cpu").name == "torch"

    def test_what_auto_cannot_convert_runs_on_torch(
        self, tiny_model: Any, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: Any, **__: Any) -> None:
            raise EngineError("cannot convert this model for openvino: for the test.")

        monkeypatch.setattr("vit_hybrid.bundles.making.convert", fail)
        monkeypatch.setattr("vit_hybrid.bundles.building.converted_from", lambda *_: None)
        with torch.no_grad():
            tiny_model.classifier.bias += 0.25  # a model that is not in the cache
        with pytest.warns(EngineWarning, match="for openvino: for the test; running on torch"):
            loaded = engines.load(tiny_model)
        assert loaded.name == "torch"
        with pytest.raises(EngineError, match="for the test"):
            engines.load(tiny_model, engine="openvino")
        with pytest.raises(EngineError, match="for the test"):  # which torch does not have
            engines.load(tiny_model, precision="int8", calibration=pixels)

    @pytest.mark.parametrize("dynamic", [False, True])
    def test_openvino_has_kernels_for_the_number_of_pictures_that_mostly_comes(
        self, dynamic: bool, tiny_folder: Path, pixels: np.ndarray
    ) -> None:
        loaded: Any = engines.load(tiny_folder, engine="openvino", batch_size=2, dynamic=dynamic)
        [request] = [*loaded._fixed.values(), *filter(None, [loaded._open])]
        [taken] = request.get_compiled_model().inputs
        assert taken.get_partial_shape()[0].is_static is not dynamic
        whole = np.concatenate([loaded.logits(pixels[:2]), loaded.logits(pixels[2:3])])
        assert loaded._open is not None
        assert [*loaded._fixed] == ([] if dynamic else [2])
        loaded.expect(2)
        assert [*loaded._fixed.values()] == ([] if dynamic else [request])  # which is not compiled anew
        apart = engines.load(tiny_folder, engine="openvino", batch_size=3, dynamic=dynamic).logits(pixels[:3])
        np.testing.assert_allclose(whole, apart, rtol=0, atol=1e-5)

    def test_a_program_that_may_crash_with_a_known_number_of_pictures_leaves_it_open(self, tiny_folder: Path) -> None:
        from vit_hybrid.engines.openvino import OpenVINOEngine

        spec = engines.load(tiny_folder, engine="openvino").spec
        program = building.made_from_files(
            open_source(tiny_folder).fields(), weights_paths(str(tiny_folder)), {}, dynamic=True
        )
        assert program is not None
        assert OpenVINOEngine(program.converted.program, spec, batch_size=2)._fixed == {}

    def test_an_object_runs_as_it_is_and_a_file_in_float32(self, tiny_model: Any, tmp_path: Path) -> None:
        half = tiny_model.bfloat16()
        assert engines.load(half, engine="torch", device="cpu").precision == "bf16"
        half.save_pretrained(tmp_path)
        assert loading.classifier(tmp_path).dtype == torch.float32
        assert engines.load(tmp_path, engine="torch", device="cpu").precision == "f32"

    def test_auto_takes_torch_for_what_only_torch_does(self, tiny_folder: Path) -> None:
        for asked in ({"attention": "eager"}, {"channels_last": True}, {"precision": "f16"}):
            assert engines.load(tiny_folder, device="cpu", **asked).name == "torch"


def hide(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a package were not installed."""
    find = runtimes.util.find_spec
    monkeypatch.setattr(runtimes.util, "find_spec", lambda name: None if name == package else find(name))
    monkeypatch.setitem(sys.modules, package, None)


class TestTorchEngine:
    def test_buckets(self) -> None:
        assert [bucket(count) for count in (1, 2, 3, 4, 5, 8, 9, 100)] == [1, 2, 4, 4, 8, 8, 16, 128]

    def test_compiled_runs_a_few_batch_sizes_only(
        self, tiny_model: Any, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[int] = []

        def compile(model: Any, **_: Any) -> Callable[..., Any]:
            def run(batch: torch.Tensor) -> Any:
                seen.append(len(batch))
                return model(batch)

            return run

        with torch.inference_mode():
            expected = tiny_model(torch.from_numpy(pixels)).logits.numpy()
        monkeypatch.setattr(torch, "compile", compile)
        engine = TorchEngine(tiny_model, compile=True)
        for count in (3, 5, 1, 4):
            np.testing.assert_allclose(engine.logits(pixels[:count]), expected[:count], rtol=0, atol=TOLERANCE)
        assert seen == [4, 8, 1, 4]

    @pytest.mark.parametrize(
        ("error", "said"),
        [
            ("y" * 300, r"cannot compile this model here \(y{200}\); run it without compile=True\.$"),
            ("no compiler\nfound", r"cannot compile this model here \(no compiler found\); run it without"),
            (
                "odd Set TORCHDYNAMO_VERBOSE=1",
                r"cannot compile this model here \(odd\); run it without compile=True\.$",
            ),
            (
                "InvalidCxxCompiler: none",
                r"needs a C\+\+ compiler such as g\+\+, and there is none here; install one, or",
            ),
        ],
    )
    def test_a_compiler_that_fails_is_one_line(
        self, error: str, said: str, tiny_model: Any, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def compile(model: Any, **_: Any) -> Callable[..., Any]:
            def run(batch: torch.Tensor) -> Any:
                raise RuntimeError(error)

            return run

        monkeypatch.setattr(torch, "compile", compile)
        with pytest.raises(EngineError, match=said):
            TorchEngine(tiny_model, compile=True).logits(pixels)

    def test_takes_the_model_over_and_gives_it_back(self, tiny_model: Any, pixels: np.ndarray) -> None:
        before = {name: tensor.clone() for name, tensor in tiny_model.state_dict().items()}
        engine = TorchEngine(tiny_model)
        assert engine.model is tiny_model
        assert tiny_model.is_folded
        assert tiny_model.vit.encoder.layer[0].attention.attention.fused_weight is not None
        after = tiny_model.state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
        tiny_model.unfold_weight_standardization()
        assert tiny_model.vit.encoder.layer[0].attention.attention.fused_weight is None
        tiny_model.train()

    @pytest.mark.parametrize("token_merging", [None, 1])
    def test_the_last_layer_goes_on_with_the_class_token_alone(
        self, tiny_model: Any, pixels: np.ndarray, token_merging: int | None
    ) -> None:
        tokens: list[int] = []
        for layer in tiny_model.vit.encoder.layer:
            layer.intermediate.register_forward_pre_hook(lambda _, args: tokens.append(args[0].shape[1]))
        engines.load(tiny_model, engine="torch", token_merging=token_merging).logits(pixels)
        assert tokens[-1] == 1
        assert min(tokens[:-1]) > 1
        tokens.clear()
        features = tiny_model.vit(torch.from_numpy(pixels)).last_hidden_state
        assert set(tokens) == {features.shape[1]}  # the model itself gives those of every token, as ever

    def test_what_is_done_to_the_model_counts(self, tiny_model: Any, pixels: np.ndarray) -> None:
        engine = TorchEngine(tiny_model)
        assert engine.logits(pixels).any()
        tiny_model.reset_classifier(len(engine.spec.labels))
        assert not engine.logits(pixels).any()

    @pytest.mark.gpu
    def test_cuda_graphs(self, tiny_model: Any, pixels: np.ndarray) -> None:
        with torch.inference_mode():
            expected = tiny_model(torch.from_numpy(pixels)).logits.numpy()
        engine = TorchEngine(tiny_model, precision="bf16", device="cuda", compile=True)
        for count in (5, 3, 5):
            np.testing.assert_allclose(engine.logits(pixels[:count]), expected[:count], rtol=0, atol=BF16_TOLERANCE)


def test_signals_are_handled_after_engines_were_dropped_in_their_order(tiny_folder: Path) -> None:
    code = """
import os, signal
from vit_hybrid import engines
first, second = (engines.load(os.environ["MODEL"], engine="openvino") for _ in range(2))
del first
del second
signal.signal(signal.SIGINT, lambda *_: print("handled"))
signal.raise_signal(signal.SIGINT)
"""
    assert fresh_process.run(code, env={"MODEL": str(tiny_folder)}) == "handled\n"


class TestCache:
    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv(cache.CACHE_VARIABLE, str(tmp_path / "cache"))
        return tmp_path / "cache"

    @pytest.fixture
    def conversions(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """What was converted, as it happens."""
        found: list[str] = []
        inner = loading._Making.make

        def make(self: Any, *rest: Any) -> Any:
            found.append(self.engine)
            return inner(self, *rest)

        monkeypatch.setattr(loading._Making, "make", make)
        return found

    def test_a_model_is_converted_once_for_all_floating_precisions(
        self, folder: Path, tiny_folder: Path, conversions: list[str]
    ) -> None:
        engines.load(tiny_folder, engine="openvino")
        engines.load(tiny_folder, engine="openvino", precision="bf16")
        engines.load(tiny_folder, engine="openvino", threads=1)
        assert conversions == ["openvino"]
        [entry] = folder.iterdir()
        provenance = json.loads((entry / BUNDLE_FILE).read_text())["provenance"]
        assert provenance["weights_sha256"]
        assert str(tiny_folder) not in (entry / BUNDLE_FILE).read_text()

    def test_other_weights_are_another_entry(
        self, folder: Path, tiny_folder: Path, tmp_path: Path, conversions: list[str], pixels: np.ndarray
    ) -> None:
        model = tmp_path / "model"
        shutil.copytree(tiny_folder, model)
        before = engines.load(model, engine="openvino").logits(pixels)
        torch.manual_seed(7)
        ViTHybridForImageClassification(tiny_hybrid.tiny_config()).save_pretrained(model)
        after = engines.load(model, engine="openvino").logits(pixels)
        assert conversions == ["openvino"] * 2
        assert not np.allclose(before, after)
        assert len(list(folder.iterdir())) == 2

    def test_whatever_a_bundles_content_depends_on_is_another_entry(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def key(how: Any = None, weights: str = "aa", **changes: Any) -> str:
            fields = {"engine": "openvino", "kind": "f32", "calibration": None, "time_limit": 60.0, "progress": None}
            fields |= {"dynamic": False, "token_merging": None, "output": "logits"}
            source: Any = SimpleNamespace(preprocessing=how)
            return loading._Making(**{**fields, **changes}).key(source, {"weights_sha256": weights})

        int8: dict[str, Any] = {"kind": "int8"}
        pictures = np.zeros((2, 3, SIDE, SIDE), np.float32)
        keys = [
            key(),
            key(weights="bb"),
            *(key(**change) for change in ({"engine": "onnx"}, {"dynamic": True}, {"token_merging": 2})),
            *(key(output=output) for output in ("features", "both")),
            key(**int8),
            key(Preprocessing(), **int8),
            *(key(**int8, **change) for change in ({"calibration": pictures}, {"calibration": pictures + 1})),
            key(**int8, time_limit=61.0),
        ]
        assert len(set(keys)) == len(keys)
        assert key(progress=print) == key(Preprocessing()) == key(time_limit=1.0) == keys[0]
        for name, other in (("versions", lambda *_: {}), ("CONVERSION_VERSION", 99), ("FORMAT_VERSION", 99)):
            with monkeypatch.context() as patch:
                patch.setattr(loading, name, other)
                assert key() not in keys, name

    @pytest.mark.parametrize("damage", ["cut short", "overwritten", "manifest gone", "other bundle's weights"])
    def test_a_damaged_entry_is_rebuilt(
        self,
        damage: str,
        folder: Path,
        tiny_folder: Path,
        conversions: list[str],
        pixels: np.ndarray,
        expected: np.ndarray,
    ) -> None:
        engines.load(tiny_folder, engine="openvino")
        [entry] = folder.iterdir()
        weights = entry / "openvino_model.bin"
        content = weights.read_bytes()
        if damage == "cut short":
            weights.write_bytes(content[: len(content) // 2])
        elif damage == "overwritten":
            weights.write_bytes(content[:1000] + bytes(1000) + content[2000:])
        elif damage == "manifest gone":
            (entry / BUNDLE_FILE).unlink()
        else:
            manifest = json.loads((entry / BUNDLE_FILE).read_text())
            manifest["provenance"]["weights_sha256"] = "0" * 64
            (entry / BUNDLE_FILE).write_text(json.dumps(manifest))
        found = engines.load(tiny_folder, engine="openvino").logits(pixels)
        np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)
        assert conversions == ["openvino"] * 2
        assert [path.name for path in folder.iterdir()] == [entry.name]  # nothing half-written beside it
        assert weights.read_bytes() == content

    @pytest.mark.parametrize("engine", CONVERTING)
    def test_a_folder_that_cannot_be_written_to(
        self,
        engine: str,
        tmp_path: Path,
        tiny_folder: Path,
        monkeypatch: pytest.MonkeyPatch,
        conversions: list[str],
        pixels: np.ndarray,
        expected: np.ndarray,
    ) -> None:
        (tmp_path / "file").write_text("in the way")
        monkeypatch.setenv(cache.CACHE_VARIABLE, str(tmp_path / "file" / "cache"))
        with pytest.warns(EngineWarning, match="cache folder .* cannot be written to .*converted anew at each start"):
            loaded = engines.load(tiny_folder, engine=engine)
        np.testing.assert_allclose(loaded.logits(pixels), expected, rtol=0, atol=TOLERANCE)

    def test_a_full_disk(
        self,
        folder: Path,
        tiny_folder: Path,
        monkeypatch: pytest.MonkeyPatch,
        conversions: list[str],
        pixels: np.ndarray,
        expected: np.ndarray,
    ) -> None:
        from vit_hybrid.bundles import program

        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(program, "write_manifest", full)
        with pytest.warns(EngineWarning, match=r"cannot be written to \(No space left on device\)"):
            loaded = engines.load(tiny_folder, engine="openvino")
        np.testing.assert_allclose(loaded.logits(pixels), expected, rtol=0, atol=TOLERANCE)
        assert list(folder.iterdir()) == []

    def test_two_processes_at_once(self, folder: Path, tiny_folder: Path) -> None:
        code = f"""
import concurrent.futures, json, subprocess, sys
code = '''
import numpy, sys
from vit_hybrid import engines
engine = engines.load({str(tiny_folder)!r}, engine="openvino")
print(engine.logits(numpy.ones((1, 3, {SIDE}, {SIDE}), numpy.float32)).tolist())
'''
started = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
print(json.dumps([process.communicate()[0].splitlines()[-1] for process in started]))
"""
        first, second = json.loads(fresh_process.run(code, env={cache.CACHE_VARIABLE: str(folder)}).splitlines()[-1])
        assert first == second
        assert len(list(folder.iterdir())) == 1


class TestStartUp:
    def test_a_converted_model_needs_neither_torch_nor_transformers(self, tiny_folder: Path, tmp_path: Path) -> None:
        for engine in CONVERTING:
            engines.load(tiny_folder, engine=engine)
            code = f"""
import json, sys, numpy
from vit_hybrid import Predictor
predictor = Predictor.from_pretrained({str(tiny_folder)!r}, engine={engine!r}, device="cpu")
predictor(numpy.zeros((40, 50, 3), numpy.uint8))
print(json.dumps(sorted(name for name in sys.modules if "." not in name)))
"""
            loaded = set(json.loads(fresh_process.run(code).splitlines()[-1]))
            assert not loaded & {"torch", "transformers", "huggingface_hub"}, engine

    @pytest.mark.alone
    def test_engines_are_cheap_to_import(self) -> None:
        code = """
import vit_hybrid.engines, sys
assert not {"torch", "transformers", "openvino", "onnxruntime"} & set(sys.modules)
"""
        assert fresh_process.share_of_importing_torch(code) < 0.3

    @pytest.mark.alone
    def test_torch_costs_little_more_than_its_imports(self) -> None:
        imports = "import torch, transformers.modeling_utils"
        photo = Path(__file__).parents[2] / "examples" / "cat.jpg"
        whole = (
            "import sys; sys.argv[1:] = ['classify', "
            f"{str(photo)!r}, '--engine', 'torch', '--device', 'cpu', '--json']; "
            "from vit_hybrid.cli.main import main; main()"
        )

        pairs = [(fresh_process.cpu_seconds(imports), fresh_process.cpu_seconds(whole)) for _ in range(3)]
        bare, run = map(min, zip(*pairs, strict=True))
        assert run < 1.3 * bare, pairs
