"""Labeled pictures as Trainer's loaders take them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_training import CLASSES, FIELDS, make_pictures, trained
from transformers import TrainerCallback

from vit_hybrid.data import LabeledPictures, read_labeled
from vit_hybrid.images.preprocessing import Preprocessing
from vit_hybrid.images.reading import ImageReadError
from vit_hybrid.train import job
from vit_hybrid.train import pictures as pictures_module
from vit_hybrid.train.cropping import CropAndFlip
from vit_hybrid.train.pictures import EpochSampler, TrainingPictures, ValidationPictures, collate
from vit_hybrid.train.recipe import build_recipe


@pytest.fixture
def pictures(tmp_path: Path) -> LabeledPictures:
    """Seven blue ones, seven green ones, seven red ones."""
    return read_labeled(make_pictures(tmp_path / "data"), "train")


def test_every_epoch_has_every_picture_once_in_an_order_of_its_own() -> None:
    sampler = EpochSampler(10, seed=3)
    orders = []
    for epoch in (0, 1, 5):
        sampler.set_epoch(epoch)
        keys = list(sampler)
        assert sorted(keys) == list(range(10 * epoch, 10 * epoch + 10))
        assert list(sampler) == keys  # as often as it is asked
        orders.append([key % 10 for key in keys])
    assert len({tuple(order) for order in orders}) == 3
    assert list(EpochSampler(10, seed=4)) != list(EpochSampler(10, seed=3))


@pytest.mark.parametrize(("length", "batch_size", "repeated"), [(10, 4, 2), (8, 4, 0), (3, 4, 0), (5, 4, 3)])
def test_the_last_batch_is_filled_up_with_the_epochs_first_pictures(
    length: int, batch_size: int, repeated: int
) -> None:
    sampler = EpochSampler(length, seed=0, batch_size=batch_size)
    sampler.set_epoch(2)
    keys = list(sampler)
    assert len(keys) == len(sampler) == length + repeated
    assert keys[length:] == keys[:repeated]
    assert sorted(keys[:length]) == list(range(2 * length, 3 * length))


def test_a_picture_is_cropped_anew_each_epoch_and_alike_each_time_it_is_read(
    pictures: LabeledPictures,
) -> None:
    def crops(seed: int) -> list[np.ndarray]:
        examples = TrainingPictures(pictures, build_recipe(FIELDS), (16, 16), 3, seed=seed)
        return [examples[key]["pixels"] for key in (4, len(pictures) + 4, 4)]

    first, next_epoch, again = crops(seed=0)
    np.testing.assert_array_equal(first, again)
    assert (first != next_epoch).any()
    assert (crops(seed=1)[0] != first).any()


def test_no_two_pictures_are_cropped_by_the_same_draws(pictures: LabeledPictures) -> None:
    examples = TrainingPictures(pictures, build_recipe(FIELDS), (16, 16), 3, seed=0)
    draws: list[float] = []

    def draw(picture: Any, size: Any, random: np.random.Generator) -> Any:
        draws.append(random.random())
        return np.zeros((3, *size), np.uint8)

    examples.crop = draw  # type: ignore[assignment]
    for key in range(2 * len(pictures)):
        examples[key]
    assert len(set(draws)) == 2 * len(pictures)


def test_pictures_grow_with_the_epochs(pictures: LabeledPictures) -> None:
    phases = [{"image_size": 8, "epochs": 2}, {"image_size": 24, "epochs": 1}]
    examples = TrainingPictures(pictures, build_recipe({**FIELDS, "growing": phases, "epochs": 3}), (16, 12), 3, seed=0)
    assert [examples[epoch * len(pictures)]["pixels"].shape[1:] for epoch in range(3)] == [(8, 8), (8, 8), (24, 24)]
    still = TrainingPictures(pictures, build_recipe(FIELDS), (16, 12), 3, seed=0)
    assert still[len(pictures)]["pixels"].shape == (3, 16, 12)


def test_pictures_are_cropped_and_mirrored_as_the_recipe_says(pictures: LabeledPictures) -> None:
    how: dict[str, Any] = {"flip": 0.25, "shift": 3}
    fields = {**FIELDS, **how, "crop_scale": (0.5, 0.75), "crop_ratio": (0.9, 1.1)}
    examples = TrainingPictures(pictures, build_recipe(fields), (16, 16), 3, seed=0)
    assert examples.crop == CropAndFlip(scale=(0.5, 0.75), ratio=(0.9, 1.1), **how)


def test_pictures_to_validate_with_have_no_more_pixels_than_is_allowed(tmp_path: Path) -> None:
    data = make_pictures(tmp_path / "data", 1, 1)
    preprocessing = Preprocessing.from_dict({"size": {"shortest_edge": 8}, "crop_size": {"height": 8, "width": 8}})
    for most in (24 * 24, 24 * 24 - 1):
        examples = ValidationPictures(read_labeled(data, "val", max_pixels=most), preprocessing)
        if most == 24 * 24:
            assert examples[2]["pixel_values"].shape == (3, 8, 8)
            assert examples[2]["targets"] == 2
        else:
            with pytest.raises(ImageReadError, match=r"data/val/red/0\.png: .*575"):
                examples[2]


def lost(pictures: LabeledPictures, *indices: int) -> TrainingPictures:
    """The pictures as a run takes them, some of which have gone since it looked."""
    for index in indices:
        Path(pictures.name(index)).unlink()
    return TrainingPictures(pictures, build_recipe(FIELDS), (16, 16), 3, seed=0)


def color(example: dict[str, Any]) -> str:
    mean = example["pixels"].mean((1, 2))
    return min(CLASSES, key=lambda name: np.abs(mean - CLASSES[name]).sum())


def test_the_picture_that_stands_in_for_a_lost_one_brings_its_own_label(pictures: LabeledPictures) -> None:
    examples = lost(pictures, 5, 6, 20)
    for index, label, name in ((5, "green", "5.png"), (6, "green", "6.png"), (20, "blue", "6.png")):
        example = examples[index]
        assert pictures.labels[example["targets"]] == label == color(example)
        assert example["unreadable"].startswith(str(Path(pictures.name(index))))
        assert name in example["unreadable"]
    sound = examples[7]
    assert (pictures.labels[sound["targets"]], color(sound), sound["unreadable"]) == ("green", "green", None)
    batch = collate([examples[7], examples[20], examples[8], examples[5]])
    assert [Path(reason.partition(": ")[0]).parent.name for reason in batch["unreadable"]] == ["red", "blue"]
    assert [pictures.labels[target] for target in batch["targets"]] == ["green", "blue", "green", "green"]


def test_fifteen_others_are_tried_in_the_place_of_one(pictures: LabeledPictures) -> None:
    examples = lost(pictures, *range(3, 18))
    assert color(examples[3]) == "red"  # the nineteenth
    Path(pictures.name(18)).unlink()
    assert color(examples[4]) == "red"
    with pytest.raises(ImageReadError, match=r"blue.3\.png"):
        examples[3]


def test_data_that_are_gone_are_no_data(pictures: LabeledPictures) -> None:
    examples = lost(pictures, *range(21))
    with pytest.raises(ImageReadError, match=r"blue.3\.png"):
        examples[3]


class Losing(TrainerCallback):
    """A picture that is lost when training begins."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.path.unlink()


