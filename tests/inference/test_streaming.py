"""Pictures to outputs: batches, and errors in their place; what labels are made of them is for `test_predictor`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_hybrid
import torch
from fake_engine import Colors

from vit_hybrid import engines
from vit_hybrid.data.sources import SourceError
from vit_hybrid.engines import Specification
from vit_hybrid.images.preparing import Exactly, OnDevice, preparing
from vit_hybrid.images.preprocessing import Preprocessing
from vit_hybrid.images.reading import ImageReadError
from vit_hybrid.inference.streaming import Streaming, attempted, is_single

STEPS = Preprocessing(size=4, crop_size=(4, 4), image_mean=0.0, image_std=1.0)


class Means:
    """An engine whose outputs are the pictures' mean and size of batch."""

    name, precision, device = "torch", "f32", "cpu"
    spec = Specification(("mean", "batch"), "regression", 3, (4, 4))

    def logits(self, pixel_values: Any) -> np.ndarray:
        means = pixel_values.mean((1, 2, 3))
        means[means == 1] = np.nan
        return np.stack([means, np.full(len(means), len(means), np.float32)], 1).astype(np.float32)


def gray(level: int) -> np.ndarray:
    return np.full((5, 6, 3), level, np.uint8)


@pytest.fixture
def streaming() -> Streaming:
    return Streaming(Means(), preparing(STEPS), batch_size=2)


@pytest.mark.parametrize("read_ahead", [False, True])
def test_outputs_stand_where_their_pictures_stood(streaming: Streaming, read_ahead: bool) -> None:
    wrong = SourceError("b: no pictures in this folder")
    sources: list[Any] = [gray(51), ("b", wrong), gray(102), ("d", b""), ("e", gray(204)), ValueError("lost")]
    records = list(streaming.stream(sources, read_ahead))
    assert [record["path"] for record in records] == ["image 1", "b", "image 3", "d", "e", "image 6"]
    found = [[round(float(value), 5) for value in record.get("logits", ())] for record in records]
    assert found == [[0.2, 2.0], [], [0.4, 2.0], [], [0.8, 1.0], []]
    errors = [record.get("error") for record in records]
    assert errors[1::2] == ["b: no pictures in this folder", "d: is empty", "image 6: lost"]


@pytest.mark.parametrize(
    ("failure", "said"),
    [(MemoryError("no more"), "no more"), (OSError(5, "Input/output error"), "[Errno 5] Input/output error")],
)
def test_a_picture_that_there_is_no_memory_for_is_an_error_in_its_place(failure: Exception, said: str) -> None:
    class Short(Exactly):
        def __call__(self, source: Any, name: str | None = None) -> Any:
            if name == "b":
                raise failure
            return super().__call__(source, name)

    first, error, last = Streaming(Means(), Short(STEPS), batch_size=2).stream([gray(51), ("b", gray(1)), gray(102)])
    assert error == {"path": "b", "error": f"b: {said}"}
    assert (first["path"], last["path"]) == ("image 1", "image 3")


def test_outputs_that_are_not_finite_are_for_the_caller_to_judge(streaming: Streaming) -> None:
    [record] = streaming.stream([gray(255)])
    assert np.isnan(record["logits"][0])


def test_outputs_of_one_several_and_no_pictures(streaming: Streaming) -> None:
    assert streaming.outputs(gray(51)).tolist() == [[np.float32(0.2), 1.0]]
    assert streaming.outputs([gray(51)] * 3)[:, 1].tolist() == [2.0, 2.0, 1.0]
    assert streaming.outputs([]).shape == (0, 2)
    with pytest.raises(ValueError, match="image 3 of 3: an image of shape"):
        streaming.outputs([gray(1), gray(2), np.zeros((7, 7, 7), np.uint8)])


def test_batches_are_filled_up_and_a_broken_picture_keeps_its_slot() -> None:
    filling = Streaming(Means(), preparing(STEPS), batch_size=3, fill_batches=True)
    records = list(filling.stream([gray(51), ("b", b""), gray(102), gray(204), ("e", b""), ("f", b""), ("g", b"")]))
    assert [record["path"] for record in records] == ["image 1", "b", "image 3", "image 4", "e", "f", "g"]
    found = [[round(float(value), 5) for value in record.get("logits", ())] for record in records]
    assert found == [[0.2, 3.0], [], [0.4, 3.0], [0.8, 3.0], [], [], []]
    assert [["error" in record] for record in records] == [[not values] for values in found]
    assert filling.outputs([gray(51)] * 4)[:, 1].tolist() == [3.0] * 4
    assert filling.outputs(gray(51)).tolist() == [[np.float32(0.2), 3.0]]


