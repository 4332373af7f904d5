from __future__ import annotations

import inspect
import math
import random
import sys
from collections.abc import Callable
from typing import Any

import fresh_process
import numpy as np
import pytest
import torch
from draws import DRAWS, near, noise, picture
from PIL import Image, ImageEnhance, ImageOps

from vit_hybrid.images.preprocessing import Preprocessing
from vit_hybrid.train import augmentation
from vit_hybrid.train.augmentation import BatchAugmentation

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SINGLE, MULTI, REGRESSION = augmentation.PROBLEM_TYPES


def plain(**options: Any) -> BatchAugmentation:
    """With levels of 0..1 as the output, unless options say otherwise."""
    defaults: dict[str, Any] = {"mean": 0.0, "std": 1.0, "num_labels": 3, "problem_type": SINGLE}
    return BatchAugmentation(**{**defaults, **options})


def test_neither_kornia_nor_transformers_is_loaded_without_need() -> None:
    loaded = fresh_process.run(
        "import sys, torch; from vit_hybrid.train.augmentation import BatchAugmentation as B\n"
        "B(mean=0.5, std=0.5, num_labels=2, problem_type='single_label_classification')"
        "(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.long), 0)\n"
        "print({'kornia', 'transformers'} & set(sys.modules))"
    )
    assert loaded.strip() == "set()"


# --- A batch: normalizing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mean", "std"), [(MEAN, STD), (0.5, 0.25)])
@pytest.mark.parametrize("factor", [1 / 255, 1.0, 1 / 127.5])
def test_with_everything_off_only_normalizing_is_left(mean: Any, std: Any, factor: float) -> None:
    pictures = noise(4, 10, 12, 3)
    steps = Preprocessing(do_resize=False, do_center_crop=False, rescale_factor=factor, image_mean=mean, image_std=std)
    pixels = torch.from_numpy(pictures.transpose(0, 3, 1, 2).copy())
    targets = torch.tensor([0, 1, 2, 1])
    values, same = plain(mean=mean, std=std, rescale_factor=factor)(pixels, targets, seed=0)
    assert values.dtype == torch.float32
    assert same is targets
    expected = steps([Image.fromarray(one) for one in pictures])
    np.testing.assert_allclose(values.numpy(), expected, atol=1e-6, rtol=1e-6 if factor < 0.5 else 1e-5)
    assert np.array_equal(pixels.numpy(), pictures.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_any_number_of_channels(channels: int) -> None:
    pixels = torch.from_numpy(noise(6, channels, 8, 8))
    augment = plain(mean=[0.5] * channels, std=0.5, erase=1.0, mixup=1.0, cutmix=1.0)
    for seed in range(6):  # both ways of mixing among them
        values, targets = augment(pixels, torch.tensor([0, 1, 2, 0, 1, 2]), seed)
        assert values.shape == pixels.shape
        assert targets.shape == (6, 3)
        assert values.isfinite().all()


# --- A batch: randomness ----------------------------------------------------------------------------------------------

EVERYTHING = {"randaugment_layers": 2, "erase": 0.5, "mixup": 0.4, "cutmix": 1.0, "mix_probability": 0.8}


def test_the_seed_decides_everything_and_global_states_stay() -> None:
    pixels, targets = torch.from_numpy(noise(12, 3, 16, 16)), torch.arange(12) % 3
    augment = plain(mean=MEAN, std=STD, **EVERYTHING)
    torch.manual_seed(5)
    state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # type: ignore[index]
    first = [augment(pixels, targets, seed) for seed in range(8)]
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # type: ignore[index]
    assert random.getstate() == python_state
    torch.manual_seed(6)
    # Neither what was drawn before, nor a new object, nor the order of the batches matters.
    other = plain(mean=MEAN, std=STD, **EVERYTHING)
    for seed in reversed(range(8)):
        values, rows = other(pixels, targets, seed)
        assert torch.equal(values, first[seed][0])
        assert torch.equal(rows, first[seed][1])
    assert len({values.numpy().tobytes() for values, _ in first}) == 8


def test_an_error_leaves_the_random_state_as_it_was() -> None:
    augment = plain(randaugment_layers=1)
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match="RGB"):
        augment(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.long), 1)
    assert torch.equal(torch.get_rng_state(), state)


