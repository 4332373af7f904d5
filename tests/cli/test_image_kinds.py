"""Kinds of pictures that people have, through every command that meets them: what is read right, and what is named."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from tiny_training import FIELDS, make_pictures
from typer.testing import CliRunner, Result

from vit_hybrid import Predictor
from vit_hybrid.cli.main import app

GRAY = np.tile(np.minimum(np.arange(48, dtype=np.float32) * 6, 255), (48, 1))
# As fractions, and how resampling leaves these; as levels of 255 likewise.
OVERSHOT = np.where(GRAY == 255, 1.02, np.where(GRAY == 0, -0.01, GRAY / 255)).astype(np.float32)
OVERSHOT_255 = np.where(GRAY == 255, 257.5, GRAY).astype(np.float32)
LARGE = (400, 300)
PIXELS = LARGE[0] * LARGE[1]


def tiff(path: Path, levels: np.ndarray) -> Path:
    """An uncompressed TIFF of the array's own type, which Pillow writes only some of."""
    height, width = levels.shape
    kind = {"u": 1, "i": 2, "f": 3}[levels.dtype.kind]
    tags = [(256, 4, width), (257, 4, height), (258, 3, levels.dtype.itemsize * 8), (259, 3, 1), (262, 3, 1)]
    tags += [(273, 4, 134), (277, 3, 1), (278, 4, height), (279, 4, levels.nbytes), (339, 3, kind)]
    entries = b"".join(struct.pack("<HHII", tag, size, 1, value) for tag, size, value in tags)
    content = levels.astype(levels.dtype.newbyteorder("<")).tobytes()
    path.write_bytes(b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4) + content)
    return path


def with_large_profile(path: Path) -> Path:
    content = path.read_bytes()
    data = b"iCCPbig\0\0" + zlib.compress(bytes(3_000_000))
    chunk = struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))
    path.write_bytes(content[:33] + chunk + content[33:])
    return path


# What no command can use, by name, and what each of them says of it.
NAMED = {
    "nan.tif": "it has NaN or infinite values where pixels should be",
    "ct.tif": "it has levels from -1024 to 3; expected 0 to 255, 0 to 65535 or fractions of 0 to 1; scale them first",
    "wide.tif": "it has levels from 3 to 70000; expected 0 to 255, 0 to 65535 or fractions of 0 to 1; scale them first",
    "large.png": f"has more pixels than the {PIXELS - 1} allowed; --max-pixels {PIXELS} lets it pass",
    "strip.png": "a picture of 1 x 90000 would be resized to 3",
}
LIMIT = ("--max-pixels", PIXELS - 1)


