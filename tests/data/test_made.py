from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from vit_hybrid.data.made import encoded_pictures, natural_picture, photo_sized_picture


def test_photo_sized_pictures() -> None:
    assert photo_sized_picture(0).size == (475, 395)
    assert photo_sized_picture(0, "L").mode == "L"
    assert (np.asarray(photo_sized_picture(3)) == np.asarray(photo_sized_picture(3))).all()
    assert np.asarray(photo_sized_picture(3), float).std() > 20
    [file] = encoded_pictures(1)
    assert 10_000 < len(file) < 200_000  # as photos of that size have
    for mode in ("RGB", "L"):
        for number, content in enumerate(encoded_pictures(3, mode)):
            decoded, made = Image.open(io.BytesIO(content)), photo_sized_picture(number, mode)
            assert (decoded.size, decoded.mode) == (made.size, mode)
            assert abs(np.asarray(decoded, float) - np.asarray(made, float)).mean() < 3.5


def test_made_pictures_are_those_of_earlier_releases() -> None:
    """By the mean levels of parts of them."""
    levels = np.asarray(photo_sized_picture(3), float)
    assert levels.shape == (395, 475, 3)
    np.testing.assert_allclose(
        levels[:390, :470].reshape(3, 130, 2, 235, 3).mean((1, 3))[[0, 2]],
        [[[124.5, 130.9, 100.0], [83.9, 72.6, 128.9]], [[103.7, 144.3, 99.0], [105.3, 118.8, 129.8]]],
        atol=0.5,
    )
    # Neighbors differ by their noise, hardly by the slopes: of a standard deviation of 8 each.
    assert np.diff(levels, axis=1).std(0).mean() == pytest.approx(8 * 2**0.5, rel=0.02)
    for seed, expected, deviations in (
        (0, [[[71.9, 71.9, 159.2], [83.1, 103.9, 164.2]], [[83.2, 119.4, 181.9], [90.2, 67.2, 148.5]]], [30, 54, 29]),
        (2, [[[199.6, 70.3, 39.2], [203.2, 79.1, 45.9]], [[198.7, 89.1, 49.7], [220.8, 111.9, 64.8]]], [42, 47, 43]),
    ):
        levels = np.asarray(natural_picture(seed, 64), float)
        np.testing.assert_allclose(levels.reshape(2, 32, 2, 32, 3).mean((1, 3)), expected, atol=0.5)
        np.testing.assert_allclose(levels.std((0, 1)), deviations, atol=1)
    assert natural_picture(0).size == (256, 256)


def test_natural_pictures_are_always_the_same_and_unlike_each_other() -> None:
    first, second = (np.asarray(natural_picture(seed)) for seed in (0, 1))
    np.testing.assert_array_equal(first, np.asarray(natural_picture(0)))
    assert abs(first.astype(float) - second).mean() > 10
    assert first.std() > 10
    # As it was when figures were measured with it.
    greens = [[35, 88, 44, 21], [33, 93, 135, 83], [111, 181, 69, 48], [62, 5, 129, 104]]
    np.testing.assert_allclose(first[40::64, 40::64, 1].astype(int), greens, atol=1)