def test_autocast_and_gradients_change_nothing() -> None:
    pixels, targets = torch.from_numpy(noise(30, 3, 16, 16)), torch.arange(30) % 3
    augment = plain(mean=MEAN, std=STD, **EVERYTHING)
    expected, _ = augment(pixels, targets, 3)
    with torch.autocast("cpu", torch.bfloat16):
        values, _ = augment(pixels, targets, 3)
    assert values.dtype == torch.float32
    assert torch.equal(values, expected)
    assert not values.requires_grad


# --- A batch: RandAugment ---------------------------------------------------------------------------------------------

FILL = torch.tensor([0.25, 0.5, 0.75])


def apply(name: str, share: float, image: Image.Image, sign: float = 1.0) -> np.ndarray:
    """One operation's result for a picture, (H, W, C) levels of 0..255."""
    levels = torch.from_numpy(np.asarray(image).transpose(2, 0, 1).astype(np.float32) / 255)[None]
    result = augmentation._operations(share, FILL)[name](levels, torch.tensor([sign]))
    return result[0].permute(1, 2, 0).numpy() * 255


@pytest.mark.parametrize(
    ("name", "share", "sign", "reference"),
    [
        ("auto_contrast", 1.0, 1, ImageOps.autocontrast),
        ("equalize", 1.0, 1, ImageOps.equalize),
        ("invert", 1.0, 1, ImageOps.invert),
        ("posterize", 1.0, 1, lambda image: ImageOps.posterize(image, 4)),
        ("posterize", 0.5, 1, lambda image: ImageOps.posterize(image, 6)),
        ("posterize", 0.7, 1, lambda image: ImageOps.posterize(image, 5)),
        ("posterize", 1.75, 1, lambda image: ImageOps.posterize(image, 1)),
        ("posterize", 3.0, 1, lambda image: ImageOps.posterize(image, 1)),
        ("solarize", 0.5, 1, lambda image: ImageOps.solarize(image, 128)),
        ("solarize", 1.0, 1, ImageOps.invert),
        ("solarize", 2.0, 1, ImageOps.invert),
        ("color", 1.0, 1, lambda image: ImageEnhance.Color(image).enhance(1.9)),
        ("color", 1.0, -1, lambda image: ImageEnhance.Color(image).enhance(0.1)),
        ("color", 3.0, -1, lambda image: ImageEnhance.Color(image).enhance(0.1)),
        ("contrast", 1.0, 1, lambda image: ImageEnhance.Contrast(image).enhance(1.9)),
        ("contrast", 0.5, -1, lambda image: ImageEnhance.Contrast(image).enhance(0.55)),
        ("brightness", 1.0, 1, lambda image: ImageEnhance.Brightness(image).enhance(1.9)),
        ("brightness", 1.5, -1, lambda image: ImageEnhance.Brightness(image).enhance(0.1)),
        ("sharpness", 1.0, 1, lambda image: ImageEnhance.Sharpness(image).enhance(1.9)),
        ("sharpness", 1.0, -1, lambda image: ImageEnhance.Sharpness(image).enhance(0.1)),
    ],
)
def test_operations_on_levels_equal_pillows(
    name: str, share: float, sign: float, reference: Callable[[Image.Image], Image.Image]
) -> None:
    # Of a limited range, so that there is contrast to stretch.
    image = Image.fromarray(noise(24, 20, 3) // 2 + 40)
    # Pillow rounds what it computes on the way, and enhances by a rounded gray or mean.
    np.testing.assert_allclose(apply(name, share, image, sign), np.asarray(reference(image)), atol=2.01)


def test_solarize_add_brightens_the_darker_half() -> None:
    image = Image.fromarray(np.array([[[0, 127, 128]], [[50, 255, 100]]], np.uint8))
    np.testing.assert_allclose(apply("solarize_add", 1.0, image), [[[110, 237, 128]], [[160, 255, 210]]], atol=1e-3)
    black = torch.zeros(1, 3, 2, 2)
    for magnitude, added in ((0, 0), (5, 55), (10, 110), (30, 255)):  # of which ten are the unit
        operations = augmentation.RandAugment(1, magnitude, FILL).operations
        torch.testing.assert_close(operations["solarize_add"](black, torch.ones(1)) * 255, black + added)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0, 2.0, 3.0])