def add_odd_ones(folder: Path) -> None:
    for name, level, kind in (("nan", np.nan, np.float32), ("ct", -1024, np.int16), ("wide", 70_000, np.int32)):
        levels = np.full((40, 40), 3, kind)
        levels[5, 6] = level
        tiff(folder / f"{name}.tif", levels)
    Image.new("RGB", LARGE, "red").save(folder / "large.png")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/ and val/ of three classes, in each split one with all odd pictures."""
    folder = make_pictures(tmp_path_factory.mktemp("data"), train=3, val=2)
    for split in ("train", "val"):
        add_odd_ones(folder / split / "red")
    return folder


def command(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


class TestNamed:
    """Unusable pictures are skipped and named, each with its reason."""

    def check(self, errors: dict[str, str], names: set[str] = frozenset(NAMED) - {"strip.png"}) -> None:
        assert set(errors) == names
        for name, error in errors.items():
            assert NAMED[name] in error
            assert len(error) <= 500
            assert "\n" not in error

    def test_by_classify(self, data: Path, tiny_folder: Path) -> None:
        for fast in ((), ("--fast-decode",)):
            result = command("classify", data / "val" / "red", "--model", tiny_folder, "--json", *LIMIT, *fast)
            assert result.exit_code == 1
            records = [json.loads(line) for line in result.stdout.splitlines()]
            assert sum("predictions" in record for record in records) == 2
            self.check({Path(one["path"]).name: one["error"] for one in records if "error" in one})

    def test_by_evaluate(self, data: Path, tiny_folder: Path, tmp_path: Path) -> None:
        model = renamed(tiny_folder, tmp_path / "model")
        result = command("evaluate", model, data, "--json", "--device", "cpu", *LIMIT)
        assert result.exit_code == 1, result.stderr
        found = json.loads(result.stdout)
        assert found["images"] == 6
        self.check({Path(one["path"]).name: one["error"] for one in found["unreadable"]})

    def test_by_probe(self, data: Path, tiny_folder: Path) -> None:
        result = command("probe", data, "--model", tiny_folder, "--json", "--device", "cpu", *LIMIT)
        assert result.exit_code == 0, result.stderr
        found = json.loads(result.stdout)
        assert (found["train_images"], found["val_images"]) == (9, 6)
        assert len(found["unreadable"]) == 2 * (len(NAMED) - 1)
        self.check({Path(one["path"]).name: one["error"] for one in found["unreadable"]})

    def test_by_train(self, data: Path, tmp_path: Path) -> None:
        Image.new("L", (1, 90_000), 99).save(data / "val" / "blue" / "strip.png")
        recipe = tmp_path / "tiny.yaml"
        recipe.write_text(yaml.safe_dump({**FIELDS, "epochs": 1}), encoding="utf-8")
        try:
            result = command("train", data, "--output", tmp_path / "out", "--recipe", recipe, "--device", "cpu", *LIMIT)
        finally:
            (data / "val" / "blue" / "strip.png").unlink()
        assert result.exit_code == 0, result.stderr
        skipped = json.loads((tmp_path / "out" / "metrics.json").read_text())["skipped"]
        assert len(skipped) == 2 * len(NAMED) - 1
        self.check({Path(one.partition(": ")[0]).name: one for one in skipped}, set(NAMED))

    def test_by_export(self, data: Path, tiny_folder: Path, tmp_path: Path) -> None:
        calibration = data / "val" / "red"
        result = command(
            "export", tiny_folder, tmp_path / "out", "--engine", "torch", "--calibration", calibration, *LIMIT
        )
        assert result.exit_code == 0, result.stderr
        assert "on 2 pictures of red" in result.stdout
        assert "passed over: 4 pictures that cannot be read" in result.stderr

    def test_a_strip_by_all_that_resize_it(self, tiny_folder: Path, tmp_path: Path) -> None:
        Image.new("L", (1, 90_000), 99).save(tmp_path / "strip.png")
        for fast in ((), ("--fast-decode",)):
            result = command("classify", tmp_path / "strip.png", "--model", tiny_folder, *fast)
            assert result.exit_code == 1
            assert NAMED["strip.png"] in result.stderr

    def test_larger_ones_are_read_where_that_is_asked_for(self, data: Path, tiny_folder: Path) -> None:
        large = data / "val" / "red" / "large.png"
        allowed = ("--max-pixels", PIXELS)
        assert command("classify", large, "--model", tiny_folder, *allowed).exit_code == 0
        assert command("classify", large, "--model", tiny_folder, "--max-pixels", 0).exit_code == 2


def renamed(model: Path, folder: Path) -> Path:
    """The model with the classes of the data for labels."""
    from vit_hybrid import ViTHybridForImageClassification, ViTHybridImageProcessor

    found = ViTHybridForImageClassification.from_pretrained(model)
    found.config.id2label = dict(enumerate(("blue", "green", "red")))
    found.config.label2id = {name: index for index, name in found.config.id2label.items()}
    found.save_pretrained(folder)
    ViTHybridImageProcessor.from_pretrained(model).save_pretrained(folder)
    return folder


def write_plain(path: Path) -> Path:
    Image.fromarray(GRAY.astype(np.uint8)).save(path)
    return path


# The same picture as `write_plain`'s, on scales and with metadata that were lost or refused once.
SAME: dict[str, Callable[[Path], Path]] = {
    "fractions.tif": lambda path: tiff(path, GRAY / 255),
    "float65535.tif": lambda path: tiff(path, GRAY * 257),
    "float255.tif": lambda path: tiff(path, GRAY),
    "overshot.tif": lambda path: tiff(path, OVERSHOT),
    "overshot255.tif": lambda path: tiff(path, OVERSHOT_255),
    "uint16.tif": lambda path: tiff(path, GRAY.astype(np.uint16) * 257),
    "int32.tif": lambda path: tiff(path, GRAY.astype(np.int32) * 257),
    "profile.png": lambda path: with_large_profile(write_plain(path)),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders, one with the plain picture and one with all that are to look like it."""
    folder = tmp_path_factory.mktemp("same")
    (folder / "plain").mkdir()
    (folder / "same").mkdir()
    write_plain(folder / "plain" / "plain.png")
    for name, write in SAME.items():
        write(folder / "same" / name)
    return folder


