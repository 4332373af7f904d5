"""Bundles: what they say of themselves, calibration pictures, which layers stay in floating point, quantization."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny_hybrid
import torch
from PIL import Image
from torch import nn

from vit_hybrid import ViTHybridForImageClassification, engines
from vit_hybrid.bundles import calibration, quantization, sensitivity
from vit_hybrid.bundles.conversion import convert, prepared
from vit_hybrid.bundles.making import make, object_provenance
from vit_hybrid.bundles.manifest import installed_version, read_bundle, versions, write_manifest
from vit_hybrid.data.made import natural_picture
from vit_hybrid.engines import EngineError, EngineWarning
from vit_hybrid.export import export
from vit_hybrid.files import MARK
from vit_hybrid.images.preprocessing import Preprocessing
from vit_hybrid.model.complexity import complexity
from vit_hybrid.runtimes import BUNDLE_FILE, RUNTIMES

SIDE = tiny_hybrid.IMAGE_SIZE
PREPROCESSING = Preprocessing(size=SIDE, crop_size=(SIDE, SIDE), image_mean=0.5, image_std=0.5)
SHAPE = (3, SIDE, SIDE)
KINDS = ("convolution", "linear")


@pytest.fixture(scope="module")
def bundle(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "bundle"
    export(tiny_folder, out, "onnx")
    return out


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "copy"))


def changed(**fields: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / BUNDLE_FILE
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    return change


def lacking(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        fields = json.loads((folder / BUNDLE_FILE).read_text())
        del fields[name]
        (folder / BUNDLE_FILE).write_text(json.dumps(fields))

    return change


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def shortened(folder: Path) -> None:
    path = folder / "model.onnx.data"
    path.write_bytes(path.read_bytes()[:-4])


def from_other_weights(folder: Path) -> None:
    path = folder / "model.onnx.data"
    content = bytearray(path.read_bytes())
    content[8:16] = bytes(reversed(content[8:16]))
    path.write_bytes(bytes(content))


def cut_manifest(folder: Path) -> None:
    path = folder / BUNDLE_FILE
    path.write_bytes(path.read_bytes()[:100])


def unfetched(name: str) -> Callable[[Path], None]:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 394862120\n"
    return lambda folder: (folder / name).write_text(pointer) and None


FLAWS: dict[str, tuple[Callable[[Path], None], str]] = {
    "newer": (
        changed(format_version=99, provenance={"vit_hybrid": "7.1", "torch": "2.13"}),
        r"has format 99, written by vit-hybrid 7\.1, and this version reads format 2",
    ),
    "newer, by nobody": (
        changed(format_version=99, provenance=None),
        "written by vit-hybrid another version, and this",
    ),
    "foreign": (changed(format="something else"), "is not that of a vit-hybrid bundle"),
    "a list": (lambda folder: (folder / BUNDLE_FILE).write_text("[]") and None, "is not that of a vit-hybrid bundle"),
    "cut": (cut_manifest, r"cannot read its bundle\.json"),
    "a file missing": (without("model.onnx.data"), r"model\.onnx\.data is missing"),
    "a file cut short": (shortened, r"has \d+ bytes and was exported with \d+: it is cut short or from another bundle"),
    "other weights": (from_other_weights, "its checksum differs.*: it is damaged or from other weights"),
    "a file that Git LFS did not fetch": (unfetched("model.onnx.data"), r"its model\.onnx\.data is a Git LFS pointer"),
    "a manifest that Git LFS did not fetch": (unfetched(BUNDLE_FILE), r"its bundle\.json is a Git LFS pointer"),
    "no labels": (changed(labels=None), r"its bundle\.json is damaged"),
    "an output that nobody knows": (changed(output="scores"), r"its bundle\.json is damaged"),
    "a size of one side": (changed(image_size=[SIDE]), r"its bundle\.json is damaged"),
    "files in a list": (changed(files=["model.onnx"]), r"its bundle\.json is damaged"),
    "channels in words": (changed(num_channels="three"), r"its bundle\.json is damaged"),
    "no engine": (lacking("engine"), r"its bundle\.json is damaged \('engine'\)"),
    "program unlisted": (changed(program="other.onnx"), r"does not list other\.onnx"),
    "no preprocessing": (without("preprocessor_config.json"), r"preprocessor_config\.json is missing"),
}


class TestManifest:
    def test_says_what_it_is(self, bundle: Path, tiny_folder: Path, tmp_path: Path) -> None:
        found = read_bundle(bundle)
        assert (found.engine, found.precision, found.image_size) == ("onnx", "f32", (SIDE, SIDE))
        assert found.provenance["model"] == tiny_folder.name
        assert {"weights_sha256", "config_sha256", "vit_hybrid", "torch", "transformers", "onnx"} <= set(
            found.provenance
        )
        assert set(found.files) == {path.name for path in bundle.iterdir()} - {BUNDLE_FILE, MARK}
        assert found.check is not None
        assert found.check["top1_agreement"] == 1.0
        assert found.check["largest_logit_difference"] < 1e-4

        again = Path(shutil.copytree(bundle, tmp_path / "again"))
        (again / MARK).unlink()
        assert {*write_manifest(found, again).files} == {*found.files}  # of itself it says nothing
        for name, about in found.files.items():
            content = (bundle / name).read_bytes()
            assert about == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}

    def test_one_of_before_features_gives_logits(self, copy: Path) -> None:
        path = copy / BUNDLE_FILE
        content = json.loads(path.read_text())
        assert (content["format_version"], content.pop("output"), content.pop("feature_size")) == (1, "logits", 16)
        path.write_text(json.dumps(content))
        found = read_bundle(copy)
        assert (found.output, found.feature_size) == ("logits", None)
        assert engines.load(copy).logits(np.zeros((2, *SHAPE), np.float32)).shape == (2, 3)

    @pytest.mark.parametrize("flaw", FLAWS)
    def test_a_flaw_is_one_line(self, flaw: str, copy: Path) -> None:
        spoil, reason = FLAWS[flaw]
        spoil(copy)
        with pytest.raises(EngineError, match=f"^{copy}: .*{reason}") as caught:
            engines.load(copy)
        assert "\n" not in str(caught.value)

    def test_files_are_not_looked_at_where_that_is_not_asked_for(self, copy: Path) -> None:
        changed(labels=[7, "b", None], image_size=[float(SIDE), SIDE + 1], num_channels=3.0)(copy)
        before = read_bundle(copy)
        assert (before.labels, before.image_size, before.num_channels) == (("7", "b", "None"), (SIDE, SIDE + 1), 3)
        assert {type(number) for number in (*before.image_size, before.num_channels)} == {int}
        from_other_weights(copy)
        assert read_bundle(copy, check_files=False) == before

    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            ({"engine": "openvino"}, "this bundle is for onnx, and openvino was asked for"),
            ({"precision": "int8"}, "this bundle is in f32, and int8 was asked for; export the model in int8"),
            ({"dynamic": True}, "dynamic of a bundle is settled when it is exported"),
            ({"token_merging": 2}, "token_merging of a bundle is settled when it is exported"),
            ({"compile": True}, "compile of a bundle is settled"),
        ],
    )
    def test_what_was_exported_stays(self, arguments: dict[str, Any], reason: str, bundle: Path) -> None:
        with pytest.raises(EngineError, match=reason):
            engines.load(bundle, **arguments)

    def test_of_another_runtime(self, copy: Path) -> None:
        changed(engine="executorch")(copy)
        with pytest.raises(EngineError, match="this bundle is for executorch"):
            engines.load(copy)


class TestCalibration:
    def test_a_folder(self, tmp_path: Path) -> None:
        for index in range(6):
            Image.new("RGB", (40 + index, 50), (index * 40, 90, 10)).save(tmp_path / f"{index}.png")
        (tmp_path / "broken.png").write_bytes(b"no picture")
        found = calibration.calibration_pixels(tmp_path, PREPROCESSING, SHAPE)
        assert (found.pixel_values.shape, found.pixel_values.dtype) == ((6, *SHAPE), np.float32)
        assert not found.made
        assert found.about == f"6 pictures of {tmp_path.name}"
        assert found.passed.line() == f"passed over: 1 picture that cannot be read ({tmp_path.name}/broken.png)"
        assert calibration.calibration_pixels(tmp_path, PREPROCESSING, SHAPE, limit=3).pixel_values.shape[0] == 3
        before = calibration.fingerprint_of(tmp_path)
        Image.new("RGB", (40, 50)).save(tmp_path / "7.png")
        assert calibration.fingerprint_of(tmp_path) != before

    def test_what_identifies_pictures_is_what_decides_which_are_read(self, tmp_path: Path) -> None:
        for folder in ("a", "b"):
            (tmp_path / folder).mkdir()
            Image.new("RGB", (40, 40)).save(tmp_path / folder / "0.png")
            os.utime(tmp_path / folder / "0.png", (1, 1))
        folder = calibration.PictureFolder
        arrays = np.arange(8, dtype=np.float32).reshape(2, 1, 2, 2)
        sources = [
            *(None, folder(tmp_path / "a"), folder(tmp_path / "b"), folder(tmp_path / "a", half=True)),
            *(folder(tmp_path / "a", 99), folder(tmp_path / "a", 100), arrays, arrays + 1, arrays.reshape(1, 2, 2, 2)),
        ]
        found = [calibration.fingerprint_of(source) for source in sources]
        assert found[0] == "made"
        assert len({*found}) == len(sources)
        assert calibration.fingerprint_of(str(tmp_path / "a")) == found[1]
        assert calibration.fingerprint_of([*arrays]) == found[6]
        assert calibration.calibration_pixels(tmp_path / "a", PREPROCESSING, SHAPE).fingerprint == found[1]

    def test_made_pictures_are_so_many_different_ones(self, monkeypatch: pytest.MonkeyPatch) -> None:
        found = calibration.calibration_pixels(None, PREPROCESSING, SHAPE, limit=3)
        assert (found.about, found.made, found.fingerprint) == ("3 made pictures", True, "made")
        expected = PREPROCESSING([natural_picture(seed) for seed in range(3)])
        assert np.array_equal(found.pixel_values, expected)
        assert len({one.tobytes() for one in expected}) == 3
        monkeypatch.setattr(calibration, "MADE_PICTURES", 2)
        assert len(calibration.calibration_pixels(None, PREPROCESSING, SHAPE).pixel_values) == 2
        with pytest.raises(EngineError, match=r"preprocessing makes \(3, 32, 32\) of a picture, but the model takes"):
            calibration.calibration_pixels(None, PREPROCESSING, (1, SIDE, SIDE))

    def test_a_picture_of_another_size_than_the_model_takes_is_passed_over(self, tmp_path: Path) -> None:
        for name, side in (("0", SIDE), ("1", SIDE + 1)):
            Image.new("RGB", (side, side), "teal").save(tmp_path / f"{name}.png")
        as_they_are = Preprocessing(do_resize=False, do_center_crop=False)
        found = calibration.calibration_pixels(tmp_path, as_they_are, SHAPE)
        assert (len(found.pixel_values), found.about) == (1, f"1 pictures of {tmp_path.name}")
        assert "1.png" in found.passed.line()

    @pytest.mark.parametrize(
        ("source", "reason"),
        [
            ("/no/such/folder", "/no/such/folder: there is no such calibration folder"),
            (np.zeros((2, 3, 8, 8), np.float32), r"have shape \(2, 3, 8, 8\); expected \(N, 3, 32, 32\)"),
            (np.zeros((2, 3, SIDE, SIDE), np.uint8), "must be finite floating-point"),
            (np.where(np.arange(2 * 3 * SIDE**2).reshape(2, 3, SIDE, SIDE), 0.0, np.nan), "must be finite"),
            (np.full((2, 3, SIDE, SIDE), np.inf, np.float32), "must be finite"),
            (np.zeros((0, 3, SIDE, SIDE), np.float32), r"must be finite .* got shape \(0, 3, 32, 32\), float32"),
            (np.zeros((3, SIDE, SIDE), np.float32), r"\(N, C, H, W\); got shape \(3, 32, 32\), float32"),
            ([np.zeros((3, 4, 4)), np.zeros((3, 4, 5))], "is neither a folder nor arrays of one shape"),
            (7, "is neither a folder nor arrays of one shape"),
            (["a", "b"], "must be finite floating-point"),
        ],
    )
    def test_what_cannot_be_used(self, source: Any, reason: str) -> None:
        with pytest.raises(EngineError, match=reason):
            calibration.calibration_pixels(source, PREPROCESSING, SHAPE)

    def test_a_picture_that_was_written_to_makes_others_of_them(self, tmp_path: Path) -> None:
        Image.new("RGB", (40, 40)).save(tmp_path / "0.png")
        before = calibration.fingerprint_of(tmp_path)
        assert calibration.fingerprint_of(tmp_path) == before
        os.utime(tmp_path / "0.png", (1, 1))
        assert calibration.fingerprint_of(tmp_path) != before

    def test_of_many_some_are_taken_from_all_over(self, tmp_path: Path) -> None:
        """The first ones would often be of one class only."""
        arrays = np.arange(10, dtype=np.float32)[:, None, None, None] * np.ones((1, 3, 4, 4), np.float32)
        found = calibration.calibration_pixels(arrays, Preprocessing(), (3, 4, 4), limit=4)
        assert found.pixel_values[:, 0, 0, 0].tolist() == [0, 2, 5, 7]
        assert (found.about, found.made) == ("4 arrays", False)
        found = calibration.calibration_pixels([*arrays.astype(np.float64)], Preprocessing(), (3, 4, 4))
        assert (len(found.pixel_values), found.pixel_values.dtype) == (10, np.float32)
        for level in range(10):
            Image.new("RGB", (SIDE, SIDE), (level * 20,) * 3).save(tmp_path / f"{level}.png")
        plain = Preprocessing(do_resize=False, do_center_crop=False, do_normalize=False, rescale_factor=1.0)
        found = calibration.calibration_pixels(tmp_path, plain, (3, SIDE, SIDE), limit=3)
        assert found.pixel_values[:, 0, 0, 0].tolist() == [0, 60, 120]

    @pytest.mark.parametrize(("half", "levels"), [(True, [0, 40, 80]), (False, [0, 20, 40, 60, 80])])
    def test_half_of_a_folder_is_every_second_picture_and_the_first(
        self, half: bool, levels: list[int], tmp_path: Path
    ) -> None:
        for level in range(5):
            Image.new("RGB", (SIDE, SIDE), (level * 20,) * 3).save(tmp_path / f"{level}.png")
        plain = Preprocessing(do_resize=False, do_center_crop=False, do_normalize=False, rescale_factor=1.0)
        source = calibration.PictureFolder(tmp_path, half=half)
        found = calibration.calibration_pixels(source, plain, (3, SIDE, SIDE))
        assert found.pixel_values[:, 0, 0, 0].tolist() == levels

    def test_a_folder_may_be_called_by_a_tilde_or_a_dot(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "photos" / "deep").mkdir(parents=True)
        Image.new("RGB", (40, 40)).save(tmp_path / "photos" / "deep" / "0.png")
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.chdir(tmp_path / "photos")
        assert calibration.calibration_pixels(".", PREPROCESSING, SHAPE).about == "1 pictures of ."
        assert calibration.calibration_pixels("~/photos", PREPROCESSING, SHAPE).about == "1 pictures of photos"
        names = ("~/photos", ".", tmp_path / "photos")
        assert len({calibration.fingerprint_of(name) for name in names}) == 1
        before = calibration.fingerprint_of("~/photos")
        monkeypatch.chdir("/")
        assert calibration.fingerprint_of("~/photos") == before
        (tmp_path / "photos" / "deep").rename(tmp_path / "photos" / "deeper")
        assert calibration.fingerprint_of("~/photos") != before

    def test_links_to_nothing_and_pipes_are_passed_over(self, tmp_path: Path) -> None:
        Image.new("RGB", (40, 40)).save(tmp_path / "0.png")
        before = calibration.fingerprint_of(tmp_path)
        (tmp_path / "1.png").symlink_to(tmp_path / "gone.png")
        os.mkfifo(tmp_path / "2.png")
        (tmp_path / os.fsdecode(b"sort\xe9e.png")).symlink_to("gone")
        found = calibration.calibration_pixels(tmp_path, PREPROCESSING, SHAPE)
        assert (len(found.pixel_values), found.passed.counts()) == (1, {"picture": 2, "special": 1})
        assert found.fingerprint == calibration.fingerprint_of(tmp_path) != before

    def test_a_folder_without_pictures(self, tmp_path: Path) -> None:
        with pytest.raises(EngineError, match=r"there are no pictures in this calibration folder \(.*\*\.jpg\)\.$"):
            calibration.calibration_pixels(tmp_path, PREPROCESSING, SHAPE)
        (tmp_path / "broken.png").write_bytes(b"no picture")
        with pytest.raises(EngineError, match=r"none of the calibration pictures can be used; .*broken\.png"):
            calibration.calibration_pixels(tmp_path, PREPROCESSING, SHAPE)


class TestSensitivity:
    @pytest.fixture
    def pixels(self) -> np.ndarray:
        return np.random.default_rng(1).normal(0, 1, (4, *SHAPE)).astype(np.float32)

    def test_the_layer_with_an_outlier_comes_first(self, tiny_model: Any, pixels: np.ndarray) -> None:
        """One weight far off makes an eight-bit step of its whole row coarse."""
        victim = tiny_model.vit.embeddings.patch_embeddings.projection
        with torch.no_grad():
            victim.weight[:, 0] *= 300
        model = tiny_model.fold_weight_standardization()
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        with torch.no_grad():
            before = model(torch.from_numpy(pixels)).logits
        ranking, pictures = sensitivity.rank_layers(model, pixels, 60.0)
        assert pictures == 4
        with torch.no_grad():
            assert torch.equal(model(torch.from_numpy(pixels)).logits, before)
        assert ranking[0].name == "vit.embeddings.patch_embeddings.projection"
        assert sum(layer.share for layer in ranking) == pytest.approx(1)
        assert len(ranking) == sum(isinstance(module, nn.Conv2d | nn.Linear) for module in model.modules())
        assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
        assert not any(module._forward_hooks for module in model.modules())

    def test_numbers_layers_as_they_are_computed(self, tiny_model: Any, pixels: np.ndarray) -> None:
        ranking, _ = sensitivity.rank_layers(tiny_model.fold_weight_standardization(), pixels[:1], 60.0)
        by_kind = {kind: sorted((one.index, one.name) for one in ranking if one.kind == kind) for kind in KINDS}
        assert by_kind["convolution"][0][1].endswith("embedder.convolution")
        assert by_kind["linear"][-1][1] == "classifier"
        for found in by_kind.values():
            assert [index for index, _ in found] == list(range(len(found)))
        errors = [layer.error for layer in ranking]
        assert errors == sorted(errors, reverse=True)

    def test_shares_are_those_of_the_multiplications(self, tiny_model: Any, pixels: np.ndarray) -> None:
        ranking, _ = sensitivity.rank_layers(tiny_model.fold_weight_standardization(), pixels[:1], 60.0)
        shares = {layer.name: layer.share for layer in ranking}
        costs = complexity(tiny_model.config)
        in_attention = 2 * 2 * 17**2 * 16 * 2  # of two layers the two products of 17 tokens, which are of no layer
        total = costs.total_flops - in_attention
        assert shares["classifier"] == pytest.approx(2 * 16 * 3 / total)
        projection = "vit.embeddings.patch_embeddings.projection"
        assert shares[projection] == pytest.approx(costs.flops["projection"] / total)

    def test_stops_when_time_is_out(self, tiny_model: Any, pixels: np.ndarray) -> None:
        _, pictures = sensitivity.rank_layers(tiny_model.fold_weight_standardization(), pixels, 0.0)
        assert pictures == 1

    def test_the_close_decision_counts_most(self, tiny_model: Any, pixels: np.ndarray) -> None:
        model = tiny_model.fold_weight_standardization()
        with torch.no_grad():
            best, second = model(torch.from_numpy(pixels[:1])).logits[0].topk(2).indices
            logits = model(torch.from_numpy(pixels[:2])).logits
            model.classifier.bias[second] += 0.9 * (logits[0, best] - logits[0, second])  # a close one
            model.classifier.bias[best] += 0.05 * (logits[0, best] - logits[0, second])
            logits = model(torch.from_numpy(pixels[:2])).logits
        one, other, both = (
            {layer.name: layer.error for layer in sensitivity.rank_layers(model, pixels[some], 60.0)[0]}
            for some in ([0], [1], [0, 1])
        )
        margins = (logits.topk(2).values @ torch.tensor([1.0, -1.0])).numpy()
        weights = 1 / (1 + (margins / (sensitivity.CLOSE * np.median(margins))) ** 2)
        assert max(weights) > 1.2 * min(weights)
        for name, error in both.items():
            assert error == pytest.approx((weights * [one[name], other[name]]).sum() / weights.sum(), rel=1e-3)

    def test_leaves_what_trains_and_what_is_frozen(self, tiny_model: Any, pixels: np.ndarray) -> None:
        model = tiny_model.fold_weight_standardization()
        model.classifier.bias.requires_grad_(False)
        before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
        sensitivity.rank_layers(model, pixels[:1], 60.0)
        assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == before
        assert len(set(before.values())) == 2

    def test_a_ranking_that_breaks_off_leaves_the_model_as_it_was(
        self, tiny_model: Any, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = tiny_model.fold_weight_standardization()
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        trained = [parameter.requires_grad for parameter in model.parameters()]
        with torch.no_grad():
            logits = model(torch.from_numpy(pixels)).logits

        def fail(values: torch.Tensor) -> torch.Tensor:
            raise MemoryError

        monkeypatch.setattr(sensitivity, "_in_8_bits", fail)
        with pytest.raises(MemoryError):
            sensitivity.rank_layers(model, pixels, 60.0)
        assert not any(module._forward_hooks for module in model.modules())
        assert [parameter.requires_grad for parameter in model.parameters()] == trained
        assert True in trained
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
        with torch.no_grad():
            assert torch.equal(model(torch.from_numpy(pixels)).logits, logits)

    def test_weights_are_rounded_an_output_channel_each(self) -> None:
        layer = nn.Linear(2, 2, bias=False)
        layer.weight = nn.Parameter(torch.tensor([[127.0, 1.4], [1.27, 0.0148]]))
        found = sensitivity._weight_in_8_bits(layer.weight.detach())
        torch.testing.assert_close(found, torch.tensor([[127.0, 1.0], [1.27, 0.01]]))

    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            ([50.6, 255.0], [51.0, 255.0]),  # zero is among the levels, on whichever side of it all values lie
            ([-255.0, -50.6], [-255.0, -51.0]),
            ([-55.0, 0.4, 200.0], [-55.0, 0.0, 200.0]),
            ([0.0, 0.0], [0.0, 0.0]),
        ],
    )
    def test_activations_are_rounded_to_256_levels_as_a_whole(self, values: list[float], expected: list[float]) -> None:
        torch.testing.assert_close(sensitivity._in_8_bits(torch.tensor(values)), torch.tensor(expected))

    def test_a_column_of_large_inputs_costs_the_others_little(self) -> None:
        """As SmoothQuant has it: what is large there goes into the weights, whose rows have steps of their own."""
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn(64, 16, generator=generator)
        inputs[:, 3] *= 300
        layer = nn.Linear(16, 8, bias=False)
        layer.weight = nn.Parameter(torch.randn(8, 16, generator=generator))
        with torch.no_grad():
            layer.weight[:, 3] /= 300
            exact, found = layer(inputs), sensitivity._quantized(layer, inputs)
            plain = nn.functional.linear(sensitivity._in_8_bits(inputs), layer.weight)
        assert 0 < (found - exact).abs().mean() < 0.1 * (plain - exact).abs().mean()

    def test_of_a_single_output(self, pixels: np.ndarray) -> None:
        model = ViTHybridForImageClassification(tiny_hybrid.tiny_config(num_labels=1)).fold_weight_standardization()
        ranking, _ = sensitivity.rank_layers(model, pixels, 60.0)
        assert ranking[0].error > 0
        with torch.no_grad():
            for weight in model.classifier.parameters():
                weight.neg_()
        turned, _ = sensitivity.rank_layers(model, pixels, 60.0)  # a decision may be close on either side of zero
        assert [one.name for one in turned] == [one.name for one in ranking]
        np.testing.assert_allclose([one.error for one in turned], [one.error for one in ranking], rtol=1e-4)

    def test_choice_spends_no_more_than_its_budget(self) -> None:
        def layer(name: str, error: float, share: float) -> sensitivity.LayerError:
            return sensitivity.LayerError(name, "linear", 0, error, share)

        ranking = [layer("large", 5.0, 0.5), layer("a", 3.0, 0.05), layer("b", 1.0, 0.04), layer("c", 0.5, 0.04)]
        assert [one.name for one in sensitivity.choose(ranking, 0.1, 0.99)] == ["a", "b"]
        assert [one.name for one in sensitivity.choose(ranking, 0.1, 0.3)] == ["a"]
        whole = [layer("a", 1.0, 0.25), layer("b", 4.0, 0.5), layer("c", 2.0, 0.25)]
        assert [one.name for one in sensitivity.choose(whole, 0.75, 1.0)] == ["b", "c"]
        dear = [layer("dear", 4.0, 0.5), layer("cheap", 3.0, 0.1)]
        assert [one.name for one in sensitivity.choose(dear, 0.5, 1.0)] == ["cheap"]
        assert sensitivity.choose(ranking, 0.0, 0.99) == []
        between = [layer("a", 3.0, 0.05), layer("too large", 5.0, 0.2), layer("b", 0.5, 0.03)]
        assert [one.name for one in sensitivity.choose(between, 0.1, 0.99)] == ["a", "b"]


class TestConversion:
    @pytest.mark.parametrize("owned", [False, True])
    def test_a_model_of_somebody_elses_stays_as_it_was(self, owned: bool) -> None:
        model = ViTHybridForImageClassification(tiny_hybrid.tiny_config()).train()
        ready = prepared(model, owned)
        assert (ready is model, ready.is_folded, ready.training) == (owned, True, False)
        assert (model.is_folded, model.training) == (owned, not owned)

    def test_a_bundle_leaves_a_model_that_is_not_its_own(self, tiny_model: Any) -> None:
        tiny_model.train()
        before = {name: tensor.clone() for name, tensor in tiny_model.state_dict().items()}
        made = make(tiny_model, "openvino", "f32", {"model": "mine"})
        assert (tiny_model.training, tiny_model.is_folded) == (True, False)
        assert all(torch.equal(tensor, before[name]) for name, tensor in tiny_model.state_dict().items())
        assert (made.bundle.provenance["model"], made.bundle.quantization) == ("mine", None)
        assert made.reference is not tiny_model
        assert make(tiny_model, "openvino", "f32", {}, owned=True).reference is tiny_model

    def test_is_of_the_model_in_float32_with_sdpa_in_whatever_it_comes(self) -> None:
        model = ViTHybridForImageClassification(tiny_hybrid.tiny_config(attn_implementation="eager")).bfloat16()
        ready = prepared(model)
        assert (ready.dtype, ready.config._attn_implementation) == (torch.float32, "sdpa")
        assert (model.dtype, model.config._attn_implementation) == (torch.bfloat16, "eager")

    def test_a_model_in_memory_is_known_by_its_weights_and_configuration(self, tiny_model: Any) -> None:
        about = object_provenance(tiny_model)
        assert about["model"] == "ViTHybridForImageClassification"
        same = type(tiny_model)(tiny_model.config)
        same.load_state_dict(tiny_model.state_dict())
        assert object_provenance(same) == about
        weight = same.classifier.weight
        same.classifier.weight = nn.Parameter(weight.detach().reshape(weight.shape[::-1]))  # of the same bytes
        assert object_provenance(same)["weights_sha256"] != about["weights_sha256"]
        same.classifier.weight = weight
        with torch.no_grad():
            same.classifier.bias[0] += 1e-6
        others = [object_provenance(same), object_provenance(same.half())]
        assert len({one["weights_sha256"] for one in (about, *others)}) == 3
        assert others[0]["config_sha256"] == about["config_sha256"]
        same.config.id2label = {0: "x", 1: "y", 2: "z"}
        assert object_provenance(same)["config_sha256"] != about["config_sha256"]

    def test_names_of_layers_in_programs(self) -> None:
        model = prepared(ViTHybridForImageClassification(tiny_hybrid.tiny_config(image_size=[32, 48])))
        ranking, _ = sensitivity.rank_layers(model, np.ones((1, 3, 32, 48), np.float32), 60.0)
        for engine in ("openvino", "onnx"):
            converted = convert(model, engine)
            names = quantization._names(converted, ranking)
            assert len(names) == len(set(names)) == len(ranking), engine
            if engine == "openvino":
                assert str(converted.program.input(0).get_partial_shape()) == "[?,3,32,48]"

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"layer_type": "preactivation"}, "padding 'SAME' and layers 'preactivation'"),
            ({"global_padding": None}, "padding None and layers 'bottleneck'"),
        ],
    )
    def test_a_model_that_cannot_be_dynamic(self, change: dict[str, Any], said: str) -> None:
        backbone = {**tiny_hybrid.tiny_config().backbone_config.to_dict(), **change}
        model = ViTHybridForImageClassification(tiny_hybrid.tiny_config(backbone_config=backbone))
        with pytest.raises(EngineError, match=f"cannot be exported with dynamic height and width: .*{said}, and only"):
            convert(prepared(model), "openvino", dynamic=True)

    def test_a_converter_that_fails_is_one_line(self, tiny_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: Any, **__: Any) -> None:
            raise RuntimeError("\n\nit broke\nand here is why\n")

        monkeypatch.setattr(type(tiny_model), "forward", fail)
        with pytest.raises(EngineError, match=r"^cannot convert this model for onnx: it broke") as caught:
            convert(prepared(tiny_model), "onnx")
        assert "\n" not in str(caught.value)

    def test_the_line_that_says_why_follows_a_colon(self, tiny_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: Any, **__: Any) -> None:
            raise RuntimeError("it broke:\n\n  a shape of (2, 3)\nand more")

        monkeypatch.setattr(type(tiny_model), "forward", fail)
        with pytest.raises(EngineError, match=r"for onnx: it broke: a shape of \(2, 3\)$"):
            convert(prepared(tiny_model), "onnx")

    def test_every_format_names_its_extra(self) -> None:
        import tomllib

        project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
        extras = project["optional-dependencies"]
        for row in RUNTIMES.values():
            if row.extra is not None:
                listed = " ".join(extras[row.extra])
                assert all(package in listed for package in row.distributions)
                assert row.quantizer is None or row.quantizer in listed

    def test_calibration_takes_no_picture_of_more_pixels_than_are_allowed(self, tmp_path: Path) -> None:
        for name, side in (("small", 20), ("large", 60)):
            Image.new("RGB", (side, side), "teal").save(tmp_path / f"{name}.png")
        how = Preprocessing.from_dict({"size": SIDE, "crop_size": SIDE})
        allowed = calibration.PictureFolder(tmp_path, 20 * 20)
        found = calibration.calibration_pixels(allowed, how, SHAPE)
        assert (len(found.pixel_values), found.passed.counts()) == (1, {"picture": 1})
        assert len(calibration.calibration_pixels(tmp_path, how, SHAPE).pixel_values) == 2
        for name in (tmp_path, str(tmp_path)):
            assert calibration.limited(name, 400) == calibration.PictureFolder(name, 400)
        assert calibration.limited(allowed, 999) is allowed
        assert calibration.limited(None, 400) is None

    def test_the_quantizer_is_among_the_versions_of_what_it_made_alone(self) -> None:
        assert installed_version("no-such-library") == "none"
        for engine, quantizer in (("openvino", "nncf"), ("onnx", "onnxruntime")):
            plain, quantized = (versions(engine, precision) for precision in ("f32", "int8"))
            assert {*RUNTIMES[engine].distributions, "torch", "transformers", "vit_hybrid"} == {*plain}
            assert {*quantized} == {*plain, quantizer}


class TestQuantization:
    def test_layers_of_onnx_are_counted_without_the_products_of_attention(self) -> None:
        def value(is_weight: bool, behind: Any = None) -> Any:
            return SimpleNamespace(is_initializer=lambda: is_weight, producer=lambda: behind)

        weight, turned = value(True), value(False, SimpleNamespace(inputs=[value(True)]))
        computed = value(False, SimpleNamespace(inputs=[value(False)]))
        kinds = [("Conv", weight), ("MatMul", turned), ("Softmax", value(False)), ("MatMul", computed)]
        kinds += [("MatMul", value(False)), ("Gemm", weight), ("Conv", weight)]
        graph = [
            SimpleNamespace(op_type=kind, name=f"{place}", inputs=[value(False), second])
            for place, (kind, second) in enumerate(kinds)
        ]
        program = SimpleNamespace(graph=graph)
        assert quantization._onnx_nodes(program, "linear") == {0: "1", 1: "5"}
        assert quantization._onnx_nodes(program, "convolution") == {0: "0", 1: "6"}

    @pytest.mark.parametrize("engine", ["openvino", "onnx"])
    def test_is_close_and_says_what_stays(self, engine: str, tiny_folder: Path) -> None:
        pixels = np.random.default_rng(2).normal(0, 1, (12, *SHAPE)).astype(np.float32)
        reference = engines.load(tiny_folder, engine="torch", device="cpu").logits(pixels)
        loaded = engines.load(tiny_folder, engine=engine, precision="int8", calibration=pixels)
        found = loaded.logits(pixels)
        assert loaded.precision == "int8"
        assert 0 < np.abs(found - reference).max() < 0.1 * np.abs(reference).max()

    def test_without_pictures_it_warns(self, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(calibration, "MADE_PICTURES", 8)
        with pytest.warns(EngineWarning, match="no calibration pictures were given, so int8 was calibrated on made"):
            engines.load(tiny_folder, engine="openvino", precision="int8")

    def test_without_nncf(self, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from vit_hybrid import runtimes

        find = runtimes.util.find_spec
        monkeypatch.setattr(runtimes.util, "find_spec", lambda name: None if name == "nncf" else find(name))
        with pytest.raises(EngineError, match=r"int8 on openvino needs nncf, .* 'vit-hybrid\[openvino\]' brings it"):
            engines.load(tiny_folder, engine="openvino", precision="int8", calibration=np.ones((1, *SHAPE), np.float32))

    def test_the_report_is_of_what_was_done(
        self, tiny_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for level in range(12):
            Image.new("RGB", (40, 40), (level * 20,) * 3).save(tmp_path / f"{level:02}.png")
        (tmp_path / "00-broken.png").write_bytes(b"no picture")
        layer = sensitivity.LayerError
        ranking = [
            layer("a", "linear", 0, 6.0, 0.1),
            layer("b", "linear", 1, 3.0, 0.8),
            layer("c", "linear", 2, 1.0, 0.1),
        ]
        told: list[Any] = []
        limits: list[float] = []
        monkeypatch.setattr(quantization, "rank_layers", lambda *given: limits.append(given[2]) or (ranking, 5))
        monkeypatch.setattr(quantization, "_run", lambda *given: told.append(given))
        converted: Any = SimpleNamespace(engine="onnx")
        steps: list[str] = []
        for seconds, pictures in ((1e-9, 12), (0.8, 9), (1e9, 7)):
            monkeypatch.setattr(quantization, "_seconds_a_picture", lambda *_, seconds=seconds: seconds)
            with pytest.warns(EngineWarning, match="calibration passed over: 1 picture that cannot be read") as caught:
                report, used = quantization.quantize(converted, tiny_model, tmp_path, PREPROCESSING, 50.0, steps.append)
            assert len(caught) == 1
            assert (report.pictures, len(used.pixel_values)) == (pictures, pictures)
            tool, what, pixels, kept = told.pop()
            assert (tool, what, len(pixels)) == ("onnxruntime", converted, pictures)
            assert [one.name for one in kept] == ["a"]
            assert (report.kept, report.kept_share, report.error_share, report.ranked) == (("a",), 0.1, 0.6, 5)
            assert report.calibration == used.about
        assert limits == [10.0] * 3  # a fifth of the time
        assert steps[6:] == [
            "Reading calibration pictures",
            "Ranking layers by what their quantization costs",
            "Quantizing with 7 calibration pictures",
        ]
        ranking[:] = [layer("a", "linear", 0, 0.0, 1.0)]
        with pytest.warns(EngineWarning, match="passed over"):
            report, _ = quantization.quantize(converted, tiny_model, tmp_path, PREPROCESSING)
        assert (report.kept, report.error_share) == ((), 0.0)

    def test_a_quantizer_that_fails_is_one_line(self, tiny_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: Any) -> None:
            raise RuntimeError("no\nroom")

        monkeypatch.setattr(quantization, "_run", fail)
        pixels = np.ones((1, *SHAPE), np.float32)
        with pytest.raises(EngineError, match=r"^cannot quantize this model for onnx: no room"):
            quantization.quantize(SimpleNamespace(engine="onnx"), prepared(tiny_model), pixels, PREPROCESSING)  # type: ignore[arg-type]

    def test_onnx_has_a_scale_for_each_output_channel_and_signed_weights(self, monkeypatch: pytest.MonkeyPatch) -> None:
        quantizers = pytest.importorskip("onnxruntime.quantization")
        from transformers import exporters

        monkeypatch.setattr(exporters, "OnnxRuntimeQuantizer", lambda config, calibration_dataset: config)
        found = quantization._onnx_quantizer(["node_conv2d"], [{}])
        assert (found.per_channel, found.nodes_to_exclude) == (True, ["node_conv2d"])
        assert {*found.op_types_to_quantize} == {"Conv", "MatMul", "Gemm"}
        kinds = quantizers.QuantType
        assert (found.activation_type, found.weight_type) == (kinds.QUInt8, kinds.QInt8)

    def test_ranges_are_from_the_least_to_the_greatest_value_of_all_pictures(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        nncf = pytest.importorskip("nncf")
        assert inspect.signature(nncf.quantize).parameters["subset_size"].default == calibration.MOST_PICTURES
        from nncf.quantization import range_estimator
        from transformers import exporters

        monkeypatch.setattr(exporters, "NNCFOpenVINOQuantizer", lambda config, calibration_dataset: config)
        found = quantization._nncf_quantizer(["classifier"], [{}, {}, {}])
        ranges = found.advanced_parameters.activations_range_estimator_params
        for end in ("min", "max"):
            asked = getattr(ranges, end)
            assert asked.statistics_type == range_estimator.StatisticsType(end)
            assert asked.aggregator_type == range_estimator.AggregatorType(end)
        assert (found.preset, found.subset_size, found.fast_bias_correction) == (
            nncf.QuantizationPreset.MIXED,
            3,
            False,
        )
        assert found.ignored_scope.names == ["classifier"]
        assert found.ignored_scope.patterns == [*quantization.FLOAT_PATTERNS]

    def test_what_a_first_run_takes_is_not_what_a_picture_takes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        now = [0.0]
        took = [50.0, 0.25]  # the first one allocates and chooses kernels
        shapes: list[Any] = []

        def model(batch: torch.Tensor) -> None:
            now[0] += took.pop(0)
            shapes.append((batch.shape, torch.is_inference_mode_enabled()))

        monkeypatch.setattr(quantization.time, "perf_counter", lambda: now[0])
        pixels = np.ones((1, *SHAPE), np.float32)
        assert quantization._seconds_a_picture(model, pixels) == 0.25  # type: ignore[arg-type]
        assert shapes == [((1, *SHAPE), True)] * 2

    def test_less_time_means_fewer_pictures(self) -> None:
        assert quantization._affordable(0.001, 600.0) == calibration.MOST_PICTURES
        assert quantization._affordable(1.0, 600.0) == 96
        assert quantization._affordable(7.0, 600.0) == 13  # and for the rest of a picture there is no time
        assert quantization._affordable(10.0, 60.0) == calibration.FEWEST_PICTURES

    def test_the_model_in_the_package_on_pictures_of_other_classes(self, data_dir: Path) -> None:
        """Of what it has never learned, int8 mostly says the same as float32, and is as sure of it."""
        from vit_hybrid import Predictor
        from vit_hybrid.data import read_labeled
        from vit_hybrid.evaluate import spread
        from vit_hybrid.outputs.ranking import softmax

        folder = data_dir / "tinyphotos10"
        if not folder.is_dir():
            pytest.skip(f"no tinyphotos10 in {data_dir}")
        train, val = spread(read_labeled(folder, "train"), 64), read_labeled(folder, "val")
        how = Predictor.from_pretrained(device="cpu").preprocessing
        quantized = engines.load(
            engine="openvino",
            precision="int8",
            calibration=np.concatenate([how([train.picture(index)]) for index in range(len(train))]),
        )
        full = engines.load(engine="openvino", precision="f32")
        pixels = np.concatenate([how([val.picture(index)]) for index in range(len(val))])
        int8, f32 = (
            np.concatenate([engine.logits(pixels[start : start + 100]) for start in range(0, len(pixels), 100)])
            for engine in (quantized, full)
        )
        # 92.8 % when it was written: of 180 labels none is right here, and several are about as likely.
        assert (int8.argmax(1) == f32.argmax(1)).mean() > 0.90
        assert abs(softmax(int8).max(1).mean() - softmax(f32).max(1).mean()) < 0.01
