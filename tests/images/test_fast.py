from __future__ import annotations

import io
import logging
import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fresh_process
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vit_hybrid.images import fast as fast_preprocessing
from vit_hybrid.images import resampling
from vit_hybrid.images.fast import Draft, FastPreprocessing, open_draft
from vit_hybrid.images.preprocessing import Preprocessing, center_crop, resized_size
from vit_hybrid.images.reading import ImageReadError, open_image

FILTERS = [filter for filter in Image.Resampling if filter in resampling.KERNELS]
OFF_BY_TWO = 2.01  # levels; what is beyond is rounding of the input itself
HALF = (0.5, 0.5, 0.5)
SMALL = Preprocessing(size=14, crop_size=(12, 13))


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    """The hardest of all pictures to resize."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def smooth(height: int, width: int) -> Image.Image:
    """A picture that looks nearly the same at any scale, and different in each corner."""
    down, across = np.mgrid[:height, :width] / np.array([height, width])[:, None, None]
    levels = np.stack([255 * down, 255 * across, 127 + 120 * np.cos(3 * down + 5 * across)], axis=-1)
    return Image.fromarray(np.rint(levels).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def levels_apart(steps: Preprocessing, image: Image.Image) -> np.ndarray:
    """How far the fast way is from the exact one, in levels of 0..255."""
    exact, fast = steps([image]), FastPreprocessing(steps)([image])
    assert fast.shape == exact.shape
    assert fast.dtype == np.float32
    unit = np.float64(steps.rescale_factor) if steps.do_rescale else 1.0
    if steps.do_normalize:
        unit = unit / np.array(steps.image_std).reshape(-1, 1, 1)
    return np.abs(fast - exact) / unit


def test_neither_torch_nor_transformers_is_loaded() -> None:
    loaded = fresh_process.run(
        "import sys, vit_hybrid.images.fast; print({'torch', 'transformers'} & set(sys.modules))"
    )
    assert loaded.strip() == "set()"


# --- Resizing ---


@pytest.mark.parametrize("size", [384, 224, 64])
def test_photos_are_off_by_a_level_here_and_there(data_dir: Path, size: int) -> None:
    steps = Preprocessing(size=size, crop_size=(size, size), image_mean=HALF, image_std=HALF)
    photos = [open_image(path) for path in sorted((data_dir / "photos").glob("*.JPEG"))[::4]]
    assert photos
    apart = np.concatenate([levels_apart(steps, photo).ravel() for photo in photos])
    assert apart.max() < 1.01
    assert (apart > 0.5).mean() < 1e-3


@given(
    height=st.integers(1, 150),
    width=st.integers(1, 150),
    size=st.integers(1, 100) | st.tuples(st.integers(1, 100), st.integers(1, 100)),
    crop=st.none() | st.tuples(st.integers(1, 120), st.integers(1, 120)),
    filter=st.sampled_from(FILTERS),
    seed=st.integers(0, 2**32 - 1),
)
def test_noise_is_off_by_two_levels_at_most(height, width, size, crop, filter, seed) -> None:
    height, width = min(height, 9 * width), min(width, 9 * height)  # keeps the resized picture small
    steps = Preprocessing(
        size=size,
        resample=filter,
        do_center_crop=crop is not None,
        crop_size=crop or (1, 1),
        image_mean=0.4,
        image_std=(0.5, 0.25, 0.2),
    )
    apart = levels_apart(steps, noise(height, width, seed))
    assert apart.max() < OFF_BY_TWO
    assert (apart > 0.5).sum() <= max(50, 0.2 * apart.size)


# --- What it can be configured for ---


@pytest.mark.parametrize("mode", ["L", "1", "P", "PA", "LA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "I", "F"])
def test_pictures_of_all_modes(mode: str) -> None:
    image = noise(40, 50)
    image = image.convert("LA").convert("PA") if mode == "PA" else image.convert(mode)
    assert levels_apart(SMALL, image).max() < OFF_BY_TWO


def test_16_bit_pictures() -> None:
    deep = Image.fromarray(np.asarray(noise(40, 50))[..., 0].astype(np.uint16) * 257)
    assert levels_apart(SMALL, deep).max() < OFF_BY_TWO


@pytest.mark.parametrize(
    "fields",
    [
        {"crop_size": (40, 9)},
        {"crop_size": (9, 40)},
        {"crop_size": (40, 41)},
        {"size": (20, 11), "crop_size": (12, 13)},
        {"size": (20, 11), "do_center_crop": False},
        {"do_center_crop": False},
        {"do_normalize": False},
        {"do_rescale": False, "image_mean": (100.0, 90.0, 80.0), "image_std": (50.0, 60.0, 70.0)},
        {"do_rescale": False, "do_normalize": False},
        {"rescale_factor": 1 / 127.5, "image_mean": 1.0, "image_std": 1.0},
        {"rescale_factor": 0.01},
    ],
    ids=str,
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_configurations(fields: dict[str, object], mode: str) -> None:
    steps = Preprocessing(**{"size": 14, "crop_size": (12, 13)} | fields)
    assert levels_apart(steps, noise(30, 25).convert(mode)).max() < OFF_BY_TWO


def test_grayscale_that_stays_grayscale() -> None:
    steps = Preprocessing(size=14, crop_size=(12, 20), do_convert_rgb=False, image_mean=0.5, image_std=0.5)
    apart = levels_apart(steps, noise(30, 25).convert("L"))
    assert apart.shape == (1, 1, 12, 20)
    assert apart.max() < OFF_BY_TWO
    fast = FastPreprocessing(steps)
    for image in (noise(30, 25), noise(30, 25).convert("L")):  # of three channels, and then of one
        assert np.abs(fast([image]) - steps([image])).max() * 0.5 * 255 < OFF_BY_TWO


@pytest.mark.parametrize(
    ("fields", "image"),
    [
        ({"do_resize": False}, noise(30, 25)),
        ({"resample": int(Image.Resampling.NEAREST)}, noise(30, 25)),
        ({"do_convert_rgb": False, "image_mean": 0.5, "image_std": 0.5}, noise(30, 25).convert("RGBA")),
        ({}, np.asarray(noise(30, 25))),
        ({}, np.asarray(noise(30, 25)).transpose(2, 0, 1) / 255),
        ({}, noise(14, 14)),
        ({}, noise(14, 20)),
    ],
)
def test_whatever_is_not_resized_in_the_fast_way_is_exact(fields: dict[str, object], image: object) -> None:
    steps = Preprocessing(**{"size": 14, "crop_size": (12, 13)} | fields)
    np.testing.assert_array_equal(FastPreprocessing(steps)([image]), steps([image]))


def test_batches() -> None:
    pictures = [noise(40, 50), noise(50, 40, 1), noise(90, 90, 2).convert("L"), noise(14, 14, 3)]
    fast = FastPreprocessing(SMALL)
    batch = fast(pictures)
    assert batch.shape == (4, 3, 12, 13)
    assert batch.flags.c_contiguous
    for picture, values in zip(pictures, batch, strict=True):
        np.testing.assert_array_equal(values, fast([picture])[0])
    # An array's layout may depend on the images before it, so they all go the exact way.
    mixed = [noise(40, 50), np.asarray(noise(50, 40))]
    np.testing.assert_array_equal(fast(mixed), SMALL(mixed))


@pytest.mark.parametrize(
    ("fields", "images", "message"),
    [
        ({}, [], "no image was given"),
        ({}, [noise(30, 25), Image.new("RGB", (0, 5))], "image 2 of 2: a picture of 0 x 5 has no pixels"),
        ({}, [Image.new("La", (20, 20))], "mode 'La' cannot be converted to RGB"),
        ({}, [Image.fromarray(np.full((20, 20), np.nan, np.float32))], "NaN or infinite"),
        ({"image_std": (1.0, 0.0, 1.0)}, [noise(30, 25)], "image_std must not contain 0"),
        (
            {"do_convert_rgb": False},
            [noise(30, 25).convert("L")],
            "image_mean has 3 values, but the image has 1 channel",
        ),
        ({"do_center_crop": False}, [noise(30, 25), noise(25, 30)], "do not fit into one batch"),
    ],
)
def test_errors_are_those_of_the_exact_way(fields: dict[str, object], images: list[object], message: str) -> None:
    steps = Preprocessing(**{"size": 14, "crop_size": (12, 13)} | fields)
    with pytest.raises(ValueError, match=message) as exact:
        steps(images)
    with pytest.raises(ValueError, match=message) as fast:
        FastPreprocessing(steps)(images)
    assert str(fast.value) == str(exact.value)


def test_memory_for_the_batch_may_be_given() -> None:
    fast = FastPreprocessing(SMALL)
    pictures = [noise(40, 50), noise(50, 40)]
    memory = np.full((2, 3, 12, 13), np.nan, np.float32)
    assert fast(pictures, out=memory) is memory
    np.testing.assert_array_equal(memory, fast(pictures))
    arrays = [np.asarray(picture) for picture in pictures]
    assert fast(arrays, out=memory) is memory
    np.testing.assert_array_equal(memory, SMALL(arrays))
    for other in (memory[:1], memory.astype(np.float64)):
        with pytest.raises(ValueError, match=r"out is \(., 3, 12, 13\) float.., but the batch is \(2, 3, 12, 13\)"):
            fast(pictures, out=other)


# --- Scaled decoding ---


@pytest.mark.parametrize(
    ("size", "margin", "expected"),
    [
        (32, 2, (64, 96)),  # a quarter of 256 x 384, twice 32 x 48
        (33, 2, (128, 192)),
        (33, 1, (64, 96)),
        (33, 1.9, (64, 96)),
        (33, 1.95, (128, 192)),
        (16, 2, (32, 48)),
        (8, 2, (32, 48)),  # there is no sixteenth
        (65, 2, (256, 384)),
        (65, 1.5, (128, 192)),
        (256, 1, (256, 384)),
        (300, 1, (256, 384)),
        ((20, 90), 2, (128, 192)),  # the edge that shrinks less decides
        ((60, 20), 2, (128, 192)),
    ],
)
def test_the_smallest_scale_that_leaves_the_margin(size, margin: float, expected: tuple[int, int]) -> None:
    content = encoded(smooth(256, 384))
    image = open_draft(content, Preprocessing(size=size), margin=margin)
    assert (image.height, image.width) == expected
    draft, scale = fast_preprocessing.draft_of(image)
    assert draft.size == (384, 256)
    assert scale == 384 // image.width


def test_margins_below_1_are_refused() -> None:
    for margin in (0.99, math.nan):
        with pytest.raises(ValueError, match=r"margin is .*expected 1 or more"):
            open_draft(encoded(smooth(20, 20)), SMALL, margin=margin)


def test_without_resizing_files_are_decoded_as_usual() -> None:
    for size in (14, 224):
        image = open_draft(encoded(smooth(256, 384)), Preprocessing(size=size, do_resize=False))
        assert image.size == (384, 256)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_scaled_pictures_are_turned_upright(orientation: int) -> None:
    steps = Preprocessing(size=(24, 48), do_center_crop=False, image_mean=HALF, image_std=HALF)
    content = encoded(smooth(205, 409), quality=95, exif=turned(orientation))  # a quarter of a pixel in each last one
    whole, scaled = open_image(content), open_draft(content, steps)
    assert fast_preprocessing.draft_of(scaled)[0].size == whole.size
    # Upright, 5 to 8 are 409 x 205: a height of 409 shrinks to 24, but a width of 205 only to 48.
    scale = 4 if orientation < 5 else 2
    assert scaled.size == tuple(math.ceil(edge / scale) for edge in whole.size)
    assert np.abs(FastPreprocessing(steps)([scaled]) - steps([whole])).max() * 127.5 < 3


@pytest.mark.parametrize("size", [(1021, 766), (766, 1021), (999, 263), (203, 1000)], ids=str)
@pytest.mark.parametrize("filter", FILTERS, ids=lambda filter: filter.name)
def test_a_scaled_picture_is_resized_from_the_part_that_the_file_covers(
    size: tuple[int, int], filter: Image.Resampling
) -> None:
    steps = Preprocessing(size=48, crop_size=(48, 48), resample=filter, image_mean=HALF, image_std=HALF)
    image = open_draft(encoded(noise(*size[::-1])), steps)
    scale = round(size[0] / image.width)
    assert scale > 1
    height, width = resized_size(size[1], size[0], 48)
    box = (0, 0, size[0] / scale, size[1] / scale)
    expected = np.asarray(center_crop(image.resize((width, height), filter, box=box), (48, 48)))
    values = FastPreprocessing(steps)([image])[0]
    assert np.abs((values + 1) * 127.5 - expected.transpose(2, 0, 1)).max() < OFF_BY_TWO


def test_scaled_photos_are_close(data_dir: Path) -> None:
    steps = Preprocessing(size=64, crop_size=(64, 64), image_mean=HALF, image_std=HALF)
    fast = FastPreprocessing(steps)
    apart = []
    for path in sorted((data_dir / "photos").glob("*.JPEG"))[::4]:
        image = open_draft(path, steps)
        if Draft.KEY in image.info:
            apart.append(np.abs(fast([image]) - steps([open_image(path)])) * 127.5)
    assert len(apart) > 5
    assert np.mean([values.mean() for values in apart]) < 0.6
    assert max(values.max() for values in apart) < 20


def test_what_is_made_of_a_scaled_picture_is_a_picture_of_its_own() -> None:
    image = open_draft(encoded(smooth(256, 384)), Preprocessing(size=32))
    assert image.size == (96, 64)
    for other in (image.crop((0, 0, 50, 40)), image.resize((80, 80)), image.rotate(90, expand=True)):
        assert Draft.KEY in other.info
        assert levels_apart(SMALL, other).max() < OFF_BY_TWO


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_jpeg_files_of_other_modes_are_scaled(mode: str) -> None:
    image = open_draft(encoded(smooth(256, 384).convert(mode)), SMALL)
    assert (image.mode, image.size) == (mode, (48, 32))


def test_files_of_several_jpeg_pictures_are_scaled() -> None:
    content = encoded(smooth(256, 384), "MPO", save_all=True, append_images=[noise(256, 384)])
    image = open_draft(content, Preprocessing(size=32))
    assert image.format == "MPO"
    assert image.size == (96, 64)
    assert np.abs(np.asarray(image, int) - np.asarray(smooth(64, 96), int)).mean() < 4


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "TIFF", "BMP"])
def test_other_formats_are_decoded_as_usual(kind: str) -> None:
    content = encoded(noise(200, 300), kind)
    image = open_draft(content, SMALL)
    np.testing.assert_array_equal(np.asarray(image), np.asarray(open_image(content)))
    assert Draft.KEY not in image.info


def test_sources_of_a_picture(tmp_path: Path) -> None:
    content = encoded(smooth(256, 384))
    path = tmp_path / "picture.jpg"
    path.write_bytes(content)
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as pipe, path.open("rb") as file:
        with os.fdopen(writing, "wb") as other_end:
            other_end.write(content)
        for source in (path, str(path), content, bytearray(content), io.BytesIO(content), file, pipe):
            assert open_draft(source, SMALL).size == (48, 32)
    with pytest.raises(TypeError, match="not from int"):
        open_draft(3, SMALL)


def test_errors_are_those_of_open_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = encoded(smooth(256, 384))
    for number, content in enumerate((b"", b"not a picture", *(whole[:length] for length in (9, 60, len(whole) // 2)))):
        (tmp_path / f"{number}.jpg").write_bytes(content)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 256 * 384 - 1)
    (tmp_path / "bomb.jpg").write_bytes(whole)
    for path in (tmp_path, tmp_path / "absent.jpg", *sorted(tmp_path.iterdir())):
        with pytest.raises(ImageReadError) as expected:
            open_image(path)
        with pytest.raises(ImageReadError) as caught:
            open_draft(path, SMALL)
        assert (caught.value.name, caught.value.reason) == (expected.value.name, expected.value.reason)
        with pytest.raises(ImageReadError, match=r"^mine: "):
            open_draft(path, SMALL, "mine")


def test_damaged_exif_data_cost_the_orientation_only(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    content = encoded(smooth(256, 384), exif=turned(6))

    def stumble(self: Image.Image) -> Image.Exif:
        raise SyntaxError("not a TIFF file")

    monkeypatch.setattr(Image.Image, "getexif", stumble)
    caplog.set_level(logging.WARNING, "vit_hybrid")
    image = open_draft(content, SMALL, "photo.jpg")
    assert image.size == (48, 32)
    assert "photo.jpg: damaged EXIF data, orientation ignored (not a TIFF file)" in caplog.text


# --- Threads ---


def test_threads_share_it() -> None:
    fast = FastPreprocessing(SMALL)
    contents = [encoded(noise(40 + 7 * index, 100 - 5 * index, index)) for index in range(12)]

    def prepare(content: bytes) -> np.ndarray:
        return fast([open_draft(content, SMALL)])

    expected = [prepare(content) for content in contents]
    resampling._bands.cache_clear()
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(prepare, contents * 5))
    for index, result in enumerate(results):
        np.testing.assert_array_equal(result, expected[index % len(contents)])
