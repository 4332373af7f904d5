from __future__ import annotations

import legacy_pictures
import numpy as np
import pytest
from PIL import Image

from vit_hybrid.images import levels

RGB = legacy_pictures.levels(17, 23)


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((5, 6), "none"),
        ((5, 6, 3), "channels_last"),
        ((5, 6, 1), "channels_last"),
        ((3, 5, 6), "channels_first"),
        ((1, 5, 6), "channels_first"),
        ((5, 6, 4), "channels_last"),
        ((4, 5, 6), "channels_first"),
        ((4, 5, 3), "channels_last"),
        ((3, 5, 4), "channels_first"),
    ],
)
def test_layout_is_inferred(shape: tuple[int, ...], layout: str) -> None:
    assert levels.infer_layout(shape) == layout


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int32", "float16"])
def test_levels_are_numbers_or_truth_values(dtype: str) -> None:
    assert levels.channels_last(np.ones((5, 6), dtype), "none").shape == (5, 6, 1)


@pytest.mark.parametrize("dtype", ["complex64", "U1"])
def test_levels_that_are_neither_are_refused(dtype: str) -> None:
    with pytest.raises(ValueError, match=f"integer or floating-point levels, not {np.dtype(dtype)}"):
        levels.channels_last(np.ones((5, 6), dtype), "none")


def test_every_16_bit_level_is_divided_by_257() -> None:
    deep = np.arange(2**16)
    np.testing.assert_array_equal(levels.to_8_bit(deep.astype(np.uint16)), np.rint(deep / 257))


def test_a_picture_of_32_bit_integers_is_divided_likewise() -> None:
    deep = np.arange(2**16, dtype=np.int32).reshape(256, 256)
    np.testing.assert_array_equal(np.asarray(levels.to_rgb(Image.fromarray(deep)))[..., 1], np.rint(deep / 257))


def test_whole_levels_are_kept_and_fractions_cut_off() -> None:
    picture, fractions = levels.to_picture(RGB.astype(np.float64))
    assert not fractions
    np.testing.assert_array_equal(np.asarray(picture), RGB)
    picture, fractions = levels.to_picture(np.array([[[0.1], [0.5], [1.0]]]))
    assert fractions
    assert np.asarray(picture).ravel().tolist() == [25, 127, 255]
    with pytest.raises(ValueError, match="5 channels cannot be resized"):
        levels.to_picture(np.zeros((3, 3, 5)))


def test_transparency_of_a_palette_is_dropped() -> None:
    plain, transparent = legacy_pictures.picture("P"), legacy_pictures.picture("P")
    transparent.info["transparency"] = bytes(range(64))  # one alpha per color; Pillow warns about these
    np.testing.assert_array_equal(np.asarray(levels.to_rgb(transparent)), np.asarray(levels.to_rgb(plain)))


def test_mode_without_conversion_is_named() -> None:
    with pytest.raises(ValueError, match="mode 'La' cannot be converted to RGB"):
        levels.to_rgb(Image.new("La", (2, 2)))


@pytest.mark.parametrize(("low", "high"), [(-1, 1000), (0, 65536), (-5, 70000)])
def test_32_bit_levels_beyond_16_bits_are_refused(low: int, high: int) -> None:
    image = Image.fromarray(np.array([[low, high]], np.int32))
    with pytest.raises(ValueError, match=f"levels range from {low} to {high}"):
        levels.to_rgb(image)


@pytest.mark.parametrize("extreme", [-1, 256, -0.5, 1.5])
def test_levels_of_arrays_beyond_their_scale_are_refused(extreme: float) -> None:
    array = np.full((4, 4, 3), 0.5 if extreme % 1 else 200.0)
    array[1, 2, 0] = extreme
    with pytest.raises(ValueError, match=rf"levels range from .*{extreme:g}.*whole numbers of 0..255 or fractions of"):
        levels.to_picture(array)
