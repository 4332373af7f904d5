"""`vit-hybrid convert` as a person and as a script meet it."""

from __future__ import annotations

import json
import os
import pty
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fresh_process import TIME_LIMIT
from typer.testing import CliRunner, Result

from vit_hybrid import Predictor, ViTHybridConfig, ViTHybridForImageClassification, ViTHybridImageProcessor
from vit_hybrid.checkpoints import jax, timm
from vit_hybrid.checkpoints.converting import target_of
from vit_hybrid.cli.main import app
from vit_hybrid.files import MARK

JAX_FILE = Path(__file__).resolve().parents[1] / "recorded" / "jax" / "stem_only.npz"
SIDE, LABELS = 32, 5  # of that file
FOLDER_FILES = ["config.json", "model.safetensors", "preprocessor_config.json"]
EXIT_REFUSED = 2


def convert(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["convert", *map(str, arguments)])


def refusal(*arguments: str | Path) -> str:
    """The one line that a refused command ends with."""
    result = convert(*arguments)
    assert result.exit_code == EXIT_REFUSED, result.output
    assert not result.stdout
    assert "Traceback" not in result.stderr
    return result.stderr.splitlines()[-1]


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def equal(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    one, other = first.state_dict(), second.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model of this package with JAX's numerics."""
    assert convert(JAX_FILE, tmp_path / "folder").exit_code == 0
    return tmp_path / "folder"


@pytest.fixture
def timm_numerics(tmp_path: Path, tiny_model: Any) -> Path:
    """A model of this package with timm's numerics, and an image processor that crops."""
    from tiny_hybrid import tiny_config

    backbone = {"depths": [1], "hidden_sizes": [128], "embedding_size": 32, "global_padding": "same"}
    backbone |= {"embedding_dynamic_padding": True, "layer_type": "bottleneck", "out_features": ["stage1"]}
    config = tiny_config(backbone_config=backbone, hidden_size=64, num_attention_heads=1, layer_norm_eps=1e-6)
    ViTHybridForImageClassification(config).save_pretrained(tmp_path / "timm_like")
    crop = {"height": 32, "width": 32}
    ViTHybridImageProcessor(size={"shortest_edge": 35}, crop_size=crop).save_pretrained(tmp_path / "timm_like")
    return tmp_path / "timm_like"


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("a.npz", "jax"),
        ("a.NPZ", "jax"),
        ("a.pth", "timm"),
        ("a.SafeTensors", "timm"),
        ("a.v2", "folder"),
        ("a", "folder"),
    ],
)
def test_an_ending_says_what_is_written(name: str, target: str) -> None:
    assert target_of(Path(name)) == target


