from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from draws import DRAWS, near, noise, picture
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vit_hybrid.train.cropping import CropAndFlip, _shifted


def test_areas_and_ratios_of_crops_are_distributed_as_asked() -> None:
    # Narrow enough that every draw fits into the square.
    crop, rng = CropAndFlip(scale=(0.1, 0.5), ratio=(0.8, 1.25)), np.random.default_rng(1)
    boxes = np.array([crop.crop_box(200, 200, rng) for _ in range(DRAWS)])
    widths, heights = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    areas, ratios = widths * heights / 200**2, np.log(widths / heights)
    assert 0.1 - 1e-9 <= areas.min() < 0.105
    assert 0.495 < areas.max() <= 0.5 + 1e-9
    assert near(areas.mean(), 0.3, DRAWS, 0.4 / math.sqrt(12))
    assert np.abs(ratios).max() <= math.log(1.25) + 1e-9
    assert near(ratios.mean(), 0, DRAWS, 2 * math.log(1.25) / math.sqrt(12))
    # Where the crop lies in the room it has left is uniform.
    for edge, lengths in ((0, widths), (1, heights)):
        assert near((boxes[:, edge] / (200 - lengths)).mean(), 0.5, DRAWS, 1 / math.sqrt(12))


@given(st.integers(1, 400), st.integers(1, 400), st.integers(0, 2**32))
def test_crops_lie_inside_any_picture(width: int, height: int, seed: int) -> None:
    left, top, right, bottom = CropAndFlip().crop_box(width, height, np.random.default_rng(seed))
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    assert 3 / 4 - 1e-9 <= (right - left) / (bottom - top) <= 4 / 3 + 1e-9
    assert (right - left) * (bottom - top) <= width * height


@pytest.mark.parametrize(
    ("width", "height", "box"),
    [(1000, 30, (480, 0, 520, 30)), (30, 1000, (0, 480, 30, 520)), (100, 100, (0, 0, 100, 100))],
)
def test_a_crop_that_never_fits_comes_from_the_middle(width: int, height: int, box: tuple[int, ...]) -> None:
    crop = CropAndFlip(scale=(1.0, 1.0), ratio=(3 / 4, 4 / 3))
    # A square as a whole fits only where the ratio drawn is 1, which has probability 0.
    assert crop.crop_box(width, height, np.random.default_rng(0)) == pytest.approx(box)


def test_ten_crops_are_drawn_before_the_largest_is_taken() -> None:
    crop, rng = CropAndFlip(scale=(0.9, 1.0), ratio=(0.5, 2.0)), np.random.default_rng(0)
    whole = [crop.crop_box(100, 100, rng) == (0, 0, 100, 100) for _ in range(DRAWS)]
    # Of a share a one fits where the logarithm of its ratio is at most -log(a) either way; here a is 0.9 to 1.
    fits = (1 - 0.9 + 0.9 * math.log(0.9)) / 0.1 / math.log(2)
    found = sum(whole) / DRAWS
    assert (1 - fits) ** 10.4 < found < (1 - fits) ** 9.6


def test_the_result_shows_the_crop() -> None:
    columns, rows = np.meshgrid(np.arange(256), np.arange(256))
    gradient = Image.fromarray(np.stack([columns, rows, 0 * rows], axis=-1).astype(np.uint8))
    crop = CropAndFlip(flip=0.0)
    for seed in range(10):
        left, top, right, bottom = crop.crop_box(256, 256, np.random.default_rng(seed))
        result = crop(gradient, (8, 12), np.random.default_rng(seed)).astype(float)
        assert result.shape == (3, 8, 12)
        # The picture's level is its coordinate, so a pixel of the result says where it was; inner ones exactly.
        x = left + (np.arange(12) + 0.5) * (right - left) / 12 - 0.5
        y = top + (np.arange(8) + 0.5) * (bottom - top) / 8 - 0.5
        np.testing.assert_allclose(result[0, :, 1:-1], np.tile(x[1:-1], (8, 1)), atol=1.01)
        np.testing.assert_allclose(result[1, 1:-1, :], np.tile(y[1:-1, None], (1, 12)), atol=1.01)