def test_a_run_says_which_pictures_it_replaced_in_any_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "gathered", lambda mine: [mine, {*mine, "a picture of another process"}])
    data = make_pictures(tmp_path / "data")
    path = data / "train" / "red" / "3.png"
    lines: list[str] = []
    trained(data, tmp_path / "out", {"report": lines.append, "callbacks": [Losing(path)]}, epochs=1)
    mine, other = [line for line in lines if line.startswith("replaced by another picture: ")]
    assert mine.startswith(f"replaced by another picture: {path}")
    assert other == "replaced by another picture: a picture of another process"


def test_a_palette_is_of_colors_whatever_is_transparent_in_it() -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([255, 0, 0, 0, 255, 0])
    picture.putdata([0, 1])
    picture.info["transparency"] = b"\x00\xff"
    assert np.asarray(pictures_module._in_mode(picture, 1)).tolist() == [[76, 150]]
    assert np.asarray(pictures_module._in_mode(picture, 4)).tolist() == [[[255, 0, 0, 255], [0, 255, 0, 255]]]


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGB", "I;16", "CMYK"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pictures_of_every_mode_become_what_the_model_takes(mode: str, channels: int, tmp_path: Path) -> None:
    levels = np.tile(np.array([[0, 255]], np.uint8), (16, 8))
    gray = Image.fromarray(levels)
    if mode == "I;16":
        gray = Image.fromarray(levels.astype(np.uint16) * 257)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (gray if mode == "I;16" else gray.convert(mode)).save(tmp_path / name / "one.tif")
    recipe = build_recipe({**FIELDS, "crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0), "flip": 0.0})
    pixels = TrainingPictures(read_labeled(tmp_path), recipe, (16, 16), channels, seed=0)[0]["pixels"]
    assert pixels.shape == (channels, 16, 16)
    np.testing.assert_allclose(pixels[:3], np.broadcast_to(levels, (min(channels, 3), 16, 16)), atol=2)
