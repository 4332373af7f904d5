"""The ways from a picture to the model's input, whose pixels `test_preprocessing`, `test_fast` and others measure."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import legacy_pictures
import numpy as np
import pytest
from PIL import Image

from vit_hybrid.errors import options_named
from vit_hybrid.images.fast import FastPreprocessing, open_draft
from vit_hybrid.images.preparing import Fast, OnDevice, check_resizable, check_usable, preparing
from vit_hybrid.images.preprocessing import Preprocessing
from vit_hybrid.images.reading import ImageReadError

STEPS = Preprocessing(size=16, crop_size=(16, 16))
RGB = legacy_pictures.levels(17, 23)


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_the_exact_way_is_what_preprocessing_says() -> None:
    expected = STEPS([RGB])
    for source in (RGB, Image.fromarray(RGB), png(Image.fromarray(RGB)), io.BytesIO(png(Image.fromarray(RGB)))):
        np.testing.assert_array_equal(preparing(STEPS)(source), expected[0])
    np.testing.assert_array_equal(preparing(STEPS).batch([expected[0], expected[0]]), STEPS([RGB, RGB]))


def test_the_fast_way_reads_large_files_smaller(tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    Image.fromarray(RGB).resize((640, 480), Image.Resampling.BICUBIC).save(path, quality=95)
    exact, fast = preparing(STEPS)(path), preparing(STEPS, fast=True)(path)
    assert 0 < np.abs(fast - exact).max() * 0.27 < 20 / 255
    np.testing.assert_array_equal(fast, FastPreprocessing(STEPS)([open_draft(path, STEPS)])[0])
    for is_fast in (False, True):  # what the picture has, not what is read of it
        assert preparing(STEPS, is_fast).sized(path)[1] == (640, 480)


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize(
    "given",
    [RGB / 255, (RGB / 255).astype(np.float32), RGB * 257.0, RGB.astype(np.uint16) * 257, RGB.astype(np.int64) * 257],
    ids=["fractions", "fractions in single precision", "floats of 65535", "uint16", "integers of 65535"],
)
def test_arrays_of_every_scale_are_the_same_picture(given: np.ndarray, fast: bool) -> None:
    prepare = preparing(STEPS, fast)
    np.testing.assert_array_equal(prepare(given), prepare(RGB))


@pytest.mark.parametrize("fast", [False, True])
def test_arrays_of_no_scale_are_refused(fast: bool) -> None:
    with pytest.raises(ValueError, match=r"levels from -1024 to 3071; expected .* scale them first"):
        preparing(STEPS, fast)(np.array([[-1024.0, 3071.0]]))


def test_arrays_are_left_alone_where_nothing_is_rescaled() -> None:
    steps = dataclasses.replace(STEPS, do_resize=False, do_center_crop=False, do_rescale=False, do_normalize=False)
    fractions = (RGB / 255).astype(np.float32)
    np.testing.assert_array_equal(preparing(steps)(fractions), fractions.transpose(2, 0, 1))


@pytest.mark.parametrize("fast", [False, True])
def test_a_strip_that_resizing_would_blow_up_is_refused(fast: bool) -> None:
    strip = Image.new("L", (1, 500_000))
    with pytest.raises(ValueError, match=r"1 x 500000 would be resized to 16 x 8000000, more pixels than the 89478485"):
        preparing(STEPS, fast, max_pixels=10**9)(strip)


def test_as_many_pixels_as_pillow_allows_may_come_of_resizing(monkeypatch: pytest.MonkeyPatch) -> None:
    strip = Image.new("L", (10, 20))  # which becomes 16 x 32
    for limit in (16 * 32, None):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        check_resizable(strip, STEPS)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 16 * 32 - 1)
    with pytest.raises(ValueError, match=r"of 10 x 20 would be resized to 16 x 32, more pixels than the 511 allowed"):
        check_resizable(strip, STEPS)
    check_resizable(np.zeros((20, 10), np.uint8), STEPS)
    check_resizable(strip, dataclasses.replace(STEPS, do_resize=False))


def test_what_cannot_become_a_models_input_is_refused_without_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    unconverted = dataclasses.replace(STEPS, do_convert_rgb=False)
    palette, premultiplied = legacy_pictures.picture("P"), Image.new("La", (9, 9))
    check_usable(palette, STEPS)
    check_usable(premultiplied, unconverted)
    with pytest.raises(ValueError, match="palette picture has no channels"):
        check_usable(palette, unconverted)
    with pytest.raises(ValueError, match="mode 'La' cannot be converted to RGB"):
        check_usable(premultiplied, STEPS)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 16)
    with pytest.raises(ValueError, match="more pixels than the 16 allowed"):
        check_usable(palette, STEPS)


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_files_of_more_pixels_than_allowed_are_refused(fast: bool, kind: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(RGB).save(buffer, kind)
    assert preparing(STEPS, fast, max_pixels=17 * 23)(buffer.getvalue()).shape == (3, 16, 16)
    with pytest.raises(ImageReadError, match="a: has more pixels than the 390 allowed"):
        preparing(STEPS, fast, max_pixels=17 * 23 - 1)(buffer.getvalue(), "a")


@pytest.mark.parametrize("fast", [False, True])
def test_a_picture_is_called_what_it_is_said_to_be(fast: bool) -> None:
    prepare = preparing(STEPS, fast)
    for source in (Image.new("La", (9, 9)), b"no picture"):
        for read in (prepare, prepare.sized):
            with pytest.raises(ImageReadError, match=r"^mine: "):
                read(source, "mine")


@pytest.mark.parametrize("dtype", ["uint8", "float32", "bfloat16"])
def test_tensors_are_taken_as_arrays_are(dtype: str) -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(RGB.copy()).to(getattr(torch, dtype))  # whole numbers up to 255 are exact in all of them
    for given in (tensor, tensor.requires_grad_()) if tensor.is_floating_point() else (tensor,):
        np.testing.assert_array_equal(preparing(STEPS)(given), preparing(STEPS)(RGB))


def test_the_devices_way_gives_tensors_where_torch_computes() -> None:
    torch = pytest.importorskip("torch")
    prepare = OnDevice(STEPS, None, "cpu")  # by the very code that runs on a GPU
    pixels = [prepare(source) for source in (RGB, png(Image.fromarray(RGB)))]
    batch = prepare.batch(pixels)
    assert isinstance(batch, torch.Tensor)
    np.testing.assert_allclose(batch.numpy(), np.stack([preparing(STEPS)(RGB)] * 2), rtol=0, atol=2 / 255 / 0.26)
    assert isinstance(preparing(STEPS, fast=True, device="cpu"), Fast)
    assert not isinstance(preparing(STEPS, fast=True, device="cpu"), OnDevice)
    assert type(preparing(STEPS, device="cuda:0")).__name__ == "Exactly"
    on_gpu = preparing(STEPS, fast=True, device="cuda:1", max_pixels=7)
    assert isinstance(on_gpu, OnDevice)
    assert (on_gpu._steps.device, on_gpu.max_pixels) == (torch.device("cuda:1"), 7)


def test_a_limit_of_no_pixels_is_refused() -> None:
    with pytest.raises(ValueError, match="max_pixels is 0; expected 1 or more"):
        preparing(STEPS, max_pixels=0)
    with options_named(), pytest.raises(ValueError, match="--max-pixels is -5; expected"):
        preparing(STEPS, max_pixels=-5)


@pytest.mark.parametrize("fast", [False, True])
def test_sizes_are_the_width_and_height_of_the_picture_upright(fast: bool) -> None:
    turned = Image.fromarray(RGB)
    turned.getexif()[0x0112] = 6  # a quarter turn
    file = io.BytesIO()
    turned.save(file, "PNG", exif=turned.getexif())
    sources = [RGB, RGB.transpose(2, 0, 1), Image.fromarray(RGB), png(Image.fromarray(RGB)), turned, file.getvalue()]
    found = [preparing(STEPS, fast).sized(source)[1] for source in sources]
    assert found == [(23, 17)] * 4 + [(17, 23)] * 2
