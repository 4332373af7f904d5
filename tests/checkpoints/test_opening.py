"""A model from any format, with the image processor that goes with it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import fresh_process
import hub_server
import numpy as np
import pytest
import tiny_hybrid
import torch
from safetensors.torch import load_file, save_file

from vit_hybrid import ViTHybridConfig, ViTHybridForImageClassification, ViTHybridModel
from vit_hybrid.assets import BUILT_IN_MODEL
from vit_hybrid.checkpoints import jax, kinds, opening, timm
from vit_hybrid.checkpoints import published as stand_in
from vit_hybrid.checkpoints.calibrated import place_of
from vit_hybrid.checkpoints.files import weights_paths
from vit_hybrid.errors import LFS_POINTER, EngineWarning
from vit_hybrid.inference.predictor import ModelLoadError
from vit_hybrid.outputs import confidence
from vit_hybrid.outputs.problems import labels_of

PRESET = "R+Ti/16"
SIZE = 64


@pytest.fixture(scope="module")
def published() -> ViTHybridForImageClassification:
    """The smallest published hybrid with random weights and JAX's numerics, for small images."""
    torch.manual_seed(0)
    config = ViTHybridConfig.from_preset(PRESET, image_size=SIZE, num_labels=3)
    return ViTHybridForImageClassification(config).eval()


