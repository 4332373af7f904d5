"""Export: a bundle that is complete, checked and starts without the libraries it was made with."""

from __future__ import annotations

import errno
import json
import os
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fresh_process
import numpy as np
import pytest
import tiny_hybrid
import torch
from PIL import Image
from typer.testing import CliRunner, Result

import vit_hybrid.export as export_module
from vit_hybrid import Predictor, engines
from vit_hybrid.bundles.calibration import DEFAULT_TIME_LIMIT, MADE_WARNING, limited
from vit_hybrid.bundles.manifest import Bundle, read_bundle
from vit_hybrid.cli.main import app
from vit_hybrid.engines import EngineError
from vit_hybrid.export import export
from vit_hybrid.files import NoRoom, is_marked
from vit_hybrid.images.preprocessing import Preprocessing
from vit_hybrid.runtimes import BUNDLE_FILE, EXPORTED, RUNTIMES

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

SIDE = tiny_hybrid.IMAGE_SIZE
CAT = Path(__file__).parents[1] / "examples" / "cat.jpg"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


class TestCommand:
    def test_writes_what_classify_takes(self, tiny_folder: Path, tmp_path: Path) -> None:
        out = tmp_path / "made" / "bundle"
        result = run("export", tiny_folder, out)
        assert result.exit_code == 0, result.stderr
        first, second = result.stdout.splitlines()
        assert first.startswith(f"{out}: openvino, f32, 32 x 32 pixels, ")
        assert second.startswith("largest logit difference to PyTorch in float32: ")
        assert "top-1 agreement 100.00%, on 64 made pictures" in second
        classified = [
            json.loads(run("classify", CAT, "--json", "--model", model, *options).stdout)
            for model, options in ((out, []), (tiny_folder, ["--engine", "torch"]))
        ]
        for one, other in zip(*(found["predictions"] for found in classified), strict=True):
            assert one["label"] == other["label"]
            assert one["probability"] == pytest.approx(other["probability"], abs=1e-4)
        assert [path.name for path in out.parent.iterdir()] == ["bundle"]
        assert is_marked(out)

        again = run("export", tiny_folder, out)
        assert again.exit_code == 2
        assert again.stderr.strip().endswith("replace it with --overwrite, or name another place.")

    def test_int8_on_given_pictures(self, tiny_folder: Path, tmp_path: Path) -> None:
        pictures = tmp_path / "pictures"
        pictures.mkdir()
        for index in range(9):
            noise = np.random.default_rng(index).integers(0, 256, (40, 48, 3), dtype=np.uint8)
            Image.fromarray(noise).save(pictures / f"{index}.png")
        out = tmp_path / "int8"
        result = run("export", tiny_folder, out, "--precision", "int8", "--calibration", pictures, "--json")
        assert result.exit_code == 0, result.stderr
        assert result.stderr == ""
        said = json.loads(result.stdout)
        kept = json.loads((out / BUNDLE_FILE).read_text())
        assert said == {key: kept[key] for key in said}
        assert said["quantization"]["pictures"] == said["check"]["pictures"] == 9
        assert said["quantization"]["kept_share"] <= 0.12
        assert 0 < said["check"]["largest_logit_difference"] < 0.1
        assert engines.load(out).precision == "int8"

    def test_what_is_passed_over_among_the_calibration_pictures(self, tiny_folder: Path, tmp_path: Path) -> None:
        pictures = tmp_path / "pictures"
        pictures.mkdir()
        Image.new("RGB", (40, 48), (90, 10, 200)).save(pictures / "0.png")
        (pictures / "notes.txt").touch()
        (pictures / "1.png").touch()
        result = run("export", tiny_folder, tmp_path / "out", "--calibration", pictures)
        assert result.exit_code == 0, result.stderr
        assert result.stderr == (
            "vit-hybrid: calibration passed over: 1 picture that cannot be read (pictures/1.png), 1 file of another "
            "kind (1 .txt)\n"
        )

    @pytest.mark.parametrize(
        ("options", "reason"),
        [
            (["--engine", "onnx", "--precision", "bf16"], "precision is 'bf16', and onnx is exported in f32, int8"),
            (
                ["--engine", "torch", "--precision", "int8"],
                "torch is exported in f32, bf16, f16 (openvino and onnx have",
            ),
            (
                ["--overwrite", "--engine", "torch", "--dynamic", "--token-merging", "2"],
                "--token-merging needs to know",
            ),
            (["--calibration", "/no/such", "--precision", "int8"], "/no/such: there is no such calibration folder"),
        ],
    )
    def test_what_cannot_be_done(self, options: list[str], reason: str, tiny_folder: Path, tmp_path: Path) -> None:
        result = run("export", tiny_folder, tmp_path / "out", *options)
        assert result.exit_code == 2
        assert reason in result.stderr
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("engine", ["torch", "onnx", "openvino"])
    def test_a_name_from_which_no_weights_can_be_read(self, engine: str, tiny_folder: Path, tmp_path: Path) -> None:
        pytest.importorskip("onnxruntime" if engine == "onnx" else engine)
        result = run("export", tiny_folder, tmp_path / os.fsdecode(b"sort\xe9e"), "--engine", engine)
        assert result.exit_code == 2
        assert "sort\\xe9e: this name is no UTF-8" in result.stderr
        assert list(tmp_path.iterdir()) == []

    def test_a_model_that_is_not_there(self, tmp_path: Path) -> None:
        result = run("export", tmp_path / "nothing", tmp_path / "out")
        assert result.exit_code == 2
        assert "there is no such file or folder" in result.stderr
        assert list(tmp_path.iterdir()) == []

    def test_other_files_are_left_alone(self, tiny_folder: Path, tmp_path: Path) -> None:
        (tmp_path / "mine.txt").write_text("mine")
        result = run("export", tiny_folder, tmp_path, "--overwrite")
        assert result.exit_code == 2
        assert "is there already and is no bundle" in result.stderr
        assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