@pytest.mark.parametrize("engine", engines.ENGINES)
def test_what_is_given_of_a_picture_does_not_depend_on_the_range_it_is_in(engine: str, tiny_folder: Any) -> None:
    loaded = engines.load(tiny_folder, engine=engine, device="cpu", output="both")
    filling = Streaming(loaded, preparing(loaded.spec.preprocessing), batch_size=4, fill_batches=True)
    rng = np.random.default_rng(0)
    pictures: list[Any] = [(str(index), rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)) for index in range(9)]

    def rows(sources: list[Any]) -> dict[str, list[float]]:
        records = [record for record in filling.stream_outputs(sources) if "error" not in record]
        return {one["path"]: [*one["logits"].tolist(), *one["features"].tolist()] for one in records}

    whole = rows(pictures)
    assert len(whole["0"]) == 3 + 16
    assert {**rows(pictures[:5]), **rows(pictures[5:])} == whole
    assert rows(pictures[::-1]) == whole
    assert rows([("broken", b""), *pictures[:3], ("broken", b""), *pictures[3:]]) == whole
    assert rows(pictures[7:8]) == {"7": whole["7"]}


def test_records_carry_what_the_engine_was_loaded_for(tiny_model: Any) -> None:
    steps = preparing(Preprocessing.from_dict(tiny_hybrid.tiny_processor().to_dict()))
    sources: list[Any] = [np.full((40, 50, 3), 70, np.uint8), ("b", b"")]
    both = Streaming(engines.load(tiny_model, engine="torch", output="both"), steps, 2)
    record, error = both.stream_outputs(sources)
    assert (*record, *error) == ("path", "logits", "features", "path", "error")
    [logits, _] = both.stream(sources)
    assert tuple(logits) == ("path", "logits")
    np.testing.assert_array_equal(logits["logits"], record["logits"])
    alone = Streaming(engines.load(tiny_model, engine="torch", output="features"), steps, 2)
    [features, _] = alone.stream_outputs(sources)
    assert tuple(features) == ("path", "features")
    np.testing.assert_array_equal(features["features"], record["features"])
    for ask in (alone.stream, alone.outputs):
        with pytest.raises(engines.EngineError, match="computes no logits; load the model with output='logits' or"):
            ask(sources[:1])


def test_a_batch_has_at_least_one_picture() -> None:
    with pytest.raises(ValueError, match="batch_size is 0; expected 1 or more"):
        Streaming(Means(), preparing(STEPS), 0)


def test_the_torch_engine_takes_what_was_prepared_on_its_device(tiny_model: Any) -> None:
    engine = engines.load(tiny_model, engine="torch")
    steps = Preprocessing.from_dict(tiny_hybrid.tiny_processor().to_dict())
    sources = [np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8) for seed in range(3)]
    exact = Streaming(engine, preparing(steps), batch_size=2)
    on_device = Streaming(engine, OnDevice(steps, None, engine.device), batch_size=2)
    np.testing.assert_allclose(on_device.outputs(sources), exact.outputs(sources), rtol=0, atol=0.02)
    [*records] = on_device.stream(sources)
    np.testing.assert_array_equal([record["logits"] for record in records], on_device.outputs(sources))


def test_sizes_may_differ_where_the_engine_takes_any_and_channels_nowhere() -> None:
    class AnySize(Means):
        spec = Specification(("mean", "batch"), "regression", 3, (4, 4), dynamic=True)

    def made(engine: Any, channels: int, side: int) -> Any:
        steps = Preprocessing(size=side, crop_size=(side, side), image_mean=0.0, image_std=1.0, do_convert_rgb=False)
        [record] = Streaming(engine, preparing(steps), 2).stream([np.full((8, 8, channels), 51, np.uint8)])
        return record.get("error") or round(float(record["logits"][0]), 5)

    assert made(Means(), 3, 4) == made(AnySize(), 3, 4) == made(AnySize(), 3, 6) == 0.2
    for engine, channels, side in ((Means(), 3, 6), (Means(), 1, 4), (AnySize(), 1, 4), (AnySize(), 1, 6)):
        said = f"(channels, height, width) = ({channels}, {side}, {side}) of it, but the model takes (3, 4, 4)"
        assert said in made(engine, channels, side)