def test_pictures_are_mirrored_with_the_probability_asked_for() -> None:
    source = picture(6, 6)
    upright = np.asarray(source).transpose(2, 0, 1)
    rng = np.random.default_rng(2)
    for flip in (0.0, 0.3, 1.0):
        whole = CropAndFlip(scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=flip)
        mirrored = 0
        for _ in range(DRAWS):
            result = whole(source, (6, 6), rng)
            is_mirrored = np.array_equal(result, upright[:, :, ::-1])
            assert is_mirrored or np.array_equal(result, upright)
            mirrored += is_mirrored
        assert mirrored == flip * DRAWS if flip in (0, 1) else near(mirrored / DRAWS, flip, DRAWS)


@pytest.mark.parametrize("options", [{}, {"shift": 4}, {"resample": int(Image.Resampling.BILINEAR)}])
def test_the_generator_decides_everything(options: dict[str, int]) -> None:
    augment, source = CropAndFlip(**options), picture(40, 50)
    state = torch.get_rng_state()
    first = [augment(source, (24, 32), np.random.default_rng(seed)) for seed in range(5)]
    again = [augment(source, (24, 32), np.random.default_rng(seed)) for seed in range(5)]
    for one, other in zip(first, again, strict=True):
        assert one.dtype == np.uint8
        assert one.shape == (3, 24, 32)
        np.testing.assert_array_equal(one, other)
    assert len({one.tobytes() for one in first}) == 5
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.asarray(source), noise(40, 50, 3))  # the picture itself is left as it was
    copy = pickle.loads(pickle.dumps(augment))
    np.testing.assert_array_equal(copy(source, (24, 32), np.random.default_rng(0)), first[0])


def test_shifted_pictures_are_followed_by_their_reflection() -> None:
    source = noise(9, 9, 3)
    padded = np.pad(source, ((2, 2), (2, 2), (0, 0)), mode="reflect")
    windows = {padded[y : y + 9, x : x + 9].transpose(2, 0, 1).tobytes(): (y, x) for y in range(5) for x in range(5)}
    augment, rng = CropAndFlip(shift=2, flip=0.0), np.random.default_rng(3)
    seen = [windows[augment(Image.fromarray(source), (9, 9), rng).tobytes()] for _ in range(1000)]
    counts = [seen.count(window) for window in windows.values()]
    assert min(counts) > 0
    assert all(near(count / 1000, 1 / 25, 1000) for count in counts)


def test_a_picture_moves_to_the_right_and_down() -> None:
    source = noise(9, 8, 3)
    moved = np.asarray(_shifted(Image.fromarray(source), 1, 2))
    np.testing.assert_array_equal(moved[2:, 1:], source[:-2, :-1])
    np.testing.assert_array_equal(moved[:2, 0], source[[2, 1], 1])  # the reflection


def test_a_shift_beyond_the_picture_goes_on_reflecting() -> None:
    augment, rng = CropAndFlip(shift=7), np.random.default_rng(0)
    for height, width in ((1, 1), (2, 3), (1, 6)):
        source = picture(height, width)
        levels = set(np.asarray(source)[..., 0].ravel().tolist())
        for _ in range(30):
            result = augment(source, (height, width), rng)
            assert result.shape == (3, height, width)
            assert set(result[0].ravel().tolist()) <= levels or height != width


def test_a_shifted_picture_keeps_its_aspect_ratio() -> None:
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 200
    result = CropAndFlip(shift=1, flip=0.5)(Image.fromarray(wide), (10, 10), np.random.default_rng(0))
    assert (result[:, :, 1:-1] > 150).all()  # the middle third, which is a square


@pytest.mark.parametrize("size", [(8, 24), (24, 8)])
def test_what_a_shifted_picture_shows_has_the_aspect_ratio_of_the_result(size: tuple[int, int]) -> None:
    """Of a square, a third of its height or of its width: from the middle, whole along the other axis."""
    levels = np.add.outer(np.arange(48) * 4, np.zeros(48)).astype(np.uint8)  # the row, four levels each
    along = np.stack([levels, levels.T, np.zeros_like(levels)], axis=2)
    result = CropAndFlip(shift=1, flip=0.0)(Image.fromarray(along), size, np.random.default_rng(0)).astype(int)
    height, width = size
    assert result.shape == (3, height, width)
    down, right = result[0, -1, 0] - result[0, 0, 0], result[1, 0, -1] - result[1, 0, 0]
    # From the first pixel's middle to the last one's: 48 rows of four levels each, or a third of them.
    shown = (16, 48) if width > height else (48, 16)
    expected = [4 * part * (1 - 1 / pixels) for part, pixels in zip(shown, size, strict=True)]
    assert [down, right] == pytest.approx(expected, abs=12)


