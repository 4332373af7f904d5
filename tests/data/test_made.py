from __future__ import annotations

import numpy as np

from vit_hybrid.data.made import encoded_pictures, natural_picture, photo_sized_picture


def test_photo_sized_pictures() -> None:
    assert photo_sized_picture(0).size == (475, 395)
    assert photo_sized_picture(0, "L").mode == "L"
    assert (np.asarray(photo_sized_picture(3)) == np.asarray(photo_sized_picture(3))).all()
    assert np.asarray(photo_sized_picture(3), float).std() > 20
    [file] = encoded_pictures(1)
    assert 10_000 < len(file) < 200_000  # as photos of that size have


def test_natural_pictures_are_always_the_same_and_unlike_each_other() -> None:
    first, second = (np.asarray(natural_picture(seed)) for seed in (0, 1))
    np.testing.assert_array_equal(first, np.asarray(natural_picture(0)))
    assert abs(first.astype(float) - second).mean() > 10
    assert first.std() > 10