class TestHeic:
    """What phones write, where pillow-heif is installed."""

    @pytest.fixture
    def phone(self, tmp_path: Path) -> Path:
        heif = pytest.importorskip("pillow_heif")
        folder = tmp_path / "phone"
        for name, color in (("blue", (40, 60, 200)), ("red", (200, 50, 40))):
            (folder / name).mkdir(parents=True)
            for number in range(3):
                picture = heif.from_pillow(Image.new("RGB", (64, 48), color))
                picture.save(folder / name / f"IMG_{number}.HEIC", quality=95)
                Image.new("RGB", (64, 48), color).save(folder / name / f"{number}.png")
        return folder

    def test_is_read_as_other_pictures_are(self, phone: Path, tiny_folder: Path) -> None:
        from vit_hybrid.data import find_unreadable, read_labeled

        pictures = read_labeled(phone)
        assert len(pictures) == 12
        assert find_unreadable(pictures) == []
        for index in range(len(pictures)):
            color = (40, 60, 200) if pictures.targets[index] == 0 else (200, 50, 40)
            np.testing.assert_allclose(pictures.picture(index).getpixel((30, 20)), color, atol=5)
        result = command("classify", phone / "red", "--model", tiny_folder, "--json", "--device", "cpu")
        assert result.exit_code == 0, result.stderr
        records = [json.loads(line) for line in result.stdout.splitlines()]
        labels = [{one["label"]: one["probability"] for one in record["predictions"]} for record in records]
        endings = [Path(record["path"]).suffix for record in records]
        assert labels[endings.index(".HEIC")] == pytest.approx(labels[endings.index(".png")], abs=0.01)


class TestTheSamePicture:
    @pytest.mark.parametrize("fast", [False, True])
    def test_to_predictor_and_classify(self, fast: bool, folder: Path, tiny_folder: Path) -> None:
        options = ("--fast-decode",) if fast else ()
        result = command("classify", folder, "--model", tiny_folder, "--json", "--device", "cpu", *options)
        assert result.exit_code == 0, result.stderr
        plain, *same = [json.loads(line)["predictions"] for line in result.stdout.splitlines()]
        assert len(same) == len(SAME)
        for predictions in same:
            assert [one["label"] for one in predictions] == [one["label"] for one in plain]
            probabilities = [one["probability"] for one in predictions]
            np.testing.assert_allclose(probabilities, [one["probability"] for one in plain], rtol=0, atol=1e-5)
        predictor = Predictor.from_pretrained(tiny_folder, device="cpu", fast_decode=fast)
        files = sorted((folder / "same").iterdir())
        arrays: list[Any] = [
            OVERSHOT,
            OVERSHOT_255,
            GRAY / 255,
            GRAY * 257.0,
            GRAY.astype(np.uint16) * 257,
            GRAY.astype(np.int64) * 257,
        ]
        found = predictor.logits([*files, *arrays])
        expected = predictor.logits(folder / "plain" / "plain.png")
        np.testing.assert_allclose(found, np.repeat(expected, len(found), 0), rtol=0, atol=1e-5)

    def test_to_probe(self, folder: Path, tiny_folder: Path) -> None:
        from vit_hybrid.data import read_labeled
        from vit_hybrid.probe import FrozenModel

        frozen = FrozenModel.from_pretrained(str(tiny_folder), ("plain", "same"), device="cpu")
        values = frozen.features(read_labeled(folder), strict=True).values
        np.testing.assert_allclose(values, np.repeat(values[:1], len(values), 0), rtol=0, atol=1e-5)

    def test_to_training(self, folder: Path, tiny_folder: Path) -> None:
        from vit_hybrid import ViTHybridImageProcessor
        from vit_hybrid.data import find_unreadable, read_labeled
        from vit_hybrid.images.preprocessing import Preprocessing
        from vit_hybrid.train.pictures import TrainingPictures, ValidationPictures
        from vit_hybrid.train.recipe import build_recipe

        pictures = read_labeled(folder)
        assert find_unreadable(pictures) == []
        steps = Preprocessing.from_dict(ViTHybridImageProcessor.from_pretrained(tiny_folder).to_dict())
        validation = ValidationPictures(pictures, steps)
        for index in range(len(pictures)):
            np.testing.assert_array_equal(validation[index]["pixel_values"], validation[0]["pixel_values"])
        plain = {"crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0), "flip": 0.0}
        for channels in (1, 3):
            training = TrainingPictures(pictures, build_recipe({**FIELDS, **plain}), (48, 48), channels, seed=0)
            for index in range(len(pictures)):
                np.testing.assert_array_equal(training[index]["pixels"][0], GRAY.astype(np.uint8))

    def test_to_calibration(self, folder: Path, tiny_folder: Path) -> None:
        from vit_hybrid import ViTHybridImageProcessor
        from vit_hybrid.bundles.calibration import calibration_pixels
        from vit_hybrid.images.preprocessing import Preprocessing

        steps = Preprocessing.from_dict(ViTHybridImageProcessor.from_pretrained(tiny_folder).to_dict())
        pixels = calibration_pixels(folder, steps, (3, 32, 32)).pixel_values
        assert len(pixels) == 1 + len(SAME)
        np.testing.assert_array_equal(pixels, np.repeat(pixels[:1], len(pixels), 0))