class TestMeanings:
    """What a name means, in the order in which it may mean something."""

    def test_an_existing_path_comes_first(
        self, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        for name in (BUILT_IN_MODEL, "R50_B_16", "timm/vit_base_r50_s16_384", "owner/name", "folder.npz"):
            shutil.copytree(tiny_folder, name)
            source = opening.open(name, random_weights=True)
            assert (source.kind, source.location) == ("own", name)
            assert not opening.is_preset(name)
            assert not opening.is_on_hub(name)

    @pytest.mark.parametrize("prefix", ["timm/", "hf-hub:timm/", "hf_hub:timm/", "hf-hub:owner/", "hf_hub:owner/"])
    def test_a_prefix_is_the_hub_of_timm(self, prefix: str) -> None:
        for random_weights in (False, True):
            source = opening.open(f"{prefix}vit_base_r50_s16_384.orig_in21k_ft_in1k", random_weights=random_weights)
            assert source.kind == "timm"
            with pytest.raises(ModelLoadError, match=r"vit_small_resnet26d_224.* no BiT ResNet"):
                opening.open(f"{prefix}vit_small_resnet26d_224", random_weights=random_weights)

    @pytest.mark.parametrize("ending", [".npz", ".NPZ", ".safetensors", ".bin", ".pt", ".pth"])
    def test_an_ending_is_a_file_that_has_to_exist(
        self, ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        name = f"R50+ViT-B_16{ending}"
        said = f"{name}: there is no such file."
        if ending.lower() == ".npz":
            said += " The architecture alone is called R50+B/16."
        with pytest.raises(ModelLoadError, match=f"^{re.escape(said)}$"):
            opening.open(name, random_weights=True)
        assert not opening.is_preset(name)

    def test_what_lies_near_a_missing_file_is_said(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("R26_S_32.npz", "R50+ViT-B_16.NPZ", "notes.txt"):
            (tmp_path / name).touch()
        with pytest.raises(ModelLoadError, match=re.escape(f"did you mean {tmp_path / 'R50+ViT-B_16.NPZ'}?")):
            opening.open(tmp_path / "R50+VIT-B16.npz")
        with pytest.raises(ModelLoadError, match=f"there is no such file, nor the folder {tmp_path / 'none'}"):
            opening.open(tmp_path / "none" / "R50+ViT-B_16.npz")
        monkeypatch.chdir(tmp_path)
        for name, near in (("R26_S_23.npz", "R26_S_32.npz"), ("mine.pth", "R26_S_32.npz")):
            with pytest.raises(ModelLoadError, match=rf"^{name}: there is no such file; did you mean {near}\?$"):
                opening.open(name)

    def test_the_file_of_a_folder_is_not_taken_for_one_of_timms(
        self, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tiny_folder)
        for name in (tiny_folder / "model.safetensors", "model.safetensors"):
            with pytest.raises(ModelLoadError, match=rf"^{name}: this is a file; .*: give the folder that it is in"):
                opening.open(name)

    def test_a_file_is_what_its_ending_says(self, tmp_path: Path) -> None:
        endings = {
            ".npz": "jax",
            ".NPZ": "jax",
            ".safetensors": "timm",
            ".Pth": "timm",
            ".ckpt": "timm",
            ".tar": "timm",
        }
        for ending, kind in endings.items():
            (tmp_path / f"model{ending}").touch()
            assert opening.open(tmp_path / f"model{ending}").kind == kind
        (tmp_path / "config.json").write_text('{"architecture": "vit_tiny_r_s16_p8_224"}')
        assert opening.open(tmp_path / "model.safetensors").kind == "timm"
        (tmp_path / "model.onnx").touch()
        with pytest.raises(ModelLoadError, match=r"model\.onnx: this is a file; .* or \.safetensors, .* \(timm\)\.$"):
            opening.open(tmp_path / "model.onnx")

    def test_a_file_of_timms_beside_a_model_of_this_package_stays_one(self, tiny_folder: Path, tmp_path: Path) -> None:
        fields = json.loads((tiny_folder / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps({**fields, "architecture": "mine"}))
        (tmp_path / "other.pth").touch()
        assert opening.open(tmp_path / "other.pth").kind == "timm"
        assert opening.open(tmp_path).kind == "own"  # whatever else its configuration has

    def test_home_may_be_a_tilde(self, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        shutil.copytree(tiny_folder, tmp_path / "own")
        (tmp_path / "own.npz").touch()
        assert opening.open("~/own").location == str(tmp_path / "own")
        assert opening.open("~/own.npz").kind == "jax"
        assert not opening.is_on_hub("~/own")

    @pytest.mark.parametrize("name", ["model.npz", "model.safetensors", "model"])
    def test_a_pipe_is_not_waited_for(self, name: str, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / name)
        with pytest.raises(ModelLoadError, match=f"{name}: this is a pipe, socket or device; expected a model folder"):
            opening.open(tmp_path / name)

    def test_the_model_in_the_package(self) -> None:
        assert (opening.open(BUILT_IN_MODEL).kind, opening.open(BUILT_IN_MODEL).name) == ("own", BUILT_IN_MODEL)

    def test_a_preset_only_where_random_weights_will_do(self) -> None:
        assert opening.open("vit_base_r50_s16_384", random_weights=True).kind == "preset"
        with pytest.raises(ModelLoadError, match=r"vit_base_r50_s16_384: .* an architecture, which comes without"):
            opening.open("vit_base_r50_s16_384")
        with pytest.warns(EngineWarning, match="the weights are random"):
            model = opening.open("R+Ti/16", random_weights=True).classifier((64, 64), 5, "bfloat16")
        assert (model.training, model.config.image_size, model.config.num_labels) == (False, (64, 64), 5)
        assert model.dtype == torch.bfloat16
        with pytest.warns(EngineWarning, match="the weights are random"):
            assert opening.open("R+Ti/16", random_weights=True).classifier((64, 64), 0).config.num_labels == 0

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            (
                "vit_small_resnet26d_224",
                "'vit_small_resnet26d_224' is a hybrid of timm's whose convolutional part is no",
            ),
            ("VIT_Small_ResNet26d_224", "'VIT_Small_ResNet26d_224' is a hybrid of timm's whose convolutional part"),
            ("R50+B/17", "No published hybrid is called 'R50+B/17'. Did you mean 'R50+B/16'"),
            ("no such model", "the model in the package is 'vit-hybrid-tiny-imagenet'."),
        ],
    )
    def test_what_means_nothing_is_told_what_would(self, name: str, said: str) -> None:
        start = f"{name}: there is no such file or folder here, and a hub id would look like owner/name"
        with pytest.raises(ModelLoadError, match=f"^{re.escape(start)}[.;] {re.escape(said)}"):
            opening.open(name)

    def test_what_is_asked_of_the_hub(self) -> None:
        on_hub = {"owner/name": True, "timm/vit_base_r50_s16_384": True, "hf_hub:owner/name": True}
        here = dict.fromkeys((BUILT_IN_MODEL, "R50+B/16", "owner/name.npz", "name", "./a/b", "no such/model"), False)
        assert {name: opening.is_on_hub(name) for name in (*on_hub, *here)} == {**on_hub, **here}

    def test_what_lies_on_the_hub(self, tiny_folder: Path, tmp_path: Path) -> None:
        (tmp_path / "timm").mkdir()
        (tmp_path / "timm" / "config.json").write_text('{"architecture": "vit_tiny_r_s16_p8_224"}')
        code = """
from vit_hybrid.checkpoints import opening
for name in ("owner/own", "owner/timm", "hf_hub:owner/timm"):
    print(name, opening.open(name).kind)
print(opening.open("owner/own").provenance()["model"])
import sys
print({"torch", "transformers"} & set(sys.modules))
print(opening.open("owner/own").config.hidden_size)
"""
        with hub_server.LocalHub() as hub:
            hub.publish("owner/own", tiny_folder)
            hub.publish("owner/timm", tmp_path / "timm")
            settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
            lines = fresh_process.run(code, env=settings).splitlines()
        assert lines == ["owner/own own", "owner/timm timm", "hf_hub:owner/timm timm", "own", "set()", "16"]


class TestReading:
    def test_a_configuration_needs_no_weights(self, tiny_folder: Path, tmp_path: Path) -> None:
        shutil.copy(tiny_folder / "config.json", tmp_path)
        assert opening.open(tmp_path).config.hidden_size == 16
        config = opening.open("timm/vit_base_r50_s16_384.orig_in21k_ft_in1k").config  # without asking the hub
        assert (config.image_size, config.num_labels, config.layer_norm_eps) == (384, 1000, 1e-6)

    def test_a_folder_loads_neither_torch_nor_transformers(self, tiny_folder: Path) -> None:
        code = f"""
import sys
from vit_hybrid.checkpoints import opening
source = opening.open({str(tiny_folder)!r})
print(source.preprocessing.crop_size, source.provenance()["model"] == {tiny_folder.name!r})
print(sorted({{"torch", "transformers", "huggingface_hub"}} & set(sys.modules)))
"""
        assert fresh_process.run(code).splitlines() == ["(32, 32) True", "[]"]

    def test_weights_in_shards_are_all_of_their_files_and_their_list(self, tiny_model: Any, tmp_path: Path) -> None:
        tiny_model.save_pretrained(tmp_path, max_shard_size="20KB")
        names = [path.name for path in weights_paths(str(tmp_path))]
        assert names[0] == "model.safetensors.index.json"
        assert names[1:] == sorted(path.name for path in tmp_path.glob("*.safetensors"))
        assert len(names) > 2
        (tmp_path / names[2]).write_bytes(LFS_POINTER + b"\noid sha256:4d7a\n")
        with pytest.raises(ModelLoadError, match=f"^{tmp_path}: its {names[2]} is a Git LFS pointer"):
            opening.open(tmp_path).classifier()

    def test_the_checksum_of_shards_is_of_all_of_them_and_their_list(self, tiny_model: Any, tmp_path: Path) -> None:
        tiny_model.save_pretrained(tmp_path, max_shard_size="20KB")
        each = [hashlib.sha256(path.read_bytes()).hexdigest() for path in weights_paths(str(tmp_path))]
        expected = hashlib.sha256("".join(each).encode()).hexdigest()
        assert opening.open(tmp_path).provenance() == {
            "model": tmp_path.name,
            "weights_sha256": expected,
            "config_sha256": hashlib.sha256((tmp_path / "config.json").read_bytes()).hexdigest(),
        }

    def test_files_are_read_once_for_their_checksums(
        self, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        read: list[Path] = []
        monkeypatch.setattr(kinds, "checksum", lambda path: read.append(path) or "sum")
        source = opening.open(tiny_folder)
        source.provenance()["model"] = "mine"  # which is one's own to change
        assert source.provenance()["model"] == tiny_folder.name
        assert read == [tiny_folder / "model.safetensors"]

    def test_a_configuration_is_ones_own_to_change(self, tiny_folder: Path) -> None:
        source = opening.open(tiny_folder)
        config = source.config
        config.hidden_size = 99
        config.backbone_config.depths.append(7)
        config.id2label[0] = "mine"
        said = json.loads((tiny_folder / "config.json").read_text())
        assert source.fields() == said
        assert source.config.to_dict() == ViTHybridConfig.from_dict(said).to_dict()

    def test_in_another_dtype(self, tiny_folder: Path, tmp_path: Path, published: Any) -> None:
        jax.save(published, tmp_path / "model.npz", approximate=True)
        for name in (tiny_folder, tmp_path / "model.npz"):
            assert opening.open(name).classifier(dtype=torch.bfloat16).dtype == torch.bfloat16
            assert opening.open(name).classifier(dtype="float64").dtype == torch.float64
        opening.open(tiny_folder).classifier(dtype="bfloat16").save_pretrained(tmp_path / "half")
        source = opening.open(tmp_path / "half")
        assert {source.classifier().dtype, source.backbone().dtype} == {torch.bfloat16}  # as it was saved

    def test_provenance_changes_with_weights_and_configuration(self, tmp_path: Path, published: Any) -> None:
        timm.save(published, tmp_path / "folder", approximate=True)
        jax.save(published, tmp_path / "model.npz", approximate=True)
        before = {name: opening.open(tmp_path / name).provenance() for name in ("folder", "model.npz")}
        assert before == {name: opening.open(tmp_path / name).provenance() for name in before}
        whole = hashlib.sha256((tmp_path / "model.npz").read_bytes()).hexdigest()
        assert (before["model.npz"]["model"], before["model.npz"]["weights_sha256"]) == ("model.npz", whole)
        config = tmp_path / "folder" / "config.json"
        said = json.loads(config.read_text())
        config.write_text(json.dumps(dict(reversed(said.items()))))  # which says the same
        assert opening.open(tmp_path / "folder").provenance() == before["folder"]
        config.write_text(json.dumps({**said, "label_names": ["a", "b", "c"]}))
        assert opening.open(tmp_path / "folder").config.id2label == {0: "a", 1: "b", 2: "c"}
        after = opening.open(tmp_path / "folder").provenance()
        assert after["weights_sha256"] == before["folder"]["weights_sha256"]
        assert after["config_sha256"] != before["folder"]["config_sha256"]


class TestPreprocessing:
    def test_a_folder_without_any_has_the_published_hybrids(self, tiny_folder: Path, tmp_path: Path) -> None:
        shutil.copytree(tiny_folder, tmp_path / "model")
        (tmp_path / "model" / "preprocessor_config.json").unlink()
        source = opening.open(tmp_path / "model")
        assert source.preprocessing is None
        with pytest.warns(EngineWarning, match="model: the model does not say how images are prepared; they are"):
            processor = source.processor((384, 384))
        assert (processor.size, processor.image_mean) == ({"shortest_edge": 384}, [0.5, 0.5, 0.5])

    def test_of_gray_pictures_it_is_for_one_channel(self, tmp_path: Path) -> None:
        tiny_hybrid.tiny_config(**tiny_hybrid.HYBRIDS["no layers, one channel"]).save_pretrained(tmp_path)
        with pytest.warns(EngineWarning, match="does not say how images are prepared"):
            processor = opening.open(tmp_path).processor()
        assert (processor.image_mean, processor.do_convert_rgb) == ([0.5], False)
        assert processor.crop_size == {"height": 32, "width": 32}

    def test_of_gray_pictures_it_is_for_one_channel_in_every_format(self, tmp_path: Path) -> None:
        config = ViTHybridConfig.from_preset(PRESET, image_size=SIZE, num_hidden_layers=1, num_channels=1)
        timm.save(ViTHybridForImageClassification(config), tmp_path / "m.pth", approximate=True)
        torch.save(dict(torch.load(tmp_path / "m.pth")), tmp_path / "m.pth")
        backbone = {"model_type": "bit", "num_channels": 1}
        dpt = {"model_type": "dpt", "is_hybrid": True, "num_channels": 1, "backbone_config": backbone}
        (tmp_path / "config.json").write_text(json.dumps(dpt))
        for name, kind in (("m.pth", "timm"), ("", "dpt")):
            source = opening.open(tmp_path / name)
            with pytest.warns(EngineWarning, match="does not say how images are prepared"):
                processor = source.processor()
            assert (source.kind, processor.image_mean, processor.do_convert_rgb) == (kind, [0.5], False)

    @pytest.mark.parametrize(
        ("size", "asked", "expected"),
        [
            ({"shortest_edge": 40}, (64, 64), {"shortest_edge": 80}),
            ({"shortest_edge": 40}, (64, 96), {"shortest_edge": 80}),
            ({"shortest_edge": 40}, (96, 48), {"shortest_edge": 60}),
            ({"height": 40, "width": 36}, (64, 16), {"height": 80, "width": 18}),
            ({"height": 40, "width": 36}, None, {"height": 40, "width": 36}),
            ({"height": 37, "width": 35}, (48, 48), {"height": 56, "width": 52}),  # of 55.5 and 52.5 the even ones
        ],
    )
    def test_at_another_size_what_is_cut_off_keeps_its_share(
        self, size: Any, asked: tuple[int, int] | None, expected: Any, tiny_folder: Path, tmp_path: Path
    ) -> None:
        shutil.copytree(tiny_folder, tmp_path / "model")
        config = tmp_path / "model" / "preprocessor_config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "size": size, "image_mean": [0.1, 0.2, 0.3]}))
        (tmp_path / "model" / "bundle.json").write_text("{}")
        bundle = opening.open(tmp_path / "model")
        assert bundle.kind == "bundle"
        (tmp_path / "model" / "bundle.json").unlink()
        for source in (bundle, opening.open(tmp_path / "model")):
            found = source.processor(asked)
            height, width = asked or (32, 32)
            assert found.size == expected
            assert found.crop_size == {"height": height, "width": width}
            assert found.image_mean == [0.1, 0.2, 0.3]

    def test_of_an_architecture_it_is_the_published_hybrids(self) -> None:
        source = opening.open(PRESET, random_weights=True)
        side = source.config.image_size
        assert source.preprocessing == stand_in.preprocessing((side, side))
        assert source.processor().to_dict() == stand_in.processor((side, side)).to_dict()
        assert source.processor((48, 96)).crop_size == {"height": 48, "width": 96}
        with pytest.raises(ModelLoadError, match="whose random weights have no checksum"):
            source.provenance()

    def test_a_damaged_one_is_refused(self, tiny_folder: Path, tmp_path: Path) -> None:
        shutil.copytree(tiny_folder, tmp_path / "model")
        (tmp_path / "model" / "preprocessor_config.json").write_text("{")
        with pytest.raises(ModelLoadError, match=r"cannot read its preprocessor_config\.json"):
            opening.open(tmp_path / "model").processor()

    def test_a_timm_file_without_any(self, tmp_path: Path, published: Any) -> None:
        timm.save(published, tmp_path / "model.pth", approximate=True)
        torch.save(dict(torch.load(tmp_path / "model.pth")), tmp_path / "model.pth")
        source = opening.open(tmp_path / "model.pth")
        assert source.preprocessing is None
        said = f"^{tmp_path}/model.pth: the model does not say how images are prepared"
        with pytest.warns(EngineWarning, match=rf"{said} \(nothing there says .*json\); they are prepared as for"):
            assert source.processor().to_dict() == stand_in.processor((SIZE, SIZE)).to_dict()
        with pytest.warns(EngineWarning, match=rf"{said} \(crop_mode is 'center' at 32x96 pixels, "):
            assert source.processor((32, 96)).to_dict() == stand_in.processor((32, 96)).to_dict()

    def test_a_jax_file_is_prepared_as_its_code_does(self, tmp_path: Path, published: Any) -> None:
        jax.save(published, tmp_path / "model.npz", approximate=True)
        preprocessing = opening.open(tmp_path / "model.npz").preprocessing
        assert preprocessing is not None
        assert (preprocessing.size, preprocessing.resample) == ((SIZE, SIZE), 2)


class TestBundles:
    @pytest.fixture
    def bundle(self, tiny_folder: Path, tmp_path: Path) -> Path:
        shutil.copytree(tiny_folder, tmp_path / "bundle")
        (tmp_path / "bundle" / "model.safetensors").unlink()
        about = {"provenance": {"model": "tiny", "weights_sha256": "1", "config_sha256": "2", "torch": "2.13"}}
        (tmp_path / "bundle" / "bundle.json").write_text(json.dumps(about))
        return tmp_path / "bundle"

    def test_says_what_it_is(self, bundle: Path) -> None:
        source = opening.open(bundle)
        assert (source.kind, source.config.hidden_size) == ("bundle", 16)
        assert source.preprocessing is not None
        assert source.processor().crop_size == {"height": 32, "width": 32}
        assert source.provenance() == {"model": "tiny", "weights_sha256": "1", "config_sha256": "2"}
        (bundle / "preprocessor_config.json").unlink()
        assert opening.open(bundle).preprocessing is None

    def test_of_which_nothing_is_known(self, bundle: Path) -> None:
        (bundle / "bundle.json").write_text('{"provenance": null}')
        assert opening.open(bundle).provenance() == {"model": "", "weights_sha256": "", "config_sha256": ""}

    def test_has_no_weights(self, bundle: Path) -> None:
        with pytest.raises(ModelLoadError, match="a bundle has no PyTorch model; give the model that it was exported"):
            opening.open(bundle).classifier()

    @pytest.mark.parametrize("output", [None, "copy"])
    def test_is_not_calibrated(self, output: str | None, bundle: Path) -> None:
        with pytest.raises(
            ModelLoadError, match="this is a bundle; calibrate the model that it was exported from, and"
        ):
            place_of(opening.open(bundle), output)


def test_every_format_gives_the_same_model(
    published: ViTHybridForImageClassification, tiny_folder: Path, tmp_path: Path
) -> None:
    jax.save(published, tmp_path / "model.npz", approximate=True)
    timm.save(published, tmp_path / "model.safetensors", approximate=True)
    weights = published.state_dict()
    for file in ("model.npz", "model.safetensors"):
        source = opening.open(tmp_path / file)
        model, processor = source.classifier((SIZE, SIZE)), source.processor((SIZE, SIZE))
        assert all(torch.equal(weights[name], weight) for name, weight in model.state_dict().items())
        assert processor.crop_size == {"height": SIZE, "width": SIZE}
        assert (source.fields()["hidden_size"], source.config.hidden_size) == (192, 192)
        wide = source.classifier((32, 96), 5)
        assert (wide.config.image_size, wide.config.num_labels, wide.training) == ([32, 96], 5, False)
        assert source.processor((96, 96)).crop_size == {"height": 96, "width": 96}
        backbone = source.backbone((32, 96), torch.bfloat16, out_features=["layer1", "layer2"])
        assert (backbone.dtype, backbone.training) == (torch.bfloat16, False)
        assert (backbone.config.image_size, backbone.out_features) == ([32, 96], ["layer1", "layer2"])
    source = opening.open(tiny_folder)
    model, processor = source.classifier(), source.processor()
    assert model.config.num_labels == 3
    assert processor.crop_size["height"] == model.config.image_size


def test_another_size_and_other_labels(tiny_folder: Path) -> None:
    source = opening.open(tiny_folder)
    model, processor = source.classifier((48, 48), num_labels=5), source.processor((48, 48))
    assert model.config.image_size == 48
    assert processor.crop_size == {"height": 48, "width": 48}
    assert processor.size == {"shortest_edge": 48}
    expected = source.classifier().resize_position_embeddings((16, 24), mode="bicubic", antialias=True)
    found, wanted = (one.vit.embeddings.position_embeddings for one in (source.classifier((16, 24)), expected))
    assert torch.equal(found, wanted)
    assert source.backbone((16, 24), torch.bfloat16).dtype == torch.bfloat16
    wide = source.processor((48, 96))
    assert (wide.size, wide.crop_size) == ({"shortest_edge": 48}, {"height": 48, "width": 96})
    assert model(torch.zeros(1, 3, 48, 48)).logits.shape == (1, 5)
    assert not model.classifier.weight.any()


def test_a_headless_model_opens_only_with_a_new_classifier(tiny_folder: Path, tmp_path: Path) -> None:
    ViTHybridModel.from_pretrained(tiny_folder, add_pooling_layer=False).save_pretrained(tmp_path / "headless")
    with pytest.raises(
        ModelLoadError, match=r"lack 2 .* \('classifier\.bias' is one\), so it is no trained classifier"
    ):
        opening.open(tmp_path / "headless").classifier()
    assert opening.open(tmp_path / "headless").backbone().channels == [16]
    model = opening.open(tmp_path / "headless").classifier(num_labels=2)
    assert model.config.num_labels == 2


def test_missing_weights_are_refused_with_a_new_classifier_too(tiny_folder: Path, tmp_path: Path) -> None:
    model = ViTHybridForImageClassification.from_pretrained(tiny_folder)
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if "stages.0" not in name}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelLoadError, match=r"lack 12 of .* so it is no trained classifier; fine-tune it first"):
        opening.open(tmp_path).classifier(num_labels=2)
    with pytest.raises(ModelLoadError, match=r"lack 12 of .* so it is no trained model; fine-tune it first"):
        opening.open(tmp_path).backbone()


class TestConfidence:
    """What `vit-hybrid calibrate` wrote comes through the door with the model it is of."""

    @pytest.fixture
    def calibrated(self, tiny_folder: Path, tmp_path: Path) -> Path:
        folder = tmp_path / "calibrated"
        shutil.copytree(tiny_folder, folder)
        logits, targets = np.random.default_rng(0).normal(size=(90, 3)), np.arange(90) % 3
        source = opening.open(folder)
        weights = source.provenance()["weights_sha256"]
        found = confidence.fit(
            logits, targets, labels_of(source.config), "single_label_classification", weights=weights, precision="f32"
        )
        confidence.write(found, folder)
        return folder

    def test_of_a_folder_and_of_the_hub(self, calibrated: Path, tiny_folder: Path, tmp_path: Path) -> None:
        found = opening.open(calibrated).confidence()
        assert found is not None
        assert len(found.sets["lac"].scores) == 45
        assert opening.open(tiny_folder).confidence() is None
        code = """
from vit_hybrid.checkpoints import opening
for name in ("somebody/calibrated", "somebody/plain"):
    found = opening.open(name).confidence()
    print(found and len(found.sets["lac"].scores))
"""
        with hub_server.LocalHub() as hub:
            hub.publish("somebody/calibrated", calibrated)
            hub.publish("somebody/plain", tiny_folder)
            settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
            assert fresh_process.run(code, env=settings).split() == ["45", "None"]

    def test_of_other_weights_or_without_its_numbers(self, calibrated: Path) -> None:
        (calibrated / "confidence.safetensors").rename(calibrated / "elsewhere")
        with pytest.raises(ModelLoadError, match=r"confidence.json without confidence.safetensors"):
            opening.open(calibrated).confidence()
        (calibrated / "confidence.safetensors").write_text(
            "version https://git-lfs.github.com/spec/v1\noid sha256:4d\n"
        )
        with pytest.raises(ModelLoadError, match=r"confidence\.json or confidence\.safetensors is a Git LFS pointer"):
            opening.open(calibrated).confidence()
        pointer = (calibrated / "confidence.safetensors").rename(calibrated / "pointer")
        (calibrated / "elsewhere").rename(calibrated / "confidence.safetensors")
        said = (calibrated / "confidence.json").rename(calibrated / "said")
        shutil.copy(pointer, calibrated / "confidence.json")
        with pytest.raises(ModelLoadError, match=r"confidence\.json or confidence\.safetensors is a Git LFS pointer"):
            opening.open(calibrated).confidence()
        said.rename(calibrated / "confidence.json")
        tiny_hybrid.save_tiny_model(calibrated)  # with other weights
        weights = calibrated / "model.safetensors"
        changed = {name: tensor + 1 for name, tensor in load_file(weights).items()}
        save_file(changed, weights, metadata={"format": "pt"})
        with pytest.raises(ModelLoadError, match="fitted for other weights than those beside it"):
            opening.open(calibrated).confidence()
