"""The example that segments: a short training on made-up shapes learns, and its pictures come out."""

import numpy as np
import pytest
import torch
from PIL import Image
from repository import loaded
from tiny_hybrid import save_tiny_model


@pytest.fixture(scope="module")
def segment():
    return loaded("examples/segment.py")


def test_pictures_are_made_alike_and_hold_their_shapes(segment):
    picture, classes = segment.made_picture(3, 32)
    assert picture.shape == (3, 32, 32)
    assert np.abs(picture).max() < 1.5
    assert set(np.unique(classes)) <= {0, 1, 2, 3}
    again, same = segment.made_picture(3, 32)
    assert np.array_equal(picture, again)
    assert np.array_equal(classes, same)
    found = np.concatenate([np.unique(segment.made_picture(seed, 32)[1]) for seed in range(20)])
    assert set(found) == {0, 1, 2, 3}


def test_dice_is_one_where_all_is_right_and_the_backgrounds_is_left_out(segment):
    classes = torch.tensor([[[0, 1], [2, 3]]])
    right = torch.nn.functional.one_hot(classes, 4).movedim(-1, 1) * 100.0
    assert segment.soft_dice(right, classes) == pytest.approx(1)
    nothing = torch.zeros(1, 4, 2, 2)
    nothing[:, 0] = 100
    assert segment.soft_dice(nothing, classes) == pytest.approx(0.5)  # (0 + 1) / (0 + 1 + 1), for each shape


def test_a_few_steps_with_the_model_in_the_package_find_shapes(segment):
    torch.manual_seed(0)
    model = segment.segmenter("vit-hybrid-tiny-imagenet")
    assert model.backbone.strides == [4, 8, 16, 16]
    before = segment.dice(model, 64, pictures=16)
    losses = list(segment.train(model, 64, steps=30, batch_size=8))
    assert np.mean(losses[-5:]) < 0.75 * np.mean(losses[:5])
    assert segment.dice(model, 64, pictures=16) > before + 0.1


def test_any_model_and_size_and_rows_of_pictures(segment, tmp_path):
    model = segment.segmenter(str(save_tiny_model(tmp_path / "tiny")))
    assert model(torch.zeros(1, 3, 48, 32)).shape == (1, 4, 48, 32)
    segment.write_pictures(model, 32, tmp_path / "out", pictures=2)
    with Image.open(tmp_path / "out" / "1.png") as row:
        assert row.size == (3 * 4 * 32, 4 * 32)