class TestToAFolder:
    def test_from_jax(self, tmp_path: Path) -> None:
        out = tmp_path / "new" / "folder"
        result = convert(JAX_FILE, out)
        assert result.exit_code == 0, result.stderr
        assert result.stdout == f"{out}: 21,485 parameters, {SIDE} x {SIDE} pixels, {LABELS} labels\n"
        assert files(out) == [*FOLDER_FILES, MARK]
        assert equal(ViTHybridForImageClassification.from_pretrained(out), jax.load(JAX_FILE))
        processor = ViTHybridImageProcessor.from_pretrained(out)
        assert processor.to_dict() == jax.image_processor(JAX_FILE).to_dict()
        assert len(Predictor.from_pretrained(out, device="cpu")(np.zeros((40, 50, 3), np.uint8))) == LABELS
        assert files(tmp_path) == ["new"]

    def test_files_may_be_read_by_whom_the_system_lets(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "plain").touch()
        usual = stat.S_IMODE((tmp_path / "plain").stat().st_mode)
        assert {stat.S_IMODE((folder / name).stat().st_mode) for name in FOLDER_FILES} == {usual}

    def test_from_timm(self, timm_numerics: Path, tmp_path: Path) -> None:
        file, out = tmp_path / "weights.SafeTensors", tmp_path / "out"
        assert convert(timm_numerics, file).exit_code == 0
        assert convert(file, out).exit_code == 0
        original = ViTHybridForImageClassification.from_pretrained(timm_numerics)
        assert equal(ViTHybridForImageClassification.from_pretrained(out), original)
        processor = ViTHybridImageProcessor.from_pretrained(out)
        assert (processor.size, processor.crop_size["height"]) == ({"shortest_edge": 35}, 32)

    def test_weights_that_say_nothing_of_preprocessing(self, timm_numerics: Path, tmp_path: Path) -> None:
        path, out = tmp_path / "weights.pth", tmp_path / "out"
        timm.save(ViTHybridForImageClassification.from_pretrained(timm_numerics), path)
        torch.save(dict(torch.load(path)), path)  # without what `timm.save` keeps beside the weights
        result = convert(path, out)
        assert result.exit_code == 0, result.stderr
        assert "does not say how images are prepared" in result.stderr
        assert ViTHybridImageProcessor.from_pretrained(out).image_mean == [0.5, 0.5, 0.5]

    def test_from_a_folder_without_an_image_processor(self, folder: Path, tmp_path: Path) -> None:
        (folder / "preprocessor_config.json").unlink()
        result = convert(folder, tmp_path / "out", "--image-size", "32x48")
        assert result.exit_code == 0, result.stderr
        assert "does not say how images are prepared" in result.stderr
        assert result.stdout.endswith(f" parameters, 32 x 48 pixels, {LABELS} labels\n")
        processor = ViTHybridImageProcessor.from_pretrained(tmp_path / "out")
        assert processor.size == processor.crop_size == {"height": 32, "width": 48}

    def test_for_scripts(self, tmp_path: Path) -> None:
        result = convert(JAX_FILE, tmp_path / "out", "--image-size", "32x48", "--num-labels", "2", "--json")
        assert json.loads(result.stdout) == {
            "source": str(JAX_FILE),
            "output": str(tmp_path / "out"),
            "parameters": ViTHybridForImageClassification.from_pretrained(tmp_path / "out").num_parameters(),
            "image_size": [32, 48],
            "num_labels": 2,
        }

    def test_the_model_in_the_box(self, tmp_path: Path) -> None:
        assert convert("vit-hybrid-tiny-imagenet", tmp_path / "out", "--num-labels", "0").exit_code == 0
        assert ViTHybridForImageClassification.from_pretrained(tmp_path / "out").config.num_labels == 0