def test_a_picture_of_one_level_has_no_contrast_to_stretch(share: float) -> None:
    image = Image.new("RGB", (8, 8), (20, 120, 220))
    np.testing.assert_allclose(apply("auto_contrast", share, image), np.asarray(image), atol=1e-3)
    np.testing.assert_allclose(apply("equalize", share, image), np.asarray(image), atol=1e-3)


def test_translation_is_by_a_share_of_the_edge_and_fills_with_the_mean() -> None:
    image = Image.fromarray(noise(10, 20, 3))
    source = np.asarray(image).astype(float)
    right = apply("translate_x", 1.0, image)  # 0.45 of 20 pixels
    np.testing.assert_allclose(right[:, 9:], source[:, :-9], atol=0.05)
    np.testing.assert_allclose(right[:, :8], np.broadcast_to(FILL * 255, (10, 8, 3)), atol=0.05)
    up = apply("translate_y", 2 / 4.5, image, -1)  # 0.2 of 10 pixels
    np.testing.assert_allclose(up[:-2], source[2:], atol=0.05)
    np.testing.assert_allclose(up[-1:], np.broadcast_to(FILL * 255, (1, 20, 3)), atol=0.05)


def test_rotation_and_shear_keep_the_middle_and_turn_about_it() -> None:
    source = np.zeros((21, 21, 3), np.uint8)
    source[10, 10:] = 255  # a ray from the middle to the right
    image = Image.fromarray(source)
    turned = apply("rotate", 1.0, image)[..., 0]
    end = np.unravel_index(turned[:, 18].argmax(), (21,))[0]
    assert abs(end - 10) == round(8 * math.tan(math.radians(30)))
    turned_back = apply("rotate", 1.0, image, -1)[..., 0]
    np.testing.assert_allclose(turned[5:16, 5:16], turned_back[::-1][5:16, 5:16], atol=0.1)
    sheared = apply("shear_y", 1.0, image)[..., 0]
    assert abs(sheared[:, 20].argmax() - 10) == 3  # 0.3 of ten pixels
    assert turned[10, 10] > 100
    assert sheared[10, 10] > 100
    np.testing.assert_allclose(apply("shear_x", 1.0, image)[10, :, 0], source[10, :, 0], atol=0.1)
    wide = np.zeros((11, 31, 3), np.uint8)
    wide[5, 15] = 255  # the middle of a picture that is not square
    for name in ("rotate", "shear_x", "shear_y"):
        np.testing.assert_allclose(apply(name, 1.0, Image.fromarray(wide))[5, 15], 255, atol=0.5)


@pytest.mark.parametrize("name", list(augmentation._operations(0.0, FILL)))
def test_magnitude_0_changes_nothing(name: str) -> None:
    image = picture(12, 14)
    if name in ("auto_contrast", "equalize", "invert"):  # these have no strength
        assert np.abs(apply(name, 0.0, image) - apply(name, 2.0, image)).max() == 0
    else:
        np.testing.assert_allclose(apply(name, 0.0, image), np.asarray(image), atol=0.01)


def test_every_picture_draws_its_own_operations() -> None:
    pixels = torch.from_numpy(noise(3, 16, 16)).expand(300, 3, 16, 16)
    augment = plain(randaugment_layers=1, randaugment_magnitude=7)
    values, _ = augment(pixels, torch.zeros(300, dtype=torch.long), 0)
    # Fifteen operations, nine of them in two directions; among 300 pictures all turn up.
    assert len({one.numpy().tobytes() for one in values}) == 15 + 9
    values, _ = plain(randaugment_layers=2, randaugment_magnitude=7)(pixels, torch.zeros(300, dtype=torch.long), 0)
    assert len({one.numpy().tobytes() for one in values}) > 100  # one after another