class TestCheck:
    def test_is_of_all_pictures_and_labels(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        size = (SIDE, 2 * SIDE)
        bundle = Bundle("onnx", "f32", "model.onnx", ("a", "b"), "single_label_classification", 3, size)
        reference, found = np.array([[1, -5], [0.5, 0.25], [2, 1]]), np.array([[1.25, -5.5], [0.2, 0.3], [2, 0.25]])
        monkeypatch.setattr(export_module, "_torch_logits", lambda *_: reference)
        monkeypatch.setattr(export_module, "_bundle_logits", lambda *_: found)
        made: Any = SimpleNamespace(bundle=bundle, reference=None, calibration=None)
        check = export_module._checked(made, tmp_path, np.zeros((3, 3, *size), np.float32), None).check
        assert check == {
            "pictures": 3,
            "of": "3 arrays",
            "largest_logit_difference": 0.75,
            "largest_logit": 5.0,
            "top1_agreement": pytest.approx(2 / 3),
        }
        assert read_bundle(tmp_path, check_files=False).check == check
        found[1, 0] = np.nan
        with pytest.raises(EngineError, match="onnx in f32 gives numbers that are not finite"):
            export_module._checked(made, tmp_path, np.zeros((3, 3, *size), np.float32), None)

    @pytest.mark.parametrize(("calibration", "told"), [(None, 1), ("was told", 0)])
    def test_what_is_passed_over_is_told_once(
        self, calibration: Any, told: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "pictures").mkdir()
        (tmp_path / "out").mkdir()
        Image.new("RGB", (40, 48)).save(tmp_path / "pictures" / "0.png")
        (tmp_path / "pictures" / "1.png").touch()
        for name in ("_torch_logits", "_bundle_logits"):
            monkeypatch.setattr(export_module, name, lambda *_: np.zeros((1, 2)))
        bundle = Bundle("onnx", "f32", "model.onnx", ("a", "b"), "single_label_classification", 3, (SIDE, SIDE))
        made: Any = SimpleNamespace(bundle=bundle, reference=None, calibration=calibration)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            export_module._checked(made, tmp_path / "out", tmp_path / "pictures", None)
        assert ["passed over: 1 picture that cannot be read" in str(one.message) for one in caught] == [True] * told


class TestMade:
    """What is made of a model, without making it."""

    @pytest.fixture
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
        asked: list[dict[str, Any]] = []

        def make(*given: Any, **options: Any) -> Any:
            asked.append({"given": given, **options})
            raise EngineError("no need")

        monkeypatch.setattr(export_module, "make", make)
        return asked

    def test_an_empty_folder_is_no_bundle_that_would_be_replaced(
        self, asked: list[dict[str, Any]], tiny_folder: Path, tmp_path: Path
    ) -> None:
        with pytest.raises(EngineError, match="no need"):
            export(tiny_folder, tmp_path, "torch", time_limit=7.0)
        assert [options["time_limit"] for options in asked] == [7.0]

    @pytest.mark.parametrize(
        ("how", "said"),
        [
            (("tensorrt",), "^engine is 'tensorrt'; expected 'openvino', 'onnx', 'torch', 'executorch'.$"),
            (
                ("onnx", "bf16"),
                r"^precision is 'bf16', and onnx is exported in f32, int8 \(openvino and torch have bf16",
            ),
            (("torch", "fp8"), "^precision is 'fp8', and torch is exported in f32, bf16, f16.$"),
            (("torch",), "/mine: is there already and is no bundle; name another place.$"),
        ],
    )
    def test_what_cannot_be_is_said_before_it_is_made(
        self,
        how: tuple[str, ...],
        said: str,
        asked: list[dict[str, Any]],
        tiny_model: Any,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        (tmp_path / "mine").touch()
        for overwrite in (False, True):
            with pytest.raises(EngineError, match=said):
                export(tiny_model, "~/mine", *how, overwrite=overwrite)
        assert not asked

    def test_how_it_is_to_be_made(
        self, asked: list[dict[str, Any]], tiny_folder: Path, tiny_model: Any, tmp_path: Path
    ) -> None:
        told: list[str] = []
        with pytest.raises(EngineError, match="no need"):
            export(tiny_folder, tmp_path / "out", "torch", "bf16", token_merging=2, progress=told.append)
        given = [tiny_model, "torch", "bf16", {"model": tiny_folder.name}]
        assert type(asked[0]["given"][0]) is type(given[0])
        assert [*asked[0]["given"][1:3]] == given[1:3]
        assert asked[0]["given"][3]["model"] == tiny_folder.name  # and not where it lies
        assert (asked[0]["dynamic"], asked[0]["token_merging"], asked[0]["calibration"]) == (False, 2, None)
        asked[0]["progress"]("Converting")
        assert told == ["Loading the model", "Converting"]
        steps = tiny_hybrid.tiny_processor().to_dict()
        assert asked[0]["preprocessing_fields"]["crop_size"] == steps["crop_size"]
        own = Preprocessing.from_dict({**steps, "image_mean": [0.1, 0.2, 0.3]})
        for preprocessing in (own, None):
            with pytest.raises(EngineError, match="no need"):
                export(tiny_model, tmp_path / "out", "torch", dynamic=True, preprocessing=preprocessing)
        with_own, without = asked[1:]
        assert (with_own["preprocessing"], without["preprocessing"]) == (own, None)
        assert [*with_own["preprocessing_fields"]["image_mean"]] == [0.1, 0.2, 0.3]
        assert (without["preprocessing_fields"], without["dynamic"]) == (None, True)
        assert without["given"][3]["model"] == "ViTHybridForImageClassification"
        with pytest.raises(EngineError, match="no need"):
            export(tiny_model, tmp_path / "out")
        assert asked[-1]["given"][1:3] == ("openvino", "f32")
        with pytest.raises(EngineError, match="no need"):
            export(tiny_model, tmp_path / "out", calibration=tmp_path, max_pixels=99)
        assert asked.pop()["calibration"] == limited(tmp_path, 99)
        assert (asked[-1]["dynamic"], asked[-1]["token_merging"], asked[-1]["output"]) == (False, None, "logits")
        assert asked[-1]["time_limit"] == DEFAULT_TIME_LIMIT

    @pytest.mark.parametrize(
        ("precision", "is_given", "is_said"), [("int8", False, True), ("int8", True, False), ("f32", False, False)]
    )
    def test_made_pictures_are_told_of_where_they_decide_something(
        self,
        precision: str,
        is_given: bool,
        is_said: bool,
        asked: list[dict[str, Any]],
        tiny_model: Any,
        tmp_path: Path,
    ) -> None:
        pixels = np.zeros((1, 3, SIDE, SIDE), np.float32) if is_given else None
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with pytest.raises(EngineError, match="no need"):
                export(tiny_model, tmp_path / "out", "openvino", precision, calibration=pixels)
        assert [str(one.message) for one in caught] == [MADE_WARNING] * is_said
        assert (asked[0]["calibration"] is None) is not is_given

    def test_only_a_model_that_it_loaded_itself_may_be_changed(
        self, asked: list[dict[str, Any]], tiny_folder: Path, tiny_model: Any, tmp_path: Path
    ) -> None:
        for model in (tiny_folder, tiny_model):
            with pytest.raises(EngineError, match="no need"):
                export(model, tmp_path / "out", "torch")
        assert [options["owned"] for options in asked] == [True, False]

    @pytest.mark.parametrize(
        ("needs", "features", "output"),
        [
            (None, False, "logits"),
            (None, True, "both"),
            (False, False, "logits"),
            (False, True, "both"),
            (True, False, "all"),
            (True, True, "all"),  # which are among all
        ],
    )
    def test_it_gives_what_its_confidence_needs_and_what_is_asked_for(
        self,
        needs: bool | None,
        features: bool,
        output: str,
        asked: list[dict[str, Any]],
        tiny_model: Any,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        source = SimpleNamespace(
            classifier=lambda: tiny_model,
            processor=tiny_hybrid.tiny_processor,
            confidence=lambda: None if needs is None else SimpleNamespace(needs_features=needs),
            provenance=dict,
        )
        monkeypatch.setattr(export_module.opening, "open", lambda name: source)
        with pytest.raises(EngineError, match="no need"):
            export("anything", tmp_path / "out", "torch", features=features)
        assert [options["output"] for options in asked] == [output]


class TestExport:
    def test_for_torch_in_half_precision(self, tiny_folder: Path, tmp_path: Path) -> None:
        told: list[str] = []
        bundle = export(tiny_folder, tmp_path / "out", "torch", "bf16", progress=told.append)
        assert (told[0], told[-1]) == ("Loading the model", "Checking what was written")
        assert bundle == read_bundle(tmp_path / "out")
        engine = engines.load(tmp_path / "out")
        assert (engine.name, engine.precision) == ("torch", "bf16")
        pixels = np.ones((3, 3, SIDE, SIDE), np.float32)
        expected = engines.load(tiny_folder, engine="torch", device="cpu").logits(pixels)
        np.testing.assert_allclose(engine.logits(pixels), expected, rtol=0, atol=0.02)

    def test_dynamic_height_and_width(self, tiny_folder: Path, tmp_path: Path) -> None:
        bundle = export(tiny_folder, tmp_path / "out", "openvino", dynamic=True)
        assert bundle.dynamic
        engine = engines.load(tmp_path / "out")
        other = np.ones((2, 3, SIDE + 16, SIDE * 2), np.float32)
        expected = engines.load(tiny_folder, engine="torch", device="cpu", dynamic=True).logits(other)
        np.testing.assert_allclose(engine.logits(other), expected, rtol=0, atol=1e-4)

    def test_starts_without_torch_and_transformers(self, tiny_folder: Path, tmp_path: Path) -> None:
        export(tiny_folder, tmp_path / "bundle", "openvino")
        code = f"""
import json, sys
from vit_hybrid import Predictor
predictor = Predictor.from_pretrained({str(tmp_path / "bundle")!r})
print(json.dumps(predictor({str(CAT)!r})))
assert not {{"torch", "transformers", "huggingface_hub"}} & set(sys.modules)
"""
        found = json.loads(fresh_process.run(code))
        expected = Predictor.from_pretrained(tiny_folder, engine="torch", device="cpu")(CAT)
        assert [one["label"] for one in found] == [one["label"] for one in expected]

    def test_a_failure_leaves_nothing_and_keeps_what_was_there(
        self, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from vit_hybrid import export as module

        out = tmp_path / "out"
        out.mkdir()
        (out / BUNDLE_FILE).write_text("{}")

        def fail(*_: Any) -> None:
            raise EngineError("for the test")

        monkeypatch.setattr(module, "_checked", fail)
        with pytest.raises(EngineError, match="for the test"):
            export(tiny_folder, out, "torch", overwrite=True)
        assert [path.name for path in tmp_path.iterdir()] == ["out"]
        assert (out / BUNDLE_FILE).read_text() == "{}"

    def test_numbers_that_are_not_finite_are_found_and_nothing_is_left(self, tiny_model: Any, tmp_path: Path) -> None:
        with torch.no_grad():
            tiny_model.classifier.weight.fill_(1e6)  # more than a half-precision number can be
        tiny_model.save_pretrained(tmp_path / "model")
        tiny_hybrid.tiny_processor().save_pretrained(tmp_path / "model")
        with pytest.raises(EngineError, match=r"torch in f16 gives numbers that are not finite; export it in f32"):
            export(tmp_path / "model", tmp_path / "made" / "out", "torch", "f16")
        assert [path.name for path in tmp_path.iterdir()] == ["model"]
        assert export(tmp_path / "model", tmp_path / "out", "torch").check is not None

    @pytest.mark.skipif(resource is None, reason="there are no limits for files")
    @pytest.mark.parametrize("engine", ["openvino", "onnx", "torch"])
    @pytest.mark.parametrize("limit", [300, 30_000])
    def test_a_full_disk_is_told_and_nothing_is_left(
        self, limit: int, engine: str, tiny_folder: Path, tmp_path: Path
    ) -> None:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        try:
            with pytest.raises(NoRoom, match=r"made/out: the disk is full \(.*MB free\); make room, or give a place"):
                export(tiny_folder, tmp_path / "made" / "out", engine)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("engine", EXPORTED)
    @pytest.mark.parametrize(
        "error",
        [
            OSError(errno.ENOSPC, "No space left on device"),
            OSError(errno.EDQUOT, "Disk quota exceeded"),
            RuntimeError("basic_ios::clear: iostream error"),
            RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0"),
        ],
    )
    def test_whatever_writes_a_program_says_it_when_there_is_no_room(
        self, error: Exception, engine: str, tiny_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from vit_hybrid import export as module

        class Writer:
            def write(self, folder: Path) -> None:
                (folder / RUNTIMES[engine].program).write_bytes(b"half")
                raise error

        monkeypatch.setattr(module, "check_installed", lambda *_: None)  # what writes is none of its libraries
        monkeypatch.setattr(module, "make", lambda *_, **__: Writer())
        with pytest.raises(NoRoom, match=r"made/out: the disk is full \(.*MB free\); make room, or give a place"):
            export(tiny_model, tmp_path / "made" / "out", engine)
        assert list(tmp_path.iterdir()) == []

    def test_an_exporter_that_is_not_installed(self, tiny_folder: Path, tmp_path: Path) -> None:
        import importlib.util

        if importlib.util.find_spec("executorch") is not None:
            pytest.skip("executorch is installed here")
        said = r"^exporting for executorch needs executorch, .* 'vit-hybrid\[executorch\]' brings it"
        with pytest.raises(EngineError, match=said):
            export(tiny_folder, tmp_path / "out", "executorch")

    def test_for_executorch(self, tiny_folder: Path, tmp_path: Path) -> None:
        pytest.importorskip("executorch", reason="executorch is not installed: pip install 'vit-hybrid[executorch]'")
        bundle = export(tiny_folder, tmp_path / "out", "executorch")
        assert (tmp_path / "out" / "model.pte").is_file()
        assert bundle.check is not None
        assert bundle.check["largest_logit_difference"] < 1e-4