class TestFromAFolder:
    def test_to_jax(self, folder: Path, tmp_path: Path) -> None:
        assert convert(folder, tmp_path / "again.npz").exit_code == 0
        assert equal(jax.load(tmp_path / "again.npz"), jax.load(JAX_FILE))
        assert convert(folder, tmp_path / "CAPITALS.NPZ", "--to", "jax").exit_code == 0
        assert (tmp_path / "CAPITALS.NPZ").read_bytes()[:2] == b"PK"

    def test_to_timm_in_a_folder(self, timm_numerics: Path, tmp_path: Path) -> None:
        line = refusal(timm_numerics, tmp_path / "out", "--to", "timm")  # no architecture of timm's is that small
        assert f"{tmp_path / 'out'} was not written" in line
        assert not (tmp_path / "out").exists()

    def test_to_timm_in_a_folder_with_what_timm_computes_otherwise(self, tmp_path: Path) -> None:
        config = ViTHybridConfig.from_preset(
            "R+Ti/16", image_size=64, num_labels=2, num_hidden_layers=1, hidden_act="gelu_new"
        )
        ViTHybridForImageClassification(config).save_pretrained(tmp_path / "own")
        crop = {"height": 64, "width": 64}
        ViTHybridImageProcessor(size={"shortest_edge": 70}, crop_size=crop).save_pretrained(tmp_path / "own")
        out = tmp_path / "out"
        assert "hidden_act is 'gelu_new'" in refusal(tmp_path / "own", out, "--to", "timm")
        assert convert(tmp_path / "own", out, "--to", "timm", "--approximate").exit_code == 0
        assert files(out) == ["config.json", "model.safetensors", MARK]
        assert timm.image_processor(out).size == {"shortest_edge": 70}
        assert equal(timm.load(out), ViTHybridForImageClassification.from_pretrained(tmp_path / "own"))

    def test_other_numerics_are_refused_or_named(self, folder: Path, tmp_path: Path) -> None:
        out = tmp_path / "weights.safetensors"
        assert "hidden_act is 'gelu_pytorch_tanh'" in refusal(folder, out)
        assert not out.exists()
        result = convert(folder, out, "--approximate")
        assert result.exit_code == 0, result.stderr
        assert "hidden_act is 'gelu_pytorch_tanh'" in result.stderr
        assert equal(timm.load(out), jax.load(JAX_FILE))

    def test_other_numerics_than_those_of_jax_are_refused_or_named(self, timm_numerics: Path, tmp_path: Path) -> None:
        out = tmp_path / "weights.npz"
        assert "weight_standardization is 'variance'" in refusal(timm_numerics, out)
        assert not out.exists()
        result = convert(timm_numerics, out, "--approximate")
        assert result.exit_code == 0, result.stderr
        assert "weight_standardization is 'variance'" in result.stderr
        assert equal(jax.load(out), ViTHybridForImageClassification.from_pretrained(timm_numerics))

    def test_other_epsilons_alone_are_only_named(self, timm_numerics: Path, tmp_path: Path) -> None:
        model = ViTHybridForImageClassification.from_pretrained(timm_numerics, layer_norm_eps=1e-12)
        model.save_pretrained(tmp_path / "legacy")
        processor = ViTHybridImageProcessor.from_pretrained(timm_numerics, image_mean=[0.1, 0.2, 0.3])
        processor.save_pretrained(tmp_path / "legacy")
        result = convert(tmp_path / "legacy", tmp_path / "weights.safetensors")
        assert result.exit_code == 0, result.stderr
        assert "layer_norm_eps is 1e-12, in timm 1e-06" in result.stderr
        assert equal(timm.load(tmp_path / "weights.safetensors"), model)
        assert timm.image_processor(tmp_path / "weights.safetensors").image_mean == [0.1, 0.2, 0.3]


class TestAdapting:
    @pytest.mark.parametrize(("option", "size"), [("48", 48), ("48x48", 48), ("32x64", [32, 64])])
    def test_another_size(self, option: str, size: Any, tmp_path: Path) -> None:
        assert convert(JAX_FILE, tmp_path / "out", "--image-size", option).exit_code == 0
        model = ViTHybridForImageClassification.from_pretrained(tmp_path / "out")
        assert model.config.image_size == size
        pair = (size, size) if isinstance(size, int) else tuple(size)
        assert equal(model, jax.load(JAX_FILE, image_size=pair))
        processor = ViTHybridImageProcessor.from_pretrained(tmp_path / "out")
        assert (processor.crop_size["height"], processor.crop_size["width"]) == pair

    def test_another_size_of_a_folder_keeps_the_border_that_is_cut_off(
        self, timm_numerics: Path, tmp_path: Path
    ) -> None:
        assert convert(timm_numerics, tmp_path / "out", "--image-size", "64").exit_code == 0
        processor = ViTHybridImageProcessor.from_pretrained(tmp_path / "out")
        assert (processor.size, processor.crop_size) == ({"shortest_edge": 70}, {"height": 64, "width": 64})

    @pytest.mark.parametrize("source", ["jax", "folder"])
    def test_other_labels_are_new_and_said_to_be(self, source: str, folder: Path, tmp_path: Path) -> None:
        result = convert(JAX_FILE if source == "jax" else folder, tmp_path / "out", "--num-labels", "3")
        assert result.exit_code == 0, result.stderr
        assert "vit-hybrid: The classifier is new: 3 classes, all weights zero." in result.stderr
        model = ViTHybridForImageClassification.from_pretrained(tmp_path / "out")
        assert model.classifier.weight.shape[0] == 3
        assert not model.classifier.weight.any()

    def test_a_size_that_is_none(self, tmp_path: Path) -> None:
        result = convert(JAX_FILE, tmp_path / "out", "--image-size", "big")
        assert result.exit_code == EXIT_REFUSED
        assert "big" in result.stderr