def test_what_comes_in_at_the_borders_is_the_mean_of_what_the_model_takes() -> None:
    white = torch.ones(1, 3, 10, 10)
    for mean, factor in ((MEAN, 1 / 255), ([255 * level for level in MEAN], 1.0)):
        augment = plain(mean=mean, rescale_factor=factor, randaugment_layers=1)
        assert augment._rand_augment is not None
        moved = augment._rand_augment.operations["translate_x"](white, torch.ones(1))
        torch.testing.assert_close(moved[0, :, 5, 0], torch.tensor(MEAN))


def test_what_is_not_said_is_off() -> None:
    usual = {
        name: parameter.default
        for name, parameter in inspect.signature(BatchAugmentation).parameters.items()
        if parameter.default is not parameter.empty
    }
    strengths = {"randaugment_magnitude": 10.0, "erase_scale": (0.02, 1 / 3), "mix_probability": 1.0}
    off = dict.fromkeys(("color", "randaugment_layers", "erase", "mixup", "cutmix"), 0)
    assert usual == {**off, **strengths, "rescale_factor": 1 / 255}


@pytest.mark.parametrize("magnitude", [0, 10, 17.5, 30])
def test_levels_stay_in_their_range(magnitude: float) -> None:
    pixels = torch.from_numpy(noise(64, 3, 12, 16))
    values, _ = plain(randaugment_layers=3, randaugment_magnitude=magnitude)(pixels, torch.zeros(64).long(), 1)
    assert values.isfinite().all()
    assert values.min() >= -1e-6
    assert values.max() <= 1 + 1e-6


def test_rand_augment_works_on_levels_whatever_the_model_counts_in() -> None:
    pixels, targets = torch.from_numpy(noise(8, 3, 12, 12)), torch.zeros(8, dtype=torch.long)
    shares, _ = plain(mean=0.5, randaugment_layers=2)(pixels, targets, 4)
    levels, _ = plain(mean=127.5, rescale_factor=1.0, randaugment_layers=2)(pixels, targets, 4)
    torch.testing.assert_close(levels, shares * 255, atol=1e-3, rtol=1e-4)


# --- A batch: erasing -------------------------------------------------------------------------------------------------


