"""Figure 7: similar positions, distances of attention, the stem's filters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_hybrid import tiny_config

from vit_hybrid import ViTHybridForImageClassification
from vit_hybrid.explain import paper
from vit_hybrid.explain.drawing import colored, png
from vit_hybrid.explain.paper import Figure, attention_distance, drawn, figure, position_similarity
from vit_hybrid.files import MARK

FILES = {"figure": "png", "numbers": "npz"}


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    return ViTHybridForImageClassification(tiny_config(image_size=[32, 48])).eval()


def test_distances_are_in_pixels_also_where_patches_are_not_square() -> None:
    oblong = ViTHybridForImageClassification(tiny_config(image_size=[32, 48], patch_size=[2, 1])).eval()
    pixels = np.random.default_rng(0).standard_normal((3, 32, 48)).astype(np.float32)
    attentions = oblong(torch.tensor(pixels)[None], output_attentions=True).attentions
    places = [(row * 16, column * 8) for row in range(2) for column in range(6)]
    apart = np.array([[np.hypot(a[0] - b[0], a[1] - b[1]) for b in places] for a in places])
    patches = attentions[0][0, :, 1:, 1:].detach().numpy()
    expected = ((patches * apart).sum(-1) / patches.sum(-1)).mean(1)
    assert figure(oblong, [pixels]).distances[0] == pytest.approx(expected, rel=1e-5)


def test_of_a_model(model: Any) -> None:
    pictures = np.random.default_rng(0).standard_normal((3, 3, 32, 48)).astype(np.float32)
    found = figure(model, iter(pictures))
    assert found.pictures == 3
    # By loops, over pairs of patches of 8 pixels.
    attentions = model(torch.tensor(pictures), output_attentions=True).attentions
    places = [(row * 8, column * 8) for row in range(4) for column in range(6)]
    apart = np.array([[np.hypot(a[0] - b[0], a[1] - b[1]) for b in places] for a in places])
    for layer, weights in enumerate(attentions):
        patches = weights[:, :, 1:, 1:].detach().numpy()
        expected = ((patches * apart).sum(-1) / patches.sum(-1)).mean((0, 2))
        assert found.distances[layer] == pytest.approx(expected, rel=1e-5)
    positions = model.vit.embeddings.position_embeddings[0, 1:]
    for one, other in ((0, 0), (3, 17), (23, 5)):
        cosine = torch.nn.functional.cosine_similarity(positions[one], positions[other], dim=0).item()
        assert found.similarity[one // 6, one % 6, other // 6, other % 6] == pytest.approx(cosine, abs=1e-6)
    assert found.filters.mean((1, 2, 3)) == pytest.approx(0, abs=1e-5)
    assert found.filters.std((1, 2, 3)) == pytest.approx(1, abs=1e-3)
    model.fold_weight_standardization()
    assert figure(model, pictures[:1]).filters == pytest.approx(found.filters)


def test_distances_of_those_who_look_at_themselves_and_at_all() -> None:
    nearest = np.tile(np.eye(7), (2, 1, 1))
    assert attention_distance(nearest, (2, 3), (8, 8)).tolist() == [0, 0]
    everywhere = np.full((1, 3, 3), 1 / 3)
    assert attention_distance(everywhere, (1, 2), (10, 10)) == pytest.approx(5)
    assert attention_distance(everywhere, (2, 1), (10, 4)) == pytest.approx(5)
    only_the_class_token = np.zeros((1, 3, 3))
    only_the_class_token[..., 0] = 1
    assert attention_distance(only_the_class_token, (1, 2), (10, 10)) == pytest.approx(0)


def test_positions_without_a_direction_are_like_none() -> None:
    assert position_similarity(np.zeros((4, 3)), (2, 2)).max() == 0


def test_its_files_are_named_and_have_the_numbers(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    found = Figure(random.random((2, 3, 2, 3)), random.random((3, 4)), random.random((5, 3, 7, 7)), 9)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x-model.npz").touch()  # of a run before, beside what somebody noted
    (tmp_path / "out" / "notes.txt").write_text("mine")
    files = paper.write(found, tmp_path / "out", "x", "a title")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"x-model.png", "x-model.npz", "notes.txt", MARK}
    assert files == {kind: str(tmp_path / "out" / f"x-model.{end}") for kind, end in FILES.items()}
    assert Path(files["figure"]).read_bytes() == png(drawn(found, "a title"))
    with np.load(files["numbers"]) as numbers:
        for name, values in vars(found).items():
            assert numbers[name].tolist() == np.asarray(values).tolist()


def test_no_picture_is_refused(model: Any) -> None:
    with pytest.raises(ValueError, match="there is none"):
        figure(model, [])


@pytest.mark.parametrize(("grid", "channels"), [((4, 4), 3), ((24, 24), 1), ((3, 9), 5), ((30, 7), 3)])
def test_drawn_in_three_panels(grid: tuple[int, int], channels: int) -> None:
    random = np.random.default_rng(0)
    found = Figure(random.random((*grid, *grid)), random.random((3, 4)) * 90, random.random((20, channels, 7, 7)), 1)
    image = drawn(found, "a model called \u732b")
    assert (image.mode, image.size) == ("RGB", (1620, 600))
    sides = np.asarray(image.convert("L")).reshape(600, 3, 540)
    assert (sides[20:40, 0] < 128).any()  # the title
    for panel in range(3):
        assert (sides[60:80, panel, 60:] < 128).any()  # what it shows
        assert (sides[100:510, panel] < 200).mean() > 0.001
    below = Image.fromarray(sides[575:].reshape(-1, 1620)).getextrema()
    assert below == (255, 255)
    assert drawn(Figure(found.similarity, np.zeros((1, 2)), found.filters, 1), "no distance").size == image.size
    last = paper._distances(found.distances)
    assert image.crop((1080, 90, 1080 + last.width, 90 + last.height)).tobytes() == last.tobytes()  # whole, with axes


def test_patches_and_filters_stand_in_rows_each_with_its_own() -> None:
    similarity = np.random.default_rng(0).uniform(-1, 1, (2, 3, 2, 3))
    panel = np.asarray(paper._positions(similarity))
    for place, cosine in np.ndenumerate(similarity):  # of 46 pixels each, and a line between patches
        row, column, down, across = place
        found = panel[row * 93 + down * 46 + 23, column * 139 + across * 46 + 23]
        assert found.tolist() == colored(np.array((cosine + 1) / 2)).tolist()
    assert panel.shape == (2 * 93, 3 * 139, 3)
    assert (panel[92] == 255).all()
    for channels in (3, 5):
        filters = np.random.default_rng(1).normal(size=(3, channels, 2, 2))
        panel = np.asarray(paper._filters(filters), float)
        for number, one in enumerate(filters):
            shown = one if channels == 3 else np.broadcast_to(one.mean(0), (3, 2, 2))
            expected = 255 * (shown - shown.min()) / np.ptp(shown)
            top, left = number // 2 * 209, number % 2 * 209
            assert (
                np.abs(
                    panel[top + 52 : top + 209 : 104, left + 52 : left + 209 : 104].transpose(2, 0, 1) - expected
                ).max()
                < 1
            )


@pytest.mark.parametrize("farthest", [0.3, 41.0, 51.0, 100.0])
def test_a_scale_takes_the_farthest(farthest: float) -> None:
    colors = np.asarray(paper._distances(np.full((1, 1), farthest)))
    [rows, columns] = np.nonzero((colors == (0x1F, 0x4E, 0x9C)).all(axis=2))
    assert columns.mean() == pytest.approx(60 + 210, abs=1)
    assert 420 - 399 - 1 <= rows.mean() < 420 - 399 / 2  # not above the last number, nor far below it


@pytest.mark.parametrize(("layers", "numbered"), [(3, [1, 2, 3]), (20, [*range(1, 21)]), (48, [*range(3, 49, 3)])])
def test_a_dot_a_head_stands_over_the_number_of_its_layer(layers: int, numbered: list[int]) -> None:
    distances = np.linspace(2, 47, 2 * layers).reshape(layers, 2)
    image = paper._distances(distances)  # whose scale ends at 50
    colors, dark = np.asarray(image), np.asarray(image.convert("L")) < 128
    for layer, heads in enumerate(distances, start=1):
        x = round(60 + (layer - 0.5) / layers * 420)
        for distance in heads:
            assert colors[round(420 - distance / 50 * 399), x].tolist() == [0x1F, 0x4E, 0x9C]
        if layer in numbered or layer < 9:  # beside a number of two digits there is no room
            assert dark[426:440, x - 3 : x + 4].any() == (layer in numbered)
    assert dark[440:470, 60:480].any()  # what they are numbers of
    for tick in range(6):
        y = round(420 - tick / 5 * 399)
        assert dark[max(y - 7, 0) : y + 8, :55].any()
        assert [0xDD] * 3 in colors[max(y - 1, 0) : y + 2, 65].tolist()


@pytest.mark.parametrize(
    ("wanted", "step"),
    [(0.0, 1.0), (0.03, 0.05), (0.3, 0.5), (1.0, 1.0), (1.1, 2.0), (2.0, 2.0), (2.1, 5.0), (5.1, 10.0), (47.0, 50.0)],
)
def test_lines_of_a_scale_stand_at_round_numbers(wanted: float, step: float) -> None:
    assert paper._round_step(wanted) == pytest.approx(step)
