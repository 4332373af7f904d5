"""Distances of features from what a model was trained on, against their definitions."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest

from vit_hybrid.outputs import strangers
from vit_hybrid.outputs.strangers import Distances, Familiarity, Gathering, TrainedOn

CLASSES, WIDTH = 4, 6
RNG = np.random.default_rng(0)
CENTERS = RNG.normal(size=(CLASSES, WIDTH)) * 4
WEIGHT, BIAS = RNG.normal(size=(CLASSES, WIDTH)), RNG.normal(size=CLASSES)


def made(pictures: int, seed: int, centers: np.ndarray = CENTERS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, classes and statistics of pictures around class centers."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, len(centers), pictures)
    features = centers[targets] + rng.normal(size=(pictures, WIDTH))
    return features, targets, rng.normal(size=(pictures, strangers.STATISTICS))


def gathered(pictures: int = 800, batch: int = 100) -> TrainedOn:
    features, targets, statistics = made(pictures, 1)
    gathering = Gathering(CLASSES, WIDTH)
    for start in range(0, pictures, batch):
        part = slice(start, start + batch)
        gathering.add(features[part], targets[part], statistics[part])
    return gathering.trained_on()


def test_what_is_gathered_in_batches_is_what_the_features_have() -> None:
    features, targets, statistics = made(800, 1)
    found = gathered()
    means = np.stack([features[targets == label].mean(axis=0) for label in range(CLASSES)])
    centered = features - means[targets]
    scale = np.sqrt((features**2).mean())
    assert float(found.scale) == pytest.approx(scale)
    np.testing.assert_allclose(found.means * scale, means, atol=5e-3)  # float16
    np.testing.assert_allclose(found.covariance * scale**2, centered.T @ centered / 800, atol=5e-3)
    np.testing.assert_allclose(found.statistics, statistics.mean(axis=0))
    np.testing.assert_allclose(found.statistics_covariance, np.cov(statistics.T, bias=True), atol=1e-12)
    assert found.counts.tolist() == np.bincount(targets).tolist()
    assert found.neighbors.shape == (CLASSES * 20, WIDTH)
    assert {array.dtype for array in (found.means, found.covariance, found.neighbors)} == {np.dtype(np.float16)}
    again = TrainedOn.from_arrays(found.arrays())
    assert all((again.arrays()[name] == array).all() for name, array in found.arrays().items())


def test_neighbors_are_kept_from_all_of_a_class() -> None:
    """And not its first 20 pictures, which may have been taken on one day."""
    gathering = Gathering(1, 1)
    gathering.add(np.arange(1_000.0)[:, None], np.zeros(1_000, np.int64), np.zeros((1_000, strangers.STATISTICS)))
    found = gathering.trained_on()
    kept = found.neighbors[:, 0].astype(float) * found.scale
    assert len(kept) == 20
    assert 300 < kept.mean() < 700
    both = Gathering(2, 1)
    for target, count in ((0, 5_000), (1, 1_000)):  # whatever was gathered of another
        numbers = np.linspace(1, 1_000, count)[:, None] * (1 - 2 * target)
        both.add(numbers, np.full(count, target), np.zeros((count, strangers.STATISTICS)))
    found = both.trained_on()
    kept = found.neighbors[:, 0].astype(float) * found.scale
    assert (len(kept), 300 < kept[:20].mean() < 700, -700 < kept[20:].mean() < -300) == (40, True, True)


def test_large_features_fit_half_precision() -> None:
    gathering = Gathering(2, 3)
    features = np.random.default_rng(0).normal(size=(100, 3)) * 1e5
    gathering.add(features, np.arange(100) % 2, np.zeros((100, strangers.STATISTICS)))
    assert all(np.isfinite(array).all() for array in gathering.trained_on().arrays().values())


def test_features_of_zeros_and_classes_without_pictures_are_measured_all_the_same() -> None:
    gathering = Gathering(2, 3)
    gathering.add(np.zeros((100, 3)), np.arange(100) % 2, np.zeros((100, strangers.STATISTICS)))
    found = gathering.trained_on()
    assert found.scale == 1
    assert all(np.isfinite(array).all() for array in found.arrays().values())
    features, targets, statistics = made(800, 1)
    more = Gathering(CLASSES + 2, WIDTH)
    more.add(features, targets + 1, statistics)  # the first and the last class have none
    assert not more.trained_on().means[[0, -1]].any()
    new, _, _ = made(5, 2)
    for name in (strangers.MAHALANOBIS, strangers.NEIGHBORS):
        expected, same = (
            Distances(one, names=[name])(name, new, np.zeros((5, 2)), statistics[:5])
            for one in (gathered(), more.trained_on())
        )
        np.testing.assert_allclose(same, expected, rtol=1e-6)


def test_directions_without_variance_have_a_thousandth_of_the_mean() -> None:
    whiten = strangers._whitening(np.diag([1.0, 0.0]))
    np.testing.assert_allclose(np.abs(whiten.T @ [0, 1]), [1 / np.sqrt(0.0005), 0])
    np.testing.assert_allclose(np.abs(whiten.T @ [1, 0]), [0, 1 / np.sqrt(1.0005)])
    assert np.isfinite(strangers._whitening(np.zeros((2, 2)))).all()


def test_what_comes_of_one_of_few_pictures_depends_on_no_other_to_the_last_digit() -> None:
    random = np.random.default_rng(0)
    rows, matrix = random.normal(size=(150, 300)), random.normal(size=(300, 70))
    parts = [*strangers.few_at_once(150)]
    assert parts[0] == slice(0, 64)
    assert [[*strangers.few_at_once(count)] for count in (0, 1, 64, 65)] == [
        *([], [slice(0, 64)], [slice(0, 64)], [slice(0, 64), slice(64, 128)]),
    ]
    found = np.concatenate([strangers._each_by(rows[few], matrix) for few in parts])
    np.testing.assert_array_equal(found, np.concatenate([strangers._each_by(row[None], matrix) for row in rows]))
    np.testing.assert_allclose(strangers._each_by(rows, matrix), found, rtol=0, atol=1e-11)


def test_pixels_are_as_far_as_mahalanobis_has_it_and_logits_as_they_tell() -> None:
    _, _, statistics = made(800, 1)
    new, logits = made(50, 2)[2] + 1, np.random.default_rng(0).normal(size=(50, CLASSES))
    centered = new - statistics.mean(axis=0)
    inverse = np.linalg.inv(np.cov(statistics.T, bias=True))
    measure = Distances(gathered(), names=())
    found = measure(strangers.PIXELS, np.zeros((50, WIDTH)), logits, new)
    np.testing.assert_allclose(found, np.einsum("ni,ij,nj->n", centered, inverse, centered), rtol=0.01)
    for name, by in ((strangers.SOFTMAX, strangers.unsure), (strangers.ENTROPY, strangers.generalized_entropy)):
        assert measure(name, np.zeros((50, WIDTH)), logits, new).tolist() == by(logits).tolist()


def test_no_training_picture_is_refused() -> None:
    with pytest.raises(ValueError, match="no training pictures"):
        Gathering(2, 3).trained_on()


@pytest.mark.parametrize("are_alike", [True, False])
def test_relative_mahalanobis_is_the_papers(are_alike: bool) -> None:
    features, targets, of_pixels = made(800, 1)
    if not are_alike:  # ten times as many pictures of the first class
        kept = (targets == 0) | (np.arange(800) % 10 == 0)
        features, targets, of_pixels = features[kept], targets[kept], of_pixels[kept]
    new, _, statistics = made(50, 2, CENTERS[::-1] + 1)
    means = np.stack([features[targets == label].mean(axis=0) for label in range(CLASSES)])
    within = np.cov((features - means[targets]).T, bias=True)
    overall = np.cov(features.T, bias=True)
    to_classes = [np.einsum("ni,ij,nj->n", new - mean, np.linalg.inv(within), new - mean) for mean in means]
    center = features.mean(axis=0)
    background = np.einsum("ni,ij,nj->n", new - center, np.linalg.inv(overall), new - center)
    gathering = Gathering(CLASSES, WIDTH)
    gathering.add(features, targets, of_pixels)
    measure = Distances(gathering.trained_on(), names=[strangers.MAHALANOBIS])
    found = measure(strangers.MAHALANOBIS, new, new @ WEIGHT.T + BIAS, statistics)
    np.testing.assert_allclose(found, np.min(to_classes, axis=0) - background, rtol=0.02, atol=0.3)


def test_the_virtual_logit_is_the_papers() -> None:
    """The logarithm of the odds of the virtual class: alpha |residual| less the log-sum-exp of the logits."""
    trained_on = gathered()
    new, _, statistics = made(50, 2)
    logits = new @ WEIGHT.T + BIAS
    origin = -np.linalg.pinv(WEIGHT) @ BIAS
    features, _, _ = made(800, 1)
    _, directions = np.linalg.eigh((features - origin).T @ (features - origin) / 800)
    residual = directions[:, : WIDTH - round(WIDTH * 2 / 3)]
    kept = trained_on.neighbors.astype(float) * trained_on.scale
    alpha = (kept @ WEIGHT.T + BIAS).max(axis=1).mean()
    alpha /= np.linalg.norm((kept - origin) @ residual, axis=1).mean()
    expected = alpha * np.linalg.norm((new - origin) @ residual, axis=1) - np.log(np.exp(logits).sum(axis=1))
    found = Distances(trained_on, WEIGHT, BIAS)(strangers.VIM, new, logits, statistics)
    np.testing.assert_allclose(found, expected, rtol=0.02, atol=0.3)
    for half in ({}, {"weight": WEIGHT}, {"bias": BIAS}):
        with pytest.raises(ValueError, match="virtual logit needs the classifier's weights"):
            Distances(trained_on, names=[strangers.VIM], **half)


@pytest.mark.parametrize(("kept", "nth"), [(None, 10), (10, 10), (4, 4), (1, 1)])
def test_the_tenth_neighbor_by_cosine_or_the_last_of_fewer(kept: int | None, nth: int) -> None:
    trained_on = gathered()
    trained_on = replace(trained_on, neighbors=trained_on.neighbors[:kept])
    new, _, statistics = made(5, 2)
    bank = trained_on.neighbors.astype(float)
    cosines = [sorted(bank @ one / np.linalg.norm(bank, axis=1) / np.linalg.norm(one))[-nth] for one in new]
    found = Distances(trained_on, names=[strangers.NEIGHBORS])(strangers.NEIGHBORS, new, np.zeros((5, 2)), statistics)
    np.testing.assert_allclose(found, -np.array(cosines), atol=1e-5)


def test_unsure_is_the_softmax_without_a_ceiling() -> None:
    logits = np.array([[2.0, 0.0, 0.0], [80.0, 0.0, 0.0], [90.0, 0.0, 0.0]])
    found = strangers.unsure(logits)
    largest = np.exp(2) / (np.exp(2) + 2)
    assert found[0] == pytest.approx(-np.log(largest / (1 - largest)))
    assert found[2] < found[1] < found[0]  # where float64 has a probability of 1 for both


def test_generalized_entropy_is_the_papers() -> None:
    logits = np.random.default_rng(0).normal(size=(5, 7)) * 3
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = [sum((one * (1 - one)) ** 0.1 for one in row) for row in p]
    np.testing.assert_allclose(strangers.generalized_entropy(logits), expected)
    assert np.isfinite(strangers.generalized_entropy(np.array([[900.0, 0.0, -900.0]]))).all()


def distances_of(features: np.ndarray, statistics: np.ndarray) -> dict[str, np.ndarray]:
    measure = Distances(gathered(), WEIGHT, BIAS)
    logits = features @ WEIGHT.T + BIAS
    return {name: measure(name, features, logits, statistics) for name in strangers.COMBINED}


def test_familiarity_is_uniform_over_pictures_like_those_held_out() -> None:
    features, _, statistics = made(4_000, 3)
    distances = distances_of(features, statistics)
    fitted = Familiarity.fit({name: values[:2_000] for name, values in distances.items()})
    found = fitted({name: values[2_000:] for name, values in distances.items()})
    for share in (0.05, 0.2, 0.5):
        assert (found < share).mean() == pytest.approx(share, abs=0.03)
    assert found.min() > 0
    assert found.max() <= 1


def test_strangers_of_each_kind_are_less_familiar() -> None:
    features, _, statistics = made(1_000, 3)
    fitted = Familiarity.fit(distances_of(features, statistics))
    elsewhere, _, _ = made(200, 4, RNG.normal(size=(3, WIDTH)) * 12)
    assert np.median(fitted(distances_of(elsewhere, statistics[:200]))) < 0.05
    assert np.median(fitted(distances_of(features[:200], statistics[:200] + 8))) < 0.05
    assert np.median(fitted(distances_of(features[:200], statistics[:200]))) > 0.3


def test_held_out_pictures_that_are_as_far_count_each_other() -> None:
    found = Familiarity.fit(dict.fromkeys(strangers.COMBINED, np.array([1.0, 2.0, 1.0])))
    assert found.combined == pytest.approx([0.0, 0.0, 2 * np.log(3) + 3 * np.log(3 * 0.75)])


def test_as_many_held_out_pictures_are_needed_as_make_the_least_share_smaller() -> None:
    """One of 334 is less than 0.003, which is of 333 pictures and the one that is judged."""
    held_out = np.arange(333.0)
    for pictures, is_told in ((333, False), (332, True)):
        parts = dict.fromkeys(strangers.COMBINED, held_out[:pictures])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            Familiarity(parts, held_out[:pictures]).warn_beyond_reach(0.003)
        assert [str(one.message) for one in caught] == is_told * [
            "false_alarms 0.003 takes 333 held-out pictures or more, and there are 332: no picture will be called none "
            "of these"
        ]


@pytest.mark.parametrize(("pictures", "odd"), [(9, 0.3), (999, 0.03)])
def test_shares_are_combined_as_fisher_has_it_and_of_pixels_what_is_odd_counts_three_times(
    pictures: int, odd: float
) -> None:
    fitted = Familiarity(dict.fromkeys(strangers.COMBINED, np.arange(float(pictures))), np.arange(float(pictures)))
    beyond, middle = float(pictures), float(pictures // 2)
    least, share = 1 / (pictures + 1), (pictures - pictures // 2 + 1) / (pictures + 1)
    for mahalanobis, entropy, pixels, expected in (
        (beyond, middle, middle, -np.log(least) - np.log(share)),
        (middle, beyond, middle, -np.log(least) - np.log(share)),
        (middle, middle, beyond, -2 * np.log(share) + 3 * np.log(odd / least)),
    ):
        distances = {strangers.MAHALANOBIS: mahalanobis, strangers.ENTROPY: entropy, strangers.PIXELS: pixels}
        found = fitted.strangeness({name: np.array([one]) for name, one in distances.items()})
        assert found == pytest.approx(expected)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_pixel_statistics_are_what_they_are_said_to_be(channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(channels).normal(0.3, 1, size=(5, channels, 24, 19)).astype(np.float32)
    light = pixels.astype(float).mean(axis=1)
    colors = pixels - light[:, None]

    def log(values: np.ndarray) -> np.ndarray:
        return np.log(values + 1e-3)

    def edges(maps: np.ndarray) -> np.ndarray:
        down, across = (np.square(np.diff(maps, axis=axis)).mean(axis=(1, 2)) for axis in (1, 2))
        return np.sqrt(down + across)

    found = strangers.pixel_statistics(pixels)
    assert found.shape == (5, strangers.STATISTICS)
    np.testing.assert_allclose(found[:, 0], light.mean(axis=(1, 2)), atol=1e-5)
    np.testing.assert_allclose(found[:, 1], log(light.std(axis=(1, 2))), rtol=1e-4)
    np.testing.assert_allclose(found[:, 2], log(np.sqrt(np.square(colors).mean(axis=(1, 2, 3)))), rtol=1e-4, atol=1e-3)
    coarse = light
    for scale in range(4):  # the odd column is left out
        np.testing.assert_allclose(found[:, 3 + scale], log(edges(coarse)), rtol=1e-4, atol=1e-3)
        height, width = (side // 2 for side in coarse.shape[1:])
        coarse = coarse[:, : 2 * height, : 2 * width].reshape(5, height, 2, width, 2).mean(axis=(2, 4))
    steps, share = np.diff(light, axis=2), 18 / 19  # the last column has no next
    rare = np.log(np.square(steps).mean(axis=(1, 2)) * share + 1e-6) - 2 * log(np.abs(steps).mean(axis=(1, 2)) * share)
    np.testing.assert_allclose(found[:, 7], rare, rtol=1e-3)
    for place in range(3):
        expected = log(edges(colors[:, min(place, channels - 1)]))
        np.testing.assert_allclose(found[:, 8 + place], expected, rtol=1e-4, atol=1e-3)
    np.testing.assert_array_equal(strangers.pixel_statistics([*pixels]), found)  # pictures one by one
    for at_once in (2 * pixels[0].size, pixels[0].size - 1):  # one, though it is more
        monkeypatch.setattr(strangers, "VALUES_AT_ONCE", at_once)
        np.testing.assert_array_equal(strangers.pixel_statistics(pixels), found)
    monkeypatch.setattr(strangers, "ADDED_AT_ONCE", 50)  # of 456
    np.testing.assert_allclose(strangers.pixel_statistics(pixels), found, rtol=1e-4, atol=1e-3)
    assert strangers.pixel_statistics(pixels[:0]).shape == (0, strangers.STATISTICS)


@pytest.mark.parametrize("channels", [1, 3])
def test_pixel_statistics_tell_noise_gray_and_stripes_from_a_photograph(channels: int) -> None:
    rng = np.random.default_rng(0)
    smooth = np.cumsum(np.cumsum(rng.normal(size=(8, channels, 48, 40)), axis=2), axis=3)
    smooth /= smooth.std(axis=(1, 2, 3), keepdims=True)
    noise, gray = rng.normal(size=(8, channels, 48, 40)), np.full((8, channels, 48, 40), 0.3)
    found = [strangers.pixel_statistics(pixels.astype(np.float32)) for pixels in (smooth, noise, gray)]
    assert all(one.shape == (8, strangers.STATISTICS) and np.isfinite(one).all() for one in found)
    assert (found[1][:, 3] > found[0][:, 3].max() + 1).all()  # fine edges
    assert (found[2][:, 1] < found[0][:, 1].min() - 3).all()  # contrast


def test_pixel_statistics_are_those_of_the_picture_on_its_side_but_for_the_steps_of_columns() -> None:
    pixels = np.random.default_rng(3).normal(size=(2, 3, 16, 16)).astype(np.float32).cumsum(axis=3) / 8
    upright, turned = (strangers.pixel_statistics(one) for one in (pixels, pixels.transpose(0, 1, 3, 2)))
    same = [number for number in range(strangers.STATISTICS) if number != 3 + strangers.SCALES]
    np.testing.assert_allclose(upright[:, same], turned[:, same], rtol=1e-4)
    assert (upright[:, 3 + strangers.SCALES] != turned[:, 3 + strangers.SCALES]).all()


def test_pixel_statistics_of_one_row() -> None:
    assert np.isfinite(strangers.pixel_statistics(np.zeros((1, 3, 1, 9), np.float32))).all()
    row = np.random.default_rng(0).normal(size=(1, 1, 1, 9)).astype(np.float32)
    halves = row[0, 0, 0, :8].reshape(4, 2).mean(axis=1)
    expected = [np.log(np.sqrt(np.square(np.diff(one)).mean()) + 1e-3) for one in (row.ravel(), halves)]
    for lying in (row, row.swapaxes(2, 3)):  # and of one column
        np.testing.assert_allclose(strangers.pixel_statistics(lying)[0, 3:5], expected, rtol=1e-5)


def test_pixel_statistics_of_a_picture_do_not_depend_on_its_neighbors() -> None:
    pixels = np.random.default_rng(0).normal(size=(4, 3, 33, 20)).astype(np.float32)
    together = strangers.pixel_statistics(pixels)
    np.testing.assert_array_equal(together[2:3], strangers.pixel_statistics(pixels[2:3]))


def test_coarser_edges_are_those_of_the_picture_made_of_squares() -> None:
    pixels = np.random.default_rng(0).normal(size=(2, 3, 16, 8)).astype(np.float32)
    squares = pixels.reshape(2, 3, 8, 2, 4, 2).mean(axis=(3, 5))
    found, coarse = strangers.pixel_statistics(pixels), strangers.pixel_statistics(squares)
    np.testing.assert_allclose(found[:, 4:6], coarse[:, 3:5], rtol=1e-5)


def test_a_held_out_picture_is_as_far_as_itself_whatever_rounding_another_batch_brings() -> None:
    """Above it are as many as are as far, and itself."""
    held_out = np.arange(1.0, 10.0)
    familiarity = strangers.Familiarity(dict.fromkeys(strangers.COMBINED, held_out), np.sort(held_out))
    moved = strangers.ROUNDING * held_out.std() / 2
    exact, above, below = (
        familiarity.strangeness(dict.fromkeys(strangers.COMBINED, held_out + by)) for by in (0.0, moved, -moved)
    )
    np.testing.assert_array_equal(exact, above)
    np.testing.assert_array_equal(exact, below)
    shares = [
        strangers.Familiarity(familiarity.parts, np.sort(exact) - by)(dict.fromkeys(strangers.COMBINED, held_out))
        for by in (0.0, strangers.ROUNDING * exact.std() / 2)
    ]
    wider = strangers.Familiarity(familiarity.parts, 1e3 * held_out)  # each is rounded by its own spread
    farther = 0.05 * held_out.std()  # which is not rounding
    assert (wider.strangeness(dict.fromkeys(strangers.COMBINED, held_out + farther)) > exact).all()
    np.testing.assert_array_equal(*shares)
    assert shares[0].tolist() == [(10 - rank) / 10 for rank in range(9)]
    assert (np.diff(exact) > 0).all()
