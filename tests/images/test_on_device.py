from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vit_hybrid.images.fast import Draft, FastPreprocessing, open_draft
from vit_hybrid.images.on_device import MODES, DevicePreprocessing
from vit_hybrid.images.preprocessing import Preprocessing

OFF_BY_TWO = 2.01  # levels; what is beyond is rounding of the input itself
MEAN, STD = (0.5, 0.4, 0.3), (0.5, 0.25, 0.2)
SMALL = Preprocessing(size=14, crop_size=(12, 13), image_mean=MEAN, image_std=STD)


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    """The hardest of all pictures to resize."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def jpeg(image: Image.Image, orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


def levels(apart: np.ndarray) -> np.ndarray:
    return np.abs(apart) * 255 * np.array(STD).reshape(3, 1, 1)


@given(
    height=st.integers(1, 150),
    width=st.integers(1, 150),
    size=st.integers(1, 100) | st.tuples(st.integers(1, 100), st.integers(1, 100)),
    crop=st.none() | st.tuples(st.integers(1, 120), st.integers(1, 120)),
    filter=st.sampled_from(list(MODES)),
    mode=st.sampled_from(["RGB", "L", "CMYK"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_noise_is_off_by_two_levels_at_most(height, width, size, crop, filter, mode, seed) -> None:
    height, width = min(height, 9 * width), min(width, 9 * height)  # keeps the resized picture small
    image = noise(height, width, seed).convert(mode)
    steps = Preprocessing(
        size=size,
        resample=filter,
        do_center_crop=crop is not None,
        crop_size=crop or (1, 1),
        image_mean=MEAN,
        image_std=STD,
    )
    exact, result = steps([image]), DevicePreprocessing(steps, "cpu")([image])
    assert result.shape == exact.shape
    assert result.dtype == torch.float32
    apart = levels(result.numpy() - exact)
    assert apart.max() < OFF_BY_TWO
    assert (apart > 0.5).sum() <= max(50, 0.2 * apart.size)


@pytest.mark.parametrize("filter", MODES)
def test_large_pictures(filter: int) -> None:
    steps = Preprocessing(size=96, crop_size=(96, 96), resample=filter, image_mean=MEAN, image_std=STD)
    for size in ((375, 500), (500, 375), (90, 1000), (1000, 90)):
        apart = levels(DevicePreprocessing(steps, "cpu")([noise(*size)]).numpy() - steps([noise(*size)]))
        assert apart.max() < OFF_BY_TWO
        assert (apart > 0.5).mean() < 0.01


def test_pictures_of_unlike_sizes_are_one_batch() -> None:
    pictures = [noise(40, 50), noise(50, 40, 1), noise(90, 90, 2).convert("L"), noise(14, 14, 3)]
    prepare = DevicePreprocessing(SMALL, torch.device("cpu"))
    batch = prepare(pictures)
    assert batch.shape == (4, 3, 12, 13)
    assert levels(batch.numpy() - SMALL(pictures)).max() < OFF_BY_TWO
    for picture, values in zip(pictures, batch, strict=True):
        assert torch.equal(prepare([picture])[0], values)


def test_pictures_of_three_channels_and_then_of_one_stay_what_they_are() -> None:
    steps = Preprocessing(size=14, crop_size=(12, 20), do_convert_rgb=False, image_mean=0.5, image_std=0.25)
    prepare = DevicePreprocessing(steps, "cpu")
    for image in (noise(30, 25), noise(30, 25).convert("L"), noise(30, 25)):
        apart = np.abs(prepare([image]).numpy() - steps([image])) * 255 * 0.25
        assert apart.max() < OFF_BY_TWO


@pytest.mark.parametrize("orientation", range(1, 9))
def test_scaled_pictures_are_resized_as_the_fast_way_does(orientation: int) -> None:
    steps = Preprocessing(size=(24, 48), crop_size=(20, 50), image_mean=MEAN, image_std=STD)
    image = open_draft(jpeg(noise(205, 409), orientation), steps)
    assert Draft.KEY in image.info
    apart = levels(DevicePreprocessing(steps, "cpu")([image]).numpy() - FastPreprocessing(steps)([image]))
    assert apart.max() < OFF_BY_TWO


@pytest.mark.parametrize(
    ("fields", "image"),
    [
        ({"do_resize": False}, noise(30, 25)),
        ({"resample": int(Image.Resampling.LANCZOS)}, noise(30, 25)),
        ({}, np.asarray(noise(30, 25))),
        ({"size": 2}, noise(160, 140)),
        ({"size": (2, 14)}, noise(160, 25)),
        ({"size": (14, 2)}, noise(25, 160)),
        ({}, noise(30, 1)),
        ({"crop_size": (12, 1)}, noise(30, 25)),
        ({"do_convert_rgb": False, "image_mean": 0.5, "image_std": 0.5}, noise(30, 25).convert("RGBA")),
    ],
)
def test_whatever_torch_does_not_resize_comes_from_the_fast_way(fields: dict[str, object], image: object) -> None:
    steps = Preprocessing(**{"size": 14, "crop_size": (12, 13)} | fields)
    result = DevicePreprocessing(steps, "cpu")([image])
    np.testing.assert_array_equal(result.numpy(), FastPreprocessing(steps)([image]))


@pytest.mark.parametrize(
    ("fields", "images", "message"),
    [
        ({}, [], "no image was given"),
        ({}, [noise(30, 25), Image.new("RGB", (0, 5))], "image 2 of 2: a picture of 0 x 5 has no pixels"),
        ({"image_std": (1.0, 0.0, 1.0)}, [noise(30, 25)], "image_std must not contain 0"),
        ({"do_center_crop": False}, [noise(30, 25), noise(25, 30)], "do not fit into one batch"),
    ],
)
def test_errors_are_those_of_the_exact_way(fields: dict[str, object], images: list[object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DevicePreprocessing(Preprocessing(**{"size": 14, "crop_size": (12, 13)} | fields), "cpu")(images)


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    pictures = [noise(375, 500), noise(500, 333, 1), noise(1000, 90, 2), noise(90, 90, 3).convert("L")]
    for filter in MODES:
        for edge in (64, 384):
            steps = Preprocessing(size=edge, crop_size=(edge, edge), resample=filter, image_mean=MEAN, image_std=STD)
            batch = DevicePreprocessing(steps, "cuda")(pictures)
            assert batch.device.type == "cuda"
            apart = levels(batch.cpu().numpy() - steps(pictures))
            assert apart.max() < OFF_BY_TWO
            assert (apart > 0.5).mean() < 0.01
            scaled = [open_draft(jpeg(noise(205, 409), orientation), steps) for orientation in range(1, 9)]
            apart = levels(DevicePreprocessing(steps, "cuda")(scaled).cpu().numpy() - FastPreprocessing(steps)(scaled))
            assert apart.max() < OFF_BY_TWO