def test_a_rectangle_is_erased_to_the_mean() -> None:
    pixels = torch.full((400, 3, 32, 32), 255, dtype=torch.uint8)
    values, _ = plain(mean=MEAN, std=STD, erase=0.7, erase_scale=(0.1, 0.2))(pixels, torch.zeros(400).long(), 0)
    erased = (values == 0).all(1)
    assert torch.equal(erased, (values == 0).any(1))
    touched = erased.flatten(1).any(1)
    assert near(touched.float().mean().item(), 0.7, 400)
    shares = erased[touched].float().mean((1, 2))
    assert shares.min() > 0.09  # edges are rounded to whole pixels
    assert shares.max() < 0.215
    ratios = []
    for one in erased[touched]:
        rows, columns = one.any(1).nonzero().squeeze(1), one.any(0).nonzero().squeeze(1)
        assert one[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        ratios.append(len(rows) / len(columns))
    assert 0.25 < min(ratios) < 0.4  # from 0.3 to its inverse
    assert 2.5 < max(ratios) < 4
    untouched = values[~touched]
    torch.testing.assert_close(
        untouched[:, :, 0, 0], ((1 - torch.tensor(MEAN)) / torch.tensor(STD)).expand(len(untouched), 3)
    )


# --- A batch: mixing --------------------------------------------------------------------------------------------------


def shades(count: int, side: int = 16) -> torch.Tensor:
    """Pictures of one level each, all different."""
    levels = torch.arange(count, dtype=torch.uint8) * (255 // count)
    return levels.view(-1, 1, 1, 1).repeat(1, 3, side, side)


@pytest.mark.parametrize("way", ["mixup", "cutmix"])
def test_soft_targets_say_what_is_in_the_picture(way: str) -> None:
    pixels, labels = shades(20), torch.arange(20)
    augment = plain(num_labels=20, **{way: 1.0})
    for seed in range(10):
        values, targets = augment(pixels, labels, seed)
        assert targets.dtype == torch.float32
        assert targets.shape == (20, 20)
        torch.testing.assert_close(targets.sum(1), torch.ones(20))
        assert ((targets > 0).sum(1) <= 2).all()
        levels = pixels[:, 0, 0, 0] / 255
        torch.testing.assert_close(values.mean((1, 2, 3)), targets @ levels, atol=1e-5, rtol=0)
        is_flat = values.flatten(1).std(1) < 1e-6
        if way == "mixup":
            assert is_flat.all()
            continue
        for value, target in zip(values, targets, strict=True):  # every pixel is one of the two, as a rectangle
            sources = levels[target > 0]
            assert torch.isclose(value[..., None], sources, atol=1e-6).any(-1).all()


def test_weights_follow_the_beta_distribution() -> None:
    pixels, labels = torch.zeros(DRAWS, 1, 4, 4, dtype=torch.uint8), torch.arange(DRAWS) % 2
    for alpha in (0.2, 8.0):
        # Of two labels, and only where a picture of the other one was mixed in.
        _, targets = plain(num_labels=2, mixup=alpha)(pixels, labels, 0)
        share = targets[targets.amax(1) < 1].double()[:, 0]
        # E[x (1 - x)] for Beta(a, a); float32 rounds away the most extreme of the weights, which adds nothing to it.
        expected = alpha / (2 * (2 * alpha + 1))
        found = (share * (1 - share)).sum() / (targets.shape[0] / 2)
        assert abs(found - expected) < 0.1 * expected


def test_cutmix_areas_follow_the_beta_distribution() -> None:
    pixels, labels = torch.zeros(DRAWS, 1, 32, 32, dtype=torch.uint8), torch.arange(DRAWS)
    _, targets = plain(num_labels=DRAWS, cutmix=1.0)(pixels, labels, 0)
    own = targets.diagonal()
    # Uniform, but for edges rounded down to whole pixels.
    assert 0.5 < own.mean() < 0.56
    assert near((own < 0.25).float().mean().item(), 0.235, DRAWS, 0.5)
    for alpha in (0.2, 8.0):  # E[x (1 - x)] for Beta(a, a)
        _, targets = plain(num_labels=DRAWS, cutmix=alpha)(pixels, labels, 0)
        own = targets.diagonal().double()
        assert (own * (1 - own)).mean().item() == pytest.approx(alpha / (2 * (2 * alpha + 1)), rel=0.25)


def test_a_coin_decides_between_the_two_ways() -> None:
    pixels, labels = shades(8), torch.arange(8)
    augment = plain(num_labels=8, mixup=1.0, cutmix=1.0, mix_probability=0.6)
    found = {"none": 0, "mixup": 0, "cutmix": 0}
    for seed in range(300):
        values, targets = augment(pixels, labels, seed)
        if targets is labels:
            found["none"] += 1
            torch.testing.assert_close(values, pixels / 255)
        else:
            found["mixup" if (values.flatten(1).std(1) < 1e-6).all() else "cutmix"] += 1
    assert near(found["none"] / 300, 0.4, 300)
    assert near(found["mixup"] / 300, 0.3, 300)


def test_several_labels_are_mixed_as_rows() -> None:
    rows = torch.tensor([[1, 1, 0], [0, 1, 1], [0, 0, 0], [1, 0, 0]])
    augment = plain(problem_type=MULTI, mixup=1.0)
    levels = shades(4)[:, 0, 0, 0] / 255
    for seed in range(10):
        values, mixed = augment(shades(4), rows, seed)
        assert mixed.shape == (4, 3)
        assert mixed.dtype == torch.float32
        for index in range(4):
            # The level tells the partner's share, and only one partner explains both.
            level = values[index, 0, 0, 0]
            fits = []
            for partner in range(4):
                share = (level - levels[index]) / (levels[partner] - levels[index]) if partner != index else 0.0
                fits.append(
                    torch.allclose(mixed[index], rows[index] + (rows[partner] - rows[index]) * share, atol=1e-4)
                )
            assert any(fits)


@pytest.mark.parametrize("shape", [(8,), (8, 1)])
def test_numbers_are_mixed_as_levels_are(shape: tuple[int, ...]) -> None:
    pixels = shades(8)
    numbers = pixels[:, 0, 0, 0].double().reshape(shape) / 255 * 10 - 3
    values, mixed = plain(num_labels=1, problem_type=REGRESSION, mixup=1.0)(pixels, numbers, 0)
    assert mixed.shape == shape
    assert mixed.dtype == torch.float32
    assert not torch.allclose(mixed, numbers.float())
    torch.testing.assert_close(mixed.flatten(), values[:, 0, 0, 0] * 10 - 3, atol=1e-5, rtol=0)


def test_rows_of_shares_stay_rows() -> None:
    rows = torch.full((6, 3), 1 / 3)
    _, mixed = plain(cutmix=1.0)(shades(6), rows, 0)
    torch.testing.assert_close(mixed, rows)


@pytest.mark.parametrize("way", ["mixup", "cutmix"])
def test_mixing_can_be_left_out_of_a_batch(way: str) -> None:
    targets = torch.tensor([0, 1, 2])
    values, unmixed = plain(**{way: 1.0})(shades(3), targets, 0, mix=False)
    torch.testing.assert_close(values, shades(3) / 255)
    assert torch.equal(unmixed, targets)


# --- A batch: colors --------------------------------------------------------------------------------------------------


def test_colors_change_by_the_pictures_own_factors() -> None:
    pixels = torch.from_numpy(noise(1, 3, 8, 8)).expand(300, -1, -1, -1) // 4 + 96  # far from black and white
    levels = (pixels / 255)[0]
    changed, _ = plain(color=0.3)(pixels, torch.zeros(300, dtype=torch.long), 0)
    weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    gray, changed_gray = ((each * weights).sum(-3, keepdim=True) for each in (levels, changed))
    middle, changed_middle = gray.mean(), changed_gray.mean((2, 3), keepdim=True)
    brightness = changed_middle / middle
    contrast = (changed_gray - changed_middle).norm(dim=(2, 3), keepdim=True) / (gray - middle).norm() / brightness
    color = (changed - changed_gray).flatten(1).norm(dim=1) / (levels - gray).norm()
    saturation = color / (brightness * contrast).flatten()
    for factors in (brightness.flatten(), contrast.flatten(), saturation):
        assert 0.7 <= factors.min() < 0.72
        assert 1.28 < factors.max() <= 1.3
        assert abs(factors.mean() - 1) < 0.05
    assert abs(torch.corrcoef(torch.stack([brightness.flatten(), contrast.flatten(), saturation])).triu(1)).max() < 0.2


def test_colors_stay_levels() -> None:
    values, _ = plain(color=0.9)(torch.from_numpy(noise(50, 3, 8, 8)), torch.zeros(50, dtype=torch.long), 0)
    assert values.min() == 0
    assert values.max() == 1


def test_colors_need_three_channels() -> None:
    with pytest.raises(ValueError, match="color needs RGB pictures, but these have 1 channels"):
        plain(color=0.1)(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(2), 0)


def test_a_batch_of_one_mixes_with_itself() -> None:
    for way in ("mixup", "cutmix"):
        values, targets = plain(**{way: 1.0}, erase=1.0, randaugment_layers=1)(shades(1) + 9, torch.tensor([2]), 0)
        assert values.shape == (1, 3, 16, 16)
        torch.testing.assert_close(targets, torch.tensor([[0.0, 0.0, 1.0]]))


def test_whether_targets_can_come_out_mixed() -> None:
    assert not plain(randaugment_layers=1, erase=0.5).mixes
    assert not plain(mixup=1.0, mix_probability=0.0).mixes
    assert plain(mixup=1.0).mixes
    assert plain(cutmix=1.0).mixes


# --- A batch: what is refused -----------------------------------------------------------------------------------------


def test_a_rectangle_may_be_as_large_as_the_picture() -> None:
    pixels = torch.full((8, 3, 16, 16), 200, dtype=torch.uint8)
    values, _ = plain(mean=MEAN, std=STD, erase=1.0, erase_scale=(1.0, 1.0))(pixels, torch.zeros(8).long(), 0)
    assert (values == 0).float().mean() > 0.2


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"problem_type": "detection"}, "problem_type is 'detection'"),
        ({"num_labels": 0}, "num_labels"),
        ({"mean": [[0.5]]}, "mean"),
        ({"mean": []}, "mean"),
        ({"std": (0.2, 0.0, 0.2)}, "std"),
        ({"erase": 1.1}, "erase is 1.1"),
        ({"erase": -0.1}, "erase is -0.1"),
        ({"erase": 0.5, "erase_scale": (0.4, 0.1)}, "erase_scale"),
        ({"erase": 0.5, "erase_scale": (0.0, 0.1)}, "erase_scale"),
        ({"erase": 0.5, "erase_scale": (0.4, 1.1)}, "erase_scale"),
        ({"erase": 0.5, "erase_scale": (0.1, 0.2, 0.3)}, "erase_scale"),
        ({"mixup": -0.1}, "mixup is -0.1"),
        ({"mixup": math.inf}, "mixup is inf"),
        ({"cutmix": float("nan")}, "cutmix is nan"),
        ({"mixup": 0.2, "mix_probability": 2}, "mix_probability is 2"),
        ({"mixup": 0.2, "mix_probability": -1}, "mix_probability is -1"),
        ({"color": 1.0}, "color is 1.0"),
        ({"color": -0.1}, "color is -0.1"),
        ({"color": 0.1, "mean": [0.5] * 4}, "color needs RGB pictures, but mean has 4 channels; turn it off"),
        ({"color": 0.1, "std": [0.5] * 2}, "color needs RGB pictures, but std has 2 channels"),
        ({"randaugment_layers": -1}, "randaugment_layers is -1"),
        ({"randaugment_layers": 2, "randaugment_magnitude": 31}, "randaugment_magnitude is 31"),
        ({"randaugment_layers": 2, "randaugment_magnitude": -1}, "randaugment_magnitude is -1"),
        ({"randaugment_layers": 2, "color": 0.1, "mean": [0.5] * 4}, "RandAugment needs RGB pictures, but mean has 4"),
        ({"problem_type": REGRESSION, "cutmix": 1.0}, "mixup"),
    ],
)
def test_impossible_settings_are_refused(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named) as caught:
        plain(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("pixels", "targets", "named"),
    [
        (torch.zeros(2, 3, 4, 4), torch.zeros(2), "torch.uint8"),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), torch.zeros(3), "N, C, H, W"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(3), "3 targets for 2"),
        (torch.zeros(2, 4, 4, 4, dtype=torch.uint8), torch.zeros(2), "4 channels do not fit 3 values of mean"),
    ],
)
def test_impossible_batches_are_refused(pixels: torch.Tensor, targets: torch.Tensor, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        plain(mean=MEAN, std=STD)(pixels, targets, 0)


def test_deviations_of_other_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="pictures of 4 channels do not fit 3 values of std"):
        plain(mean=0.5, std=STD)(torch.zeros(2, 4, 4, 4, dtype=torch.uint8), torch.zeros(2), 0)


@pytest.mark.parametrize("option", [{"randaugment_layers": 1}, {"erase": 0.1}, {"mixup": 0.2}, {"cutmix": 1.0}])
def test_a_missing_kornia_names_the_extra(option: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kornia", None)
    plain()
    with pytest.raises(ImportError, match=r"pip install 'vit-hybrid\[train\]'"):
        plain(**option)


def test_a_pasted_part_of_a_picture_that_is_not_square_is_as_large_as_its_label_says() -> None:
    levels = torch.arange(1, 9, dtype=torch.uint8) * 20
    pixels = levels[:, None, None, None].expand(-1, 1, 8, 24).contiguous()
    values, targets = plain(num_labels=8, cutmix=1.0)(pixels, torch.arange(8), 0)
    shares = torch.stack([(values * 255).round() == level for level in levels], dim=1).float().mean((2, 3, 4))
    torch.testing.assert_close(shares, targets)
    columns = (values[:, 0, 4] != values[:, 0, 4, :1]).any(0)
    assert columns[9:].any()  # beyond a square