def test_of_a_generator_no_more_is_asked_for_than_the_next_batch_takes(streaming: Streaming) -> None:
    asked: list[int] = []

    def sources() -> Any:
        for index in range(20):
            asked.append(index)
            yield b"" if index in (0, 3) else gray(51)

    records = streaming.stream(sources())
    assert "error" in next(records)
    assert asked == [0]  # with no picture before it, an error need not wait for a batch
    assert [next(records)["path"] for _ in range(2)] == ["image 2", "image 3"]
    assert asked == [0, 1, 2]
    assert [next(records)["path"] for _ in range(3)] == ["image 4", "image 5", "image 6"]
    assert asked == [0, 1, 2, 3, 4, 5]


def test_sequences_of_more_than_a_few_batches_are_read_ahead(
    streaming: Streaming, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead: list[int] = []

    def prepared_ahead(work: Any, items: Any, most: int) -> Any:
        ahead.append(most)
        return map(work, items)

    monkeypatch.setattr("vit_hybrid.inference.streaming.prepared_ahead", prepared_ahead)
    pictures = [gray(51)] * 9
    for given, how, is_ahead in (
        (pictures[:8], None, False),  # four batches
        (pictures, None, True),
        (iter(pictures), None, False),
        (iter(pictures), True, True),
        (pictures, False, False),
    ):
        ahead.clear()
        assert len([*streaming.stream(given, how)]) in (8, 9)
        assert ahead == [4] * is_ahead  # two batches


def test_filled_batches_are_computed_steadily(monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[str] = []
    compute = Colors._compute

    def noting(name: str) -> Any:
        return lambda engine, values: (passes.append(name), compute(engine, values))[1]

    for name in ("_compute", "_compute_steadily"):
        monkeypatch.setattr(Colors, name, noting(name))
    pixels = np.zeros((3, 8, 8), np.float32)
    for fill_batches, name, count in ((False, "_compute", 1), (True, "_compute_steadily", 3)):
        engine = Colors()
        found = Streaming(engine, preparing(STEPS), 3, fill_batches).forward([pixels])
        assert (passes[-1], engine.sizes, found.logits is not None and len(found.logits)) == (name, [count], 1)


def test_batches_are_filled_for_a_while_and_then_as_before(streaming: Streaming) -> None:
    for before in (False, True):
        streaming.fill_batches = before
        with streaming.filled():
            assert streaming.fill_batches
        assert streaming.fill_batches is before
        with pytest.raises(ZeroDivisionError), streaming.filled():
            raise ZeroDivisionError
        assert streaming.fill_batches is before


def test_statistics_stand_where_their_pictures_stand() -> None:
    measuring = Streaming(Means(), preparing(STEPS), batch_size=4, statistics=True)
    dark, bright = (np.full((3, 4, 4), level, np.float32) for level in (0.25, 0.75))
    [[of_dark], [of_bright]] = (measuring.statistics_of([one]) for one in (dark, bright))
    assert (of_dark != of_bright).any()
    found = measuring.statistics_of([None, dark, None, bright])
    assert found[0] is found[2] is None
    np.testing.assert_array_equal([found[1], found[3]], [of_dark, of_bright])
    assert measuring.statistics_of([None, None]) == [None, None]
    for fill_batches in (False, True):
        measuring.fill_batches = fill_batches
        records = [*measuring.stream_outputs([gray(51), ("b", b""), gray(102), gray(204)])]
        alone = [measuring.statistics_of([preparing(STEPS)(gray(level))])[0] for level in (51, 102, 204)]
        assert "statistics" not in records.pop(1)
        np.testing.assert_array_equal([record["statistics"] for record in records], alone)
    measuring.statistics = False
    [record] = measuring.stream_outputs([gray(51)])
    assert "statistics" not in record


def test_what_becomes_of_a_picture_or_why_nothing_does() -> None:
    assert attempted("a", 3, lambda one: one + 1) == (4, None)
    for error, said in (
        (ValueError("too  small"), "a: too small"),
        (MemoryError(), "a: MemoryError"),
        (ImageReadError("a", "is empty"), "a: is empty"),
        (SourceError("a, row 7: no such column"), "a, row 7: no such column"),
    ):
        assert attempted("a", error, lambda one: one) == (None, {"path": "a", "error": said})
    with pytest.raises(ZeroDivisionError):
        attempted("a", 0, lambda one: 1 / one)


def test_one_image_or_several(tmp_path: Path) -> None:
    picture = np.zeros((4, 4, 3), np.uint8)
    with (tmp_path / "file").open("wb") as file:
        for one in ("a.jpg", tmp_path, b"content", picture, picture[..., 0], torch.zeros(3, 4, 4), file):
            assert is_single(one)
    for several in ([picture], (picture,), picture[None], torch.zeros(1, 3, 4, 4), iter([picture])):
        assert not is_single(several)