class TestRefusals:
    def test_damaged_and_foreign_files(self, tmp_path: Path) -> None:
        bad = tmp_path / "bad.npz"
        bad.write_bytes(JAX_FILE.read_bytes()[:50_000])
        assert "truncated" in refusal(bad, tmp_path / "out")
        with np.load(JAX_FILE) as arrays:
            np.savez(bad, **{name: array for name, array in arrays.items() if name != "cls"})
        assert "Missing (1): cls (1, 1, 24)." in refusal(bad, tmp_path / "out")
        assert files(tmp_path) == ["bad.npz"]

    def test_sources_that_are_not_there(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        for name in ("none.npz", "none.safetensors", "none.pth", str(tmp_path / "none" / "deep")):
            assert name in refusal(name, tmp_path / "out")
        (tmp_path / "empty").mkdir()
        assert "config.json" in refusal(tmp_path / "empty", tmp_path / "out")
        assert files(tmp_path) == ["empty"]

    def test_a_folder_of_another_model(self, tmp_path: Path) -> None:
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "config.json").write_text(json.dumps({"model_type": "vit"}))
        assert "model_type 'vit'" in refusal(tmp_path / "other", tmp_path / "out")

    def test_an_existing_model_is_kept_unless_told(self, folder: Path, tmp_path: Path) -> None:
        before = {name: (folder / name).read_bytes() for name in FOLDER_FILES}
        assert "--overwrite" in refusal(JAX_FILE, folder)
        assert {name: (folder / name).read_bytes() for name in FOLDER_FILES} == before
        (folder / "notes.txt").write_text("mine")
        other = tmp_path / "other"
        other.mkdir()
        parts = ("model-00001-of-00002.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
        for stale in (*parts, "confidence.json", "confidence.safetensors"):
            (folder / stale).write_text("stale")
            (other / stale).touch()
            assert f"there is a model already ({stale})" in refusal(JAX_FILE, other)
            (other / stale).unlink()
        other.rmdir()
        assert convert(JAX_FILE, folder, "--overwrite", "--num-labels", "2").exit_code == 0
        assert files(folder) == sorted([*FOLDER_FILES, MARK, "notes.txt"])
        assert ViTHybridForImageClassification.from_pretrained(folder).config.num_labels == 2
        file = tmp_path / "there.npz"
        file.touch()  # with nothing in it it is somebody's, too
        assert "there.npz: there is a model already (there.npz); give another name" in refusal(folder, file)
        file.write_text("old")
        result = convert(folder, file, "--overwrite")
        assert result.exit_code == 0
        assert f"Writing {file}" in result.stderr.splitlines()  # without the size of what it replaces
        assert jax.read_config(file).num_labels == 2

    def test_a_folder_with_other_things_takes_the_model_in(self, tmp_path: Path) -> None:
        (tmp_path / "README.md").write_text("mine")
        assert convert(JAX_FILE, tmp_path).exit_code == 0
        assert files(tmp_path) == sorted([*FOLDER_FILES, MARK, "README.md"])

    def test_files_and_folders_are_not_mixed_up(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        assert "this is a file" in refusal(JAX_FILE, tmp_path / "file")
        assert "Not a directory" in refusal(JAX_FILE, tmp_path / "file" / "out")
        (tmp_path / "folder.npz").mkdir()
        assert "this is a folder" in refusal(JAX_FILE, tmp_path / "folder.npz")
        assert "ends in .npz" in refusal(JAX_FILE, tmp_path / "weights", "--to", "jax")

    @pytest.mark.parametrize("name", [b"sort\xe9e", b"sort\xe9e.safetensors"])
    def test_a_name_from_which_no_weights_can_be_read(self, name: bytes, tmp_path: Path) -> None:
        assert "sort\\xe9e" in refusal(JAX_FILE, tmp_path / os.fsdecode(name))
        assert "this name is no UTF-8, and no weights can be read from it" in refusal(
            JAX_FILE, tmp_path / os.fsdecode(name)
        )
        assert list(tmp_path.iterdir()) == []


class TestNothingHalfWritten:
    @pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
    @pytest.mark.parametrize("out", ["out", "deep/out", "there"])
    def test_a_folder(self, error: BaseException, out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "there").mkdir()
        before = files(tmp_path)

        def fail(self: Any, folder: Path) -> None:
            assert files(Path(folder)) == ["config.json", "model.safetensors"]
            raise error

        monkeypatch.setattr(ViTHybridImageProcessor, "save_pretrained", fail)
        result = convert(JAX_FILE, tmp_path / out)
        assert result.exit_code != 0
        assert "Traceback" not in result.stderr
        if isinstance(error, OSError):
            assert "No space left on device" in result.stderr
        assert files(tmp_path) == before
        assert not files(tmp_path / "there")

    def test_a_file(self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        before = files(tmp_path)
        monkeypatch.setattr(np.lib.format, "write_array", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "full")))
        assert "full" in refusal(folder, tmp_path / "deep" / "out.npz")
        assert files(tmp_path) == before

    @pytest.mark.parametrize("out", ["out", "out.npz"])
    def test_what_a_killed_conversion_left_is_swept_by_the_next(self, out: str, folder: Path, tmp_path: Path) -> None:
        with subprocess.Popen([sys.executable, "-c", ""]) as ended:
            ended.wait()
        left = tmp_path / f".{out}.{ended.pid}.partial"
        left.mkdir() if out == "out" else left.touch()
        assert convert(folder, tmp_path / out).exit_code == 0
        assert files(tmp_path) == ["folder", out]


class TestProgress:
    def test_steps_are_said_where_there_is_no_terminal(self, tmp_path: Path) -> None:
        lines = convert(JAX_FILE, tmp_path / "out").stderr.splitlines()
        assert lines[0] == f"Reading {JAX_FILE} (0.1 MB)"
        assert lines[1] == f"Writing {tmp_path / 'out'}"
        first, *_ = convert(tmp_path / "out", tmp_path / "again").stderr.splitlines()
        assert first == f"Reading {tmp_path / 'out'}"

    def test_shares_are_told_now_and_then(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("vit_hybrid.cli.convert.PATIENCE_SECONDS", 0.0)
        lines = convert(JAX_FILE, tmp_path / "out.npz").stderr.splitlines()
        assert f"Reading {JAX_FILE} (0.1 MB): 100%" in lines
        assert f"Writing {tmp_path / 'out.npz'}: 100%" in lines

    @pytest.mark.skipif(sys.platform != "linux", reason="needs a pseudo-terminal")
    def test_a_bar_on_a_terminal(self, tmp_path: Path) -> None:
        controller, terminal = pty.openpty()
        command = [sys.executable, "-m", "vit_hybrid", "convert", str(JAX_FILE), str(tmp_path / "out.npz")]
        environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "200"}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=terminal, env=environment)
        os.close(terminal)
        shown = b""
        while True:
            try:
                chunk = os.read(controller, 65536)
            except OSError:  # as a pseudo-terminal ends
                break
            if not chunk:
                break
            shown += chunk
        stdout, _ = process.communicate(timeout=TIME_LIMIT)
        os.close(controller)
        assert process.returncode == 0
        assert b"Reading" in shown
        assert b"%" in shown
        assert b"Writing" in shown
        assert b"\x1b[2K" in shown.rpartition(b"Writing")[2]  # and the bar is gone again
        assert stdout.startswith(str(tmp_path / "out.npz").encode())