@pytest.mark.parametrize(
    ("mode", "channels"),
    [
        ("1", 1),
        ("L", 1),
        ("LA", 2),
        ("RGB", 3),
        ("RGBA", 4),
        ("P", 3),
        ("PA", 3),
        ("I;16", 1),
        ("I", 1),
        ("F", 1),
        ("CMYK", 4),
    ],
)
@pytest.mark.parametrize("shift", [0, 2])
def test_pictures_of_any_mode(mode: str, channels: int, shift: int) -> None:
    result = CropAndFlip(shift=shift)(Image.new(mode, (12, 9)), (5, 7), np.random.default_rng(0))
    assert result.shape == (channels, 5, 7)
    assert result.dtype == np.uint8


def test_16_bits_become_8() -> None:
    source = Image.fromarray(np.full((6, 6), 65535, np.uint16))
    assert (CropAndFlip()(source, (4, 4), np.random.default_rng(0)) == 255).all()


def test_a_large_picture_is_reduced_without_visible_difference() -> None:
    smooth = Image.fromarray(noise(20, 20, 3)).resize((900, 700), Image.Resampling.BICUBIC)
    for seed in range(3):
        box = CropAndFlip().crop_box(900, 700, np.random.default_rng(seed))
        exact = np.asarray(smooth.resize((40, 40), Image.Resampling.BICUBIC, box)).transpose(2, 0, 1)
        fast = CropAndFlip(flip=0.0)(smooth, (40, 40), np.random.default_rng(seed))
        assert np.abs(exact.astype(int) - fast).mean() < 1.5


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"scale": (0.0, 1.0)}, "scale"),
        ({"scale": (0.5, 0.2)}, "scale"),
        ({"scale": (0.5, 1.2)}, "scale"),
        ({"scale": (0.1, 0.2, 0.3)}, "scale"),
        ({"ratio": (2.0, 1.0)}, "ratio"),
        ({"ratio": (1.0, math.inf)}, "ratio"),
        ({"ratio": (1.0, 1.5, 2.0)}, "ratio"),
        ({"flip": -0.1}, "flip"),
        ({"ratio": (0.0, 1.0)}, "ratio"),
        ({"flip": 1.5}, "flip"),
        ({"flip": float("nan")}, "flip"),
        ({"shift": -1}, "shift"),
        ({"shift": 0.5}, "shift"),
        ({"resample": 9}, r"resample is 9: expected one of 0 \(nearest\), .*3 \(bicubic\)"),
    ],
)
def test_impossible_crops_are_refused(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        CropAndFlip(**options)


def test_what_is_not_said_is_what_is_usual() -> None:
    usual = CropAndFlip(scale=(0.08, 1.0), ratio=(0.75, 4 / 3), flip=0.5, resample=Image.Resampling.BICUBIC, shift=0)
    assert CropAndFlip() == usual


@pytest.mark.parametrize("shift", [0, 1])
def test_pictures_are_resized_by_the_filter_that_is_asked_for(shift: int) -> None:
    checkered = Image.fromarray((np.indices((9, 9)).sum(0) % 2 * 200).astype(np.uint8))
    for resample, is_smooth in ((Image.Resampling.NEAREST, False), (Image.Resampling.BICUBIC, True)):
        crop = CropAndFlip(resample=int(resample), shift=shift)
        levels = set(crop(checkered, (13, 13), np.random.default_rng(0)).ravel().tolist())
        assert (levels == {0, 200}) != is_smooth


def test_a_picture_without_pixels_is_refused() -> None:
    with pytest.raises(ValueError, match="no pixels"):
        CropAndFlip()(Image.new("RGB", (0, 5)), (4, 4), np.random.default_rng(0))
